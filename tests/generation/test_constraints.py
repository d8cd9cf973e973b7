"""Processors that forbid, force or favour tokens match the reference (docs/parity.md, N4, N13)."""

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

from jaxmodels.generation.callbacks import HostCallback
from jaxmodels.generation.processors import (
    EVERY_LENGTH,
    ExponentialDecayLengthPenalty,
    ForcedTokens,
    InfNanRemove,
    LogitNormalization,
    MinLength,
    PrefixConstrained,
    SequenceBias,
    SuppressTokens,
)

EOS = (3, 11)
BOTH = jnp.array(EOS, jnp.int32)
BIASES = {(4,): -2.0, (7,): 1.5, (1, 4): 3.0, (0, 4): -1.0, (2, 1, 3): -4.0, (2, 0, 1, 3, 4): 5.0}


@pytest.mark.parametrize("count", [1, 4, len(BIASES)])
@pytest.mark.parity("N4")
def test_sequence_bias_matches_the_reference(count):
    biases = dict(list(BIASES.items())[:count])
    assert assert_matches_reference(
        SequenceBias.from_biases(biases), reference.SequenceBiasLogitsProcessor(biases)
    ) == {True}


@pytest.mark.parity("N4")
def test_sequence_biases_match_prefixes_and_add_up():
    ids = np.array([[4, 4, 4, 1, 1], [4, 4, 4, 2, 1], [4, 4, 4, 2, 0], [4, 4, 0, 2, 1]])
    # The last one is longer than the text and, as in the reference, has no effect.
    biases = {(1, 9): 1.0, (2, 1, 9): 10.0, (4, 4, 2, 1, 9): 100.0, (4, 4, 4, 2, 1, 9): 1000.0}
    actual = apply(SequenceBias.from_biases(biases), ids, np.zeros((4, V), np.float32))
    np.testing.assert_array_equal(actual[:, 9], [1.0, 111.0, 0.0, 11.0])
    assert not np.delete(actual, 9, axis=1).any()


@pytest.mark.parity("N4")
def test_bad_words_except_eos():
    words = [[4], [1, 2], [3], [0, 0, 1]]
    processor = SequenceBias.from_biases({tuple(word): -np.inf for word in words if word != [3]})
    assert assert_matches_reference(
        processor, reference.NoBadWordsLogitsProcessor(words, eos_token_id=torch.tensor([3]))
    ) == {True}


@pytest.mark.parity("N4")
def test_min_length_and_min_new_tokens():
    eos = torch.tensor(EOS)
    expected = reference.MinLengthLogitsProcessor(7, eos)
    assert assert_matches_reference(MinLength(jnp.int32(7), BOTH), expected) == {True, False}
    expected = reference.MinNewTokensLengthLogitsProcessor(4, 3, eos)
    assert assert_matches_reference(MinLength(jnp.int32(4 + 3), BOTH), expected, lengths=range(4, 12)) == {True, False}


@pytest.mark.parity("N4")
def test_forced_first_and_last_ids():
    assert assert_matches_reference(ForcedTokens.from_pairs([1], [5]), reference.ForcedBOSTokenLogitsProcessor(5)) == {
        True,
        False,
    }
    for eos in ([3], [3, 11], [3, 11, 0]):
        expected = reference.ForcedEOSTokenLogitsProcessor(9, torch.tensor(eos))
        assert assert_matches_reference(ForcedTokens.from_pairs([8] * len(eos), eos), expected) == {True, False}


@pytest.mark.parity("N4")
def test_forced_decoder_ids_match_the_reference():
    """As `ForceTokensLogitsProcessor` of 4.37, which 4.57 lacks: all scores but one are -inf, and that one is 0."""
    processor = ForcedTokens.from_pairs([4, 6, 7], [9, 2, 9])
    for length in range(1, 10):
        ids, scores = random_ids(length), random_scores(length)
        expected, token = scores.copy(), {4: 9, 6: 2, 7: 9}.get(length)
        if token is not None:
            expected[:], expected[:, token] = -np.inf, 0.0
        np.testing.assert_array_equal(apply(processor, ids, scores), expected)


