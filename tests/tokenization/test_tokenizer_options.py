"""Combinations of a call's options equal transformers' fast tokenizer (docs/parity.md, T1 to T3)."""

import itertools
import warnings

import jax
import numpy as np
import pytest
import transformers

import jaxmodels.tokenization as jt

TEXTS = ["Hello world and the river", "low", "", "a b c d e f g h i j k l m", "end<|endoftext|>start"]
PAIRS = ["of course it runs on and on", "x", "y z", "", "1 2 3 4 5 6 7 8 9"]

RETURNS = {
    "return_token_type_ids": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}
SIDES = list(itertools.product(("left", "right"), ("left", "right")))
LENGTHS = [
    {"padding": False},
    {"padding": True},
    {"padding": "longest", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 12},
    {"padding": "max_length", "max_length": 12, "pad_to_multiple_of": 8},
    {"padding": "do_not_pad", "max_length": 4},
    {"max_length": 4},
    {"truncation": False, "max_length": 4},
    {"truncation": True, "max_length": 4},
    {"truncation": "longest_first", "max_length": 6, "padding": True},
    {"truncation": "longest_first", "max_length": 8, "padding": "max_length", "pad_to_multiple_of": 4},
    {"truncation": "do_not_truncate", "padding": "max_length", "max_length": 4},
    {"truncation": True, "max_length": 5, "stride": 2, "return_overflowing_tokens": True},
    {"truncation": True, "max_length": 5, "stride": 0, "return_overflowing_tokens": True, "padding": True},
    {"truncation": True, "max_length": 5, "stride": 3, "return_overflowing_tokens": True, "padding": "max_length"},
    {"return_overflowing_tokens": True},
    {"add_special_tokens": False, "return_attention_mask": False},
]
# a pair shares max_length, and each text's part must be longer than the stride
PAIR_LENGTHS = [options | ({"max_length": 12} if "stride" in options else {}) for options in LENGTHS]
ONE_OF_A_PAIR = [
    {"truncation": "only_first", "max_length": 12},
    {"truncation": "only_first", "max_length": 12, "stride": 1, "return_overflowing_tokens": True},
    {"truncation": "only_second", "max_length": 12, "stride": 1, "return_overflowing_tokens": True, "padding": True},
]

OVERFLOW = {"truncation": True, "return_overflowing_tokens": True}


@pytest.fixture
def both(small_folder, request):
    """The tokenizers of jaxmodels and transformers."""
    tokenizer = jt.load_tokenizer(small_folder, pad_token="<|endoftext|>")
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder, pad_token="<|endoftext|>")
    return tokenizer, reference


def assert_same_fields(actual, expected, where):
    assert set(actual) == set(expected), where
    for name, value in expected.items():
        field = actual[name]
        sequences = value if np.ndim(value[:1]) > 1 or isinstance(field, list) else [value]
        field = field if sequences is value else [field]
        assert len(sequences) == len(field), (where, name)
        for sequence, array in zip(sequences, field, strict=True):
            assert array.dtype == np.int32
            expected_list = [list(span) if isinstance(span, tuple) else span for span in sequence]
            assert array.tolist() == expected_list, (where, name)


def compare(both, sides, options, *texts):
    for tokenizer in both:
        tokenizer.padding_side, tokenizer.truncation_side = sides
    tokenizer, reference = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual, expected = tokenizer(*texts, **RETURNS | options), reference(*texts, **RETURNS | options)
    assert_same_fields(actual, expected, (sides, options, texts))
    assert [actual.tokens(i) for i in range(len(actual.encodings))] == [
        expected.tokens(i) for i in range(len(expected.encodings))
    ]


@pytest.mark.parity("T1", "T2", "T3")
def test_options_on_batches(both):
    for sides, options in itertools.product(SIDES, LENGTHS):
        compare(both, sides, options, TEXTS)


@pytest.mark.parity("T1", "T2", "T3")
def test_options_on_single_texts(both):
    for sides, options, text in itertools.product(SIDES, LENGTHS, TEXTS):
        compare(both, sides, options, text)


@pytest.mark.parity("T1", "T2", "T3")
def test_options_on_batches_of_pairs(both):
    for sides, options in itertools.product(SIDES, PAIR_LENGTHS):
        compare(both, sides, options, TEXTS, PAIRS)
    long, short = [TEXTS[3], TEXTS[0]], ["x y", "low"]
    for sides, options in itertools.product(SIDES, ONE_OF_A_PAIR):
        compare(both, sides, options, *((long, short) if options["truncation"] == "only_first" else (short, long)))


@pytest.mark.parity("T1", "T2", "T3")
def test_options_on_single_pairs(both):
    for sides, options in itertools.product(SIDES, PAIR_LENGTHS):
        compare(both, sides, options, TEXTS[3], PAIRS[4])


@pytest.mark.parity("T1")
def test_padding_side_of_a_call(both):
    for side in ("left", "right"):
        compare(both, ("right", "right"), {"padding": True, "padding_side": side}, TEXTS)


@pytest.mark.parity("T3")
def test_text_target_gives_labels(both):
    tokenizer, reference = both
    options = {"padding": "max_length", "max_length": 20}
    actual = tokenizer(TEXTS, text_target=PAIRS, **options)
    expected = reference(TEXTS, text_target=PAIRS, **options)
    assert_same_fields(actual, expected, "text_target")
    assert "labels" in actual
    assert_same_fields(tokenizer(text_target=PAIRS), reference(text_target=PAIRS), "text_target alone")
    actual = tokenizer(text_target=PAIRS, text_pair_target=TEXTS)
    assert_same_fields(actual, reference(text_target=PAIRS, text_pair_target=TEXTS), "pairs of targets")


