"""Beam-sample: candidates are drawn without replacement, as in 4.37 (docs/parity.md, N5: `beam_sample`)."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import close
from support.diverse_models import frequent_ids, generate, padded, random_ids
from transformers.generation import logits_process as reference

import jaxmodels as jm
from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.sampling import Warpers
from jaxmodels.generation.search import SearchConfig, Text

K, V, DRAWS = 2, 5, 20000
LOGITS = np.random.default_rng(0).normal(size=(K, V)).astype(np.float32) * 1.5
OPTIONS = {"temperature": 1.3, "top_k": 4}


@jax.jit
def _advance(search, state, logits):
    return search.advance(state, logits)[0]


def selected(sums, eos, seed=0) -> list[tuple]:
    """The selection of one step for each of many equal examples: (beam, token) of both beams, best first."""
    config = jm.GenerationConfig(do_sample=True, num_beams=K, eos_token_id=eos, **OPTIONS)
    search_config = SearchConfig(jnp.array(eos, jnp.int32), jnp.int32(0), jnp.int32(9))
    warpers = Warpers.from_config(config, V)
    search = BeamSearch(search_config, jnp.float32(1.0), jax.random.key(seed), warpers, num_beams=K)
    text = Text.from_prefix(jnp.zeros((DRAWS * K, 1), jnp.int32), 1, 3, jnp.int32(0))
    state = search.init(text, jnp.int32(DRAWS))
    if sums is not None:
        beams = dataclasses.replace(state.beams, scores=jnp.broadcast_to(jnp.float32(sums), (DRAWS, K)))
        state = dataclasses.replace(state, beams=beams)
    new = _advance(search, state, jnp.broadcast_to(LOGITS, (DRAWS, K, V)))
    pairs = np.stack([new.parents, new.tokens.reshape(DRAWS, K)], axis=-1)
    return [tuple(row) for row in pairs.reshape(DRAWS, -1).tolist()]


def reference_selected(sums, eos) -> list[tuple]:
    """As in 4.37.2: scores are warped, the scores of the beams added, and two candidates per beam drawn."""
    scores = torch.from_numpy(LOGITS).log_softmax(-1)
    scores = reference.TemperatureLogitsWarper(OPTIONS["temperature"])(None, scores)
    scores = reference.TopKLogitsWarper(OPTIONS["top_k"], min_tokens_to_keep=2)(None, scores)
    total = (scores + torch.tensor([0.0, 0.0] if sums is None else sums)[:, None]).flatten()
    torch.manual_seed(0)
    drawn = torch.multinomial(total.softmax(-1).expand(DRAWS, -1), 2 * K)
    values = total[drawn]
    found = torch.gather(drawn, 1, values.argsort(dim=1, descending=True))
    unended = [[i for i in row if i % V not in eos][:K] for row in found.tolist()]
    return [tuple(part for i in row for part in (i // V, i % V)) for row in unended]


@pytest.mark.parametrize("sums", [None, [-1.0, -2.5]], ids=["the first step", "a later step"])
@pytest.mark.parametrize("eos", [[], [2]], ids=["no end", "an end"])
@pytest.mark.parity("N5")
def test_draws_of_a_step_follow_torch_multinomial(sums, eos):
    counts, reference_counts = (collections.Counter(f(sums, eos)) for f in (selected, reference_selected))
    both = {pair: (counts[pair], reference_counts[pair]) for pair in counts | reference_counts}
    frequent = [(a, b) for a, b in both.values() if a + b > 20]
    assert len(frequent) > 5
    chi_square = sum((a - b) ** 2 / (a + b) for a, b in frequent)
    degrees = len(frequent) - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees), f"chi-square {chi_square:.1f} for {degrees} degrees"


PAD, NEW = 4, 16
CALL = {"do_sample": True, "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": NEW, "pad_token_id": PAD}
CALL |= {"temperature": 1.5, "top_k": 20}


@pytest.fixture(scope="module")
def batch(gpt2):
    ids, mask = padded(random_ids(3, 9, seed=2), [9, 4, 7], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


def sampled(gpt2, batch, seed=0, **options):
    return generate(gpt2, **batch, key=jax.random.key(seed), **{**CALL, "eos_token_id": 15, **options})


def test_the_same_key_gives_the_same_beams_in_any_batch(gpt2, batch):
    first, again, other = (np.asarray(sampled(gpt2, batch, seed).sequences) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()
    single = np.asarray(sampled(gpt2, {name: array[:1] for name, array in batch.items()}).sequences)
    width = min(single.shape[1], first.shape[1])
    np.testing.assert_array_equal(single[:, :width], first[:3, :width])


def test_keys_per_prompt_make_draws_independent_of_batch_order(gpt2, batch):
    keys = jax.random.split(jax.random.key(3), 3)
    first = np.asarray(generate(gpt2, **batch, key=keys, **CALL, eos_token_id=[]).sequences).reshape(3, 3, -1)
    backwards = {name: array[::-1] for name, array in batch.items()}
    second = np.asarray(generate(gpt2, **backwards, key=keys[::-1], **CALL, eos_token_id=[]).sequences).reshape(
        3, 3, -1
    )
    np.testing.assert_array_equal(first, second[::-1])


@pytest.mark.parity("N11")
def test_warped_scores_sum_to_the_scores_of_beams(gpt2, batch):
    eos = frequent_ids(gpt2, **batch)[:2]
    actual = sampled(gpt2, batch, eos_token_id=eos, output_scores=True)
    scores = np.asarray(actual.scores)
    assert (np.isfinite(scores).sum(axis=-1) == CALL["top_k"]).all()
    transitions = np.asarray(jm.compute_transition_scores(actual.sequences, actual.scores, actual.beam_indices))
    lengths = (np.asarray(actual.beam_indices) >= 0).sum(axis=1)
    whole = [row for row, n in enumerate(lengths) if n == NEW and not np.isin(actual.sequences[row, -1], eos)]
    assert whole
    close(transitions[whole].sum(axis=1) / NEW, np.asarray(actual.sequences_scores)[whole], tolerance=1e-5)


@pytest.mark.slow
def test_a_low_temperature_equals_greedy_decoding(gpt2, batch):
    """All beams start equal (in 4.57 only one starts), so each of them selects the most likely token."""
    greedy = generate(gpt2, **batch, max_new_tokens=NEW, pad_token_id=PAD, eos_token_id=[]).sequences
    actual = sampled(gpt2, batch, temperature=1e-3, top_k=0, eos_token_id=[]).sequences
    np.testing.assert_array_equal(actual, np.repeat(greedy, 3, axis=0))
