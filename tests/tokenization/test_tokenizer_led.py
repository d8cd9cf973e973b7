"""LED's tokenizer pads a global_attention_mask with -1, as the reference's do (docs/parity.md, L16)."""

import itertools

import numpy as np
import pytest
import transformers
from support.arrays import as_lists

import jaxmodels as jm

EXAMPLES = [
    {"input_ids": [0, 5, 6, 7, 2], "attention_mask": [1, 1, 1, 1, 1], "global_attention_mask": [1, 0, 0, 1, 0]},
    {"input_ids": [0, 8, 2], "attention_mask": [1, 1, 1], "global_attention_mask": [0, 0, 1]},
    {"input_ids": [], "attention_mask": [], "global_attention_mask": []},
]
WITHOUT_MASK = [
    {"input_ids": row["input_ids"], "global_attention_mask": row["global_attention_mask"]} for row in EXAMPLES
]
BATCH = {name: [row[name] for row in EXAMPLES] for name in EXAMPLES[0]}
OPTIONS = [
    {},
    {"pad_to_multiple_of": 4},
    {"padding": "max_length", "max_length": 9},
    {"padding": "max_length", "max_length": 9, "pad_to_multiple_of": 4},
    {"padding": "max_length", "max_length": 2},
    {"padding": False},
]


@pytest.fixture(scope="module", params=["LEDTokenizer", "LEDTokenizerFast"])
def both(request, roberta_files):
    return jm.LEDTokenizer(**roberta_files), getattr(transformers, request.param)(**roberta_files)


@pytest.mark.parametrize("encoded", [EXAMPLES, WITHOUT_MASK, BATCH, EXAMPLES[1]], ids=["rows", "ids", "batch", "one"])
@pytest.mark.parity("L16")
def test_global_attention_mask_is_padded_as_in_the_reference(both, encoded):
    tokenizer, reference = both
    for side, options in itertools.product(("left", "right"), OPTIONS):
        tokenizer.padding_side = reference.padding_side = side
        # the reference changes what it is given
        copy = [dict(row) for row in encoded] if isinstance(encoded, list) else dict(encoded)
        got, expected = tokenizer.pad(encoded, **options), reference.pad(copy, **options)
        assert set(got) == set(expected) == {"input_ids", "attention_mask", "global_attention_mask"}
        for name in expected:
            assert as_lists(got[name]) == expected[name], (side, options, name)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parity("L16")
def test_minus_one_marks_padding(both, side):
    padded = both[0].pad(EXAMPLES[:2], padding_side=side, return_tensors="jax")
    mask = [-1, -1, 0, 0, 1] if side == "left" else [0, 0, 1, -1, -1]
    assert padded["global_attention_mask"].tolist() == [[1, 0, 0, 1, 0], mask]
    assert padded["global_attention_mask"].dtype == np.int32
    # what a model makes of the two masks: 0 where nothing is, 1 local, 2 global
    merged = padded["attention_mask"] * (padded["global_attention_mask"] + 1)
    np.testing.assert_array_equal(merged > 0, padded["attention_mask"] > 0)


@pytest.mark.parity("L16")
def test_a_call_with_a_mask_for_its_first_token(both):
    """As examples are prepared for summaries: encode, mark <s>, pad."""
    tokenizer, reference = both
    texts = ["a long document", "short"]
    rows = [tokenizer(text) for text in texts]
    for row in rows:
        row["global_attention_mask"] = np.eye(1, len(row["input_ids"]), dtype=np.int32)[0]
    padded = tokenizer.pad(rows, return_tensors="np")
    expected = [{k: v.tolist() for k, v in row.items()} for row in rows]
    tokenizer.padding_side = reference.padding_side = "right"
    for name, value in reference.pad(expected, return_tensors="np").items():
        np.testing.assert_array_equal(padded[name], value)
    without = tokenizer.pad(rows, return_attention_mask=False)
    assert set(without) == {"input_ids", "global_attention_mask"}
    assert without["global_attention_mask"].tolist() == padded["global_attention_mask"].tolist()


@pytest.mark.parity("L16", "T1")
def test_other_families_leave_the_mask_alone(roberta_files):
    padded = jm.BartTokenizer(**roberta_files).pad(EXAMPLES)
    assert [len(row) for row in padded["global_attention_mask"]] == [5, 3, 0]
