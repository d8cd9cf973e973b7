"""decode_best_spans equals transformers', including ties and peculiarities (docs/parity.md, D8, D9)."""

import functools
import time

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import jaxmodels.tokenization as jt
from jaxmodels.architectures.dpr import DPRReaderOutput
from jaxmodels.tokenization.dpr import best_spans

TITLES = ["Paris", "Rome", "Seine", "France"]
TEXTS = ["the city on the river", "Rome was not built in a day and the day is", "river " * 30, "Italy"]


@pytest.fixture(scope="module")
def folder(cases_dir):
    return cases_dir / "dpr_best_spans_default" / "tokenizer"


@pytest.fixture(scope="module")
def reader(folder):
    return jt.load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.DPRReaderTokenizer.from_pretrained(folder)


def logits(shape, seed, levels):
    """Random logits with `levels` different values, so that many scores are equal; 0 for all different."""
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.integers, levels) if levels else rng.standard_normal
    return [draw(size=size).astype(np.float32) for size in (shape, shape, shape[0])]


def expected_answers(reference, ids, scores, **options):
    scores = tuple(torch.from_numpy(array) for array in scores)
    return reference.decode_best_spans({"input_ids": ids.tolist()}, scores, **options)


def assert_equal_answers(actual, expected):
    assert len(actual) == len(expected) > 0
    for span, expected_span in zip(actual, expected, strict=True):
        assert isinstance(span, jt.DPRSpanPrediction)
        assert span == tuple(value.item() if isinstance(value, torch.Tensor) else value for value in expected_span)


@pytest.mark.parametrize("levels", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_spans": 1},
        {"num_spans": 5, "num_spans_per_passage": 3},
        {"max_answer_length": 1},
        {"max_answer_length": 3, "num_spans_per_passage": 50, "num_spans": 100},
        {"max_answer_length": 500},
    ],
    ids=str,
)
@pytest.mark.parity("D8")
def test_answers_equal_the_reference(reader, reference, options, levels):
    ids = reader("Who is it?", TITLES, TEXTS, padding=True)["input_ids"]
    for seed in range(3):
        scores = logits(ids.shape, seed, levels)
        actual = reader.decode_best_spans({"input_ids": ids}, scores, **options)
        assert_equal_answers(actual, expected_answers(reference, ids, scores, **options))


@pytest.mark.parity("D8")
def test_accepts_model_output_and_tokenizer_output(reader, reference):
    encoded = reader("Who is it?", TITLES, TEXTS, padding=True, return_tensors="jax")
    scores = logits(encoded["input_ids"].shape, 0, 0)
    start, end, relevance = map(jnp.asarray, scores)
    output = DPRReaderOutput(start_logits=start, end_logits=end, relevance_logits=relevance, hidden_states=start)
    actual = reader.decode_best_spans(encoded, output)
    assert_equal_answers(actual, expected_answers(reference, np.asarray(encoded["input_ids"]), scores))
    assert [type(value) for value in actual[0]] == [float, float, int, int, int, str]


@pytest.mark.parity("D8")
def test_search_stops_after_enough_answers(reader):
    """The best span may be in a passage of low relevance, where it is not found."""
    ids = reader("Who is it?", TITLES[:2], TEXTS[:2], padding=True)["input_ids"].copy()
    start, end, relevance = (np.zeros(shape, np.float32) for shape in (ids.shape, ids.shape, 2))
    relevance[0], start[1] = 1, 100
    assert {answer.doc_id for answer in reader.decode_best_spans({"input_ids": ids}, (start, end, relevance), 4)} == {0}
    assert {a.doc_id for a in reader.decode_best_spans({"input_ids": ids}, (start, end, relevance), 5)} == {0, 1}
    ids[1] = reader.cls_token_id  # an error if it were searched
    assert len(reader.decode_best_spans({"input_ids": ids}, (start, end, relevance), 4)) == 4


