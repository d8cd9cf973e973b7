"""What a gradient keeps from the forward pass: what came in, and nothing that can be had from it without a product."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxmodels import sharding
from jaxmodels.layers.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward, activation
from jaxmodels.layers.linear import Embedding, Linear, layer_norm, rms_norm
from pallas_kernels import platform

B, T, D, F = 2, 6, 8, 24
INIT = jax.nn.initializers.normal(0.5)
on_a_cpu = pytest.mark.skipif(platform() != "cpu", reason="elsewhere tokens stay in their rows")


def states(seed: int = 0, width: int = D):
    return jax.random.normal(jax.random.key(seed), (B, T, width))


def kept(function, *arguments) -> list[tuple[int, ...]]:
    """Shapes of the arrays of all tokens that the gradient holds on to."""
    _, pullback = jax.vjp(function, *arguments)
    return [leaf.shape for leaf in jax.tree.leaves(pullback) if leaf.size >= B * T * D]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_keeps_its_argument(name):
    x = states()
    assert kept(activation(name), x) in ([x.shape], [])  # the identity keeps nothing
    gradients = (jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (activation(name), ACTIVATIONS[name]))
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_a_norm_keeps_its_argument(norm):
    module, x = norm(1e-5), states()
    params = module.init(jax.random.key(1), x)
    assert set(params["params"]) <= {"scale", "bias"}
    assert kept(module.apply, params, x) == [x.shape]


@pytest.mark.parametrize(("cls", "between"), [(FeedForward, 2), (GatedFeedForward, 4)])
def test_a_feed_forward_layer_keeps_what_its_products_take_and_give(cls, between):
    module, x = cls(F, "gelu_new", INIT, INIT), states()
    shapes = kept(module.apply, module.init(jax.random.key(1), x), x)
    wide = [shape for shape in shapes if shape[-1] == F and shape[:-1] in ((B, T), (B * T,))]
    assert 1 <= len(wide) <= between


@on_a_cpu
def test_the_gradient_of_a_kernel_turns_no_states():
    module, x = Linear((F,), ("embed", "mlp"), INIT), states()
    params = module.init(jax.random.key(1), x)
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sin(module.apply(params, x)).sum()))
    assert " transpose(" not in gradient.lower(params, x).compile().as_text()


@on_a_cpu
def test_the_gradient_of_logits_turns_no_logits():
    table, x = Embedding(F, D, INIT), states()
    params = table.init(jax.random.key(1), jnp.zeros((1, 1), int))

    def loss(params, x):
        return jnp.sin(table.apply(params, x, method="attend")).sum()

    assert table.apply(params, x, method="attend").shape == (B, T, F)
    assert " transpose(" not in jax.jit(jax.grad(loss)).lower(params, x).compile().as_text()


@on_a_cpu
def test_tokens_stay_where_a_mesh_splits_their_length():
    """A row whose tokens lie on two devices is not gathered for a product."""
    mesh = sharding.make_mesh({"model": 2}, jax.devices()[:2])
    module, x = Linear((F,), ("embed", "mlp"), INIT), states()
    params = module.init(jax.random.key(1), x)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "model")))
    with nn.logical_axis_rules([("length", "model")]):
        program = jax.jit(module.apply).lower(params, split).compile()
    assert program.output_shardings.spec == PartitionSpec(None, "model")
    assert "all-gather" not in program.as_text() and "all-to-all" not in program.as_text()
