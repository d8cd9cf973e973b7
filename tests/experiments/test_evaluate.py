"""Evaluation of checkpoints on files: perplexity by the definition, and the tasks of fine-tuning without training."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.finetuned import write_lines
from support.tiny_checkpoints import save_checkpoint

import jaxmodels as jm
from experiments import evaluate
from experiments.tasks import perplexity as perplexity_task
from jaxmodels.__main__ import main

pytestmark = pytest.mark.usefixtures("one_device")
TEXTS = ["Ada lives in Rome and Bob lives in Oslo", "é good"]


@pytest.fixture(scope="module", autouse=True)
def one_device_for_perplexity():
    with pytest.MonkeyPatch.context() as patch:
        mesh = jm.sharding.make_mesh({"data": 1}, jax.devices()[:1])
        patch.setattr(perplexity_task, "mesh_and_rules", lambda _: {"mesh": mesh, "rules": jm.sharding.DP})
        yield


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "gpt2", "GPT2LMHeadModel")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bert", "BertForMaskedLM")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("data") / "texts.jsonl", [{"line": text} for text in TEXTS])


def scores(output: str) -> dict[str, float]:
    return {name.strip(): float(value) for name, value in re.findall(r"^(.+?) +([\d.]+)$", output, re.MULTILINE)}


def test_perplexity_of_windows_follows_its_definition(gpt2, texts, tmp_path, capsys):
    """Through the command: each token is predicted from the 7 before it, fewer at the start, where bos or eos is."""
    options = ["--config.columns.text=line", "--config.max_tokens=7", "--config.stride=1"]
    assert main(["evaluate", "perplexity", str(gpt2), str(texts), *options, f"--json={tmp_path / 'scores.json'}"]) == 0
    printed = scores(capsys.readouterr().out)
    model, params = jm.load(gpt2)
    tokenizer = jm.load_tokenizer(gpt2)
    total, count, right = 0.0, 0, 0
    predict = jax.jit(lambda ids: jax.nn.log_softmax(model.apply({"params": params}, ids).logits[0]))
    for text in TEXTS:
        ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
        for position in range(1, len(ids)):
            before = ids[max(position - 7, 0) : position]
            values = predict(jnp.array([[*before, *[5] * (7 - len(before))]]))[len(before) - 1]
            total, count = total - float(values[ids[position]]), count + 1
            right += int(values.argmax()) == ids[position]
    size = sum(len(text.encode()) for text in TEXTS)
    expected = {"loss": total / count, "perplexity": np.exp(total / count), "accuracy": right / count}
    expected |= {"perplexity per word": np.exp(total / 11), "perplexity per byte": np.exp(total / size)}
    expected["bits per byte"] = total / size / np.log(2)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["scores"] == pytest.approx(expected, rel=1e-4)
    assert written["examples"] == 2 and printed == pytest.approx(written["scores"], rel=1e-4)


def test_pseudo_perplexity_masks_each_token_alone(bert, texts, capsys):
    options = ["--config.columns.text=line", "--config.max_tokens=8"]
    found = evaluate.run("perplexity", str(bert), str(texts), options, quiet=True)["scores"]
    model, params = jm.load(bert)
    tokenizer = jm.load_tokenizer(bert)
    predict = jax.jit(lambda ids: jax.nn.log_softmax(model.apply({"params": params}, ids).logits))
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), 6):
            part = np.array(ids[start : start + 6])
            masked = np.where(np.eye(len(part), dtype=bool), tokenizer.mask_token_id, part)
            rows = np.pad(masked, ((0, 0), (1, 0)), constant_values=tokenizer.cls_token_id)
            rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=tokenizer.sep_token_id)
            values = predict(rows)[:, 1:-1]
            total -= float(values[np.arange(len(part)), np.arange(len(part)), part].sum())
            count += len(part)
    assert found["pseudo-perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert found.keys() == {"pseudo-perplexity", "loss", "accuracy"}


ROWS = [{"text": "it was good", "label": "up"}, {"text": "a dull film", "label": "down"}, {"text": "we", "label": "up"}]


def test_trained_classifier_is_scored_on_a_test_set_only(tmp_path, capsys):
    labels = {"id2label": {0: "up", 1: "aside", 2: "down"}}
    folder = save_checkpoint(tmp_path / "bert", "BertForSequenceClassification", **labels)
    file = write_lines(tmp_path / "rows.jsonl", ROWS)
    found = evaluate.run("text_classification", str(folder), str(file), [])["scores"]
    model, params = jm.load(folder)
    best = jm.classify(model, params, jm.load_tokenizer(folder), [row["text"] for row in ROWS]).argmax(axis=1)
    expected = [model.config.id2label[number] == row["label"] for number, row in zip(best, ROWS, strict=True)]
    assert found["accuracy"] == np.mean(expected) and "macro F1" in found


def test_every_task_needs_a_test_set_only(bert, tmp_path):
    row = {"text": "a", "label": 1, "tokens": ["a"], "tags": ["1"], "context": "a b", "question": "who"}
    row |= {"answers": {"text": ["b"], "answer_start": [2]}, "choices": ["b", "c"]}
    file = write_lines(tmp_path / "rows.jsonl", [row])
    for name in ("token_classification", "question_answering", "multiple_choice", "masked_lm"):
        options = ["--config.stride=2"] if name == "question_answering" else []
        _, config = evaluate.parse(name, options)
        task = evaluate.TASKS[name](evaluate.complete(config, str(bert), str(file)), tmp_path)
        assert len(task.test.lengths) == 1 and not hasattr(task, "train")


INVALID = {
    "no head": (("multiple_choice", "{bert}", "{choices}"), "is not trained for multiple_choice: .*classifier"),
    "unknown class": (("text_classification", "{classifier}", "{rows}"), "line 1: the checkpoint has no class 'up'"),
    "encoder-decoder": (("perplexity", "{t5}", "{rows}"), "causal and masked language models, and a t5 is neither"),
    "stride": (("perplexity", "{gpt2}", "{rows}", "--config.stride=2000"), "stride must be from 1 to .*64; got 2000"),
    "training option": (("text_classification", "{bert}", "{rows}", "--config.epochs=2"), "has no key 'epochs'"),
    "unknown task": (("ner", "{gpt2}", "{rows}"), "the task is one of perplexity, text_classification, .*; got 'ner'"),
    "no file": (("perplexity", "{gpt2}", "gone.txt"), "no file or folder gone.txt"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input_is_one_line(name, bert, gpt2, tmp_path, capsys):
    arguments, message = INVALID[name]
    places = {"bert": bert, "gpt2": gpt2, "rows": write_lines(tmp_path / "rows.jsonl", ROWS)}
    places["choices"] = write_lines(tmp_path / "choices.jsonl", [{"context": "a", "choices": ["b", "c"], "label": 1}])
    for word, kind in (("t5", "T5ForConditionalGeneration"), ("classifier", "BertForSequenceClassification")):
        if f"{{{word}}}" in arguments:
            places[word] = save_checkpoint(tmp_path / word, kind)
    assert main(["evaluate", *(word.format(**places) for word in arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line)
