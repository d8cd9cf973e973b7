"""`embed`, `classify` and `answer` return what calls of the model return."""

from itertools import product

import jax
import numpy as np
import pytest
from support.tiny import tiny

import jaxmodels as jm

TEXTS = [
    "The river freezes in January.",
    "A stew of beans with smoked fish and sour bread, eaten in the evening by people who weave.",
    "Yes",
    "An old market square on a hill, and " + "a town of weavers " * 9,
    "It floods the fields in April; nobody sows before May.",
]
PAIRS = ["Which river?", "A dish", "No", "Where do weavers live, and why do they live there?", "When?"]
SIZES = {"max_position_embeddings": 140}


def made(name: str, tokenizer, **config):
    return tiny(name, vocab_size=len(tokenizer), **config)


def written_out(model, params, tokenizer, texts, pairs=None, method=None, limit=138):
    """The output of one call for all texts, and the mask of their tokens."""
    options = {"truncation": True, "max_length": limit, "padding": True, "return_attention_mask": True}
    fields = dict(tokenizer(texts, pairs, **options))
    out = jax.jit(lambda params, fields: model.apply({"params": params}, **fields, method=method))(params, fields)
    return jax.tree.map(np.asarray, out), fields["attention_mask"].astype(bool)


@pytest.fixture(scope="module")
def bert(data_dir):
    return jm.load_tokenizer(data_dir / "tokenizers/bert-base-uncased")


@pytest.fixture(scope="module")
def roberta(data_dir):
    return jm.load_tokenizer(data_dir / "tokenizers/roberta-base")


@pytest.fixture(scope="module")
def encoder(roberta):
    return made("RobertaPreLayerNormModel", roberta, **SIZES)


REDUCE = {
    "mean": lambda states: states.mean(axis=0),
    "max": lambda states: states.max(axis=0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


def reduced(out, mask, pooling="mean"):
    if pooling == "pooler":
        return out.pooler_output
    return np.stack([REDUCE[pooling](states[real]) for states, real in zip(out.last_hidden_state, mask, strict=True)])


@pytest.mark.parametrize("pooling", [*REDUCE, "pooler"])
def test_embeddings_are_those_of_a_call_written_out(encoder, roberta, pooling):
    got = jm.embed(*encoder, roberta, TEXTS, pooling=pooling, batch_size=2)
    expected = reduced(*written_out(*encoder, roberta, TEXTS), pooling)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_embeddings_of_pairs_with_length_one(encoder, roberta):
    got = jm.embed(*encoder, roberta, TEXTS, PAIRS, normalize=True)
    expected = reduced(*written_out(*encoder, roberta, TEXTS, PAIRS))
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-5)


def test_dpr_gives_its_own_vectors_and_an_encoder_decoder_those_of_its_encoder(bert, data_dir):
    question = made("DPRQuestionEncoder", bert, **SIZES, projection_dim=5)
    got = jm.embed(*question, bert, TEXTS)
    np.testing.assert_allclose(got, written_out(*question, bert, TEXTS)[0].pooler_output, atol=2e-5)
    t5 = jm.load_tokenizer(data_dir / "tokenizers/t5")
    model, params = made("T5Model", t5)
    got = jm.embed(model, params, t5, TEXTS)
    np.testing.assert_allclose(got, reduced(*written_out(model, params, t5, TEXTS, method="encode")), atol=2e-5)


def test_results_do_not_depend_on_the_batch_and_texts_may_be_cut(encoder, roberta):
    whole = jm.embed(*encoder, roberta, TEXTS)
    np.testing.assert_allclose(jm.embed(*encoder, roberta, TEXTS[::-1], batch_size=1)[::-1], whole, atol=2e-5)
    cut = jm.embed(*encoder, roberta, TEXTS, max_length=6)
    np.testing.assert_allclose(cut, reduced(*written_out(*encoder, roberta, TEXTS, limit=6)), atol=2e-5)
    assert np.abs(cut[3] - whole[3]).max() > 1e-3
    assert jm.embed(*encoder, roberta, []).shape == (0, 32)


def test_a_model_with_few_positions(roberta):
    model, params = made("RobertaPreLayerNormModel", roberta)
    texts = [TEXTS[0], TEXTS[1]]
    got = jm.embed(model, params, roberta, texts)
    expected = reduced(*written_out(model, params, roberta, texts, limit=model.max_source_tokens))
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "function"),
    [
        ({"num_labels": 3}, lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, lambda x: 1 / (1 + np.exp(-x))),
        ({"num_labels": 2, "problem_type": "regression"}, lambda x: x),
        ({"num_labels": 1}, lambda x: x),
    ],
    ids=["softmax", "sigmoid", "regression", "one value"],
)
def test_probabilities_of_labels(roberta, config, function):
    model, params = made("RobertaPreLayerNormForSequenceClassification", roberta, **SIZES, **config)
    got = jm.classify(model, params, roberta, TEXTS, PAIRS, batch_size=2)
    logits = written_out(model, params, roberta, TEXTS, PAIRS)[0].logits
    np.testing.assert_allclose(got, function(logits), atol=2e-5)
    assert got.shape == (5, model.config.num_labels)


@pytest.fixture(scope="module")
def spans(roberta):
    return made("RobertaPreLayerNormForQuestionAnswering", roberta, **SIZES)


