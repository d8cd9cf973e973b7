"""Complete RoBERTa-PreLayerNorm runs with tiny configs: pretraining and both tasks, also when killed."""

import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from support.experiment_runs import curve, finish, in_two_processes, kill_when, logged, starter

import jaxmodels as jm
from experiments.configs import roberta_smoke
from experiments.roberta_finetune import required_data, run
from experiments.tasks.entities import FILES

STEPS = 16
NAMES = ("Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")
TOWNS = ("Rome", "Oslo", "Lima", "Bonn", "Cairo", "Perth", "Quito", "Riga")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data folders of the tasks."""
    chance, root = random.Random(0), tmp_path_factory.mktemp("data")
    folders = {task: root / task for task in ("masked-lm", "entities", "intents")}
    for folder in folders.values():
        folder.mkdir()
    for name in range(14):
        lines = [f"{chance.choice(NAMES)} went to {chance.choice(TOWNS)} and saw nothing.\n" for _ in range(40)]
        (folders["masked-lm"] / f"{name}.txt").write_text("".join(lines))
    for file in FILES.values():
        text = ""
        for _ in range(40):
            filler = "so\tO\n" * chance.randrange(8)
            text += f"{filler}{chance.choice(NAMES)}\tB-person\nsaw\tO\n{chance.choice(TOWNS)}\tB-location\n\n"
        (folders["entities"] / file).write_text(text)
    (folders["intents"] / "categories.json").write_text(json.dumps(["lost", "found", "thanks"]))
    texts = {"lost": "where is it {}", "found": "I have it {}, I have it", "thanks": "thank you {}"}
    for split, count in (("train", 90), ("test", 30)):
        rows = [(chance.choice(list(texts)), number) for number in range(count)]
        table = "".join(f'"{texts[kind].format(number)}",{kind}\n' for kind, number in rows)
        (folders["intents"] / f"{split}.csv").write_text("text,category\n" + table)
    return folders


@pytest.fixture(scope="module")
def start(data):
    """start[task](workdir, *flags, **environment) -> a running process with piped output."""
    return {
        task: starter(
            "roberta_finetune",
            f"--config=roberta_smoke:{task}",
            f"--config.data.path={folder}",
            f"--config.steps={STEPS}",
        )
        for task, folder in data.items()
    }


@pytest.fixture(scope="module")
def pretrained(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "masked-lm"
    return folder, finish(start["masked-lm"](folder))


@pytest.fixture(scope="module")
def tuned(start, pretrained, tmp_path_factory):
    """Folder and output of both fine-tuning tasks."""
    root, init = tmp_path_factory.mktemp("tuned"), f"--config.init={pretrained[0] / 'model'}"
    return {task: (root / task, finish(start[task](root / task, init))) for task in ("entities", "intents")}


def check_killed(start, uninterrupted, folder, rows, *flags):
    log = folder / "metrics.jsonl"
    assert kill_when(start(folder, *flags), lambda: logged(log) >= rows), "the run was over before it could be killed"
    output = finish(start(folder, *flags))
    assert "resuming from the checkpoint of step" in output
    assert curve(folder) == curve(uninterrupted)
    actual, expected = ((f / "model" / "model.safetensors").read_bytes() for f in (folder, uninterrupted))
    assert actual == expected


@pytest.mark.slow
def test_killed_pretraining_matches_uninterrupted_run(start, pretrained, tmp_path):
    """The masks of the second epoch match, too."""
    check_killed(start["masked-lm"], pretrained[0], tmp_path / "killed", 10)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["entities", "intents"])
def test_killed_fine_tuning_matches_uninterrupted_run(start, pretrained, tuned, tmp_path, task):
    """With dropout and two buckets, from the same checkpoint."""
    init = f"--config.init={pretrained[0] / 'model'}"
    check_killed(start[task], tuned[task][0], tmp_path / "killed", random.Random(task).randrange(8, 14), init)


def test_output_files_and_messages_of_a_run(pretrained, tuned):
    folders = {"masked-lm": pretrained, **tuned}
    baselines = {
        "masked-lm": {"word frequencies"},
        "entities": {"entities of the training set", "capital letters: person"},
        "intents": {"most frequent class", "TF-IDF, logistic regression"},
    }
    for task, (folder, output) in folders.items():
        result = json.loads((folder / "result.json").read_text())
        assert set(result["scores"]) == {"this model"} | baselines[task]
        for name, scores in result["scores"].items():
            assert name in output and all(f"{value:.3f}" in output for value in scores.values())
        assert result["different_after_reload"] == 0 and "predictions of 0 of" in output
        for picture in ("loss.png", "score.png"):
            assert (folder / picture).read_bytes().startswith(b"\x89PNG")
        assert any((folder / "tensorboard").iterdir()) and "examples/s" in output
        rows = curve(folder)
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
        assert [row["step"] for row in rows if "validation_loss" in row] == [4, 8, 12, 16]
        losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
        assert losses[-1] < losses[0], "it learns"


def test_missing_heads_are_reported_and_other_parameters_loaded(pretrained, tuned):
    _, before = jm.load(pretrained[0] / "model")
    labels = {"entities": "O|B-location|B-person", "intents": "lost|found|thanks"}
    for task, (folder, output) in tuned.items():
        assert "initialised, because" in output and "classifier" in output and "initial checkpoint: " in output
        model, after = jm.load(folder / "model")
        assert "|".join(model.config.id2label.values()) == labels[task]
        old, new = (p["roberta_prelayernorm"]["embeddings"]["word_embeddings"] for p in (before, after))
        for name in old:
            moved = jnp.max(jnp.abs(old[name] - new[name]))
            # 16 steps of at most 5e-4 each, and weight decay
            assert 0 < moved < 0.02 < jnp.max(jnp.abs(old[name])), "fine-tuning starts from the pretrained weights"


@pytest.mark.slow
def test_entity_scores_are_reproduced_by_the_saved_model(tuned, data):
    """Recompute the scores one text at a time with the saved model."""
    folder, _ = tuned["entities"]
    model, params = jm.load(folder / "model")
    tokenizer = jm.load_tokenizer(folder / "model")
    lines = (data["entities"] / FILES["test"]).read_text().split("\n\n")
    right = wanted = found = 0
    for rows in (text.splitlines() for text in lines if text):
        words, tags = zip(*(row.split("\t") for row in rows), strict=True)
        encoded = tokenizer([list(words)], is_split_into_words=True)
        logits = model.apply({"params": params}, jnp.asarray(encoded["input_ids"])).logits[0]
        best = {}
        for word, number in zip(encoded.word_ids(0), np.argmax(logits, axis=-1), strict=True):
            best.setdefault(word, model.config.id2label[int(number)])
        guesses = [best[word] for word in range(len(words))]
        right += sum(a == b != "O" for a, b in zip(tags, guesses, strict=True))  # all entities are one word here
        wanted += sum(tag != "O" for tag in tags)
        found += sum(tag != "O" for tag in guesses)
    scores = json.loads((folder / "result.json").read_text())["scores"]["this model"]
    assert scores["recall"] == pytest.approx(right / wanted)
    assert scores["F1"] == pytest.approx(2 * right / (wanted + found))


def test_complete_run_prints_its_result_without_training(start, pretrained):
    folder, before = pretrained
    log = (folder / "metrics.jsonl").stat().st_mtime_ns
    output = finish(start["masked-lm"](folder))
    assert "this run is complete" in output and output.split("this model")[1] == before.split("this model")[1]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == log


def test_invalid_settings_are_rejected(data, pretrained, tmp_path):
    settings = roberta_smoke.get_config("entities")
    settings.data.path, settings.init = str(data["entities"]), str(pretrained[0] / "model")
    settings.model.hidden_size = 8
    with pytest.raises(SystemExit, match="different shape"):
        run(FrozenConfigDict(settings), tmp_path)
    settings.task = "ner"
    assert required_data(settings) == {}, "what is no task needs no data"
    with pytest.raises(ValueError, match="task is one of masked-lm, entities, intents; got 'ner'"):
        run(FrozenConfigDict(settings), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["masked-lm", "entities"])
def test_two_processes_match_one_process_with_two_devices(start, tmp_path, task):
    """Without dropout, because the masks depend on the position in the batch."""
    off = ("--config.model.hidden_dropout_prob=0.0", "--config.model.attention_probs_dropout_prob=0.0")
    finish(start[task](tmp_path / "one", *off, devices=2))
    outputs = in_two_processes(start[task], tmp_path / "two", *off)
    for actual, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert "this model" in outputs[0] and "this model" not in outputs[1], "only the first process reports"
