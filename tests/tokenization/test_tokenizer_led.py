"""LED's tokenizer pads a global_attention_mask with -1, as transformers' do (docs/parity.md, L16)."""

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
    {"input_ids": example["input_ids"], "global_attention_mask": example["global_attention_mask"]}
    for example in EXAMPLES
]
BATCH = {name: [example[name] for example in EXAMPLES] for name in EXAMPLES[0]}
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


@pytest.mark.parametrize(
    "encoded", [EXAMPLES, WITHOUT_MASK, BATCH, EXAMPLES[1]], ids=["examples", "ids", "batch", "one"]
)
@pytest.mark.parity("L16")
def test_global_attention_mask_is_padded_as_in_the_reference(both, encoded):
    tokenizer, reference = both
    for side, options in itertools.product(("left", "right"), OPTIONS):
        tokenizer.padding_side = reference.padding_side = side
        # the reference modifies its input
        copy = [dict(example) for example in encoded] if isinstance(encoded, list) else dict(encoded)
        actual, expected = tokenizer.pad(encoded, **options), reference.pad(copy, **options)
        assert set(actual) == set(expected) == {"input_ids", "attention_mask", "global_attention_mask"}
        for name in expected:
            assert as_lists(actual[name]) == expected[name], (side, options, name)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parity("L16")
def test_padding_value_is_minus_one(both, side):
    padded = both[0].pad(EXAMPLES[:2], padding_side=side, return_tensors="jax")
    mask = [-1, -1, 0, 0, 1] if side == "left" else [0, 0, 1, -1, -1]
    assert padded["global_attention_mask"].tolist() == [[1, 0, 0, 1, 0], mask]
    assert padded["global_attention_mask"].dtype == np.int32
    # the model's combined mask: 0 padding, 1 local, 2 global attention
    merged = padded["attention_mask"] * (padded["global_attention_mask"] + 1)
    np.testing.assert_array_equal(merged > 0, padded["attention_mask"] > 0)


@pytest.mark.parity("L16")
def test_a_call_with_a_mask_for_its_first_token(both):
    """Preparation of examples for summarization: encode, mark <s>, pad."""
    tokenizer, reference = both
    texts = ["a long document", "short"]
    examples = [tokenizer(text) for text in texts]
    for example in examples:
        example["global_attention_mask"] = np.eye(1, len(example["input_ids"]), dtype=np.int32)[0]
    padded = tokenizer.pad(examples, return_tensors="np")
    expected = [{k: v.tolist() for k, v in example.items()} for example in examples]
    tokenizer.padding_side = reference.padding_side = "right"
    for name, value in reference.pad(expected, return_tensors="np").items():
        np.testing.assert_array_equal(padded[name], value)
    without = tokenizer.pad(examples, return_attention_mask=False)
    assert set(without) == {"input_ids", "global_attention_mask"}
    assert without["global_attention_mask"].tolist() == padded["global_attention_mask"].tolist()


@pytest.mark.parity("L16", "T1")
def test_other_families_do_not_pad_the_mask(roberta_files):
    padded = jm.BartTokenizer(**roberta_files).pad(EXAMPLES)
    assert [len(example) for example in padded["global_attention_mask"]] == [5, 3, 0]
