"""Processors that say what may, must or should come give the reference's scores (docs/parity.md, N4, N13)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.presented import COLUMNS, N, V, compilations, ours, same, scores_of, theirs, written
from transformers.generation import logits_process as reference

from jaxmodels.generation.callbacks import registered
from jaxmodels.generation.constraints import (
    ALWAYS,
    Allowed,
    ExponentialDecay,
    Forced,
    NoEarlyEnd,
    RemoveInvalid,
    Renormalise,
    SequenceBias,
    Suppressed,
)

EOS = (3, 11)
BOTH = jnp.array(EOS, jnp.int32)
BIASES = {(4,): -2.0, (7,): 1.5, (1, 4): 3.0, (0, 4): -1.0, (2, 1, 3): -4.0, (2, 0, 1, 3, 4): 5.0}


@pytest.mark.parametrize("count", [1, 4, len(BIASES)])
@pytest.mark.parity("N4")
def test_sequence_bias_gives_the_reference_s_scores(count):
    biases = dict(list(BIASES.items())[:count])
    assert same(SequenceBias.of(biases), reference.SequenceBiasLogitsProcessor(biases)) == {True}


@pytest.mark.parity("N4")
def test_sequence_bias_reads_what_comes_before_and_adds_up():
    ids = np.array([[4, 4, 4, 1, 1], [4, 4, 4, 2, 1], [4, 4, 4, 2, 0], [4, 4, 0, 2, 1]])
    # The last of them is longer than the text and, as in the reference, says nothing.
    biases = {(1, 9): 1.0, (2, 1, 9): 10.0, (4, 4, 2, 1, 9): 100.0, (4, 4, 4, 2, 1, 9): 1000.0}
    got = ours(SequenceBias.of(biases), ids, np.zeros((4, V), np.float32))
    np.testing.assert_array_equal(got[:, 9], [1.0, 111.0, 0.0, 11.0])
    assert not np.delete(got, 9, axis=1).any()


@pytest.mark.parity("N4")
def test_bad_words_and_an_end_that_is_none():
    words = [[4], [1, 2], [3], [0, 0, 1]]
    ours_ = SequenceBias.of({tuple(word): -np.inf for word in words if word != [3]})
    assert same(ours_, reference.NoBadWordsLogitsProcessor(words, eos_token_id=torch.tensor([3]))) == {True}


@pytest.mark.parity("N4")
def test_min_length_and_min_new_tokens():
    eos = torch.tensor(EOS)
    expected = reference.MinLengthLogitsProcessor(7, eos)
    assert same(NoEarlyEnd(jnp.int32(7), BOTH), expected) == {True, False}
    expected = reference.MinNewTokensLengthLogitsProcessor(4, 3, eos)
    assert same(NoEarlyEnd(jnp.int32(4 + 3), BOTH), expected, lengths=range(4, 12)) == {True, False}


@pytest.mark.parity("N4")
def test_forced_first_and_last_ids():
    assert same(Forced.of([1], [5]), reference.ForcedBOSTokenLogitsProcessor(5)) == {True, False}
    for eos in ([3], [3, 11], [3, 11, 0]):
        expected = reference.ForcedEOSTokenLogitsProcessor(9, torch.tensor(eos))
        assert same(Forced.of([8] * len(eos), eos), expected) == {True, False}


@pytest.mark.parity("N4")
def test_forced_decoder_ids_give_the_reference_s_scores():
    """As `ForceTokensLogitsProcessor` of 4.37: all but one score are -inf, and that one is 0; 4.57 has none."""
    processor = Forced.of([4, 6, 7], [9, 2, 9])
    for length in range(1, 10):
        ids, scores = written(length), scores_of(length)
        expected, token = scores.copy(), {4: 9, 6: 2, 7: 9}.get(length)
        if token is not None:
            expected[:], expected[:, token] = -np.inf, 0.0
        np.testing.assert_array_equal(ours(processor, ids, scores), expected)


@pytest.mark.parity("N4")
def test_suppressed_tokens_and_those_suppressed_at_the_beginning():
    tokens = [0, 5, 22]
    assert same(Suppressed.of(tokens, V), reference.SuppressTokensLogitsProcessor(tokens)) == {True}
    expected = reference.SuppressTokensAtBeginLogitsProcessor(tokens, 5)
    assert same(Suppressed.of(tokens, V, 5), expected) == {True, False}
    assert int(Suppressed.of(tokens, V).count) == ALWAYS


@pytest.mark.parametrize("factor", [1.3, 0.7])
@pytest.mark.parity("N4")
def test_exponential_decay_gives_the_reference_s_scores(factor):
    processor = ExponentialDecay(jnp.int32(2 + 3), jnp.float32(factor), BOTH)
    expected = reference.ExponentialDecayLengthPenalty((2, factor), torch.tensor(EOS), 3)
    assert same(processor, expected) == {True, False}


@pytest.mark.parity("N4")
def test_exponential_decay_leaves_a_forbidden_end_forbidden():
    """In the reference |-inf| makes NaN of it, and the end comes."""
    scores = scores_of()
    scores[:, EOS[0]] = -np.inf
    got = ours(ExponentialDecay(jnp.int32(2), jnp.float32(1.3), BOTH), written(6), scores)
    assert np.isneginf(got[:, EOS[0]]).all() and (got[:, EOS[1]] > scores[:, EOS[1]]).all()


@pytest.mark.parity("N4")
def test_invalid_values_are_removed_and_scores_renormalised():
    ids, scores = written(4), scores_of()
    scores[:, 0], scores[:, 1], scores[:, 2] = np.nan, np.inf, -np.inf
    got = ours(RemoveInvalid(), ids, scores)
    np.testing.assert_array_equal(got, theirs(reference.InfNanRemoveLogitsProcessor(), ids, scores))
    assert np.isfinite(got).all()
    scores = scores_of()
    scores[:, :9] = -np.inf
    expected = theirs(reference.LogitNormalization(), ids, scores)
    np.testing.assert_allclose(ours(Renormalise(), ids, scores), expected, rtol=1e-5)


@pytest.mark.parity("N4")
def test_prefix_allowed_tokens_fn_sees_the_text_of_each_row():
    """Rows of two examples with two beams; the last example only fills a bucket and is not asked."""
    seen = []

    def allowed(example, ids):
        seen.append((int(example), np.asarray(ids).tolist()))
        return [example, int(ids[-1]) + 5, 20]

    expected = reference.PrefixConstrainedLogitsProcessor(allowed, num_beams=2)
    with registered(allowed) as number:
        processor = Allowed(number, jnp.int32(2), per_example=2)
        for length, start in ((1, 6), (5, 0), (5, 12)):
            ids, scores = written(length, seed=length), scores_of(length)
            seen.clear()
            got = ours(processor, ids, scores, start)
            asked = list(seen)
            np.testing.assert_array_equal(got, theirs(expected, ids, scores))
            assert asked == [(row // 2, ids[row].tolist()) for row in range(N)]
        processor = Allowed(number, jnp.int32(1), per_example=2)
        np.testing.assert_array_equal(ours(processor, ids, scores)[2:], scores[2:])


def test_numbers_ids_and_places_compile_nothing():
    def calls(processors):
        for processor in processors:
            for length in (1, 4, 12):
                ours(processor, written(length), scores_of(), start=COLUMNS - length)

    kinds = (
        [SequenceBias.of(dict(list(BIASES.items())[:n])) for n in (3, 4)] + [SequenceBias.of({(1, 2, 3): -np.inf})],
        [NoEarlyEnd(jnp.int32(n), BOTH + n) for n in (1, 7)],
        [Suppressed.of(tokens, V, count) for tokens, count in (([1], 2), ([1, 2, 3, 4], 7), ([5, 6], ALWAYS))],
        [Forced.of(list(range(n)), list(range(n))) for n in (3, 3)] + [Forced.of([8, 9, 9], [1, 2, 3])],
        [ExponentialDecay(jnp.int32(n), jnp.float32(1 + n / 9), BOTH) for n in (1, 3)],
    )
    for processors in kinds:
        ours(processors[0], written(3), scores_of())
        before = compilations()
        calls(processors)
        assert compilations() == before, processors[0]
