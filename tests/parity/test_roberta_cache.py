"""RoBERTa-PreLayerNorm as a decoder in pieces, and generating (docs/parity.md, R2, R5, R6)."""

import jax
import numpy as np
import pytest
import torch
from support.arrays import close, ids, numbers
from support.reference import pair
from support.tiny import tiny

import jaxmodels as jm

NAME = "RobertaPreLayerNormForCausalLM"
T, CAPACITY = 6, 8
CHUNKINGS = [(5, 1), (1,) * 6, (2, 2, 2)]


def steps(model, params, chunks, every=None, **inputs):
    """Logits [B,T,V] in pieces, and the last output."""
    apply = jax.jit(lambda cache, part: model.apply({"params": params}, **part, **(every or {}), cache=cache))
    cache, start, logits = model.init_cache(2, CAPACITY), 0, []
    for count in chunks:
        out = apply(cache, {name: value[:, start : start + count] for name, value in inputs.items()})
        cache, start = out.cache, start + count
        logits.append(out.logits)
    return np.concatenate(logits, axis=1), cache


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@pytest.mark.parametrize("kind", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parity("R5", "R6")
def test_every_chunking_gives_the_logits_of_one_pass(kind, chunks):
    """The reference cannot do this with distances: it takes the prefill's queries for one (docs/parity.md, note 4)."""
    model, params = tiny(NAME, is_decoder=True, position_embedding_type=kind)
    whole = jax.jit(lambda: model.apply({"params": params}, ids((2, T), low=2)).logits)()
    got, cache = steps(model, params, chunks, input_ids=ids((2, T), low=2))
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
    assert int(cache.length) == T


@pytest.mark.parity("R6")
def test_steps_agree_with_the_reference_s_cache(tmp_path):
    both = pair(NAME, tmp_path, is_decoder=True, add_cross_attention=True)
    states = numbers((2, 4, 32))
    got, _ = steps(both.model, both.params, (4, 1, 1), {"encoder_hidden_states": states}, input_ids=ids((2, T), low=2))
    past, rows, expected = None, torch.tensor(ids((2, T), low=2)), []
    for start, count in ((0, 4), (4, 1), (5, 1)):
        out = both.reference(
            rows[:, start : start + count],
            encoder_hidden_states=torch.tensor(states),
            past_key_values=past,
            use_cache=True,
        )
        past = out.past_key_values
        expected.append(out.logits)
    close(got, torch.cat(expected, dim=1))


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parity("R5")
def test_a_cache_longer_than_the_table_works_until_the_tokens_are_more(kind):
    model, params = tiny(NAME, is_decoder=True, position_embedding_type=kind, max_position_embeddings=8)
    rows = ids((2, 10), low=2)
    whole = jax.jit(lambda: model.apply({"params": params}, rows[:, :8]).logits)()
    step = jax.jit(lambda cache, part: model.apply({"params": params}, part, cache=cache))
    cache, logits = model.init_cache(2, 16), []
    for i in range(0, 10, 2):
        out = step(cache, rows[:, i : i + 2])
        cache = out.cache
        logits.append(out.logits)
    np.testing.assert_allclose(np.concatenate(logits[:4], axis=1), whole, rtol=1e-4, atol=1e-5)
    assert np.isnan(logits[4]).all()
    with pytest.raises(ValueError, match="9 tokens are more than the 8 positions of this model"):
        model.apply({"params": params}, rows[:, :9])


@pytest.mark.parametrize("kind", ["absolute", "relative_key"])
@pytest.mark.parity("R2")
def test_generated_ids_do_not_depend_on_left_padding(kind):
    """Positions count real tokens from pad_token_id + 1; 4.57's generate() starts at 0 (docs/parity.md, note 2)."""
    model, params = tiny(NAME, is_decoder=True, position_embedding_type=kind, eos_token_id=None)
    prompt = ids((1, 5), low=2)
    alone = jm.generate(model, params, prompt, max_new_tokens=6).sequences[:, 5:]
    padded = np.pad(prompt, ((0, 0), (3, 0)), constant_values=1)
    both = np.concatenate([padded, ids((1, 8), seed=1, low=2)])
    np.testing.assert_array_equal(jm.generate(model, params, both, max_new_tokens=6).sequences[:1, 8:], alone)
    tokens = prompt
    for _ in range(6):
        logits = model.apply({"params": params}, tokens).logits
        tokens = np.concatenate([tokens, np.asarray(logits[:, -1].argmax(-1))[:, None]], axis=1)
    np.testing.assert_array_equal(alone, tokens[:, 5:])


def test_generation_refuses_more_tokens_than_positions():
    model, params = tiny(NAME, is_decoder=True)
    with pytest.raises(ValueError, match="a prompt of 20 tokens and 5 new ones are more than the 24 positions"):
        jm.generate(model, params, ids((1, 20), low=2), max_new_tokens=5)
    with pytest.raises(ValueError, match="is_decoder=True"):
        jm.generate(*tiny(NAME), ids((1, 4), low=2), max_new_tokens=2)


def test_three_dimensional_masks_have_no_cache():
    model, params = tiny(NAME, is_decoder=True)
    with pytest.raises(ValueError, match="with a cache"):
        model.apply(
            {"params": params}, ids((2, 3), low=2), attention_mask=np.ones((2, 3, 3)), cache=model.init_cache(2, 8)
        )
