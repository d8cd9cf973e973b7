"""Padding of examples that were encoded one by one, compared with the reference (docs/parity.md, T1)."""

import itertools

import numpy as np
import pytest
import transformers
from support.arrays import as_lists

import jaxmodels.tokenization as jt

EXAMPLES = [
    {
        "input_ids": [1, 2, 3],
        "attention_mask": [1, 1, 1],
        "token_type_ids": [0, 1, 1],
        "special_tokens_mask": [0, 0, 1],
    },
    {"input_ids": [4], "attention_mask": [1], "token_type_ids": [0], "special_tokens_mask": [0]},
    {"input_ids": [], "attention_mask": [], "token_type_ids": [], "special_tokens_mask": []},
]
IDS_ONLY = [{"input_ids": example["input_ids"]} for example in EXAMPLES]
BATCH = {name: [example[name] for example in EXAMPLES] for name in EXAMPLES[0]}
OPTIONS = [
    {},
    {"padding": True, "pad_to_multiple_of": 4},
    {"padding": "max_length", "max_length": 5},
    {"padding": "max_length", "max_length": 5, "pad_to_multiple_of": 4},
    {"padding": "max_length", "max_length": 2},
    {"padding": False},
    {"padding_side": "left"},
]


@pytest.fixture
def both(small_folder):
    options = {"pad_token": "<|endoftext|>"}
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder, **options)
    return jt.load_tokenizer(small_folder, **options), reference


@pytest.mark.parametrize("encoded", [EXAMPLES, IDS_ONLY, BATCH, EXAMPLES[0], IDS_ONLY[1]])
@pytest.mark.parity("T1")
def test_pad_equals_the_reference(both, encoded):
    for side, options in itertools.product(("left", "right"), OPTIONS):
        for tokenizer in both:
            tokenizer.padding_side = side
        # the reference modifies its input
        copy = [dict(example) for example in encoded] if isinstance(encoded, list) else dict(encoded)
        actual, expected = both[0].pad(encoded, **options), both[1].pad(copy, **options)
        assert set(actual) == set(expected)
        for name in expected:
            assert as_lists(actual[name]) == expected[name], (side, options, name)


@pytest.mark.parity("T1")
def test_pad_accepts_the_output_of_a_call(both):
    tokenizer, _ = both
    texts = ["Hello world", "low", "a b c"]
    expected = tokenizer(texts, padding=True)
    one_by_one = tokenizer.pad([tokenizer(text) for text in texts])
    ragged = tokenizer.pad(tokenizer(texts))
    on_device = tokenizer.pad([tokenizer(text) for text in texts], return_tensors="jax")
    for name in expected:
        for padded in (one_by_one, ragged, on_device):
            np.testing.assert_array_equal(padded[name], expected[name])
            assert padded[name].dtype == np.int32
    assert tokenizer.pad(tokenizer("low"), return_tensors="np")["input_ids"].shape == (1, 1)


@pytest.mark.parity("T1")
def test_pad_does_not_change_other_fields(both):
    tokenizer, _ = both
    padded = tokenizer.pad([{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3], "labels": 1}])
    assert padded["labels"].tolist() == [0, 1]
    assert padded["input_ids"].tolist() == [[1, 2], [3, 0]]


@pytest.mark.parity("T1")
def test_pad_without_a_mask(both):
    tokenizer, _ = both
    assert set(tokenizer.pad(IDS_ONLY, return_attention_mask=False)) == {"input_ids"}
    tokenizer.model_input_names = ["input_ids"]
    assert set(tokenizer.pad(IDS_ONLY)) == {"input_ids"}


@pytest.mark.parity("T1")
def test_pad_refuses_invalid_input(both, small):
    tokenizer, _ = both
    with pytest.raises(ValueError, match=r"input_ids, got \['ids'\]"):
        tokenizer.pad({"ids": [1]})
    with pytest.raises(ValueError, match="different batch sizes"):
        tokenizer.pad({"input_ids": [[1], [2]], "attention_mask": [[1]]})
    with pytest.raises(ValueError, match="tok.pad_token = tok.eos_token"):
        small.pad(EXAMPLES)
    assert small.pad(EXAMPLES, padding=False)["input_ids"][0].tolist() == [1, 2, 3]
