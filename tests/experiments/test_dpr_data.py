"""Data of the retrieval experiment: SQuAD, DPR's JSON, plain text; and its batches."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import retrieval_samples as samples

import jaxmodels as jm
from experiments.data import pairs, retrieval, wordpiece
from experiments.data.corpus import Document
from experiments.data.retrieval import Passage, Question

ROOT = Path(__file__).resolve().parents[2]


def test_squad_versions_1_and_2(tmp_path):
    content = samples.squad(2)
    found = retrieval.read_squad(samples.write(tmp_path, content))
    assert len(found.passages) == 6 and len(found.questions) == 12
    assert found.passages[0].title == "Aldria (country)"
    first = found.questions[2]
    assert first == Question("Aldria (country)", "Which capital does Aldria have?", ("Aldcaon",), (1,))
    # Version 2: questions without an answer are skipped, but not their paragraph.
    for paragraph in content["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            question |= {"is_impossible": True, "answers": []}
    again = retrieval.read_squad(samples.write(tmp_path, content))
    assert again.passages == found.passages and again.questions == found.questions[6:]


def squad_is_read(folder, *, counts, questions_of_version_2):
    found = retrieval.read_squad(folder / "qa/squad/dev-v1.1.rebuilt.json")
    assert (len({q.group for q in found.questions}), len(found.passages), len(found.questions)) == counts
    assert all(any(a in found.passages[q.positives[0]].text for a in q.answers) for q in found.questions)
    second = retrieval.read_squad(folder / "qa/squad/haystack-small-v2.0.json")
    assert len(second.questions) == questions_of_version_2
    assert {q.group for q in second.questions} == {"Normans", "Computational complexity theory"}


def test_squad_test_data(data_dir):
    squad_is_read(data_dir, counts=(16, 64, 442), questions_of_version_2=41)


@pytest.mark.full_data
def test_squad_full_files(full_data_dir):
    squad_is_read(full_data_dir, counts=(48, 2067, 10570), questions_of_version_2=293)


def without(content, *path):
    content = copy.deepcopy(content)
    entry = content
    for step in path[:-1]:
        entry = entry[step]
    del entry[path[-1]]
    return content


QUESTION = ("data", 0, "paragraphs", 1, "qas", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not SQuAD's JSON.*data.kind=dpr"),
        (without(samples.squad(1), "data", 0, "title"), r"sample\.json, data\[0\]: no 'title'; it has 'paragraphs'"),
        (without(samples.squad(1), "data", 0, "paragraphs", 2, "context"), r"paragraphs\[2\]: no 'context'"),
        (without(samples.squad(1), *QUESTION, "question"), r"paragraphs\[1\], qas\[0\]: no 'question'"),
        (without(samples.squad(1), *QUESTION, "answers", 0, "text"), r"answers\[0\]: no 'text'"),
        ({"data": [{"title": " ", "paragraphs": []}]}, "'title' is a non-empty string, got ' '"),
        ({"data": [{"title": "a", "paragraphs": 3}]}, "'paragraphs' is a list, got 3"),
        ({"data": ["a"]}, r"data\[0\]: expected an object with 'title', got str"),
    ],
)
def test_invalid_squad_file_is_reported_with_its_location(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        retrieval.read_squad(samples.write(tmp_path, content))


def test_dpr_json(tmp_path):
    found = retrieval.read_dpr(samples.write(tmp_path, samples.dpr()))
    assert [passage.title for passage in found.passages] == ["Ann", "Bo", "Cy", "Dee", "", "Eve"]
    assert found.questions == [
        # Hard negatives that are also positives are dropped, and duplicates are merged.
        Question("who sings", "who sings", ("Ann", "Bo"), (0, 1), (3,)),
        Question("who dances", "who dances", ("Cy",), (4,), (0,)),
    ]


def dpr_json_is_read(folder, negatives, passages):
    found = retrieval.read_dpr(folder / "qa/dpr/sample.json")
    assert [len(question.negatives) for question in found.questions] == negatives
    assert found.questions[0].answers == ("Linda Davis",)
    assert found.passages[found.questions[0].positives[0]].title == "Does He Love You"
    assert len(set(found.passages)) == len(found.passages) > passages


def test_dpr_json_test_data(data_dir):
    dpr_json_is_read(data_dir, negatives=[10] * 5, passages=70)


@pytest.mark.full_data
def test_dpr_json_full_file(full_data_dir):
    dpr_json_is_read(full_data_dir, negatives=[95, 95, 98, 99, 94], passages=700)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (samples.squad(1), "not DPR's JSON, a list of questions.*data.kind=squad"),
        ([{"answers": []}], "question 0: no 'question'; it has 'answers'"),
        ([samples.dpr()[0], without(samples.dpr()[1], "negative_ctxs")], "question 1: no 'negative_ctxs'"),
        (without(samples.dpr(), 0, "positive_ctxs", 1, "text"), r"question 0, positive_ctxs\[1\]: no 'text'"),
        ([{"question": "a", "answers": [3]}], r"'answers' is a list of strings, got \[3\]"),
        ([samples.dpr()[0] | {"positive_ctxs": [{"text": "a", "title": 3}]}], "'title' is a string, got 3"),
    ],
)
def test_invalid_dpr_file_is_reported_with_its_location(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        retrieval.read_dpr(samples.write(tmp_path, content))


def test_file_that_is_not_json_is_rejected(tmp_path):
    file = tmp_path / "broken.json"
    file.write_text('{"data": ')
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON file"):
        retrieval.read_squad(file)


def test_cloze_removes_one_sentence_from_each_passage():
    sentences = [f"This is the sentence with number {n}." for n in range(10)]
    documents = [Document("notes/a.txt", " ".join(sentences)), Document("b.txt", "Too short. No.")]
    found = retrieval.make_cloze_questions(documents, words=20)
    assert len(found.passages) == len(found.questions) == 3, "of three sentences each; one that is left over is none"
    assert {passage.title for passage in found.passages} == {"a"}
    for question in found.questions:
        text = found.passages[question.positives[0]].text
        assert question.text not in text and question.group == "notes/a.txt" and question.answers == ()
    whole = {s for p in found.passages for s in p.text.split(". ")} | {q.text for q in found.questions}
    assert {s.rstrip(".") for s in whole} >= {s.rstrip(".") for s in sentences[:9]}
    assert retrieval.make_cloze_questions(documents, words=20) == found, "the same in every run"
    with pytest.raises(ValueError, match="passage_words is at least 1, got 0"):
        retrieval.make_cloze_questions(documents, words=0)


TEXTS = [paragraph["context"] for article in samples.squad()["data"] for paragraph in article["paragraphs"]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "vocabulary"
    wordpiece.train(TEXTS, 200, folder, 40)
    return jm.load_tokenizer(folder)


def test_vocabulary_is_deterministic_across_processes(tokenizer, tmp_path):
    code = "import pathlib, sys; from experiments.data import wordpiece as w; "
    code += "w.train(sys.argv[2:], 200, pathlib.Path(sys.argv[1]), 40)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "again", *TEXTS], cwd=ROOT, check=True)
    assert jm.load_tokenizer(tmp_path / "again").get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="vocab_size=30 is too small: the letters alone need"):
        wordpiece.train(TEXTS, 30, tmp_path / "small", 40)


def test_trained_vocabulary_covers_its_texts(tokenizer):
    assert isinstance(tokenizer, jm.DPRContextEncoderTokenizer)
    assert (tokenizer.pad_token_id, len(tokenizer), tokenizer.model_max_length) == (0, 200, 40)
    assert tokenizer.decode(tokenizer.encode("the river OF aldria!!")[1:-1]).startswith("the river of aldria")


def test_passages_are_encoded_as_title_text_pairs(tokenizer):
    passages = [Passage("the river", "the capital of aldria " * 20), Passage("", "bread")]
    tokens = pairs.tokenize_passages(tokenizer, passages, 16)
    assert tokens.input_ids.shape == (2, 16) and tokens.lengths[0] == 16 and tokens.lengths[1] < 16
    first = tokenizer.convert_ids_to_tokens(tokens.input_ids[0].tolist())
    cut = first.index("[SEP]")
    assert first[0] == "[CLS]" and first[-1] == "[SEP]" and "".join(first[1:cut]).replace("##", "") == "theriver"
    assert tokens.token_type_ids[0].tolist() == [0] * (cut + 1) + [1] * (15 - cut)
    assert np.all(tokens.input_ids[1, tokens.lengths[1] :] == tokenizer.pad_token_id)


def batches(questions, count, **options):
    tokens = pairs.Tokens(np.arange(40)[:, None].repeat(3, 1), np.zeros((40, 3), int), np.full(40, 3))
    options = {"negatives": 2, "batch_size": 4, "seed": 0, **options}
    iterator = pairs.training(questions, tokens, tokens, **options)
    return [next(iterator) for _ in range(count)]


def test_batches_have_the_positive_passage_first_then_hard_negatives():
    questions = [Question("g", f"q{n}", (), (n, n + 10), tuple(range(20, 30))) for n in range(8)]
    some = batches(questions, 4)
    for batch in some:
        assert batch["context_input_ids"].shape == (4, 3, 3) and batch["question_input_ids"].shape == (4, 3)
        np.testing.assert_array_equal(batch["passages"][:, 0], batch["question_input_ids"][:, 0])
        np.testing.assert_array_equal(batch["passages"], batch["context_input_ids"][:, :, 0])
        assert np.all(batch["passages"][:, 1:] >= 20) and np.all(np.diff(batch["passages"][:, 1:]) != 0)
    epochs = [[b["passages"][:, 0].tolist() for b in some[i : i + 2]] for i in (0, 2)]
    assert sorted(sum(epochs[0], [])) == sorted(sum(epochs[1], [])) == list(range(8))
    assert epochs[0] != epochs[1], "another order in every epoch"
    again = batches(questions, 4)
    for name in some[0]:
        np.testing.assert_array_equal([b[name] for b in some], [b[name] for b in again])
    assert not np.array_equal(some[0]["passages"], batches(questions, 1, seed=1)[0]["passages"])


def test_questions_with_too_few_negatives_get_others():
    questions = [Question("g", "few", (), (0,), (7,)), Question("g", "none", (), (1,))]
    (batch,) = batches(questions, 1, batch_size=2)
    negatives = {row[0]: row[1:] for row in batch["passages"].tolist()}
    assert negatives == {0: [7, 7], 1: [0, 0]}


def test_processes_load_rows_of_the_batch_of_one_process():
    questions = [Question("g", f"q{n}", (), (n,), (20, 21, 22)) for n in range(8)]
    (whole,) = batches(questions, 1)
    for rows in (np.array([0, 3]), np.array([1, 2, 3])):
        (own,) = batches(questions, 1, rows=rows)
        for name, array in whole.items():
            np.testing.assert_array_equal(own[name], array[rows])
    with pytest.raises(ValueError, match="no questions to train on"):
        batches([], 1)