def brute_force(model, params, tokenizer, question, context, longest):
    """All spans of a context that fits into one window, by score."""
    fields = tokenizer(question, context, return_offsets_mapping=True)
    out, _ = written_out(model, params, tokenizer, [question], [context])
    inside = [i for i, part in enumerate(fields.sequence_ids(0)) if part == 1]
    start, end = np.asarray(out.start_logits[0]), np.asarray(out.end_logits[0])
    offsets = np.asarray(fields["offset_mapping"])
    found = [
        (start[i] + end[j], int(offsets[i, 0]), int(offsets[j, 1]))
        for i, j in product(inside, inside)
        if i <= j < i + longest
    ]
    return sorted(found, reverse=True), float(start[0] + end[0])


def test_answers_are_the_best_spans(spans, roberta):
    context = TEXTS[1]
    expected, _ = brute_force(*spans, roberta, PAIRS[0], context, 5)
    ((*answers,),) = jm.answer(*spans, roberta, PAIRS[:1], [context], top_k=3, max_answer_length=5)
    for got, (score, start, end) in zip(answers, expected, strict=False):
        assert (got.start, got.end, got.context) == (start, end, 0) and got.text == context[start:end]
        assert got.score == pytest.approx(score, abs=1e-4)


def test_the_best_of_several_contexts_and_of_the_windows_of_a_long_one(spans, roberta):
    contexts = [TEXTS[0], TEXTS[1], TEXTS[4]]
    ((best,),) = jm.answer(*spans, roberta, PAIRS[:1], [contexts])
    singles = [jm.answer(*spans, roberta, PAIRS[:1], [text])[0][0] for text in contexts]
    assert best.score == pytest.approx(max(single.score for single in singles), abs=1e-4)
    assert contexts[best.context][best.start : best.end] == best.text

    windows = jm.answer(*spans, roberta, PAIRS[:1], [TEXTS[3]], top_k=50, max_length=24, stride=8)[0]
    assert max(answer.start for answer in windows) > 60  # beyond the first window
    assert len({(answer.start, answer.end) for answer in windows}) == len(windows)
    assert [a.score for a in windows] == sorted((a.score for a in windows), reverse=True)


def test_no_answer_competes_with_the_score_of_the_first_token(spans, roberta):
    _, empty = brute_force(*spans, roberta, PAIRS[0], TEXTS[0], 30)
    (answers,) = jm.answer(*spans, roberta, PAIRS[:1], [TEXTS[0]], top_k=1000, no_answer=True)
    (none,) = (answer for answer in answers if not answer.text)
    assert none.score == pytest.approx(empty, abs=1e-4)
    assert not any(a.text == "" for a in jm.answer(*spans, roberta, PAIRS[:1], [TEXTS[0]], top_k=1000)[0])


def test_a_reader_s_answers(bert, data_dir):
    tokenizer = jm.load_tokenizer(data_dir / "tokenizers/bert-base-uncased", "DPRReaderTokenizer")
    model, params = made("DPRReader", bert, **SIZES)
    passages = [[("Rivers", TEXTS[0]), ("Food", TEXTS[1])], [("Fields", TEXTS[4])], []]
    got = jm.answer(model, params, tokenizer, PAIRS[:3], passages, top_k=2, batch_size=2)
    for question, each, answers in zip(PAIRS, passages, got, strict=False):
        if not each:
            assert answers == []
            continue
        titles, texts = map(list, zip(*each, strict=True))
        fields = tokenizer(question, titles, texts, padding=True, return_tensors="np")
        out = jax.tree.map(np.asarray, jax.jit(model.apply)({"params": params}, **fields))
        expected = tokenizer.decode_best_spans(fields, out.to_tuple(), num_spans=2, max_answer_length=30)
        assert [(a.text, a.context) for a in answers] == [(span.text, span.doc_id) for span in expected]
        np.testing.assert_allclose([a.score for a in answers], [span.span_score for span in expected], atol=1e-4)


def test_a_progress_bar_counts_texts(encoder, roberta, capsys):
    jm.embed(*encoder, roberta, TEXTS, batch_size=2, progress=True)
    assert "5/5" in capsys.readouterr().err
    jm.embed(*encoder, roberta, TEXTS, batch_size=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, t: jm.embed(*m, t, "one text"), TypeError, "texts must be a sequence of str.*a list of one"),
        (lambda m, t: jm.embed(*m, t, TEXTS, PAIRS[:2]), ValueError, "a text for each of the 5 texts, got 2"),
        (lambda m, t: jm.embed(*m, t, TEXTS, pooling="average"), ValueError, "pooling is one of mean, cls"),
        (lambda m, t: jm.embed(*m, t, TEXTS, batch_size=0), ValueError, "rows and multiple must be at least 1"),
        (lambda m, t: jm.classify(*m, t, TEXTS), ValueError, "AutoModelForSequenceClassification"),
        (lambda m, t: jm.answer(*m, t, PAIRS, TEXTS), ValueError, "AutoModelForQuestionAnswering"),
        (lambda m, t: jm.answer(*m, t, PAIRS, TEXTS[:2]), ValueError, "each of the 5 questions needs a context"),
        (lambda m, t: jm.answer(*m, t, PAIRS, TEXTS, top_k=0), ValueError, "top_k must be at least 1"),
    ],
)
def test_wrong_calls_are_refused(encoder, roberta, call, error, message):
    with pytest.raises(error, match=message):
        call(encoder, roberta)


def test_a_head_without_states_is_refused(roberta):
    with pytest.raises(ValueError, match="needs a last_hidden_state.*AutoModel"):
        jm.embed(*made("RobertaPreLayerNormForMaskedLM", roberta, **SIZES), roberta, TEXTS, pooling="cls")