@pytest.mark.parity("N4")
def test_suppressed_tokens_and_begin_suppress_tokens():
    tokens = [0, 5, 22]
    assert assert_matches_reference(
        SuppressTokens.from_tokens(tokens, V), reference.SuppressTokensLogitsProcessor(tokens)
    ) == {True}
    expected = reference.SuppressTokensAtBeginLogitsProcessor(tokens, 5)
    assert assert_matches_reference(SuppressTokens.from_tokens(tokens, V, 5), expected) == {True, False}
    assert int(SuppressTokens.from_tokens(tokens, V).length) == EVERY_LENGTH


@pytest.mark.parametrize("factor", [1.3, 0.7])
@pytest.mark.parity("N4")
def test_exponential_decay_matches_the_reference(factor):
    processor = ExponentialDecayLengthPenalty(jnp.int32(2 + 3), jnp.float32(factor), BOTH)
    expected = reference.ExponentialDecayLengthPenalty((2, factor), torch.tensor(EOS), 3)
    assert assert_matches_reference(processor, expected) == {True, False}


@pytest.mark.parity("N4")
def test_exponential_decay_keeps_forbidden_eos_ids_forbidden():
    """In the reference |-inf| becomes NaN, and the sequence ends."""
    scores = random_scores()
    scores[:, EOS[0]] = -np.inf
    actual = apply(ExponentialDecayLengthPenalty(jnp.int32(2), jnp.float32(1.3), BOTH), random_ids(6), scores)
    assert np.isneginf(actual[:, EOS[0]]).all() and (actual[:, EOS[1]] > scores[:, EOS[1]]).all()


@pytest.mark.parity("N4")
def test_inf_nan_remove_and_logit_normalization():
    ids, scores = random_ids(4), random_scores()
    scores[:, 0], scores[:, 1], scores[:, 2] = np.nan, np.inf, -np.inf
    actual = apply(InfNanRemove(), ids, scores)
    np.testing.assert_array_equal(actual, apply_reference(reference.InfNanRemoveLogitsProcessor(), ids, scores))
    assert np.isfinite(actual).all()
    scores = random_scores()
    scores[:, :9] = -np.inf
    expected = apply_reference(reference.LogitNormalization(), ids, scores)
    np.testing.assert_allclose(apply(LogitNormalization(), ids, scores), expected, rtol=1e-5)


@pytest.mark.parity("N4")
def test_prefix_allowed_tokens_fn_gets_each_sequence():
    """Two examples with two beams each; for an example that only pads the batch the function is not called."""
    seen = []

    def allowed(example, ids):
        seen.append((int(example), np.asarray(ids).tolist()))
        return [example, int(ids[-1]) + 5, 20]

    expected = reference.PrefixConstrainedLogitsProcessor(allowed, num_beams=2)
    with HostCallback(allowed) as callback:
        processor = PrefixConstrained(callback.number, jnp.int32(2), beams=2)
        for length, start in ((1, 6), (5, 0), (5, 12)):
            ids, scores = random_ids(length, seed=length), random_scores(length)
            seen.clear()
            actual = apply(processor, ids, scores, start)
            calls = list(seen)
            np.testing.assert_array_equal(actual, apply_reference(expected, ids, scores))
            assert calls == [(row // 2, ids[row].tolist()) for row in range(N)]
        processor = PrefixConstrained(callback.number, jnp.int32(1), beams=2)
        np.testing.assert_array_equal(apply(processor, ids, scores)[2:], scores[2:])


def test_other_values_ids_and_positions_do_not_recompile():
    def calls(processors):
        for processor in processors:
            for length in (1, 4, 12):
                apply(processor, random_ids(length), random_scores(), start=COLUMNS - length)

    cases = (
        [SequenceBias.from_biases(dict(list(BIASES.items())[:n])) for n in (3, 4)]
        + [SequenceBias.from_biases({(1, 2, 3): -np.inf})],
        [MinLength(jnp.int32(n), BOTH + n) for n in (1, 7)],
        [
            SuppressTokens.from_tokens(tokens, V, count)
            for tokens, count in (([1], 2), ([1, 2, 3, 4], 7), ([5, 6], EVERY_LENGTH))
        ],
        [ForcedTokens.from_pairs(list(range(n)), list(range(n))) for n in (3, 3)]
        + [ForcedTokens.from_pairs([8, 9, 9], [1, 2, 3])],
        [ExponentialDecayLengthPenalty(jnp.int32(n), jnp.float32(1 + n / 9), BOTH) for n in (1, 3)],
    )
    for processors in cases:
        apply(processors[0], random_ids(3), random_scores())
        before = num_compiled()
        calls(processors)
        assert num_compiled() == before, processors[0]
