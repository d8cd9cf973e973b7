"""Beams end with the generated eos id, and the scores of their tokens add up (docs/parity.md, N5, N11, N13)."""

import jax
import numpy as np
import pytest
from support.arrays import close
from support.diverse_models import frequent_ids, generate, random_ids, reference_generate

import jaxmodels as jm

NEW, PAD = 6, 4
IDS = random_ids(4, 6, seed=5)
MASK = np.ones_like(IDS)
BEAMS = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": NEW, "pad_token_id": PAD}
BEAMS |= {"attention_mask": MASK, "length_penalty": 0.0}


def add_up(actual, penalty: float = 0.0):
    scores = np.asarray(jm.compute_transition_scores(actual.sequences, actual.scores, actual.beam_indices))
    lengths = (np.asarray(actual.beam_indices) >= 0).sum(axis=1)
    close(scores.sum(axis=1) / lengths**penalty, actual.sequences_scores, tolerance=1e-4)


def ends(pair) -> list[list[int]]:
    """Lists of frequent ids, in both orders, and a long one."""
    frequent = frequent_ids(pair, IDS, attention_mask=MASK)[:3]
    return [frequent, frequent[::-1], [*range(20, 40), *frequent]]


@pytest.mark.parametrize("name", ["gpt2", "bart"])
@pytest.mark.parity("N5", "N11", "N13")
def test_beams_end_with_the_generated_eos_id(name, request):
    pair = request.getfixturevalue(name)
    found = set()
    for eos in ends(pair):
        actual, expected = (
            generate(pair, IDS, **BEAMS, eos_token_id=eos, output_scores=True),
            reference_generate(pair, IDS, **BEAMS, eos_token_id=eos),
        )
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
        add_up(actual)
        last = np.asarray(actual.beam_indices) >= 0
        start = 1 if name == "bart" else IDS.shape[1]
        found |= {
            int(row[start + n - 1]) for row, n in zip(np.asarray(actual.sequences), last.sum(axis=1), strict=True)
        }
    assert len(found & set(ends(pair)[0])) > 1, "all ended with the same id"


@pytest.mark.parametrize(
    "more", [{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"do_sample": True, "top_k": 9}], ids=len
)
@pytest.mark.parity("N6", "N11", "N13")
def test_scores_of_groups_and_sampled_beams_add_up(more, gpt2):
    key = {"key": jax.random.key(3)} if "do_sample" in more else {}
    for eos in ends(gpt2):
        for penalty in (0.0, 1.0):
            options = {**BEAMS, **more, **key, "length_penalty": penalty, "eos_token_id": eos, "output_scores": True}
            add_up(generate(gpt2, IDS, **options), penalty)
