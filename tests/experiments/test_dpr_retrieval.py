"""The complete retrieval experiment with a tiny config, also killed at random moments."""

import json
import random

import numpy as np
import pytest
from support import retrieval_samples as samples
from support.experiment_runs import curve, finish, in_two_processes, keys, kill_when, logged, starter

import jaxmodels as jm
from experiments.configs import dpr_smoke, dpr_squad_minilm, dpr_squad_scratch
from experiments.data import pairs, retrieval
from experiments.data.corpus import held_out
from experiments.metrics import read

STEPS = 24


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return samples.write(tmp_path_factory.mktemp("squad"), samples.squad())


@pytest.fixture(scope="module")
def start(file):
    """start(workdir, *flags, **environment) -> a running process with piped output."""
    return starter(
        "dpr_retrieval",
        "--config=dpr_smoke",
        f"--config.data.path={file}",
        f"--config.steps={STEPS}",
        "--config.eval_every=8",
    )


@pytest.mark.slow
def test_run_killed_at_random_moments_matches_uninterrupted_run(start, uninterrupted, tmp_path):
    folder, rng = tmp_path / "killed", random.Random(0)
    log, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"

    first = rng.randrange(5, 12)
    moments = [
        lambda: (folder / "tokenizer.draft").exists() or (folder / "tokenizer").exists(),
        # While Orbax writes a checkpoint, which has a temporary name until it is complete.
        lambda: logged(log) >= first and any(checkpoints.glob("*tmp*")),
    ]
    kills = [kill_when(start(folder), moment) for moment in moments]
    output = finish(start(folder))
    assert all(kills), "the run was over before it could be killed"
    assert "resuming from the checkpoint of step" in output
    assert curve(folder) == curve(uninterrupted[0])
    assert (folder / "baselines.json").read_bytes() == (uninterrupted[0] / "baselines.json").read_bytes()
    for name in ("context_encoder", "question_encoder"):
        actual, expected = ((f / name / "model.safetensors").read_bytes() for f in (folder, uninterrupted[0]))
        assert actual == expected, "the weights match the uninterrupted run"


def test_log_has_every_step_once_and_loss_decreases(uninterrupted):
    rows = curve(uninterrupted[0])
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, STEPS + 1))
    assert set(training[0]) == {"step", "loss", "in_batch_accuracy", "grad_norm", "skipped", "learning_rate"}
    assert [row["step"] for row in rows if "gold_top_1" in row] == [8, 16, 24]
    assert np.mean([row["loss"] for row in training[-5:]]) < np.mean([row["loss"] for row in training[:5]]) - 0.1


def test_output_files_and_messages_of_a_run(uninterrupted):
    folder, output = uninterrupted
    result = json.loads((folder / "result.json").read_text())
    tables = result["accuracy"]
    assert list(tables) == ["BM25", "before training", "this model"]
    for name, table in tables.items():
        assert set(table) == {"gold", "answer"}
        for shares in table.values():
            assert [*shares] == ["1", "5", "20", "100"] and sorted(shares.values()) == list(shares.values())
            assert f"{name:16}" + "".join(f"{share:9.1%}" for share in shares.values()) in output
    assert tables["BM25"]["gold"]["5"] == 1.0
    last = [row for row in read(folder / "metrics.jsonl") if "gold_top_1" in row][-1]
    assert {k: last[f"gold_top_{k}"] for k in tables["this model"]["gold"]} == tables["this model"]["gold"]
    assert result["vectors_after_reload"] == 0.0 and "equal, bit for bit" in output
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").iterdir()) and "questions/s" in output


def test_accuracy_is_reproduced_by_the_saved_models(uninterrupted, file):
    """Recompute the accuracy from the saved models: every question against every passage, without buckets."""
    folder, _ = uninterrupted
    result = json.loads((folder / "result.json").read_text())
    found = retrieval.read_squad(file)
    test = [question for question in found.questions if held_out(question.group, 0.3)]
    assert result["questions"] == len(test) > 0
    (context, c), (question, q) = (jm.load(folder / f"{name}_encoder") for name in ("context", "question"))
    assert isinstance(context, jm.DPRContextEncoder) and isinstance(question, jm.DPRQuestionEncoder)
    tokenizers = [jm.load_tokenizer(folder / f"{name}_encoder") for name in ("context", "question")]
    expected = [jm.DPRContextEncoderTokenizer, jm.DPRQuestionEncoderTokenizer]
    assert [type(tokenizer) for tokenizer in tokenizers] == expected
    passages = pairs.tokenize_passages(tokenizers[0], found.passages, 40)
    queries = pairs.tokenize_questions(tokenizers[1], test, 16)
    passage_vectors = context.apply(
        {"params": c}, passages.input_ids, token_type_ids=passages.token_type_ids
    ).pooler_output
    question_vectors = question.apply({"params": q}, queries.input_ids).pooler_output
    order = np.argsort(-np.asarray(question_vectors) @ np.asarray(passage_vectors).T, axis=1)
    for k, share in result["accuracy"]["this model"]["gold"].items():
        hits = [q.positives[0] in row[: int(k)] for q, row in zip(test, order.tolist(), strict=True)]
        assert np.mean(hits) == pytest.approx(share, abs=1.01 / len(test)), "one question may be a near tie"


def test_complete_run_prints_its_result_without_training(start, uninterrupted):
    folder, before = uninterrupted
    log = (folder / "metrics.jsonl").stat().st_mtime_ns
    output = finish(start(folder))
    assert "this run is complete" in output
    assert output.split("top-k accuracy", 1)[1] == before.split("top-k accuracy", 1)[1]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == log


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpr", "text"])
def test_training_on_other_data_formats(start, data_dir, tmp_path, kind):
    source = data_dir / "qa/dpr/sample.json" if kind == "dpr" else tmp_path / "texts"
    if kind == "text":
        source.mkdir()
        for article in samples.squad()["data"]:
            text = " ".join(paragraph["context"] for paragraph in article["paragraphs"])
            (source / f"{article['title']}.txt").write_text(text * 3)
    flags = [f"--config.data.kind={kind}", f"--config.data.path={source}", "--config.shared=True", "--config.steps=8"]
    output = finish(start(tmp_path / "run", *flags, "--config.data.held_out=0.4"))
    assert "vectors equal, bit for bit" in output
    assert ("contains an answer" in output) == (kind == "dpr"), "plain text has no answers"


@pytest.mark.slow
def test_two_processes_match_one_process_with_two_devices(start, tmp_path):
    """The processes connect as on a cluster; dropout is off because the masks depend on the position in the batch."""
    off = [f"--config.model.{name}=0.0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
    finish(start(tmp_path / "one", *off, devices=2))
    outputs = in_two_processes(start, tmp_path / "two", *off)
    for actual, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        # Rounding may change the order of passages for one of the 18 questions.
        shares = {name for name in actual if "top" in name or "accuracy" in name}
        assert {n: actual[n] for n in shares} == pytest.approx({n: expected[n] for n in shares}, abs=0.13)
        assert {n: actual[n] for n in actual.keys() - shares} == pytest.approx(
            {n: expected[n] for n in expected.keys() - shares}, rel=1e-3
        )
    assert "top-k accuracy" in outputs[0] and "top-k accuracy" not in outputs[1], "only the first process reports"


@pytest.mark.parametrize("module", [dpr_smoke, dpr_squad_minilm, dpr_squad_scratch])
def test_configs_have_the_same_keys(module):
    whole = ("changes", "mesh", "model")
    assert keys(module.get_config(), whole) == keys(dpr_squad_scratch.get_config(), whole)
