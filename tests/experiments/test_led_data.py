"""Data of the summarisation experiment: meetings, tokenized requests, ROUGE, baselines."""

import json

import numpy as np
import pytest
from support import summary_samples as samples

import jaxmodels as jm
from experiments.data import bpe, qmsum
from experiments.summarize.data import LED, tokenize
from experiments.summarize.evaluation import extractive_baselines, rouge_scores


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return qmsum.read(samples.folder(tmp_path_factory.mktemp("qmsum")) / "val.jsonl")


@pytest.fixture(scope="module")
def tokenizer(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "vocabulary"
    texts = [found.text(number) for number in range(len(found.documents))]
    bpe.save(bpe.train(texts, 320, LED), folder, 64, LED)
    return jm.load_tokenizer(folder, cls=jm.LEDTokenizer, split_special_tokens=True, model_max_length=None)


def test_meetings_consist_of_non_empty_turns(found):
    assert len(found.documents) == 4 and len(found.requests) == 16
    assert all(turn.text for document in found.documents for turn in document)
    lines = found.text(0).splitlines()
    assert lines[0] == "Chair: Welcome to the council of Aldria ." and len(lines) == 7
    first = found.requests[0]
    assert first == (0, "Summarize the whole meeting.", "The council of Aldria spoke of three topics.")
    assert [request.document for request in found.requests] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_subset_of_requests_is_evenly_spaced(found):
    some = found.subset(4)
    assert len(some.documents) == 4 and [request.document for request in some.requests] == [0, 1, 2, 3]
    assert found.subset(100).requests == found.requests


def is_read(folder, *, sizes, chapters):
    """sizes: numbers of meetings and requests in val and test."""
    sides = [qmsum.read(folder / "longdoc/qmsum" / name) for name in ("val.jsonl", "test.jsonl")]
    assert [(len(side.documents), len(side.requests)) for side in sides] == sizes
    reports = qmsum.read_documents(folder / "longdoc/mueller-report.jsonl", "What happened?")
    assert [request.document for request in reports.requests] == list(range(chapters))
    assert all(len(document) > 10 and not document[0].speaker for document in reports.documents)
    texts = [{side.text(number) for number in range(len(side.documents))} for side in sides]
    assert not texts[0] & texts[1], "no meeting is on both sides"


def test_qmsum_test_data(data_dir):
    is_read(data_dir, sizes=[(2, 10), (1, 7)], chapters=1)


@pytest.mark.full_data
def test_qmsum_full_files(full_data_dir):
    is_read(full_data_dir, sizes=[(35, 272), (35, 281)], chapters=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meeting_transcripts": [{"speaker": "Ann"}]}, r"meeting_transcripts\[0\]: no 'content'"),
        ({"meeting_transcripts": [{"speaker": "Ann", "content": 3}]}, "'content' is a string, got 3"),
        ({"meeting_transcripts": [{"speaker": "Ann", "content": " "}]}, "all turns are empty"),
        ({"specific_query_list": [{"query": "Why?"}]}, r"specific_query_list\[0\]: no 'answer'"),
        ({"specific_query_list": [], "general_query_list": []}, "has no queries with summaries"),
    ],
)
def test_invalid_file_is_reported_with_its_location(tmp_path, change, message):
    file = samples.write(tmp_path / "broken.jsonl", [samples.meeting("Aldria") | change])
    with pytest.raises(ValueError, match=message):
        qmsum.read(file)


def test_missing_file_or_invalid_json_is_reported(tmp_path):
    file = tmp_path / "broken.jsonl"
    file.write_text(json.dumps(samples.meeting("Aldria")) + '\n{"meeting')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        qmsum.read(file)
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.jsonl"):
        qmsum.read(tmp_path / "missing.jsonl")


def batch_of(found, tokenizer, indices, **changes):
    sizes = {"query": 24, "source": 100, "target": 24} | changes
    examples = tokenize(found, tokenizer, **sizes)
    return examples, examples.batch(indices, sizes["source"])


