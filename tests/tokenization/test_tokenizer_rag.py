"""RAG's two tokenizers in one, as the reference's (docs/parity.md, A18)."""

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
    """Here, and in the reference, whose parts are loaded one by one: its own loading reads the model's config."""
    parts = [
        transformers.AutoTokenizer.from_pretrained(folder / f"{p}_tokenizer") for p in ("question_encoder", "generator")
    ]
    return jm.RagTokenizer.from_pretrained(folder), transformers.RagTokenizer(*parts)


@pytest.mark.parity("A18")
def test_questions_and_answers_are_encoded_each_by_its_own(both):
    ours, reference = both
    got, expected = ours(QUESTIONS, padding=True), reference(QUESTIONS, padding=True)
    assert set(got) == set(expected)
    for name, rows in expected.items():
        np.testing.assert_array_equal(got[name], rows)
    labels = reference.generator(ANSWERS, padding=True)["input_ids"]
    np.testing.assert_array_equal(ours(text_target=ANSWERS, padding=True)["input_ids"], labels)
    np.testing.assert_array_equal(ours(QUESTIONS, text_target=ANSWERS, padding=True)["labels"], labels)
    assert "labels" not in got


@pytest.mark.parity("A18")
def test_answers_are_decoded_by_the_generator_s(both):
    ours, reference = both
    rows = ours(text_target=ANSWERS, padding=True)["input_ids"].tolist()
    assert ours.batch_decode(rows) == reference.batch_decode(rows)
    assert ours.batch_decode(rows, skip_special_tokens=True) == ANSWERS
    assert ours.decode(rows[1], skip_special_tokens=True) == reference.decode(rows[1], skip_special_tokens=True)


@pytest.mark.parity("A18")
def test_what_is_saved_loads_here_and_in_the_reference(both, folder, tmp_path):
    ours, _ = both
    ours.save_pretrained(tmp_path)
    config = transformers.RagConfig.from_pretrained(folder / "checkpoint")
    for again in (
        jm.RagTokenizer.from_pretrained(tmp_path),
        transformers.RagTokenizer.from_pretrained(tmp_path, config=config),
    ):
        np.testing.assert_array_equal(again(QUESTIONS[0])["input_ids"], ours(QUESTIONS[0])["input_ids"])
        assert again.decode(ours.generator.encode(ANSWERS[1])) == ours.decode(ours.generator.encode(ANSWERS[1]))
    with pytest.raises(FileNotFoundError):
        jm.RagTokenizer.from_pretrained(tmp_path / "generator_tokenizer")
