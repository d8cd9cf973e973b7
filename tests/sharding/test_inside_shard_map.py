"""Models and kernels inside a caller's `jax.shard_map` over the batch, with the default check of what varies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.interpreted import interpreted
from support.tiny import tiny

from jaxmodels import sharding
from pallas_kernels import Mask, ToeplitzBias, attention

FAMILIES = ["GPT2LMHeadModel", "GPTNeoForCausalLM", "LlamaForCausalLM", "RobertaPreLayerNormForMaskedLM"]
FAMILIES += ["BartForConditionalGeneration", "T5ForConditionalGeneration", "LEDForConditionalGeneration"]
# Seconds for each otherwise.
FAST = [("GPT2LMHeadModel", "auto"), ("T5ForConditionalGeneration", "xla_blocked")]


def assert_close(actual, expected, atol: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param(name, implementation, marks=() if (name, implementation) in FAST else pytest.mark.slow)
        for name in FAMILIES
        for implementation in ("auto", "xla", "xla_blocked")
    ],
)
def test_loss_and_gradient_of_a_model_are_those_of_the_whole_batch(name, implementation):
    """The gradient of replicated parameters comes out summed over the devices, and replicated."""
    model, params = tiny(name, choices={"attention": implementation})
    ids = np.random.default_rng(0).integers(3, 60, (8, 6)).astype(np.int32)

    def loss(params, ids):
        return model.apply({"params": params}, ids, labels=ids).loss

    def local(params, ids):
        return jax.value_and_grad(lambda params: jax.lax.pmean(loss(params, ids), "data"))(params)

    mesh = sharding.make_mesh({"data": 8})
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    assert_close(jax.jit(mapped)(params, ids), jax.jit(jax.value_and_grad(loss))(params, ids))


@pytest.mark.parametrize(
    ("mask", "biased"), [(Mask(causal=True), True), (Mask(window=(8, 8)), False)], ids=["full row", "window"]
)
def test_a_kernel_marks_its_results_as_varying(mask, biased):
    """Also where a bias is the same for all devices: its gradient is summed over them."""
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 40, 2, 16)) for i in range(3))
    diagonals = jax.random.normal(jax.random.key(3), (2, 79))

    def loss(implementation, q, k, v, diagonals):
        bias = ToeplitzBias(diagonals) if biased else None
        return jnp.sin(attention(q, k, v, mask=mask, bias=bias, implementation=implementation)).sum()

    def value(implementation, *arrays, axis=None):
        def total(*arrays):
            local = loss(implementation, *arrays)
            return local if axis is None else jax.lax.psum(local, axis)

        return jax.value_and_grad(total, argnums=(0, 1, 2, 3))(*arrays)

    specs = (P("data"),) * 3 + (P(),)
    mapped = jax.shard_map(
        partial(value, "pallas_tpu", axis="data"),
        mesh=sharding.make_mesh({"data": 2}, jax.devices()[:2]),
        in_specs=specs,
        out_specs=(P(), specs),
    )
    with interpreted():
        actual = jax.jit(mapped)(q, k, v, diagonals)
    assert_close(actual, jax.jit(partial(value, "xla"))(q, k, v, diagonals), atol=1e-4)