@pytest.mark.parity("D8")
def test_titles_can_be_answers(reader):
    ids = reader("Who is it?", "Seine", "the river")["input_ids"]
    start, end = np.zeros((2, *ids.shape), np.float32)
    title = ids[0].tolist().index(reader.sep_token_id) + 1
    start[0, title] = end[0, title + 1] = 9
    (best, *_) = reader.decode_best_spans({"input_ids": ids}, (start, end, np.zeros(1, np.float32)))
    assert (best.text, best.start_index, best.end_index) == ("seine [SEP]", title, title + 1)


@pytest.mark.parity("D8")
def test_padded_sequences_end_before_their_first_pad_token(reader, reference):
    pad = reader.pad_token_id
    for text in ("the [PAD] river", "the [PAD] river [PAD]"):
        ids = reader("Who?", "Rome", text)["input_ids"]
        scores = logits(ids.shape, 1, 0)
        assert_equal_answers(
            reader.decode_best_spans({"input_ids": ids}, scores), expected_answers(reference, ids, scores)
        )
    assert ids[0, -1] == pad


@pytest.mark.parity("D8")
def test_truncated_passages_have_no_answers(reader, reference):
    ids = reader("Who?", ["Rome"] * 2, ["x", "y"])["input_ids"]
    ids = ids[:, : ids[0].tolist().index(reader.sep_token_id) + 1]
    assert reader.decode_best_spans({"input_ids": ids}, logits(ids.shape, 0, 0)) == []
    assert expected_answers(reference, ids, logits(ids.shape, 0, 0)) == []


@pytest.mark.parity("D9")
def test_nested_spans_are_removed_but_partial_overlaps_are_not():
    start = np.array([5, 4, 0, 0], np.float32)
    end = np.array([0, 0, 5, 4], np.float32)
    assert best_spans(start, end, 4, 10) == [(0, 2), (1, 3)]
    assert best_spans(start, end, 1, 10) == [(0, 0), (2, 2), (1, 1), (3, 3)]
    assert best_spans(start, end, 4, 1) == [(0, 2)]
    assert best_spans(start[:0], end[:0], 4, 10) == []


@pytest.mark.parity("D9")
def test_ties_prefer_earlier_starts_and_shorter_spans():
    zeros = np.zeros(4, np.float32)
    assert best_spans(zeros, zeros, 3, 10) == [(0, 0), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parity("D8")
def test_long_passages_are_fast(reader):
    ids = reader("Who?", ["Rome"] * 16, ["river " * 500] * 16, padding="max_length", truncation=True, max_length=512)
    scores = logits((16, 512), 0, 0)
    scores[0][:, 20] = scores[1][:, 60] = 99  # all spans inside the best span are nested
    start = time.perf_counter()
    assert len(reader.decode_best_spans(ids, scores, num_spans=64)) == 64
    assert time.perf_counter() - start < 2


@pytest.mark.parity("D8")
def test_invalid_input_is_refused(reader):
    ids = reader("Who?", "Rome", "the river")["input_ids"]
    start, end, relevance = logits(ids.shape, 0, 0)
    with pytest.raises(ValueError, match=r"sequence 0 of 1 has 8 ids.*shapes \(1, 7\) and \(1, 8\)"):
        reader.decode_best_spans({"input_ids": ids}, (start[:, 1:], end, relevance))
    with pytest.raises(ValueError, match="relevance_logits must have the shape"):
        reader.decode_best_spans({"input_ids": ids}, (start, end, np.zeros(2)))
    with pytest.raises(ValueError, match=r"sequence 0 of input_ids has no \[SEP\] after its question"):
        reader.decode_best_spans({"input_ids": ids[:, :3]}, (start[:, :3], end[:, :3], relevance))
    for name in ("num_spans", "max_answer_length", "num_spans_per_passage"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            reader.decode_best_spans({"input_ids": ids}, (start, end, relevance), **{name: 0})
