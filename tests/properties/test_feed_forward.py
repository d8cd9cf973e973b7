"""The feed-forward layer takes long rows in parts: the same values, without the whole of what is between."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.feed_forward import FeedForward
from pallas_kernels import platform

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
    return {shape for shape in found if len(shape) == 3 and shape[2] == F} - {(1, 1, F)}  # the bias


def assert_same_values_and_gradients(module, parts, given):
    """As a whole and in parts."""

    def value(module):
        def loss(params, x):
            return jnp.sin(module.apply(params, x)).sum()

        return module.apply(*given), jax.grad(loss, (0, 1))(*given)

    (whole, gradients), (got, of_parts) = value(module), value(parts)
    np.testing.assert_allclose(got, whole, rtol=1e-6, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), of_parts, gradients)


@pytest.mark.parametrize(("most", "lengths"), [(16, {10}), (10, {10}), (5, {5}), (4, {4, 2}), (3, {3, 1})])
@pytest.mark.parity("C5")
def test_long_rows_go_through_in_parts(module, given, most, lengths):
    parts = module.clone(long_chunk=most)
    assert_same_values_and_gradients(module, parts, given)
    assert between(parts, *given) == {(2, length, F) for length in lengths}


@pytest.mark.skipif(platform() != "cpu", reason="tokens of all rows are near to each other on a CPU only")
@pytest.mark.parametrize(("most", "shapes"), [(20, {(2, 10)}), (16, {(1, 16), (1, 4)}), (5, {(1, 5)})])
def test_on_a_cpu_tokens_of_all_rows_go_through_in_parts(module, given, most, shapes):
    parts = module.clone(cpu_chunk=most)
    assert_same_values_and_gradients(module, parts, given)
    assert between(parts, *given) == {(*shape, F) for shape in shapes}
    with nn.logical_axis_rules([("batch", "data")]):  # rows on several devices keep to theirs
        assert between(parts, *given) == {(2, T, F)}


def test_rows_that_lie_on_several_devices_stay_whole(module, given):
    parts = module.clone(long_chunk=4)
    with nn.logical_axis_rules([("length", "data")]):
        assert between(parts, *given) == {(2, T, F)}
    with nn.logical_axis_rules([("length", None), ("batch", "data")]):
        assert between(parts, *given) == {(2, 4, F), (2, 2, F)}
