"""RagTokenizer compared with the reference (docs/parity.md, A18)."""

import numpy as np
import pytest
import transformers

import jaxmodels as jm

QUESTIONS, ANSWERS = ["What is the capital of France?", "which river"], ["Paris", " the Seine and the Tiber"]


@pytest.fixture(scope="module")
def folder(cases_dir):
    return cases_dir / "rag_retriever"


@pytest.fixture
def both(folder):
    """Tokenizers here and in transformers, where from_pretrained would need a model config."""
    parts = [
        transformers.AutoTokenizer.from_pretrained(folder / f"{p}_tokenizer") for p in ("question_encoder", "generator")
    ]
    return jm.RagTokenizer.from_pretrained(folder), transformers.RagTokenizer(*parts)


@pytest.mark.parity("A18")
def test_questions_and_answers_use_different_tokenizers(both):
    tokenizer, reference = both
    actual, expected = tokenizer(QUESTIONS, padding=True), reference(QUESTIONS, padding=True)
    assert set(actual) == set(expected)
    for name, sequences in expected.items():
        np.testing.assert_array_equal(actual[name], sequences)
    labels = reference.generator(ANSWERS, padding=True)["input_ids"]
    np.testing.assert_array_equal(tokenizer(text_target=ANSWERS, padding=True)["input_ids"], labels)
    np.testing.assert_array_equal(tokenizer(QUESTIONS, text_target=ANSWERS, padding=True)["labels"], labels)
    assert "labels" not in actual


@pytest.mark.parity("A18")
def test_answers_are_decoded_by_the_generators_tokenizer(both):
    tokenizer, reference = both
    sequences = tokenizer(text_target=ANSWERS, padding=True)["input_ids"].tolist()
    assert tokenizer.batch_decode(sequences) == reference.batch_decode(sequences)
    assert tokenizer.batch_decode(sequences, skip_special_tokens=True) == ANSWERS
    assert tokenizer.decode(sequences[1], skip_special_tokens=True) == reference.decode(
        sequences[1], skip_special_tokens=True
    )


@pytest.mark.parity("A18")
def test_saved_folders_load_here_and_in_the_reference(both, folder, tmp_path):
    tokenizer, _ = both
    tokenizer.save_pretrained(tmp_path)
    config = transformers.RagConfig.from_pretrained(folder / "checkpoint")
    for again in (
        jm.RagTokenizer.from_pretrained(tmp_path),
        transformers.RagTokenizer.from_pretrained(tmp_path, config=config),
    ):
        np.testing.assert_array_equal(again(QUESTIONS[0])["input_ids"], tokenizer(QUESTIONS[0])["input_ids"])
        assert again.decode(tokenizer.generator.encode(ANSWERS[1])) == tokenizer.decode(
            tokenizer.generator.encode(ANSWERS[1])
        )
    with pytest.raises(FileNotFoundError):
        jm.RagTokenizer.from_pretrained(tmp_path / "generator_tokenizer")
