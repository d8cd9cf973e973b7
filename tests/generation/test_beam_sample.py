"""Beam-sample: candidates are drawn without replacement, as in 4.37 (docs/parity.md, N5: `beam_sample`)."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import close
from support.lively import often_said, ours, padded, texts
from transformers.generation import logits_process as reference

import jaxmodels as jm
from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.search import Terms
from jaxmodels.generation.text import Text
from jaxmodels.generation.warpers import Warpers

K, V, DRAWS = 2, 5, 20000
LOGITS = np.random.default_rng(0).normal(size=(K, V)).astype(np.float32) * 1.5
OPTIONS = {"temperature": 1.3, "top_k": 4}


@jax.jit
def _choose(search, progress, logits):
    return search.advance(progress, logits)[0]


def chosen(sums, eos, seed=0) -> list[tuple]:
    """What one step chooses for each of many like examples: (beam, token) of both beams, best first."""
    config = jm.GenerationConfig(do_sample=True, num_beams=K, eos_token_id=eos, **OPTIONS)
    terms = Terms(jnp.array(eos, jnp.int32), jnp.int32(0), jnp.int32(9))
    search = BeamSearch(terms, jnp.float32(1.0), jax.random.key(seed), Warpers.of(config, V), width=K)
    text = Text.begin(jnp.zeros((DRAWS * K, 1), jnp.int32), 1, 3, jnp.int32(0))
    progress = search.begin(text, jnp.int32(DRAWS))
    if sums is not None:
        beams = dataclasses.replace(progress.beams, scores=jnp.broadcast_to(jnp.float32(sums), (DRAWS, K)))
        progress = dataclasses.replace(progress, beams=beams)
    new = _choose(search, progress, jnp.broadcast_to(LOGITS, (DRAWS, K, V)))
    pairs = np.stack([new.parents, new.token.reshape(DRAWS, K)], axis=-1)
    return [tuple(row) for row in pairs.reshape(DRAWS, -1).tolist()]


def reference_chosen(sums, eos) -> list[tuple]:
    """By the rules of 4.37.2: scores are warped, the beams' sums added, twice as many drawn as there are beams."""
    scores = torch.from_numpy(LOGITS).log_softmax(-1)
    scores = reference.TemperatureLogitsWarper(OPTIONS["temperature"])(None, scores)
    scores = reference.TopKLogitsWarper(OPTIONS["top_k"], min_tokens_to_keep=2)(None, scores)
    total = (scores + torch.tensor([0.0, 0.0] if sums is None else sums)[:, None]).flatten()
    torch.manual_seed(0)
    drawn = torch.multinomial(total.softmax(-1).expand(DRAWS, -1), 2 * K)
    values = total[drawn]
    found = torch.gather(drawn, 1, values.argsort(dim=1, descending=True))
    going_on = [[i for i in row if i % V not in eos][:K] for row in found.tolist()]
    return [tuple(part for i in row for part in (i // V, i % V)) for row in going_on]


@pytest.mark.parametrize("sums", [None, [-1.0, -2.5]], ids=["the first step", "a later step"])
@pytest.mark.parametrize("eos", [[], [2]], ids=["no end", "an end"])
@pytest.mark.parity("N5")
def test_draws_of_a_step_follow_torch_multinomial(sums, eos):
    mine, other = (collections.Counter(f(sums, eos)) for f in (chosen, reference_chosen))
    both = {pair: (mine[pair], other[pair]) for pair in mine | other}
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
    ids, mask = padded(texts(3, 9, seed=2), [9, 4, 7], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


def sampled(gpt2, batch, seed=0, **options):
    return ours(gpt2, **batch, key=jax.random.key(seed), **{**CALL, "eos_token_id": 15, **options})


def test_the_same_key_gives_the_same_beams_whatever_is_beside_them(gpt2, batch):
    one, again, other = (np.asarray(sampled(gpt2, batch, seed).sequences) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()
    alone = np.asarray(sampled(gpt2, {name: array[:1] for name, array in batch.items()}).sequences)
    width = min(alone.shape[1], one.shape[1])
    np.testing.assert_array_equal(alone[:, :width], one[:3, :width])


def test_keys_of_their_own_make_rows_independent_of_their_place(gpt2, batch):
    keys = jax.random.split(jax.random.key(3), 3)
    first = np.asarray(ours(gpt2, **batch, key=keys, **CALL, eos_token_id=[]).sequences).reshape(3, 3, -1)
    turned = {name: array[::-1] for name, array in batch.items()}
    second = np.asarray(ours(gpt2, **turned, key=keys[::-1], **CALL, eos_token_id=[]).sequences).reshape(3, 3, -1)
    np.testing.assert_array_equal(first, second[::-1])


@pytest.mark.parity("N11")
def test_scores_are_warped_and_sum_to_those_of_the_beams(gpt2, batch):
    eos = often_said(gpt2, **batch)[:2]
    got = sampled(gpt2, batch, eos_token_id=eos, output_scores=True)
    scores = np.asarray(got.scores)
    assert (np.isfinite(scores).sum(axis=-1) == CALL["top_k"]).all()
    transitions = np.asarray(jm.compute_transition_scores(got.sequences, got.scores, got.beam_indices))
    # The first eos id is written whichever came: such rows have another score at their end.
    lengths = (np.asarray(got.beam_indices) >= 0).sum(axis=1)
    whole = [row for row, n in enumerate(lengths) if n == NEW and not np.isin(got.sequences[row, -1], eos)]
    assert whole
    close(transitions[whole].sum(axis=1) / NEW, np.asarray(got.sequences_scores)[whole], tolerance=1e-5)


@pytest.mark.slow
def test_a_low_temperature_is_greedy_decoding(gpt2, batch):
    """All beams begin alike (4.57 lets only one begin), so each of them takes the likeliest token."""
    greedy = ours(gpt2, **batch, max_new_tokens=NEW, pad_token_id=PAD, eos_token_id=[]).sequences
    got = sampled(gpt2, batch, temperature=1e-3, top_k=0, eos_token_id=[]).sequences
    np.testing.assert_array_equal(got, np.repeat(greedy, 3, axis=0))
