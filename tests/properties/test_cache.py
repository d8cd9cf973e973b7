"""The cache is a value, and how a text is cut into calls does not matter."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.tiny import tiny

from jaxmodels.layers.stack import Layer, unstack_layers

T, CAPACITY = 6, 8
# Lengths 1, 2 and 6 only: each is one compilation.
CHUNKINGS = [(6,), (1,) * 6, (2, 2, 2), (1, 2, 1, 2)]


def stepper(model, params):
    apply = jax.jit(lambda cache, inputs: model.apply({"params": params}, **inputs, cache=cache))

    def run(chunks, every=None, **inputs):
        cache, start, logits = model.init_cache(len(inputs["input_ids"]), CAPACITY), 0, []
        for count in chunks:
            part = {name: value[:, start : start + count] for name, value in inputs.items()}
            out = apply(cache, {**part, **(every or {})})
            cache, start = out.cache, start + count
            logits.append(out.logits)
        return jnp.concatenate(logits, axis=1), cache

    return run


@pytest.fixture(scope="module")
def plain():
    return tiny()


@pytest.fixture(scope="module")
def run(plain):
    return stepper(*plain)


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@pytest.mark.parity("G10")
def test_every_chunking_gives_the_logits_of_one_pass(plain, run, chunks):
    model, params = plain
    expected = jax.jit(lambda: model.apply({"params": params}, ids((2, T))).logits)()
    logits, cache = run(chunks, input_ids=ids((2, T)))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert int(cache.length) == T
    np.testing.assert_array_equal(cache.valid, np.arange(CAPACITY) < T * np.ones((2, 1)))


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_every_chunking_fills_the_cache_with_the_same_keys(run, chunks):
    expected = run(CHUNKINGS[0], input_ids=ids((2, T)))[1]
    for a, b in zip(
        jax.tree.leaves(expected.layers), jax.tree.leaves(run(chunks, input_ids=ids((2, T)))[1].layers), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def run_crossed():
    return stepper(*tiny(add_cross_attention=True))


@pytest.mark.parametrize("chunks", CHUNKINGS[1:], ids=str)
def test_every_chunking_of_cross_attention(run_crossed, chunks):
    every = {"encoder_hidden_states": numbers((2, 3, 32)), "encoder_attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    expected = run_crossed((T,), every, input_ids=ids((2, T)))[0]
    np.testing.assert_allclose(run_crossed(chunks, every, input_ids=ids((2, T)))[0], expected, rtol=1e-5, atol=1e-5)


def test_parameters_cut_into_layers_give_the_same(plain, run):
    model, params = plain
    expected = run((2, 2, 2), input_ids=ids((2, T)))[0]
    got = stepper(model, unstack_layers(params))((2, 2, 2), input_ids=ids((2, T)))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int8])
def test_gradients_pass_through_the_cache(plain, rows, dtype):
    """Of tokens in the cache: in float32 those of one pass, in int8 as far as they can."""
    model, params = plain
    x = jax.random.normal(jax.random.key(0), (rows, T, model.config.n_embd))

    def in_chunks(x):
        cache = model.init_cache(rows, CAPACITY, dtype=dtype)
        cache = model.apply({"params": params}, inputs_embeds=x[:, :-1], cache=cache).cache
        return jnp.sin(model.apply({"params": params}, inputs_embeds=x[:, -1:], cache=cache).logits).sum()

    def at_once(x):
        return jnp.sin(model.apply({"params": params}, inputs_embeds=x).logits[:, -1]).sum()

    got = jax.jit(jax.grad(in_chunks))(x)
    assert jnp.isfinite(got).all()
    if dtype == jnp.float32:
        np.testing.assert_allclose(got, jax.jit(jax.grad(at_once))(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(jax.grad(in_chunks)(x), got, rtol=1e-4, atol=1e-5)


def test_layers_with_a_cache_are_traced_once(plain):
    model, params = plain
    traced = []

    def noting(call, args, kwargs, context):
        if isinstance(context.module, Layer) and context.method_name == "__call__":
            traced.append(context.module)
        return call(*args, **kwargs)

    cache = model.init_cache(2, CAPACITY)
    with nn.intercept_methods(noting):
        jax.jit(lambda c: model.apply({"params": params}, ids((2, 2)), cache=c).logits).lower(cache)
    assert len(cache.layers) == 2 and len(traced) == 1


def test_the_cache_that_went_in_is_untouched(plain, run):
    model, params = plain
    cache = model.init_cache(2, CAPACITY)
    jax.jit(lambda c: model.apply({"params": params}, ids((2, 2)), cache=c))(cache)
    assert int(cache.length) == 0 and not cache.valid.any()
    assert not any(leaf.any() for leaf in jax.tree.leaves(cache.layers))


def test_an_empty_cache_needs_no_parameters_and_has_the_compute_type(plain):
    cache = plain[0].clone(dtype=jnp.bfloat16).init_cache(3, 5)
    assert cache.capacity == 5 and len(cache.layers) == 2
    assert all(leaf.dtype == jnp.bfloat16 and leaf.size == 3 * 5 * 32 for leaf in jax.tree.leaves(cache.layers))


def test_more_tokens_than_slots_are_refused(plain):
    model, params = plain
    with pytest.raises(ValueError, match="has 4 slots, 0 used, and 5 more tokens came"):
        model.apply({"params": params}, ids((1, 5)), cache=model.init_cache(1, 4))
    cache = jax.jit(lambda: model.apply({"params": params}, ids((1, 3)), cache=model.init_cache(1, 4)).cache)()
    with pytest.raises(ValueError, match="has 4 slots, 3 used, and 2 more tokens came"):
        model.apply({"params": params}, ids((1, 2)), cache=cache)


def test_more_tokens_than_slots_under_jit_become_nan_and_never_pass_unseen(plain):
    model, params = plain
    step = jax.jit(lambda cache: model.apply({"params": params}, ids((1, 2)), cache=cache))
    second = step(step(model.init_cache(1, 4)).cache)  # 2 + 2 tokens, 4 slots
    assert np.isfinite(second.logits).all()
    one_left = dataclasses.replace(second.cache, length=jnp.int32(3))
    assert np.isnan(step(one_left).logits).all() and np.isnan(step(second.cache).logits).all()


def test_more_tokens_than_positions_are_refused_or_nan_however_long_the_cache(plain):
    """A cache may have spare slots beyond the position table (a bucket size); tokens may not."""
    model, params = plain
    step = jax.jit(lambda cache: model.apply({"params": params}, ids((1, 12)), cache=cache))
    full = step(step(model.init_cache(1, 40)).cache)
    assert np.isfinite(full.logits).all() and int(full.cache.length) == 24
    assert np.isnan(step(full.cache).logits).all()
    with pytest.raises(ValueError, match="25 tokens are more than the 24 positions"):
        model.apply({"params": params}, ids((1, 1)), cache=full.cache)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (1, 0)])
def test_an_empty_cache_of_no_size_is_refused(plain, batch, length):
    with pytest.raises(ValueError, match="at least 1"):
        plain[0].init_cache(batch, length)


def test_another_batch_size_is_refused(plain):
    model, params = plain
    with pytest.raises(ValueError, match="batch of 2, got a batch of 3"):
        model.apply({"params": params}, ids((3, 2)), cache=model.init_cache(2, 4))


@pytest.mark.parametrize("shape", [(2, 5), (2, 1), (1, 3)])
def test_a_mask_that_is_neither_for_the_new_tokens_nor_for_the_whole_cache_is_refused(plain, shape):
    model, params = plain
    with pytest.raises(ValueError, match=r"attention_mask is \[batch, new tokens\]"):
        model.apply({"params": params}, ids((2, 3)), attention_mask=np.ones(shape, int), cache=model.init_cache(2, 8))


def test_cross_attention_without_states_before_or_now_is_skipped_until_they_come():
    """As in the reference: without encoder states there is no cross attention."""
    model, params = tiny(add_cross_attention=True)
    out = jax.jit(lambda: model.apply({"params": params}, ids((1, 2)), cache=model.init_cache(1, 4)))()
    assert out.cache.layers[0].cross is None