def test_the_query_is_global_and_the_document_follows(found, tokenizer):
    _, batch = batch_of(found, tokenizer, [1], source=600)
    ids, mask, wide = (batch[name][0] for name in ("input_ids", "attention_mask", "global_attention_mask"))
    length, slots = mask.sum(), wide.sum()
    assert (mask[:length] == 1).all() and (ids[length:] == tokenizer.pad_token_id).all() and length < 600
    assert (wide[:slots] == 1).all(), "the global tokens are the first"
    assert tokenizer.decode(ids[:slots].tolist()) == "<s>What was said about the budget?</s>"
    assert tokenizer.decode(ids[slots:length].tolist()) == found.text(0) + "</s>"


def test_long_inputs_are_truncated_at_the_end(found, tokenizer):
    examples, batch = batch_of(found, tokenizer, [0, 5])
    assert (batch["attention_mask"] == 1).all() and (examples.lengths == 100).all()
    for row, number in enumerate((0, 1)):
        ids, slots = batch["input_ids"][row], batch["global_attention_mask"][row].sum()
        assert ids[-1] == tokenizer.eos_token_id and 4 < slots <= 24
        kept = tokenizer.decode(ids[slots:-1].tolist())
        assert found.text(number).startswith(kept.rstrip("\ufffd")) and len(kept) > 50
    cut = qmsum.Collection(found.documents, [found.requests[0]._replace(query="what " * 50)])
    _, batch = batch_of(cut, tokenizer, [0])
    assert batch["global_attention_mask"].sum() == 24 and batch["input_ids"][0, 23] == tokenizer.eos_token_id


def test_summary_is_only_in_the_labels(found, tokenizer):
    _, batch = batch_of(found, tokenizer, [2], target=64)
    labels = batch["labels"][0]
    count = (labels != -100).sum()
    assert tokenizer.decode(labels[:count].tolist()) == f"<s>{found.requests[2].summary}</s>" and count < 64
    assert (labels[count:] == -100).all()
    other = qmsum.Collection(found.documents, [r._replace(summary="Nothing at all.") for r in found.requests])
    _, changed = batch_of(other, tokenizer, [2], target=64)
    for name in ("input_ids", "attention_mask", "global_attention_mask"):
        np.testing.assert_array_equal(changed[name], batch[name])
    assert not np.array_equal(changed["labels"], batch["labels"])


def test_with_other_documents_changes_only_the_document(found, tokenizer):
    examples = tokenize(found, tokenizer, query=16, source=600, target=24)
    own, other = (of.batch([13], 600) for of in (examples, examples.with_other_documents()))
    np.testing.assert_array_equal(own["labels"], other["labels"])
    slots = own["global_attention_mask"].sum()
    np.testing.assert_array_equal(own["input_ids"][0, :slots], other["input_ids"][0, :slots])
    read = other["input_ids"][0, slots : other["attention_mask"].sum()].tolist()
    assert tokenizer.decode(read) == found.text(0) + "</s>", "the last document's request is put to the first"


def test_rouge_counts_words_pairs_and_subsequences():
    scores = rouge_scores(["the cat sat", "a b"], ["the cat ran", "c d"])
    assert scores == pytest.approx({"ROUGE-1": (2 / 3) / 2, "ROUGE-2": 0.5 / 2, "ROUGE-L": (2 / 3) / 2})
    assert rouge_scores(["Dogs running"], ["the dog runs"])["ROUGE-1"] == pytest.approx(4 / 5), (
        "stems, without capitals"
    )


def test_baselines_use_the_document_but_not_the_reference(found, tmp_path):
    test = qmsum.read(samples.folder(tmp_path) / "test.jsonl")
    tables = extractive_baselines(found, test)
    first, matching, similar = tables.values()
    assert [*tables][2] == "summary of a similar query"
    words = int([*tables][0].split()[1])
    assert first[0].startswith("Welcome to the council of Elmark . The budget") and len(first[0].split()) == words
    harbour = [number for number, request in enumerate(test.requests) if "harbour" in request.query]
    for number in harbour:
        place = samples.PLACES[4 + test.requests[number].document]
        assert matching[number].startswith((f"The harbour of {place}", "I agree , and the harbour"))
        assert "harbour" in similar[number] and place not in similar[number]
    other = qmsum.Collection(test.documents, [request._replace(summary="None.") for request in test.requests])
    assert extractive_baselines(found, other) == tables
