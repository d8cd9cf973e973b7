"""The beams of a sequence share the slots before them: the logits of each are those of its tokens, read alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.tiny import tiny

B, K, P, STEPS = 2, 3, 5, 4
ROBERTA = {"name": "RobertaPreLayerNormForCausalLM", "is_decoder": True}
MODELS = {
    "GPT-2": {},
    "RoBERTa relative_key": {**ROBERTA, "position_embedding_type": "relative_key"},
    "RoBERTa relative_key_query": {**ROBERTA, "position_embedding_type": "relative_key_query"},
    "BART": {"name": "BartForConditionalGeneration"},
    "LED": {"name": "LEDForConditionalGeneration"},
    "T5": {"name": "T5ForConditionalGeneration"},
}
RNG = np.random.default_rng(0)
# Which beam each one continues, and with which token: some several times, some not at all.
PARENTS = RNG.integers(0, K, (STEPS, B, K))
TOKENS = RNG.integers(2, 67, (STEPS, B, K))
PROMPT = ids((B, P), low=2)
STATES, STATES_MASK = numbers((B, 6, 32)), np.array([[1] * 6, [1] * 4 + [0] * 2])


def histories() -> list[np.ndarray]:
    """The sequence of each beam after every step, int [B,K,P+step]."""
    texts, result = np.repeat(PROMPT[:, None], K, axis=1), []
    for parents, tokens in zip(PARENTS, TOKENS, strict=True):
        texts = np.concatenate([np.take_along_axis(texts, parents[:, :, None], axis=1), tokens[:, :, None]], axis=2)
        result.append(texts)
    return result


def calls(name: str, **options):
    """(model, run): run(ids, rows, **more) applies it to texts of which each source has so many."""
    model, params = tiny(**{"name": "GPT2LMHeadModel", **MODELS[name], **options})
    crossed = name in ("BART", "LED", "T5")
    method = {"method": "decode"} if crossed else {}
    apply = jax.jit(lambda tokens, side, more: model.apply({"params": params}, tokens, **side, **more, **method))

    def run(tokens, rows=1, **more):
        arrays = {"encoder_attention_mask": STATES_MASK, "encoder_hidden_states": STATES} if crossed else {}
        return apply(tokens, {name: np.repeat(array, rows, axis=0) for name, array in arrays.items()}, more)

    return model, run


@pytest.mark.parametrize(("name", "dtype"), [*((name, None) for name in MODELS), ("GPT-2", "int8")])
def test_each_beam_has_the_logits_of_its_own_sequence(name, dtype):
    model, run = calls(name)
    cache = run(PROMPT, cache=model.init_cache(B, P + K * STEPS, dtype=dtype)).cache.expand(K)
    for step, texts in enumerate(histories()):
        out = run(TOKENS[step], cache=cache.reorder(jnp.asarray(PARENTS[step])))
        cache = out.cache
        # Of one length, whatever follows: it is not seen.
        alone = np.pad(texts.reshape(B * K, -1), ((0, 0), (0, STEPS - 1 - step)), constant_values=9)
        expected = run(alone, K).logits[:, P + step].reshape(B, K, -1)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is None else {"atol": 0.05}
        np.testing.assert_allclose(out.logits, expected, **tolerance)
    assert int(cache.length) == P + K * STEPS
    # Each sees its own text only: the prompt, and one slot a step.
    np.testing.assert_array_equal(cache.beams.visible.sum(axis=-1), np.full((B, K), P + STEPS))


def test_padding_in_the_prompt_is_hidden_from_every_beam():
    model, run = calls("GPT-2")
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    cache = run(PROMPT, cache=model.init_cache(B, P + K), attention_mask=mask, position_ids=positions).cache
    places = np.broadcast_to(mask.sum(axis=1)[:, None], (B, K))
    got = run(TOKENS[0], cache=cache.expand(K), position_ids=places).logits
    for row, start in ((0, 2), (1, 0)):
        texts = np.concatenate([np.repeat(PROMPT[row : row + 1, start:], K, axis=0), TOKENS[0, row][:, None]], axis=1)
        np.testing.assert_allclose(got[row], run(texts).logits[:, -1], rtol=1e-4, atol=1e-5)


def test_beam_tokens_of_a_step_share_a_position():
    model, run = calls("GPT-2")
    cache = run(PROMPT, cache=model.init_cache(B, P + K * STEPS)).cache.expand(K)
    for step in range(STEPS):
        np.testing.assert_array_equal(cache.positions(K), np.full(K, P + step))
        cache = run(TOKENS[step], cache=cache).cache


def test_only_one_token_per_beam_is_accepted():
    model, run = calls("GPT-2")
    cache = run(PROMPT, cache=model.init_cache(B, P + K)).cache.expand(K)
    for tokens, more in ((TOKENS[0][:, :2], {}), (TOKENS[0], {"attention_mask": np.ones((B, K), int)})):
        with pytest.raises(ValueError, match="each sequence has 3 beams in this cache: pass one token for each"):
            run(tokens, cache=cache, **more)
    full = run(TOKENS[0], cache=cache).cache
    assert np.isnan(run(TOKENS[1], cache=full).logits).all(), "no slots are left"
