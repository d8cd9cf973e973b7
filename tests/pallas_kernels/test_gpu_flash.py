"""The GPU flash kernels, run as plain JAX: values, every gradient, what they read, and when they are chosen."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import Case
from support.interpreted import (
    GPU,
    Implementation,
    assert_error_at_most_twice_that_of_xla,
    assert_matches_reference,
    assert_queries_without_visible_keys_give_zero,
    assert_very_low_biases_do_not_mask,
    evaluated,
    outputs_and_gradients,
)
from support.other_platform import on
from support.transformed import (
    assert_runs_inside_shard_map,
    assert_sharding_does_not_change_the_result,
    assert_vmap_and_remat_do_not_change_the_result,
    causal_loss,
    inputs,
)

from pallas_kernels import DenseBias, Mask, ToeplitzBias, attention, dispatch
from pallas_kernels.gpu import cudnn, flash
from pallas_kernels.gpu.device import Gpu
from pallas_kernels.gpu.tiles import FlashTilings, GpuTiling

# Tiles so small that a few dozen tokens cover every edge; no two kernels have the same tile size.
TILINGS = FlashTilings(*(GpuTiling(*pair, 4, 1) for pair in ((32, 16), (16, 32), (16, 32), (32, 16), (16, 16))))
SMALL = Implementation("pallas_gpu", partial(flash.attend, tilings=TILINGS))


@dataclass(frozen=True)
class CaseWithPositions(Case):
    """A case whose mask has `global_at`, with one unused column."""

    def build(self):
        q, k, v, mask, bias, dropout = super().build()
        positions = jnp.sort(jnp.where(mask.key_global, jnp.arange(self.S), self.S), axis=1)
        slots = int(mask.key_global.sum(axis=1).max()) + 1
        return q, k, v, replace(mask, global_at=positions[:, :slots].astype(jnp.int32)), bias, dropout


@pytest.mark.parametrize(
    "case",
    [
        Case(50, 70, valid="none", rate=0.5),
        Case(64, 64, causal=True),
        Case(33, 90, causal=True, start=(57, 3), valid="some", rate=0.1),
        Case(70, 70, window=(20, 9), valid="some"),
        Case(20, 90, window=(12, 30), start=(40, 3)),
        CaseWithPositions(90, 90, window=(20, 12), globals=0.05, valid="none", rate=0.2),
        CaseWithPositions(75, 75, window=(20, 500), globals=0.4, causal=True),
        Case(50, 35, causal=True, bias="toeplitz"),
        Case(90, 90, window=(30, 7), bias="toeplitz"),
        Case(40, 60, bias="relative_key + toeplitz + dense", valid="some", scale=0.7, rate=0.1),
        Case(50, 50, H=6, G=2, causal=True, bias="toeplitz", rate=0.1),
        Case(70, 70, causal=True, segments=3, bias="dense", valid="some"),
        CaseWithPositions(75, 75, H=4, G=1, window=(20, 12), globals=0.05, valid="none", rate=0.2),
    ],
    ids=str,
)
def test_outputs_and_gradients_match_the_reference(case):
    assert_matches_reference(case, SMALL, atol=3e-5)  # the gradient of the scale is a sum over all pairs


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 1),
        Case(1, 17, causal=True, start=(3, 16), valid="some"),
        Case(3, 17, window=(1, 0), start=20),
        Case(7, 13, valid="some"),
        Case(16, 16, causal=True, start=0),
        Case(33, 31, causal=True, valid="none", rate=0.3),
        Case(100, 40, causal=True, bias="dense"),
        Case(60, 40, bias="dense over keys", valid="some"),
        Case(40, 60, bias="dense rank 2"),
        Case(50, 50, bias="relative_key", valid="some"),
        Case(50, 50, bias="relative_key_query", causal=True, rate=0.2),
        Case(70, 90, bias="toeplitz", valid="none", rate=0.1, scale=1.0),
        Case(50, 50, bias="toeplitz per example"),
        Case(90, 90, window=(17, 0), bias="dense", rate=0.2),
        Case(90, 90, window=(0, 0)),
        Case(65, 65, window=(1, 2), valid="none"),
        Case(64, 64, window=(500, 3)),
        Case(64, 64, window=(500, 500), causal=True),
        Case(30, 64, window=(500, 2), start=11, bias="toeplitz per example"),
        Case(20, 90, window=(12, 3), start=500),
        Case(20, 90, window=(12, 3), start=(40, 80), causal=True, bias="relative_key"),
        CaseWithPositions(90, 90, window=(500, 500), globals=0.1, valid="some"),
        CaseWithPositions(40, 90, window=(10, 5), globals=0.1, start=(30, 3), causal=True),
        CaseWithPositions(129, 129, window=(7, 7), globals=0.8, valid="some"),
        Case(90, 90, globals=0.1, valid="some"),
        Case(40, 60, H=4, G=2, bias="dense over keys", valid="some", rate=0.1),
        Case(40, 60, H=4, G=2, bias="relative_key_query", start=(3, 20), causal=True),
        Case(20, 90, H=8, G=2, window=(12, 3), start=(40, 80), causal=True, bias="toeplitz per example"),
    ],
    ids=str,
)
def test_edge_case_shapes_masks_and_biases(case):
    assert_matches_reference(case, SMALL, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(300, 300, causal=True),
        CaseWithPositions(400, 400, window=(70, 70), globals=0.03, valid="some"),
        Case(200, 300, bias="toeplitz"),
    ],
    ids=str,
)
def test_default_tile_sizes(case):
    assert_matches_reference(case, GPU, atol=2e-5)


def test_queries_without_visible_keys_give_zero_and_zero_gradients():
    """All keys of the first example are padding, also those in the reach of its windows."""
    for case in (Case(20, 30, valid="none"), Case(40, 40, valid="none", window=(5, 5))):
        assert_queries_without_visible_keys_give_zero(case, SMALL)


def test_very_low_biases_do_not_mask():
    assert_very_low_biases_do_not_mask(GPU)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "case", [Case(80, 80, causal=True, rate=0.1), CaseWithPositions(90, 90, window=(20, 12), globals=0.05)], ids=str
)
def test_half_precision_error_is_at_most_twice_that_of_xla(case, dtype):
    assert_error_at_most_twice_that_of_xla(case, SMALL, dtype)


def test_results_are_deterministic():
    case = Case(40, 60, bias="toeplitz", rate=0.1)
    first, second = (outputs_and_gradients(case, SMALL) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_window_reads_no_tile_out_of_its_reach():
    """In the forward pass and in both gradients, on either side: distant values may be NaN."""
    x = jax.random.normal(jax.random.key(0), (1, 160, 1, 16))
    after = jnp.where(jnp.arange(160)[:, None, None] >= 96, jnp.nan, x)

    @jax.jit
    def run(q, k, v, do):
        window = Mask(window=(10, 10))
        out, pull = jax.vjp(lambda q, k, v: SMALL(q, k, v, mask=window), q, k, v)
        return out, *pull(do)

    with evaluated():
        for x, direction in ((after, 1), (after[:, ::-1], -1)):
            for result in run(x, x, x, x):
                result = result[0, ::direction]
                assert np.isfinite(result[:32]).all() and np.isnan(result[128:]).any()


def test_the_gradient_of_a_bias_is_computed_only_on_request():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 20, 2, 8)) for i in range(3))

    def loss(q, diagonals):
        return attention(q, k, v, bias=ToeplitzBias(diagonals), implementation="pallas_gpu").sum()

    for argument, expected in ((0, False), (1, True)):
        program = jax.make_jaxpr(jax.grad(loss, argument))(q, jnp.ones((2, 39)))
        assert ("flash_backward_bias" in str(program)) == expected


def test_sharding_does_not_change_the_result():
    assert_sharding_does_not_change_the_result(SMALL)


def test_the_kernels_run_inside_shard_map():
    assert_runs_inside_shard_map(SMALL)


def test_vmap_and_remat_do_not_change_the_result():
    assert_vmap_and_remat_do_not_change_the_result(partial(causal_loss, SMALL), *inputs())


def qkv_shapes(T=512, S=512, K=64, Kv=None, G=4, dtype=jnp.bfloat16):
    shapes = (2, T, 4, K), (2, S, G, K), (2, S, G, Kv or K)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


FLAGS = jnp.ones((2, 512), bool)
DENSE = (DenseBias(jnp.ones(())),)


@pytest.mark.parametrize(
    ("arguments", "mask", "biases", "reason"),
    [
        (qkv_shapes(dtype=jnp.float8_e4m3fn), Mask(), (), "must all be bfloat16 or float16 or float32"),
        (qkv_shapes(K=160), Mask(), (), "head width must be at most 128; got K = 160"),
        (qkv_shapes(T=2**16, S=2**15), Mask(), DENSE, "at most 2147483648 elements"),
        (qkv_shapes(), Mask(window=(1, 1), key_global=FLAGS), (), "pass Mask.global_at"),
        (
            qkv_shapes(),
            Mask(window=(1, 1), key_global=FLAGS, global_at=jnp.zeros((2, 3), int)),
            DENSE,
            "does not support a bias",
        ),
        (
            qkv_shapes(),
            Mask(window=(1, 1), key_global=FLAGS, global_at=jnp.zeros((2, 600), int)),
            (),
            "at most 512 global",
        ),
    ],
)
def test_unsupported_calls_have_a_reason(arguments, mask, biases, reason):
    selection = dispatch.select_gpu_kernel(dispatch.AttentionCall(*arguments, mask, biases, False, None, False))
    assert selection.attend is None and reason in selection.reason
    bias = biases or None
    with pytest.raises(ValueError, match="'pallas_gpu' does not support this call: .*"):
        jax.eval_shape(
            lambda q, k, v: attention(q, k, v, mask=mask, bias=bias, implementation="pallas_gpu"), *arguments
        )


@pytest.mark.parametrize(
    ("arguments", "mask", "biases", "dropout", "chosen"),
    [
        (qkv_shapes(), Mask(causal=True), (), False, "cudnn"),
        (qkv_shapes(S=300), Mask(), (), False, "cudnn"),
        (qkv_shapes(G=2), Mask(causal=True), (), False, "cudnn"),
        (qkv_shapes(dtype=jnp.float32), Mask(causal=True), (), False, "xla_blocked"),
        (qkv_shapes(), Mask(causal=True), (), True, "xla_blocked"),
        (qkv_shapes(), Mask(key_valid=FLAGS), (), False, "xla_blocked"),
        (qkv_shapes(), Mask(window=(4, 0)), (), False, "xla_blocked"),
        (qkv_shapes(), Mask(), DENSE, False, "xla_blocked"),
        (qkv_shapes(S=300), Mask(causal=True), (), False, "xla"),
        (qkv_shapes(), Mask(causal=True, query_start=3), (), False, "xla_blocked"),
        (qkv_shapes(Kv=32), Mask(), (), False, "xla_blocked"),
        (qkv_shapes(K=100), Mask(), (), False, "xla_blocked"),
        (qkv_shapes(K=160), Mask(), (), False, "xla_blocked"),
        (qkv_shapes(T=1), Mask(), (), False, "xla"),
    ],
)
def test_auto_takes_cudnn_where_supported_and_xla_otherwise(arguments, mask, biases, dropout, chosen):
    call, hopper = dispatch.AttentionCall(*arguments, mask, biases, False, None, dropout), Gpu((9, 0), cudnn=True)
    with on("gpu"):
        assert dispatch.choose("auto", call, hopper)[0] == chosen
        assert chosen != "cudnn" or dispatch.choose("pallas", call, hopper)[0] == "pallas_gpu"


def test_without_cudnn_or_on_an_old_gpu_auto_takes_xla():
    call = dispatch.AttentionCall(*qkv_shapes(), Mask(causal=True), (), False, None, False)
    old, without_cudnn = Gpu((7, 5), cudnn=True), Gpu((9, 0), cudnn=False)
    with on("gpu"):
        assert [dispatch.choose("auto", call, gpu)[0] for gpu in (old, without_cudnn, None)] == ["xla_blocked"] * 3
        with pytest.raises(ValueError, match=r"require a GPU of compute capability 8\.0 or more; this one has 7\.5"):
            dispatch.choose("pallas", call, old)


def test_cudnn_is_called_with_scaled_queries(monkeypatch):
    """JAX's implementation in XLA replaces cuDNN, which cannot be compiled for without a GPU."""
    original = jax.nn.dot_product_attention
    requested = []

    def replacement(*arguments, implementation, **options):
        requested.append(implementation)
        return original(*arguments, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", replacement)
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, heads, 8)) for i, heads in enumerate((6, 2, 2)))
    mask = Mask(causal=True)
    actual = cudnn.attend(q, k, v, mask=mask, biases=(), scale=jnp.float32(0.3), random_bits=None, rate=0.0)
    np.testing.assert_allclose(actual, attention(q, k, v, mask=mask, scale=0.3, implementation="xla"), atol=1e-5)
    assert requested == ["cudnn"]
