"""Every activation that a config may name, against the reference's table (docs/parity.md, C4)."""

import jax
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from jaxmodels.layers.feed_forward import ACTIVATIONS, activation

NAMES = [
    "gelu",
    "gelu_10",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_pytorch_tanh",
    "gelu_accurate",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
]

# Fine where the functions bend, coarse where they could overflow; beside the kinks at 0, 6 and 10.
GRID = np.concatenate([np.linspace(-12.01, 12.02, 481), [-1e4, -300.0, -40.0, 40.0, 300.0, 1e4]]).astype(np.float32)


@pytest.mark.parity("C4")
def test_exactly_the_documented_names_are_there():
    assert sorted(ACTIVATIONS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parity("C4")
def test_every_activation_has_the_reference_s_value_and_slope(name):
    x = torch.tensor(GRID, requires_grad=True)
    expected = ACT2FN[name](x)
    expected.sum().backward()
    value, slope = jax.vmap(jax.value_and_grad(activation(name)))(GRID)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=2e-5, atol=2e-6)
    # XLA's tanh, compiled without optimisation, reaches 1 a little before torch's.
    np.testing.assert_allclose(slope, x.grad.numpy(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parity("C4")
def test_every_activation_has_the_reference_s_value_at_zero(name):
    np.testing.assert_allclose(activation(name)(np.float32(0.0)), ACT2FN[name](torch.zeros(())).numpy(), atol=1e-7)


@pytest.mark.parity("C4")
def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown activation 'gelu_never'; expected one of gelu, gelu_10"):
        activation("gelu_never")
