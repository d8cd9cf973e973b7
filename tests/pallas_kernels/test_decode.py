"""`decode` and properties of both of its kernels: rounding, sharding, transformations, no gradient."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.decode_cases import DecodeCase, Decoder
from support.interpreted import evaluated
from support.other_platform import on
from support.transformed import SPLIT, two_by_two

from pallas_kernels import Mask, PackedKV, attention, decode, dispatch

either = pytest.mark.parametrize("kernel", ["pallas_tpu", "pallas_gpu"])


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("pallas_tpu", "bfloat16"),
        ("pallas_gpu", "bfloat16"),
        pytest.param("pallas_gpu", "float16", marks=pytest.mark.slow),
    ],
)
def test_half_precision_error_is_at_most_twice_that_of_xla(kernel, dtype):
    case = DecodeCase(2, 300, K=64, valid="some", bias="toeplitz", dtype=dtype)
    # The inputs are rounded; the expected values are exact for them.
    q, packed = case.arrays()
    key, value = packed.read(case.G or case.H, jnp.float32)
    expected = attention(
        q.astype(jnp.float32), key, value, mask=case.mask(), bias=case.biases(), scale=0.3, implementation="xla"
    )
    xla_error, error = (np.linalg.norm(case.run(Decoder(name)) - expected) for name in ("xla", kernel))
    assert error <= 2 * xla_error


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("G", [1, 2])
def test_grouped_queries_equal_a_cache_of_repeated_keys_and_values(dtype, G):
    case = DecodeCase(2, 30, H=8, G=G, dtype=dtype, causal=True, start=20, bias="relative_key_query")
    q, packed = case.arrays()

    def repeat(x):
        """[B,S,G*K], or the scales [B,G,S]."""
        if x is None or x.shape[1] == G:
            return None if x is None else jnp.repeat(x, 8 // G, axis=1)
        return jnp.repeat(x.reshape(2, 30, G, -1), 8 // G, axis=2).reshape(2, 30, -1)

    options = {"mask": case.mask(), "bias": case.biases(), "implementation": "xla"}
    actual, expected = (decode(q, each, **options) for each in (packed, PackedKV._make(map(repeat, packed))))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@either
def test_sharding_does_not_change_the_result(kernel):
    case, mesh = DecodeCase(1, 200, B=4, H=4, G=2, dtype="int8", causal=True, start=(3, 70, 150, 199)), two_by_two()
    bias = replace(case, bias="toeplitz").biases()
    arrays = jax.tree.leaves(case.arrays())
    specs = [P("data", None, "model", None), *[P("data", None, "model")] * 2, *[P("data", "model", None)] * 2]
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]

    @jax.jit
    def call(q, *packed):
        return decode(q, PackedKV(*packed), mask=case.mask(), bias=bias, implementation=kernel, split=SPLIT)

    with evaluated():
        expected = call(*arrays)
        with jax.set_mesh(mesh):
            actual = call(*placed)
    assert actual.sharding.is_equivalent_to(placed[0].sharding, 4)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@either
def test_vmap_does_not_change_the_result(kernel):
    q, packed = DecodeCase(1, 200).arrays()
    starts = jnp.array([5, 150])

    @jax.jit
    def call(start):
        return decode(q, packed, mask=Mask(causal=True, query_start=start), implementation=kernel)

    with evaluated():
        np.testing.assert_allclose(jax.vmap(call)(starts), jnp.stack([call(start) for start in starts]), atol=1e-6)


@either
def test_a_gradient_raises_an_error(kernel):
    q, packed = DecodeCase(1, 20).arrays()
    with evaluated(), pytest.raises(NotImplementedError, match="no gradient.*attention='xla'"):
        jax.grad(lambda q: decode(q, packed, implementation=kernel).sum())(q)


def test_on_several_devices_without_a_mesh_no_kernel_runs(monkeypatch, caplog):
    """It cannot determine its shard of the cache. "auto" logs that and takes XLA; a named kernel raises an error."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert jax.device_count() > 1 and dispatch.decoding_platform("auto") == "tpu"
    dispatch.log_once.cache_clear()
    q, packed = DecodeCase(1, 20).arrays()
    np.testing.assert_array_equal(decode(q, packed), decode(q, packed, implementation="xla"))
    (message,) = caplog.messages
    assert "decoding falls back to XLA: there are several devices and no mesh in context" in message
    with pytest.raises(ValueError, match="several devices and no mesh in context"):
        decode(q, packed, implementation="pallas_tpu")


def test_one_device_takes_the_kernel():
    with on("tpu"):
        assert "name=decode\n" in str(jax.make_jaxpr(decode)(*DecodeCase(1, 20).arrays()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, s: (q[0], s), "q must have rank 4"),
        (lambda q, s: (q, s._replace(key=s.key[..., 1:])), r"packed keys must be \[B, S, G\*K\]"),
        (lambda q, s: (q, s._replace(key=s.key[..., :32])), "got H = 3 and G = 2"),
        (lambda q, s: (q, s._replace(value=s.value[:, 1:])), r"packed values must be \[B, S, G\*Kv\]"),
        (lambda q, s: (q, s._replace(key=s.key.astype(jnp.int8))), "key_scale must be float32"),
        (lambda q, s: (q, s._replace(value_scale=jnp.ones((2, 3, 20)))), "value_scale must be float32"),
    ],
)
def test_invalid_arguments_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        decode(*change(*DecodeCase(1, 20).arrays()))
