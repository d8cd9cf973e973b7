"""`jaxmodels ask`: the answer, its documents and their shares; errors in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.tiny import random_params

import jaxmodels as jm
from experiments.data import bpe, wordpiece
from jaxmodels.__main__ import main
from jaxmodels.commands.ask import Source, answer, document_shares, format_answer
from jaxmodels.retrieval import fingerprint, write_folder
from jaxmodels.retrieval.retriever import Document

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "Which town is the capital of Aldria?"
WIDTH = 16
PASSAGES = [
    (f"{place}", f"The capital of {place} is {place[:4]}ton, a town on a hill.") for place in ("Aldria", "Borvia")
]
PASSAGES += [("", "A passage without a title."), ("Rivers", "The river freezes in January. " * 40)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders: "token", "sequence": models; "index": has the question encoder's fingerprint, "old": another one."""
    root = tmp_path_factory.mktemp("ask")
    texts = [text for passage in PASSAGES for text in passage] + [QUESTION]
    wordpiece.train(texts, 120, root / "wordpiece", 40)
    family = bpe.Family(jm.BartTokenizer, bpe.ROBERTA.special)
    bpe.save(bpe.train(texts, 300, family), root / "bpe", 64, family)
    tokenizers = jm.RagTokenizer(
        jm.load_tokenizer(root / "wordpiece", jm.DPRQuestionEncoderTokenizer),
        jm.load_tokenizer(root / "bpe", cls=jm.BartTokenizer),
    )
    encoder = jm.DPRConfig(
        vocab_size=len(tokenizers.question_encoder), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=40,
    )  # fmt: skip
    sizes = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    generator = jm.BartConfig(
        vocab_size=len(tokenizers.generator), d_model=8, max_position_embeddings=64,
        encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes,
    )  # fmt: skip
    config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder, generator, n_docs=2, max_combined_length=48, retrieval_vector_size=WIDTH
    )
    for cls in (jm.RagTokenForGeneration, jm.RagSequenceForGeneration):
        model = cls(config)
        params = random_params(model)
        jm.save(root / model.marginal, model, params)
        tokenizers.save_pretrained(root / model.marginal)
    name = fingerprint(model.question_encoder_model, model.parts(params)["question_encoder"])
    context = jm.DPRContextEncoder(encoder)
    context_params = random_params(context)
    jm.save(root / "context", context, context_params)
    vectors = np.random.default_rng(0).normal(size=(len(PASSAGES), WIDTH)).astype(np.float32)
    write_folder(root / "index", [vectors], PASSAGES, fingerprint=name)
    write_folder(root / "old", [vectors], PASSAGES, fingerprint=fingerprint(context, context_params))
    write_folder(root / "narrow", [vectors[:, :8]], PASSAGES)
    return root


def ask(folders, model: str, index: str = "index", *more: str) -> int:
    options = ["--model", str(folders / model), "--index", str(folders / index), "--max-new-tokens", "5"]
    return main(["ask", *options, *more, QUESTION])


