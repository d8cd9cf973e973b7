"""Beam search of GPT-2 in a left-padded batch matches the reference (docs/parity.md, N5, N10, N11, N13).

The rule that 4.57 changed (early_stopping=False with a positive length_penalty) is in `test_beams_naive.py`.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import close
from support.diverse_models import (
    NEVER_GENERATED,
    assert_equal_beams,
    frequent_ids,
    generate,
    padded,
    random_ids,
    reference_generate,
)

PROMPT, PAD = 9, 4
LENGTHS = [9, 4, 7]


@pytest.fixture(scope="module")
def batch():
    ids, mask = padded(random_ids(3, PROMPT, seed=2), LENGTHS, PAD, "left")
    return {"ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def frequent(gpt2, batch):
    return frequent_ids(gpt2, **batch)


def agree(gpt2, batch, **options):
    options = {"max_new_tokens": 16, "pad_token_id": PAD, **options}
    actual = generate(gpt2, **batch, **options)
    assert_equal_beams(actual, reference_generate(gpt2, **batch, **options))
    return np.asarray(actual.sequences)


RULES = [(2, True), (3, "never"), (4, True), (5, "never")]
SLOW = [(2, "never"), (3, True), (4, "never"), (5, True)]


@pytest.mark.parametrize(
    ("beams", "early_stopping"), [*RULES, *(pytest.param(*rule, marks=pytest.mark.slow) for rule in SLOW)]
)
@pytest.mark.parity("N5")
def test_ids_and_scores_for_beam_counts_and_stopping_rules(beams, early_stopping, gpt2, batch, frequent):
    ended = set()
    for penalty in (-1.0, 0.0, 1.0, 2.0):
        for eos in frequent[:3]:
            actual = agree(
                gpt2,
                batch,
                num_beams=beams,
                early_stopping=early_stopping,
                length_penalty=penalty,
                num_return_sequences=beams,
                eos_token_id=eos,
            )
            ended.add(bool((actual[:, -1] == PAD).any()))
    assert True in ended, "no sequence ended early"


@pytest.mark.parity("N5")
def test_early_stopping_false_with_penalties_up_to_0(gpt2, batch, frequent):
    for penalty in (-2.0, -0.5, 0.0):
        for eos in frequent[:4]:
            agree(gpt2, batch, num_beams=3, length_penalty=penalty, num_return_sequences=2, eos_token_id=eos)


@pytest.mark.parity("N5")
def test_never_continues_while_a_longer_sequence_could_be_better(gpt2, batch):
    """Two hypotheses end within two tokens, with -1 and -2.5 / 2. The best open beam is at -3 and stays there."""
    token, eos = 7, 9

    def dictated(text, scores):
        token_score, eos_score = jnp.array([[-2.0, -1.0], [-1.0, -0.5], [0.0, -9.0]])[jnp.minimum(text.generated, 2)]
        return jnp.full_like(scores, -100.0).at[:, token].set(token_score).at[:, eos].set(eos_score)

    beams = {"num_beams": 2, "length_penalty": 1.0, "max_new_tokens": 8, "eos_token_id": eos, "pad_token_id": PAD}
    for early_stopping, expected, score in (("never", [token] * 8, -3 / 8), (False, [eos], -1.0)):
        options = {**beams, "early_stopping": early_stopping, "logits_processor": [dictated]}
        actual = generate(gpt2, batch["ids"][:1], **options)
        assert np.asarray(actual.sequences)[0, PROMPT:].tolist() == expected
        close(actual.sequences_scores, [score], tolerance=1e-5)


@pytest.mark.parity("N13")
def test_several_eos_ids_keep_the_generated_one(gpt2, batch, frequent):
    eos = [frequent[2], frequent[0], frequent[1]]
    options = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True}
    actual = agree(gpt2, batch, eos_token_id=eos, **options)
    assert all((actual[:, PROMPT:] == each).any() for each in eos)
    agree(gpt2, batch, eos_token_id=eos[::-1], length_penalty=-1.0, **options)


@pytest.mark.parity("N5")
def test_without_eos_all_beams_reach_the_limit(gpt2, batch):
    options = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True}
    assert agree(gpt2, batch, eos_token_id=NEVER_GENERATED, **options).shape == (12, PROMPT + 16)
    free = {"max_new_tokens": 16, "pad_token_id": PAD, "num_beams": 4, "num_return_sequences": 4}
    none = generate(gpt2, **batch, **free, eos_token_id=[])
    assert none.sequences.shape == (12, PROMPT + 16)
    np.testing.assert_array_equal(
        none.sequences, generate(gpt2, **batch, **free, eos_token_id=NEVER_GENERATED).sequences
    )


@pytest.mark.parity("N10")
def test_fewer_returned_sequences_are_the_best_ones(gpt2, batch, frequent):
    options = {"num_beams": 4, "early_stopping": True, "eos_token_id": frequent[0], "max_new_tokens": 16}
    everything = generate(gpt2, **batch, **options, pad_token_id=PAD, num_return_sequences=4)
    scores = np.asarray(everything.sequences_scores).reshape(3, 4)
    assert (np.diff(scores) <= 0).all()
    for count in (1, 2, 3):
        actual = generate(gpt2, **batch, **options, pad_token_id=PAD, num_return_sequences=count)
        np.testing.assert_array_equal(np.asarray(actual.sequences_scores).reshape(3, count), scores[:, :count])
        width = actual.sequences.shape[1]
        expected = np.asarray(everything.sequences).reshape(3, 4, -1)[:, :count, :width]
        np.testing.assert_array_equal(np.asarray(actual.sequences).reshape(3, count, -1), expected)


@pytest.mark.parity("N5")
def test_a_single_new_token_gives_the_top_tokens_in_order(gpt2, batch):
    actual = generate(
        gpt2, **batch, num_beams=4, num_return_sequences=4, early_stopping=True, max_new_tokens=1, eos_token_id=5
    )
    logits = gpt2.reference(torch.from_numpy(batch["ids"][:1])).logits[0, -1]  # the first prompt has no padding
    np.testing.assert_array_equal(np.asarray(actual.sequences)[:4, -1], logits.topk(4).indices)
