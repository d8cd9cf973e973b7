"""The feed-forward layer takes long rows in parts: the same values, without the whole of what is between."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import layer
from jaxmodels.layers.layer import FeedForward

T, D, F = 10, 8, 24
INIT = jax.nn.initializers.normal(0.5)


@pytest.fixture(scope="module")
def module():
    return FeedForward(F, "gelu", INIT, INIT)


@pytest.fixture(scope="module")
def given(module):
    """parameters, and rows [2,T,D]."""
    x = jax.random.normal(jax.random.key(0), (2, T, D))
    return module.init(jax.random.key(1), x), x


def between(module, params, x) -> set:
    """Shapes of what the activation takes."""
    jaxpr = jax.make_jaxpr(module.apply)(params, x)
    found = {variable.aval.shape for eqn in jaxpr.jaxpr.eqns for variable in eqn.outvars}
    return {shape for shape in found if len(shape) == 3 and shape[::2] == (2, F)}


@pytest.mark.parametrize(("most", "lengths"), [(16, {10}), (10, {10}), (5, {5}), (4, {4, 2}), (3, {3, 1})])
def test_long_rows_go_through_in_parts(module, given, most, lengths, monkeypatch):
    params, x = given
    whole = module.apply(params, x)
    monkeypatch.setattr(layer, "LONG", most)
    np.testing.assert_allclose(module.apply(params, x), whole, rtol=1e-6, atol=1e-6)
    assert {shape[1] for shape in between(module, params, x)} == lengths

    def loss(params, x):
        return jnp.sin(module.apply(params, x)).sum()

    in_parts = jax.grad(loss, (0, 1))(params, x)
    monkeypatch.setattr(layer, "LONG", T)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), in_parts, jax.grad(loss, (0, 1))(params, x)
    )


def test_rows_that_lie_on_several_devices_stay_whole(module, given, monkeypatch):
    monkeypatch.setattr(layer, "LONG", 4)
    with nn.logical_axis_rules([("length", "data")]):
        assert {shape[1] for shape in between(module, *given)} == {T}
    with nn.logical_axis_rules([("length", None), ("batch", "data")]):
        assert {shape[1] for shape in between(module, *given)} == {4, 2}
