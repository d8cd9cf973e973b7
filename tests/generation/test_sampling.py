"""Sampling draws from the reference's distribution, and is reproducible from the key (PARITY N3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import jaxmodels as jm
from jaxmodels.generation.options import Options
from jaxmodels.generation.sampling import Sampler

VOCABULARY, DRAWS = 40, 20000
LOGITS = np.random.default_rng(0).normal(size=VOCABULARY).astype(np.float32) * 2


def reference_probabilities(temperature=1.0, top_k=0, top_p=1.0):
    scores = torch.from_numpy(LOGITS)[None]
    if temperature != 1.0:
        scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize(
    "warpers",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.8},
        {"top_k": 5},
        {"top_k": 1},
        {"top_p": 0.8},
        {"top_p": 0.05},
        {"top_k": 39, "top_p": 0.6},
        {"temperature": 1.5, "top_k": 20, "top_p": 0.9},
    ],
    ids=str,
)
def test_N3_draws_follow_the_reference_distribution(warpers):
    options = Options(do_sample=True, **{"top_k": 0, **warpers})
    sampler = Sampler.make(options, jax.random.key(1), VOCABULARY)
    rows = jnp.broadcast_to(LOGITS, (DRAWS, VOCABULARY))
    counts = np.bincount(jax.jit(lambda s, x: s(x, jnp.int32(0)))(sampler, rows), minlength=VOCABULARY)
    expected = reference_probabilities(**warpers) * DRAWS
    assert (counts[expected == 0] == 0).all(), "a token that the warpers remove was drawn"
    seen = expected > 5
    chi_square = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    degrees = max(int(seen.sum()) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees), f"chi-square {chi_square:.1f} for {degrees} degrees"


def test_steps_and_rows_draw_independently():
    sampler = Sampler.make(Options(do_sample=True, top_k=0), jax.random.key(1), VOCABULARY)
    rows = jnp.zeros((2000, VOCABULARY))
    first, second = sampler(rows, jnp.int32(0)), sampler(rows, jnp.int32(1))
    assert abs(float((first == second).mean()) - 1 / VOCABULARY) < 0.02
    assert abs(float((first[1:] == first[:-1]).mean()) - 1 / VOCABULARY) < 0.02


@pytest.fixture(scope="module")
def gpt2():
    config = jm.GPT2Config(
        vocab_size=61, n_positions=128, n_embd=16, n_layer=2, n_head=2, eos_token_id=3, pad_token_id=0
    )
    model = jm.GPT2LMHeadModel(config)
    return model, jm.init(model, jax.random.key(0))


def test_the_same_key_gives_the_same_text_whatever_the_padding(gpt2):
    ids = np.random.default_rng(0).integers(4, 61, (1, 7))
    options = {"do_sample": True, "max_new_tokens": 20, "eos_token_id": []}
    texts = [
        np.asarray(jm.generate(*gpt2, ids, key=jax.random.key(seed), **options).sequences)[:, 7:] for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (texts[0] != texts[2]).any()
    padded = np.pad(ids, ((0, 1), (30, 0)), constant_values=0)
    padded[1] = 9
    longer = jm.generate(*gpt2, padded, key=jax.random.key(0), **options).sequences[:1, 37:]
    np.testing.assert_array_equal(longer, texts[0])


def test_top_k_defaults_to_the_references_fifty(gpt2):
    assert Options.merge(gpt2[0].config, {}).top_k == 50
