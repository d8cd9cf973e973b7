"""Processors that compare tokens with the sequence or the source match the reference (docs/parity.md, N4, N6)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.processor_harness import (
    COLUMNS,
    N,
    V,
    apply,
    apply_reference,
    assert_matches_reference,
    num_compiled,
    random_ids,
    random_scores,
)
from transformers.generation import logits_process as reference

from jaxmodels.generation.processors import (
    EncoderNoRepeatNGram,
    EncoderRepetitionPenalty,
    HammingDiversity,
    NoRepeatNGram,
    RepetitionPenalty,
)

# A source for each of two examples, the second one shorter; each example has two sequences.
SOURCE = np.array([[3, 1, 4, 1, 0, 2, 1, 4], [2, 0, 1, 2, 0, -1, -1, -1]], np.int32)
LENGTHS = (8, 5)


@pytest.mark.parity("N4")
def test_repetition_penalty_matches_the_reference():
    for penalty in (1.3, 0.5):
        expected = reference.RepetitionPenaltyLogitsProcessor(penalty)
        assert assert_matches_reference(RepetitionPenalty(jnp.float32(penalty)), expected) == {True}


@pytest.mark.parity("N4")
def test_a_repeated_token_is_penalized_once():
    scores = np.ones((1, V), np.float32)
    actual = apply(RepetitionPenalty(jnp.float32(2.0)), np.array([[7, 7, 7]]), scores)
    assert actual[0, 7] == 0.5 and (np.delete(actual[0], 7) == 1.0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parity("N4")
def test_no_repeat_ngram_matches_the_reference(size):
    changed = assert_matches_reference(NoRepeatNGram(jnp.int32(size)), reference.NoRepeatNGramLogitsProcessor(size))
    assert True in changed or size == 5


@pytest.mark.parity("N4")
def test_no_repeat_ngram_forbids_only_completing_tokens():
    ids = np.array(
        [[4, 1, 2, 4, 1, 3, 4, 1], [0, 1, 2, 3, 0, 1, 4, 4], [4, 4, 4, 4, 4, 4, 4, 4], [1, 2, 3, 4, 0, 3, 2, 4]]
    )
    actual = apply(NoRepeatNGram(jnp.int32(3)), ids, np.zeros((4, V), np.float32))
    assert [np.flatnonzero(row).tolist() for row in actual] == [[2, 3], [], [4], []]


def of_each_example(make):
    """A processor of the reference for two examples, whose sources it gets without padding."""

    def call(ids, scores):
        sources = [torch.from_numpy(np.int64(row[:length]))[None] for row, length in zip(SOURCE, LENGTHS, strict=True)]
        halves = zip(sources, ids.chunk(2), scores.chunk(2), strict=True)
        return torch.cat([make(source)(sequences, values) for source, sequences, values in halves])

    return call


@pytest.mark.parity("N4")
def test_encoder_repetition_penalty_matches_the_reference():
    expected = of_each_example(
        # It takes a source per sequence, whereas the n-gram processor takes one per example.
        lambda source: reference.EncoderRepetitionPenaltyLogitsProcessor(1.7, source.repeat(N // 2, 1))
    )
    assert assert_matches_reference(EncoderRepetitionPenalty(jnp.float32(1.7), jnp.asarray(SOURCE)), expected) == {True}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parity("N4")
def test_encoder_no_repeat_ngram_matches_the_reference(size):
    expected = of_each_example(lambda source: reference.EncoderNoRepeatNGramLogitsProcessor(size, source))
    assert True in assert_matches_reference(EncoderNoRepeatNGram(jnp.int32(size), jnp.asarray(SOURCE)), expected)


@pytest.mark.parity("N6")
def test_hamming_diversity_matches_the_reference():
    """Three groups of two beams, the last of which has not selected its tokens yet."""
    chosen = np.array([[3, 3, 5, 3, 0, 0], [7, 1, 1, 9, 0, 0]])
    expected = reference.HammingDiversityLogitsProcessor(0.7, num_beams=6, num_beam_groups=3)
    for group, earlier in ((1, chosen[:, :2]), (2, chosen[:, :4])):
        for seed in range(3):
            ids, scores = random_ids(5, seed), random_scores(seed)
            more = {"current_tokens": torch.from_numpy(chosen.ravel()), "beam_group_idx": group}
            actual = apply(HammingDiversity(jnp.float32(0.7)), ids, scores, earlier=np.repeat(earlier, 2, axis=0))
            np.testing.assert_allclose(actual, apply_reference(expected, ids, scores, **more), rtol=1e-6)


@pytest.mark.parity("N6")
def test_scores_of_the_first_group_are_unchanged():
    np.testing.assert_array_equal(
        apply(HammingDiversity(jnp.float32(0.7)), random_ids(5), random_scores()), random_scores()
    )


def test_other_values_and_positions_do_not_recompile():
    cases = [RepetitionPenalty(jnp.float32(p)) for p in (1.1, 2.0)], [NoRepeatNGram(jnp.int32(n)) for n in (1, 2, 7)]
    for processors in cases:
        apply(processors[0], random_ids(3), random_scores())
        before = num_compiled()
        for processor in processors:
            for length in (1, 4, 12):
                apply(processor, random_ids(length), random_scores(), start=COLUMNS - length)
        assert num_compiled() == before


def test_infinite_scores_are_unchanged():
    scores = np.where(np.arange(V) % 2, random_scores(), -np.inf).astype(np.float32)
    for processor in (RepetitionPenalty(jnp.float32(1.5)), NoRepeatNGram(jnp.int32(1))):
        actual = apply(processor, random_ids(6), scores)
        assert not np.isnan(actual).any() and np.isneginf(actual[:, ::2]).all()
