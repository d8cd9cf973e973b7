"""Layers cut out of their stacks outside of a program: parts of what is there, on one CPU and only there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.programs import program_of

import jaxmodels as jm
from jaxmodels.generation import loop
from jaxmodels.layers.stack import unstack_layers, unstacked_views
from pallas_kernels import platform

pytestmark = pytest.mark.skipif(platform() != "cpu", reason="an array is part of another on a CPU only")


def stacks(dtype=jnp.float32) -> dict:
    def drawn(*shape):
        return jax.random.normal(jax.random.key(len(shape)), shape, dtype)

    return {"h": {"layers": {"kernel": drawn(3, 16, 32), "norm": {"scale": drawn(3, 32)}}}, "wte": drawn(5, 16)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_views_are_the_layers_without_a_copy(dtype):
    params = stacks(dtype)
    views = unstacked_views(params)
    jax.tree.map(np.testing.assert_array_equal, views, unstack_layers(params))
    assert all(view.dtype == dtype for view in jax.tree.leaves(views))
    stack = params["h"]["layers"]["kernel"]
    starts = [layer["kernel"].unsafe_buffer_pointer() - stack.unsafe_buffer_pointer() for layer in views["h"]["layers"]]
    assert starts == [0, stack.nbytes // 3, 2 * stack.nbytes // 3]


def test_views_outlive_what_they_are_parts_of():
    params = stacks()
    expected = np.array(params["h"]["layers"]["kernel"][1])
    views = unstacked_views(params)
    jax.block_until_ready(jax.jit(lambda p: jax.tree.map(lambda a: 0 * a, p), donate_argnums=0)(params))
    np.testing.assert_array_equal(views["h"]["layers"][1]["kernel"], expected)


def test_no_views_of_what_is_traced_abstract_spread_or_of_several_devices():
    params, seen = stacks(), []
    jax.jit(lambda p: seen.append(unstacked_views(p)))(params)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    spread = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    two = {**params, "wte": jax.device_put(params["wte"], jax.devices()[1])}
    assert [*seen, *map(unstacked_views, (shapes, spread, two))] == [None] * 4


def test_views_stay_on_their_device():
    other = jax.devices()[1]
    views = unstacked_views(jax.device_put(stacks(), other))
    assert {device for leaf in jax.tree.leaves(views) for device in leaf.devices()} == {other}


@pytest.mark.parametrize("beams", [1, 3])
def test_one_text_is_generated_without_copies_of_weights_or_cache(beams):
    """Every weight was copied twice in each call, and the cache of one text four times at every step."""
    model = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=61, n_positions=256, n_embd=64, n_layer=2, n_head=2))
    params = jm.init(model, jax.random.key(0))
    called = program_of(model, params, np.ones((1, 9), int), max_new_tokens=40, num_beams=beams, eos_token_id=None)
    arguments, static = called.start_arguments(40)
    program = loop.start.lower(*arguments, **static).compile().as_text()
    slots = re.search(r"f32\[1,2,32,(\d+)\]", program).group(1)
    cache = [f"f32[1,2,32,{slots}]", f"f32[1,2,{slots},32]"]
    assert all(shape in program for shape in cache)
    copies = [line for line in program.splitlines() if re.search(r"= \S+ copy\(", line)]
    assert not [line for line in copies if any(shape in line for shape in cache)]
    assert "f32[2,64,256]" not in program  # the stack of the first feed-forward kernel, to be sliced
