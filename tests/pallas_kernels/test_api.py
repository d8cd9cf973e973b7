"""`attention`: validation, choice of the implementation, and jit, vmap, scan and sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from support.attention_cases import IMPLEMENTATIONS, Case, fast_jit
from support.other_platform import on

from pallas_kernels import (
    DenseBias,
    Dropout,
    Mask,
    PartitionAxes,
    RelativeKeyBias,
    ToeplitzBias,
    attention,
    dispatch,
)

q = np.zeros((2, 3, 4, 8), np.float32)
k = v = np.zeros((2, 5, 4, 8), np.float32)
flags = np.ones((2, 5), bool)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((q[0], k, v), {}, ValueError, "q must have rank 4"),
        ((q.astype(int), k, v), {}, TypeError, "q must be floating; got int64"),
        ((q, k[:1], v), {}, ValueError, r"k must be \[B, S, G, K\]"),
        ((q, k[:, :, :3], v[:, :, :3]), {}, ValueError, "must be a multiple of .* got H = 4 and G = 3"),
        ((q, k[:, :, :0], v[:, :, :0]), {}, ValueError, "must be a multiple of .* got H = 4 and G = 0"),
        ((q[:, :, :2], k, v), {}, ValueError, "must be a multiple of .* got H = 2 and G = 4"),
        ((q, k[..., :4], v), {}, ValueError, r"k must be \[B, S, G, K\]"),
        ((q, k, v[:, :4]), {}, ValueError, r"v must be \[B, S, G, Kv\]"),
        ((q, k, v[:, :, :2]), {}, ValueError, r"v must be \[B, S, G, Kv\]"),
        ((q, k, v), {"mask": Mask(key_valid=flags[:, :3])}, ValueError, r"key_valid must be bool \[B, S\] = \[2, 5\]"),
        ((q, k, v), {"mask": Mask(key_valid=flags * 1)}, ValueError, "key_valid must be bool .* got int64"),
        ((q, k, v), {"mask": Mask(key_global=flags[0])}, ValueError, "key_global must be bool"),
        ((q, k, v), {"mask": Mask(query_start=jnp.zeros(3, int))}, ValueError, "query_start must be an integer scalar"),
        ((q, k, v), {"mask": Mask(query_start=1.0)}, ValueError, "query_start must be an integer scalar"),
        ((q, k, v), {"mask": flags}, TypeError, "mask must be .*Mask"),
        ((q, k, v), {"bias": q}, TypeError, "bias must be .*DenseBias"),
        ((q, k, v), {"dropout": 0.1}, TypeError, "dropout must be .*Dropout"),
        ((q, k, v), {"bias": DenseBias(np.zeros((3, 1, 3, 5)))}, ValueError, r"must broadcast to \[B, H, T, S\]"),
        (
            (q, k, v),
            {"bias": ToeplitzBias(np.zeros((4, 8)))},
            ValueError,
            r"diagonals must be \[H, T\+S-1\] = \[4, 7\]",
        ),
        ((q, k, v), {"bias": RelativeKeyBias(np.zeros((9, 4)))}, ValueError, r"must be \[2P-1, K\] with K = 8"),
        ((q, k, v), {"bias": (DenseBias(np.zeros((3, 4))), None)}, TypeError, "bias must be"),
        (
            (q, k, v),
            {"implementation": "flash"},
            ValueError,
            "must be one of auto, xla, xla_blocked, pallas, pallas_tpu, pallas_gpu, cudnn; got 'flash'",
        ),
        ((q, k, v), {"implementation": "pallas"}, ValueError, "kernels for TPUs and GPUs, but the platform is cpu"),
        (
            (q, k, v),
            {"implementation": "cudnn"},
            ValueError,
            "requires an installed cuDNN and a GPU .* this is a cpu",
        ),
        ((q, k, v), {"implementation": "pallas", "return_weights": True}, ValueError, "return_weights requires"),
        ((q, k, v), {"implementation": "xla_blocked", "return_weights": True}, ValueError, "use implementation='xla'"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, options, error, message):
    with pytest.raises(error, match=message):
        attention(*arguments, **options)


@pytest.mark.parametrize("window", [(1,), [1, 2], (-1, 2), (1.0, 2), 3])
def test_invalid_windows_are_rejected(window):
    with pytest.raises(ValueError, match=r"window must be None or a tuple of two ints >= 0"):
        Mask(window=window)


@pytest.mark.parametrize(
    ("T", "S", "options", "chosen"),
    [
        (64, 64, {}, "dense"),
        (512, 512, {}, "blocked"),
        (1, 1_000_000, {}, "dense"),
        (512, 512, {"return_weights": True}, "dense"),
        (512, 512, {"implementation": "xla"}, "dense"),
        (8, 8, {"implementation": "xla_blocked"}, "blocked"),
    ],
)
def test_auto_chooses_by_size_and_a_named_implementation_is_taken(T, S, options, chosen):
    """Only blocked attention has a loop."""
    x = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.float32), *[jax.ShapeDtypeStruct((1, S, 1, 8), jnp.float32)] * 2
    program = str(jax.make_jaxpr(lambda q, k, v: attention(q, k, v, **options))(*x))
    assert ("scan[" in program) == (chosen == "blocked")


def test_the_default_scale_is_the_inverse_square_root_of_the_width():
    q, k, v, *_ = Case(4, 5).build()
    np.testing.assert_array_equal(attention(q, k, v), attention(q, k, v, scale=8**-0.5))


def test_scale_per_layer_inside_a_scan():
    q, k, v, *_ = Case(4, 5).build()
    _, outputs = jax.lax.scan(lambda _, s: (None, attention(q, k, v, scale=s)), None, jnp.array([0.1, 2.0]))
    for out, scale in zip(outputs, (0.1, 2.0), strict=True):
        np.testing.assert_allclose(out, attention(q, k, v, scale=scale), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("implementation", ["xla", "xla_blocked"])
def test_scores_and_softmax_are_float32_in_half_precision(dtype, implementation):
    q, k, v, mask, bias, _ = Case(30, 30, window=(3, 3), bias="toeplitz").build()
    q, k, v = (x.astype(dtype) for x in (q, k + 30, v))
    out = IMPLEMENTATIONS[implementation](q, k, v, mask=mask, bias=bias)
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask=mask, bias=bias, implementation="xla")
    assert out.dtype == dtype
    # Only the probabilities and the result are rounded; bfloat16 scores with a common part of 100 would be off by 0.25.
    error = np.linalg.norm(out.astype(jnp.float32) - exact) / np.linalg.norm(exact)
    assert error < float(jnp.finfo(dtype).eps)


def test_weights_have_the_dtype_of_the_queries():
    x = jnp.ones((1, 3, 2, 4), jnp.bfloat16)
    out, weights = attention(x, x, x, return_weights=True)
    assert out.dtype == weights.dtype == jnp.bfloat16
    assert weights.shape == (1, 2, 3, 3)


@pytest.mark.parametrize("implementation", ["xla", "xla_blocked"])
def test_vmap_over_arrays_and_masks(implementation):
    q, k, v, mask, bias, _ = Case(10, 10, window=(1, 1), globals=0.05, valid="some").build()
    axes = Mask(window=mask.window, key_valid=0, key_global=0)
    stack = jax.tree.map(lambda x: jnp.stack([x, x[:, ::-1]]), (q, k, v, mask))

    def one(q, k, v, mask):
        return IMPLEMENTATIONS[implementation](q, k, v, mask=mask, bias=bias)

    out = fast_jit(jax.vmap(one, in_axes=(0, 0, 0, axes)))(*stack)
    for i in range(2):
        expected = attention(
            *jax.tree.map(lambda x, i=i: x[i], stack[:3]), mask=jax.tree.map(lambda x, i=i: x[i], stack[3])
        )
        np.testing.assert_allclose(out[i], expected, atol=1e-5)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("implementation", ["xla", "xla_blocked"])
def test_sharding_of_batch_and_heads_does_not_change_the_result(implementation, key_heads):
    """The only key head of four query heads is on both of their devices."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(8, 10, n, 8)), jnp.float32) for n in (4, key_heads, key_heads))
    mask = Mask(causal=True, key_valid=jnp.asarray(rng.random((8, 10)) < 0.7))
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    heads = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    batch = NamedSharding(mesh, PartitionSpec("data"))

    def loss(q, k, v, mask):
        out = IMPLEMENTATIONS[implementation](q, k, v, mask=mask, dropout=Dropout(0.2, jax.random.key(1)))
        return jnp.sum(out**2), out

    call = fast_jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    expected = call(q, k, v, mask)
    shared = heads if key_heads > 1 else batch
    sharded = call(*jax.device_put((q, k, v), (heads, shared, shared)), jax.device_put(mask, batch))
    assert sharded[1].sharding.is_equivalent_to(heads, 4)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_kernel_under_a_mesh_requires_the_axes_of_batch_and_heads():
    """A named kernel raises an error; "auto" on a TPU takes XLA, which partitions its operations itself."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match="not specified which of them split the batch and the heads"),
    ):
        attention(q, k, v, implementation="pallas_tpu")
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match="3 heads are not divisible by the 2 devices of the mesh axes data"),
    ):
        odd = np.zeros((2, 3, 3, 8), np.float32)
        attention(odd, odd, odd, implementation="pallas_tpu", split=PartitionAxes(None, "data"))
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match="1 key heads are not divisible by the 2 devices of the mesh axes data"),
    ):
        attention(q, k[:, :, :1], v[:, :, :1], implementation="pallas_tpu", split=PartitionAxes(None, "data"))
    call = dispatch.AttentionCall(q, k, v, Mask(), (), False, None, False)
    with on("tpu"):
        assert dispatch.choose("auto", call)[0] == "pallas_tpu"
    with on("tpu", devices=2):
        assert dispatch.choose("auto", call)[0] == "xla"
