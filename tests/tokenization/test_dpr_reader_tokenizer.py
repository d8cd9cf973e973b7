"""Calls of the reader's tokenizer: layout, broadcasting, truncation, masks and errors (docs/parity.md, D7)."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import jaxmodels.tokenization as jt

QUESTION = "What is the capital of France?"
TITLES = ["Paris", "Rome, Italy", ""]
TEXTS = ["Paris is the capital [PAD] of France.", "Rome was not built in a day.", "the river"]


@pytest.fixture(scope="module")
def folder(cases_dir):
    return cases_dir / "dpr_reader_tokenizer" / "tokenizer"


@pytest.fixture
def reader(folder):
    return jt.load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.DPRReaderTokenizer.from_pretrained(folder)


def assert_equal_sequences(actual, expected):
    assert set(actual) == set(expected)
    for name, sequences in expected.items():
        assert [np.asarray(ids).tolist() for ids in actual[name]] == [list(ids) for ids in sequences], name


@pytest.mark.parametrize("padding", [False, True, "max_length"])
@pytest.mark.parametrize("truncation", [False, True, "only_second"])
@pytest.mark.parametrize("max_length", [14, 30])
@pytest.mark.parity("D7")
def test_sequences_equal_the_reference(reader, reference, padding, truncation, max_length):
    options = {"padding": padding, "truncation": truncation, "max_length": max_length}
    for mask, questions in itertools.product((None, True, False), (QUESTION, [QUESTION, "Who?", "the river"])):
        arguments = {"questions": questions, "titles": TITLES, "texts": TEXTS, "return_attention_mask": mask}
        assert_equal_sequences(reader(**arguments, **options), reference(**arguments, **options))


@pytest.mark.parity("D7")
def test_layout_of_a_sequence(reader):
    encoded = reader(QUESTION, "Rome", "the river")
    assert encoded["input_ids"].shape == (1, 13)
    tokens = reader.convert_ids_to_tokens(encoded["input_ids"][0])
    assert tokens == ["[CLS]", *reader.tokenize(QUESTION), "[SEP]", "rome", "[SEP]", "the", "river"]


@pytest.mark.parity("D7")
def test_pairs_and_single_texts(reader, reference):
    for arguments in (
        {"questions": QUESTION},
        {"questions": [QUESTION, "Who?"], "padding": True},
        {"questions": QUESTION, "titles": "Rome", "return_token_type_ids": True},
        {"questions": [QUESTION, "Who?"], "texts": TEXTS[:2], "truncation": "only_second", "max_length": 13},
        {"questions": QUESTION, "max_length": 5},
    ):
        actual, expected = reader(**arguments), reference(**arguments)
        assert set(actual) == set(expected)
        for name, value in expected.items():
            sequences = actual[name]
            assert (
                sequences.tolist() if isinstance(sequences, np.ndarray) else [ids.tolist() for ids in sequences]
            ) == value
    one_for_all = reader(QUESTION, texts=TEXTS)
    assert_equal_sequences(one_for_all, reference([QUESTION] * 3, texts=TEXTS))


@pytest.mark.parity("D7")
def test_outputs_are_arrays(reader):
    encoded = reader(QUESTION, np.array(TITLES), tuple(TEXTS), padding=True, return_tensors="jax")
    assert isinstance(encoded["input_ids"], jnp.ndarray) and encoded["input_ids"].dtype == jnp.int32
    assert encoded["input_ids"].shape == encoded["attention_mask"].shape
    with pytest.raises(ValueError, match="padding=True"):
        reader(QUESTION, TITLES, TEXTS, return_tensors="np")


@pytest.mark.parity("D7")
def test_real_passages_equal_the_reference(bert_vocabulary, data_dir):
    tokenizer = jt.DPRReaderTokenizer(bert_vocabulary)
    reference = transformers.DPRReaderTokenizerFast(bert_vocabulary)
    for record in json.loads((data_dir / "qa/dpr/sample.json").read_text()):
        contexts = record["positive_ctxs"] + record["hard_negative_ctxs"]
        passages = {"titles": [c["title"] for c in contexts], "texts": [c["text"] for c in contexts]}
        options = {"padding": True, "truncation": True, "max_length": 120}
        assert_equal_sequences(
            tokenizer(record["question"], **passages, **options),
            reference(record["question"], **passages, **options),
        )


@pytest.mark.parity("D7")
def test_passages_must_be_complete(reader):
    with pytest.raises(ValueError, match="got 3 titles and 2 texts"):
        reader(QUESTION, TITLES, TEXTS[:2])
    with pytest.raises(ValueError, match="got 1 titles and 3 texts"):
        reader(QUESTION, "Rome", TEXTS)
    for arguments in ({"titles": [], "texts": []}, {"titles": []}, {"texts": np.array([])}):
        with pytest.raises(ValueError, match="there are no passages"):
            reader(QUESTION, **arguments)
    for arguments in ({"titles": TITLES, "texts": TEXTS}, {"titles": TITLES}):
        with pytest.raises(ValueError, match="3 passages need as many questions, or one question as a str.*got 2"):
            reader([QUESTION, "Who?"], **arguments)
    with pytest.raises(TypeError, match="text 0 must be a str, got int"):
        reader(3, TITLES, TEXTS)


@pytest.mark.parity("D7")
def test_unsupported_options_are_named(reader):
    with pytest.raises(TypeError, match=r"does not support the options \['stride'\]"):
        reader(QUESTION, TITLES, TEXTS, stride=2)
    with pytest.raises(ValueError, match="truncation must be one of"):
        reader(QUESTION, TITLES, TEXTS, truncation="longest", max_length=9)
    with pytest.raises(ValueError, match="padding must be one of"):
        reader(QUESTION, TITLES, TEXTS, padding="all")
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        reader(QUESTION, TITLES, TEXTS, padding="max_length", truncation=True, max_length=0)


@pytest.mark.parity("D7")
def test_warns_for_sequences_that_are_too_long(folder):
    reader = jt.load_tokenizer(folder, model_max_length=20)
    with pytest.warns(UserWarning, match=r"a text has 20\d tokens.*truncation=True, max_length=20,"):
        reader(QUESTION, "Rome", "river " * 190, truncation=True)
