"""Positions that generation derives from the mask (docs/parity.md, G9)."""

import numpy as np
import pytest
from support.arrays import ids
from support.reference import as_torch, pair

import jaxmodels as jm

MASK = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1]])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return pair("GPT2LMHeadModel", tmp_path_factory.mktemp("positions"))


@pytest.mark.parity("G9")
def test_positions_count_the_real_tokens_and_pads_get_one(both):
    expected = both.reference.prepare_inputs_for_generation(as_torch(ids((3, 6))), attention_mask=as_torch(MASK))
    got = both.model.count_to_position(np.cumsum(MASK, axis=1) * MASK)
    np.testing.assert_array_equal(got, expected["position_ids"])


@pytest.mark.parity("G9")
def test_generation_continues_left_padded_rows_like_the_reference(both):
    mask = MASK[:2]
    prompt = np.where(mask, ids((2, 6)), 0)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 66}
    expected = both.reference.generate(as_torch(prompt), attention_mask=as_torch(mask), **options)
    got = jm.generate(both.model, both.params, prompt, attention_mask=mask, **options)
    np.testing.assert_array_equal(got.sequences, expected)
