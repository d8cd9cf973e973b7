"""Sampling draws from the distribution of the reference and is reproducible from the key (docs/parity.md, N3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from test_warpers import reference_scores

import jaxmodels as jm
from jaxmodels.generation.sampling import Warpers

VOCABULARY, DRAWS = 40, 20000
LOGITS = np.random.default_rng(0).normal(size=VOCABULARY).astype(np.float32) * 2


@jax.jit
def _draw(warpers, key, scores, step):
    return warpers.sample(scores, key, step)[0]


def drawn(options, scores, step=0):
    warpers = Warpers.from_config(jm.GenerationConfig(do_sample=True, **{"top_k": 0, **options}), VOCABULARY)
    return np.asarray(_draw(warpers, jax.random.key(1), jnp.asarray(scores), jnp.int32(step)))


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
        {"min_p": 0.05},
        {"typical_p": 0.6},
        {"epsilon_cutoff": 0.02},
        {"eta_cutoff": 0.05},
        {"top_k": 39, "top_p": 0.6},
        {"temperature": 1.5, "top_k": 20, "top_p": 0.9},
    ],
    ids=str,
)
@pytest.mark.parity("N3")
def test_draws_follow_the_reference_distribution(warpers):
    counts = np.bincount(drawn(warpers, np.broadcast_to(LOGITS, (DRAWS, VOCABULARY))), minlength=VOCABULARY)
    expected = torch.softmax(torch.from_numpy(reference_scores(warpers, 1, LOGITS[None])), -1)[0].numpy() * DRAWS
    assert (counts[expected == 0] == 0).all(), "a token that the warpers remove was drawn"
    seen = expected > 5
    chi_square = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    degrees = max(int(seen.sum()) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees), f"chi-square {chi_square:.1f} for {degrees} degrees"


def test_steps_and_sequences_draw_independently():
    scores = np.zeros((2000, VOCABULARY), np.float32)
    first, second = drawn({}, scores), drawn({}, scores, step=1)
    assert abs(float((first == second).mean()) - 1 / VOCABULARY) < 0.02
    assert abs(float((first[1:] == first[:-1]).mean()) - 1 / VOCABULARY) < 0.02


def test_draws_do_not_depend_on_the_batch():
    scores = np.random.default_rng(1).normal(size=(6, VOCABULARY)).astype(np.float32)
    np.testing.assert_array_equal(drawn({"top_k": 9}, scores)[:2], drawn({"top_k": 9}, scores[:2]))


SAMPLED = {"do_sample": True, "max_new_tokens": 20, "eos_token_id": []}
IDS = np.random.default_rng(0).integers(4, 61, (1, 7))


def sampled(fresh_gpt2, ids=IDS, seed=0, **options):
    return np.asarray(jm.generate(*fresh_gpt2, ids, key=jax.random.key(seed), **SAMPLED, **options).sequences)


def test_draws_do_not_depend_on_padding(fresh_gpt2):
    sequences = [sampled(fresh_gpt2, seed=seed)[:, 7:] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(sequences[0], sequences[1])
    assert (sequences[0] != sequences[2]).any()
    padded = np.pad(IDS, ((0, 1), (30, 0)), constant_values=0)
    padded[1] = 9
    np.testing.assert_array_equal(sampled(fresh_gpt2, padded)[:1, 37:], sequences[0])


@pytest.mark.parity("N10")
def test_returned_sequences_are_different_draws_for_a_prompt(fresh_gpt2):
    """They are the draws of sequences at the same index of a larger batch."""
    two = np.repeat(IDS, 2, axis=0)
    two[1] = 9
    actual = sampled(fresh_gpt2, two, num_return_sequences=2)
    assert actual.shape == (4, 27) and (actual[:2, :7] == two[0]).all() and (actual[2:, :7] == two[1]).all()
    assert len({tuple(row) for row in actual.tolist()}) == 4
    np.testing.assert_array_equal(actual, sampled(fresh_gpt2, np.repeat(two, 2, axis=0)))


@pytest.mark.parity("N11")
def test_scores_of_sampling_are_warped(fresh_gpt2):
    """Tokens that could not be drawn have -inf, the others their scaled logits."""
    out = jm.generate(
        *fresh_gpt2,
        IDS,
        key=jax.random.key(0),
        output_scores=True,
        output_logits=True,
        top_k=5,
        temperature=0.5,
        **SAMPLED,
    )
    scores, logits = np.asarray(out.scores), np.asarray(out.logits)
    assert scores.shape == logits.shape == (20, 1, 61)
    finite = np.isfinite(scores)
    assert (finite.sum(axis=-1) == 5).all()
    np.testing.assert_allclose(scores[finite], logits[finite] / 0.5, rtol=1e-6)
    assert finite[np.arange(20), 0, np.asarray(out.sequences)[0, 7:]].all()


@pytest.mark.parity("N3")
def test_top_k_defaults_to_the_references_fifty(fresh_gpt2):
    assert jm.GenerationConfig.merge(fresh_gpt2[0].config, None, {}).top_k == 50
