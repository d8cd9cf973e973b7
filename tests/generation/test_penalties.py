"""Processors that look for tokens in the text give the reference's scores (docs/parity.md, N4)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.presented import COLUMNS, N, V, compilations, ours, same, scores_of, theirs, written
from transformers.generation import logits_process as reference

from jaxmodels.generation.penalties import (
    Diversity,
    NoRepeatedNgrams,
    NoSourceNgrams,
    Repetition,
    SourceRepetition,
)

# A source for each of two examples, the second one shorter; two rows of text belong to each.
SOURCE = np.array([[3, 1, 4, 1, 0, 2, 1, 4], [2, 0, 1, 2, 0, -1, -1, -1]], np.int32)
LENGTHS = (8, 5)


@pytest.mark.parity("N4")
def test_repetition_penalty_gives_the_reference_s_scores():
    for penalty in (1.3, 0.5):
        expected = reference.RepetitionPenaltyLogitsProcessor(penalty)
        assert same(Repetition(jnp.float32(penalty)), expected) == {True}


@pytest.mark.parity("N4")
def test_a_repeated_token_is_penalised_once():
    scores = np.ones((1, V), np.float32)
    got = ours(Repetition(jnp.float32(2.0)), np.array([[7, 7, 7]]), scores)
    assert got[0, 7] == 0.5 and (np.delete(got[0], 7) == 1.0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parity("N4")
def test_no_repeat_ngram_gives_the_reference_s_scores(size):
    changed = same(NoRepeatedNgrams(jnp.int32(size)), reference.NoRepeatNGramLogitsProcessor(size))
    assert True in changed or size == 5


@pytest.mark.parity("N4")
def test_no_repeat_ngram_bans_what_would_complete_one_and_nothing_else():
    ids = np.array(
        [[4, 1, 2, 4, 1, 3, 4, 1], [0, 1, 2, 3, 0, 1, 4, 4], [4, 4, 4, 4, 4, 4, 4, 4], [1, 2, 3, 4, 0, 3, 2, 4]]
    )
    got = ours(NoRepeatedNgrams(jnp.int32(3)), ids, np.zeros((4, V), np.float32))
    assert [np.flatnonzero(row).tolist() for row in got] == [[2, 3], [], [4], []]


def of_each_example(make):
    """A reference's processor for the rows of two examples, whose sources it takes without padding."""

    def call(ids, scores):
        sources = [torch.from_numpy(np.int64(row[:length]))[None] for row, length in zip(SOURCE, LENGTHS, strict=True)]
        halves = zip(sources, ids.chunk(2), scores.chunk(2), strict=True)
        return torch.cat([make(source)(rows, values) for source, rows, values in halves])

    return call


@pytest.mark.parity("N4")
def test_encoder_repetition_penalty_gives_the_reference_s_scores():
    expected = of_each_example(
        # It takes a source for each row, where the n-grams take one for each example.
        lambda source: reference.EncoderRepetitionPenaltyLogitsProcessor(1.7, source.repeat(N // 2, 1))
    )
    assert same(SourceRepetition(jnp.float32(1.7), jnp.asarray(SOURCE)), expected) == {True}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parity("N4")
def test_encoder_no_repeat_ngram_gives_the_reference_s_scores(size):
    expected = of_each_example(lambda source: reference.EncoderNoRepeatNGramLogitsProcessor(size, source))
    assert True in same(NoSourceNgrams(jnp.int32(size), jnp.asarray(SOURCE)), expected)


@pytest.mark.parity("N6")
def test_hamming_diversity_gives_the_reference_s_scores():
    """Three groups of two beams: those of the third lose for what the first two groups chose."""
    chosen = np.array([[3, 3, 5, 3, 0, 0], [7, 1, 1, 9, 0, 0]])  # the last group has not chosen
    expected = reference.HammingDiversityLogitsProcessor(0.7, num_beams=6, num_beam_groups=3)
    for group, earlier in ((1, chosen[:, :2]), (2, chosen[:, :4])):
        for seed in range(3):
            ids, scores = written(5, seed), scores_of(seed)
            more = {"current_tokens": torch.from_numpy(chosen.ravel()), "beam_group_idx": group}
            got = ours(Diversity(jnp.float32(0.7)), ids, scores, earlier=np.repeat(earlier, 2, axis=0))
            np.testing.assert_allclose(got, theirs(expected, ids, scores, **more), rtol=1e-6)


@pytest.mark.parity("N6")
def test_the_first_group_keeps_its_scores():
    np.testing.assert_array_equal(ours(Diversity(jnp.float32(0.7)), written(5), scores_of()), scores_of())


def test_numbers_and_places_compile_nothing():
    cases = [Repetition(jnp.float32(p)) for p in (1.1, 2.0)], [NoRepeatedNgrams(jnp.int32(n)) for n in (1, 2, 7)]
    for processors in cases:
        ours(processors[0], written(3), scores_of())
        before = compilations()
        for processor in processors:
            for length in (1, 4, 12):
                ours(processor, written(length), scores_of(), start=COLUMNS - length)
        assert compilations() == before


def test_infinite_scores_stay_what_they_are():
    scores = np.where(np.arange(V) % 2, scores_of(), -np.inf).astype(np.float32)
    for processor in (Repetition(jnp.float32(1.5)), NoRepeatedNgrams(jnp.int32(1))):
        got = ours(processor, written(6), scores)
        assert not np.isnan(got).any() and np.isneginf(got[:, ::2]).all()
