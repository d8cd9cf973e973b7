"""All forms of a linear layer's product give the same values; long decode loops read transposed kernels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from support.programs import program_of

import jaxmodels as jm
from jaxmodels.generation import loop
from jaxmodels.layers.linear import Linear
from jaxmodels.layers.platform import MAX_ROWS, MIN_STEPS, TRANSPOSED, prepare_decode_params
from pallas_kernels import platform

on_a_cpu = pytest.mark.skipif(platform() != "cpu", reason="on accelerators the plain product is the only form")


def layer(features, axes, **kinds):
    return Linear(features, axes, jax.nn.initializers.normal(1.0), **kinds)


# (shape of the inputs, module): one input axis or two, one output axis or three, a width that has no four parts.
LINEARS = {
    "up": ((24,), layer((40,), ("embed", "mlp"))),
    "qkv": ((24,), layer((3, 2, 8), ("embed", None, "heads", "head_dim"))),
    "out": ((3, 8), layer((20,), ("heads", "head_dim", "embed"), use_bias=False)),
    "odd": ((7,), layer((5,), ("embed", "mlp"))),
}


def defined(params, x, inputs: int):
    kernel = np.asarray(params["kernel"], np.float64)
    return np.tensordot(np.asarray(x, np.float64), kernel, inputs) + np.asarray(params.get("bias", 0.0), np.float64)


@pytest.fixture(params=LINEARS)
def linear(request):
    """shape, module, parameters."""
    shape, module = LINEARS[request.param]
    params = meta.unbox(module.init(jax.random.key(0), jnp.zeros((1, *shape))))["params"]
    if module.use_bias:
        params["bias"] = jax.random.normal(jax.random.key(1), params["bias"].shape)
    return shape, module, params


@pytest.mark.parametrize("lead", [(1,), (1, 1), (2,), (3, 1), (2, 5)])
def test_products_and_gradients_of_any_rows(linear, lead):
    shape, module, params = linear
    x = jax.random.normal(jax.random.key(2), (*lead, *shape))
    y, back = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
    np.testing.assert_allclose(y, defined(params, x, len(shape)), rtol=1e-5, atol=1e-5)
    g = jax.random.normal(jax.random.key(3), y.shape)
    to_params, to_x = back(g)
    axes = list(range(len(lead)))
    np.testing.assert_allclose(to_params["kernel"], np.tensordot(x, g, (axes, axes)), rtol=1e-5, atol=1e-5)
    outputs = len(module.features)
    kernel_axes = list(range(len(shape), len(shape) + outputs))
    expected = np.tensordot(g, params["kernel"], (list(range(len(lead), len(lead) + outputs)), kernel_axes))
    np.testing.assert_allclose(to_x, expected, rtol=1e-5, atol=1e-5)


@on_a_cpu
@pytest.mark.parametrize("lead", [(2,), (3, 1), (2, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_transposed_kernels_give_the_same(linear, lead, dtype):
    shape, module, params = linear
    x = jax.random.normal(jax.random.key(2), (*lead, *shape), dtype)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    transposed = prepare_decode_params({"a": ({"b": params},)}, rows=2, steps=MIN_STEPS)["a"][0]["b"]
    assert transposed.keys() == {TRANSPOSED} | (params.keys() - {"kernel"})
    y = module.copy(dtype=dtype).apply({"params": transposed}, x)
    assert y.dtype == dtype
    # In bfloat16 two roundings, of the sum and after the bias: what is multiplied is not rounded in between.
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(
        y.astype(jnp.float32), defined(params, x, len(shape)), rtol=tolerance, atol=5 * tolerance
    )


@on_a_cpu
@pytest.mark.parametrize(
    ("rows", "steps", "pays"),
    [(1, 64, False), (2, MIN_STEPS, True), (MAX_ROWS, 64, True), (MAX_ROWS + 1, 64, False), (2, 16, False)],
)
def test_kernels_are_transposed_where_it_pays(rows, steps, pays):
    params = {"layers": ({"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)},), "scale": jnp.ones(3)}
    got = prepare_decode_params(params, rows=rows, steps=steps)
    layer = got["layers"][0]
    assert (TRANSPOSED in layer) == ("kernel" not in layer) == pays
    assert pays or got is params
    if pays:
        assert layer[TRANSPOSED].shape == (3, 2) and got["scale"].shape == (3,)


@on_a_cpu
@pytest.mark.parametrize("other", [{"kernel_lora_a": jnp.zeros((2, 1))}, {"kernel": {"qvalue": jnp.zeros((2, 3))}}])
def test_kernels_that_a_tool_has_changed_are_not_transposed(other):
    layer = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3), **other}
    assert prepare_decode_params({"layers": (layer,)}, rows=2, steps=MIN_STEPS)["layers"][0].keys() == layer.keys()


def state_of_loop(program: str) -> str:
    (state,) = (line.split(" while(")[0] for line in program.splitlines() if " while(" in line)
    return state


@on_a_cpu
def test_a_whole_loop_carries_transposed_kernels_and_a_chunk_does_not():
    """Transposed inside the loop, every kernel would be copied at every token, and in a chunk for few tokens."""
    model = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=61, n_positions=128, n_embd=24, n_layer=2, n_head=2))
    params = jm.init(model, jax.random.key(0))
    called = program_of(model, params, np.ones((3, 5), int), max_new_tokens=40, eos_token_id=None)
    given, static = called.start_arguments(4)
    begun = jax.eval_shape(partial(loop.start, **static), *given)
    further, rest = called.resume_arguments(begun, 40)
    lowered = loop.start.lower(*given, **static), loop.resume.lower(*further, **rest)
    whole, stretch = (state_of_loop(each.compile().as_text()) for each in lowered)
    transposed, plain = ["f32[12,2,3,24]", "f32[24,12,2]"], ["f32[24,3,2,12]", "f32[2,12,24]"]  # of qkv and of out
    assert [whole.count(shape) for shape in transposed + plain] == [2, 2, 0, 0]
    assert [stretch.count(shape) for shape in transposed + plain] == [0, 0, 2, 2]