@pytest.mark.parametrize("marginal", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_the_answer_is_that_of_generate_with_shares_of_its_documents(folders, capsys, marginal):
    assert ask(folders, marginal) == 0
    printed = capsys.readouterr().out
    model, params = jm.load(folders / marginal)
    tokenizer = jm.RagTokenizer.from_pretrained(folders / marginal)
    index, passages = jm.DenseIndex.load(folders / "index"), jm.Passages.load(folders / "index")
    host = jm.RagRetriever(
        model.config, tokenizer.question_encoder, tokenizer.generator, index=index, passages=passages
    )
    batch = tokenizer([QUESTION], padding=True)
    inputs = {"attention_mask": batch["attention_mask"], "retriever": host}
    ids = jm.generate(model, params, batch["input_ids"], **inputs, num_beams=4, max_new_tokens=5).sequences
    assert printed.splitlines()[0] == tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()

    inputs |= {"decoder_input_ids": ids, "output_retrieved": True}
    out = jax.jit(lambda: model.apply({"params": params}, batch["input_ids"], **inputs))()
    tokens = np.asarray(jax.nn.log_softmax(out.logits))  # [2,T,V]
    prior = np.asarray(jax.nn.log_softmax(out.doc_scores[0]))
    positions = [t for t in range(ids.shape[1] - 1) if ids[0, t + 1] not in (0, 1)]
    each = np.array([[tokens[d, t, ids[0, t + 1]] for t in positions] for d in range(2)])
    if marginal == "sequence":
        expected = np.exp(prior + each.sum(axis=1))
    else:
        joint = np.exp(prior[:, None] + each)
        expected = (joint / joint.sum(axis=0)).mean(axis=1)
    expected = expected / expected.sum()
    _, sources = answer(model, params, host, QUESTION, n_docs=2, num_beams=4, max_new_tokens=5)
    order = np.argsort(-expected)
    np.testing.assert_allclose([source.share for source in sources], expected[order], rtol=1e-4)
    np.testing.assert_allclose([s.score for s in sources], np.asarray(out.doc_scores[0])[order], rtol=1e-4, atol=1e-5)
    rows = re.findall(r"^\d\. +([\d.]+)% of the answer, score (-?[\d.]+): (.*)$", printed, re.MULTILINE)
    titles = [PASSAGES[out.retrieved_doc_ids[0, i]][0] or "(no title)" for i in order]
    assert [title for *_, title in rows] == titles
    np.testing.assert_allclose([float(share) for share, *_ in rows], 100 * expected[order], atol=0.06)


def test_shares_match_a_calculation_by_hand():
    """Two documents; the two tokens have probability 0.5 and 0.2 given the first one, 0.1 and 0.8 given the second."""
    probabilities = np.array([[[0.3, 0.5, 0.2], [0.2, 0.6, 0.2]], [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]])
    ids = np.array([[0, 1, 2]])
    logits = np.log(np.concatenate([probabilities, probabilities[:, :1]], axis=1)).astype(np.float32)
    scores = np.log([[0.25, 0.75]]).astype(np.float32)

    def shares(marginal):
        return document_shares(logits, scores, ids, marginal=marginal, ignored=(0, None))

    first, second = 0.25 * 0.5 * 0.2, 0.75 * 0.1 * 0.8
    np.testing.assert_allclose(shares("sequence"), [[first / (first + second), second / (first + second)]], rtol=1e-5)
    one = (0.125 / (0.125 + 0.075) + 0.05 / (0.05 + 0.6)) / 2
    np.testing.assert_allclose(shares("token"), [[one, 1 - one]], rtol=1e-5)


@pytest.mark.parametrize("index", ["index", "old"])
def test_the_encoder_that_built_the_index_can_be_passed(folders, index, capsys):
    """An index has the fingerprint of the question encoder or of the context encoder; either is accepted then."""
    assert ask(folders, "token", index, "--context-encoder", str(folders / "context")) == 0
    assert "of the answer, score" in capsys.readouterr().out


def test_long_documents_are_truncated_and_missing_titles_marked():
    lines = format_answer("", [Source(Document(*PASSAGES[3]), 2.5, 0.75), Source(Document(*PASSAGES[2]), -1.0, 0.25)])
    assert lines[0] == "(empty answer)" and lines[2] == "1.  75.0% of the answer, score 2.500: Rivers"
    assert lines[-2:] == ["2.  25.0% of the answer, score -1.000: (no title)", "   A passage without a title."]
    assert max(map(len, lines)) <= 100 and lines[-4].endswith(" ...")


INVALID = {
    "no index": (("token", "nothing"), "no index in .*nothing: expected dense_index.json"),
    "no model": (("nothing",), "nothing' is neither a local folder nor a Hub id"),
    "another class": (("context",), "is of class DPRContextEncoder; expected RagTokenForGeneration"),
    "another encoder": (("token", "old"), "built for the encoder [0-9a-f]{32}, got DPRQuestionEncoder"),
    "another width": (
        ("token", "narrow"),
        "vectors of width 8, but this DPRQuestionEncoder has width 16",
    ),
    "too many": (("token", "index", "--documents", "9"), "--documents must be between 1 and the 4 passages .* got 9"),
    "none": (("token", "index", "--documents", "0"), "--documents must be between 1 and the 4 passages .* got 0"),
    "no tokenizer": (("bare", "index"), "question_encoder_tokenizer"),
}


@pytest.mark.parametrize("case", INVALID)
def test_errors_are_printed_in_one_line(folders, capsys, case):
    if case == "no tokenizer" and not (folders / "bare").exists():
        model, params = jm.load(folders / "token")
        jm.save(folders / "bare", model, params)
    arguments, message = INVALID[case]
    assert ask(folders, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("jaxmodels ask: ")
    assert re.search(message, err), err


def test_a_damaged_manifest_is_named(folders, capsys, tmp_path):
    (tmp_path / "dense_index.json").write_text("{")
    assert main(["ask", "--model", str(folders / "token"), "--index", str(tmp_path), QUESTION]) == 2
    assert "dense_index.json: expected the manifest as JSON" in capsys.readouterr().err


def test_the_program_exits_with_2_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "jaxmodels", "ask", "--model", "x", "--index", str(tmp_path), "why?"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("jaxmodels ask: no index in")
    done = subprocess.run([*command[:3], "nonsense"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice: 'nonsense'" in done.stderr