@pytest.mark.parity("T2")
def test_model_max_length_is_the_default_max_length(both):
    for tokenizer in both:
        tokenizer.model_max_length = 6
    for options in ({"truncation": True}, {"padding": "max_length"}, {"padding": "max_length", "truncation": True}):
        compare(both, ("right", "right"), options, TEXTS)


@pytest.mark.parity("T2")
def test_warns_once_beyond_model_max_length(small):
    small.model_max_length = 4
    with pytest.warns(UserWarning, match="the model takes 4"):
        small("a long text with many tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small("another text that is longer still, with more tokens")
        small("a long text with many tokens", truncation=True)


@pytest.mark.parity("T2")
def test_warns_without_any_maximum(small):
    small.pad_token = small.eos_token
    with pytest.warns(UserWarning, match="no model_max_length"):
        encoded = small(["a", "b c"], padding="max_length", truncation=True)
    assert [len(ids) for ids in encoded.input_ids] == [1, 2]
    with pytest.warns(UserWarning, match="max_length has no effect"):
        small(["a", "b c"], padding=True, max_length=1)


@pytest.mark.parity("T3")
def test_returned_shapes_and_types(small):
    small.pad_token = small.eos_token
    assert small("a b").input_ids.shape == (3,)
    assert small(["a b"]).input_ids.shape == (1, 3)
    assert small("a b", return_tensors="np").input_ids.shape == (1, 3)
    assert small([]).input_ids.shape == (0, 0)
    ragged = small(["a", "b c"]).input_ids
    assert isinstance(ragged, list) and [ids.shape for ids in ragged] == [(1,), (2,)]
    on_device = small(["a", "b c"], padding=True, return_tensors="jax", return_length=True)
    assert all(isinstance(value, jax.Array) and value.dtype == np.int32 for value in on_device.values())
    assert small(("a", "b")).input_ids.shape == small(np.array(["a", "b"])).input_ids.shape == (2, 1)
    assert small([("a", "b")]).input_ids.tolist() == small("a", "b", return_tensors="np").input_ids.tolist()
    assert isinstance(small.encode("a"), list)
    assert small.encode("a b", return_tensors="np").shape == (1, 3)


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (TypeError, "return_foo", ("a",), {"return_foo": True}),
        (ValueError, "return_tensors must be one of None, 'np', 'jax', got 'pt'", ("a",), {"return_tensors": "pt"}),
        (ValueError, "got 'tf'", ("a",), {"return_tensors": "tf"}),
        (ValueError, "padding must be", ("a",), {"padding": "left"}),
        (ValueError, "padding must be", ("a",), {"padding": 1}),
        (ValueError, "truncation must be", ("a",), {"truncation": "first"}),
        (ValueError, "padding_side must be", ("a",), {"padding_side": "up"}),
        (ValueError, "tok.pad_token = tok.eos_token", (["a", "b"],), {"padding": True}),
        (ValueError, "max_length must be at least 1", ("a",), {"truncation": True, "max_length": 0}),
        (ValueError, "the stride, 3,", ("a",), {"max_length": 3, "stride": 3} | OVERFLOW),
        (ValueError, "the stride, -1,", ("a",), {"max_length": 3, "stride": -1} | OVERFLOW),
        (ValueError, "with stride 2 cannot", ("a b c", "d e f"), {"max_length": 4, "stride": 2} | OVERFLOW),
        (ValueError, "pass text_pair", ("a",), {"truncation": "only_second", "max_length": 3}),
        (
            ValueError,
            "'only_first' with stride 0 cannot",
            ("a", "b c d"),
            {"truncation": "only_first", "max_length": 2},
        ),
        (ValueError, "pass padding=True", (["a", "b c"],), {"return_tensors": "np"}),
        (ValueError, "nothing to encode", (), {}),
        (TypeError, "text 0 must be a str, got int", (3,), {}),
        (TypeError, "text 1 must be a str, got float", (["a", float("nan")],), {}),
        (TypeError, "text 0 must be a str, got bytes", (b"a",), {}),
        (TypeError, "is_split_into_words=True", ([["a", "b", "c"]],), {}),
        (ValueError, "a list of 2 second texts, got 1", (["a", "b"], ["c"]), {}),
        (ValueError, "a list of 2 second texts, got a str", (["a", "b"], "c"), {}),
        (TypeError, "text 0 must be a str, got list", ("a", ["b"]), {}),
    ],
)
@pytest.mark.parity("T1", "T2", "T3")
def test_invalid_calls_are_refused(small, error, match, arguments, options):
    with pytest.raises(error, match=match):
        small(*arguments, **options)
    assert small("Hello").input_ids.size  # the failed call leaves no state


@pytest.mark.parity("T2")
def test_truncation_to_a_length_that_the_multiple_does_not_divide(small):
    small.pad_token = small.eos_token
    with pytest.raises(ValueError, match="truncation to 6 tokens contradicts padding to a multiple of 4"):
        small("a", padding=True, truncation=True, max_length=6, pad_to_multiple_of=4)


@pytest.mark.parity("T2")
def test_max_length_must_leave_tokens_for_the_text(small_folder):
    tokenizer = jt.load_tokenizer(small_folder, add_bos_token=True)
    with pytest.raises(ValueError, match="max_length=1 leaves 0 tokens"):
        tokenizer("a b", truncation=True, max_length=1)


@pytest.mark.parity("T6")
def test_split_special_tokens(small_folder):
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder, split_special_tokens=True)
    tokenizer = jt.load_tokenizer(small_folder, split_special_tokens=True)
    for text in ("end<|endoftext|>start", "<|endoftext|>"):
        assert tokenizer.encode(text) == reference.encode(text)
        assert 0 not in tokenizer.encode(text)
