"""Caches of fewer bits: what they cost in exactness (figures measured on models of random weights)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.tiny import tiny

from jaxmodels.layers.cache import KeyValue

T = 12


TOKEN_MAJOR = pytest.mark.parametrize("token_major", [False, True], ids=["head major", "token major"])


@TOKEN_MAJOR
def test_int8_is_off_by_half_a_step_of_each_vector_s_own_scale(token_major):
    key, value = numbers((2, 7, 4, 8)) * 10.0 ** np.arange(-3, 4)[None, :, None, None], numbers((2, 7, 4, 8), seed=1)
    kept = KeyValue.of(jnp.asarray(key), jnp.asarray(value), jnp.int8, token_major)
    for x, got in zip((key, value), kept.read(jnp.float32), strict=True):
        step = np.abs(x).max(axis=-1, keepdims=True) / 127
        assert (np.abs(np.asarray(got) - x) <= step * 0.501).all()
    assert kept.key.dtype == jnp.int8 and kept.key_scale.shape == (2, 4, 7)


def test_int8_keeps_zeros_and_the_largest_entry():
    x = jnp.zeros((1, 2, 1, 4)).at[0, 1, 0, 2].set(-3.5)
    np.testing.assert_array_equal(KeyValue.of(x, x, jnp.int8).read(jnp.float32)[0], x)


@TOKEN_MAJOR
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_is_written_is_read_at_its_place(dtype, token_major):
    key, value = numbers((2, 3, 4, 8)), numbers((2, 3, 4, 8), seed=1)
    kept = KeyValue.zeros((2, 9, 4, 8), dtype, token_major).write(jnp.asarray(key), jnp.asarray(value), jnp.int32(5))
    assert kept.length == 9
    for x, got in zip((key, value), kept.read(jnp.float32), strict=True):
        np.testing.assert_allclose(got[:, 5:8], x, atol=0 if dtype == "float32" else 0.02)
        assert not np.asarray(got)[:, :5].any() and not np.asarray(got)[:, 8:].any()


def logits(model, params, dtype, **inputs):
    """[2,T,V] token by token, so that every one reads the cache."""
    apply = jax.jit(lambda cache, part: model.apply({"params": params}, **part, **inputs, cache=cache))
    cache, found = model.init_cache(2, T, dtype=dtype), []
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    for t in range(T):
        out = apply(cache, {name: ids((2, T), low=2)[:, t : t + 1]})
        cache = out.cache
        found.append(np.asarray(out.logits[:, 0], np.float64))
    return np.stack(found, axis=1), cache


ENCODED = {"input_ids": ids((2, 6), low=2)}
MODELS = {
    "GPT2LMHeadModel": {},
    "RobertaPreLayerNormForCausalLM": {"is_decoder": True},
    "RobertaForCausalLM": {"is_decoder": True},
    "BartForConditionalGeneration": ENCODED,
    "T5ForConditionalGeneration": ENCODED,
}
# The largest difference of a logit, in units of the logits' standard deviation: three times what was measured (T5).
MEASURED = {"bfloat16": 0.02, "int8": 0.03}
SLOW = ("RobertaPreLayerNormForCausalLM", "RobertaForCausalLM", "BartForConditionalGeneration")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS])
def test_logits_are_off_by_little(name):
    inputs = MODELS[name] if MODELS[name] is ENCODED else {}
    model, params = tiny(name, **({} if inputs else MODELS[name]))
    expected, _ = logits(model, params, None, **inputs)
    for dtype, bound in MEASURED.items():
        got, cache = logits(model, params, dtype, **inputs)
        error = np.abs(got - expected).max() / expected.std()
        assert 0 < error < bound, f"{dtype}: {error:.4f}"
        kept = cache.layers[0]
        assert kept.past.key.dtype == dtype
        assert kept.cross is None or kept.cross.key.dtype == dtype, "the encoder's keys are kept alike"


def test_int8_takes_little_more_than_a_quarter():
    model, _ = tiny(n_embd=64, n_head=1)
    size = {d: sum(x.nbytes for x in jax.tree.leaves(model.init_cache(2, 24, dtype=d).layers)) for d in (None, "int8")}
    assert size["int8"] == size[None] * (64 + 4) / (4 * 64)


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_other_types_are_refused_by_name(dtype):
    with pytest.raises(ValueError, match=f"the dtype of a cache is floating or int8, got {dtype}"):
        tiny()[0].init_cache(2, 5, dtype=dtype)


def test_a_type_may_be_a_string_or_a_numpy_or_a_jax_type():
    model, _ = tiny()
    for name, scalar in (("int8", jnp.int8), ("bfloat16", jnp.bfloat16), ("float16", np.float16)):
        caches = [model.init_cache(1, 3, dtype=dtype) for dtype in (name, scalar, jnp.dtype(name))]
        assert len({jax.tree.structure(cache) for cache in caches}) == 1
        assert all(cache.layers[0].past.key.dtype == name for cache in caches)
