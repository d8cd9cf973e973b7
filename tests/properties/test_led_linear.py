"""LED's encoder costs in proportion to the length, forward and backward: nothing has the square of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import tiny

S, SLOTS, WIDTH = 2048, 4, 32


def encoder(length, *, gradient, remat=True):
    """(function, arguments): the encoder's states, or the gradient of their sum."""
    config = {"attention_window": 64, "max_encoder_position_embeddings": length, "decoder_layers": 1}
    model, params = tiny("LEDModel", **config, choices={"remat": remat, "max_global_tokens": SLOTS})
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def states(params, ids, mask, globals):
        options = {"attention_mask": mask, "global_attention_mask": globals, "method": "encode"}
        return model.apply({"params": params}, ids, **options).last_hidden_state

    function = jax.grad(lambda *arguments: jnp.sin(states(*arguments)).sum()) if gradient else states
    return function, (params, ids, ids, ids)


def shapes(jaxpr) -> set:
    """Of everything that is computed, in loops and calls too."""
    found = {var.aval.shape for eqn in jaxpr.eqns for var in eqn.outvars if hasattr(var.aval, "shape")}
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= shapes(inner)
    return found


@pytest.mark.parametrize(
    ("gradient", "remat"), [(False, False), (True, False), (True, True)], ids=["forward", "gradient", "with remat"]
)
def test_nothing_is_computed_that_grows_with_the_square_of_the_length(gradient, remat):
    function, arguments = encoder(S, gradient=gradient, remat=remat)
    found = shapes(jax.make_jaxpr(function)(*arguments).jaxpr)
    assert (1, S, WIDTH) in found, "the states themselves are among what was looked at"
    assert [shape for shape in found if sum(size >= S for size in shape) > 1] == []
    # What is kept for the backward pass of all layers: at most queries, keys and values of both.
    largest = max(found, key=lambda shape: int(np.prod(shape)))
    assert np.prod(largest) <= 6 * S * WIDTH, largest


@pytest.mark.parametrize("gradient", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forward", "gradient"])
def test_twice_the_length_takes_twice_the_memory(gradient):
    def temporary(length):
        function, arguments = encoder(length, gradient=gradient)
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary(S), temporary(2 * S)
    assert long < 2.3 * short, f"{short / 2**20:.1f} MB, {long / 2**20:.1f} MB"
    assert long < 50 * 4 * 2 * S * WIDTH * 2, "and little more than the activations"
