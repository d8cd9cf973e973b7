"""Fine-tuning of tiny checkpoints on tables: each task, its errors, best parameters, early stopping."""

import json
import random
import re

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import transformers
from support.experiment_runs import curve, kill_when, logged, starter
from support.experiment_runs import finish as finish_process
from support.finetuned import finish, refused, settings, write_lines
from support.tiny import tiny
from support.tiny_checkpoints import save_checkpoint

import jaxmodels as jm
from experiments import finetune
from experiments.configs.finetune import COLUMNS, get_config
from experiments.report import THIS_MODEL
from experiments.tuning import make_tuning
from jaxmodels.parameters import flatten

pytestmark = pytest.mark.usefixtures("one_device")
GOOD, BAD = ("good", "great", "fine"), ("bad", "dull", "poor")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bert", "BertForMaskedLM")


@pytest.fixture(scope="module")
def opinions(tmp_path_factory):
    """CSV of opinions."""
    chance, file = random.Random(0), tmp_path_factory.mktemp("data") / "opinions.csv"
    rows = [(f"the film was {chance.choice(words)}", kind) for kind, words in (("up", GOOD), ("down", BAD)) * 40]
    file.write_text("\n".join(["review,kind", *map(",".join, rows)]))
    return file


@pytest.fixture(scope="module")
def classified(bert, opinions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classified"
    columns = {"columns.text": "review", "columns.label": "kind"}
    return folder, *finish("text_classification", bert, opinions, folder, **columns)


def test_texts_are_classified_from_a_checkpoint(classified, bert):
    folder, result, model, params, tokenizer = classified
    assert result["scores"][THIS_MODEL]["accuracy"] == 1 > result["scores"]["most frequent class"]["accuracy"]
    assert dict(model.config.id2label) == {0: "down", 1: "up"}
    found = jm.classify(model, params, tokenizer, ["the film was great", "the film was dull"])
    assert found.argmax(axis=1).tolist() == [1, 0]


def test_saved_folder_is_read_by_transformers(classified):
    folder, _, model, params, tokenizer = classified
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model")
    encoded = transformers.AutoTokenizer.from_pretrained(folder / "model")(["it was dull"], return_tensors="pt")
    probabilities = theirs(**encoded).logits.softmax(dim=-1).detach().numpy()
    np.testing.assert_allclose(jm.classify(model, params, tokenizer, ["it was dull"]), probabilities, atol=1e-5)
    assert theirs.config.id2label == {0: "down", 1: "up"}


def test_complete_run_is_read_and_its_use_is_printed(classified, capsys):
    folder, result, *_ = classified
    config = settings("text_classification", "gone", "gone.csv")
    assert finetune.run(config, folder) == result
    finetune.show(result, config, folder)
    output = capsys.readouterr().out
    assert "pass --fresh" in output and "most frequent class" in output
    *_, first, second, third = output.strip().splitlines()
    assert [first, second] == [
        f'{name} = jm.load{rest}("{folder / "model"}")'
        for name, rest in (("model, params", ""), ("tokenizer", "_tokenizer"))
    ] and third.startswith("jm.classify(")


def test_pairs_are_classified_and_the_numbers_of_the_data_set_kept(bert, tmp_path):
    """The second text decides, and the order of labels in the data set is not the alphabetical one."""
    chance = random.Random(0)
    rows = [(chance.choice(GOOD + BAD), chance.choice(GOOD + BAD)) for _ in range(80)]
    table = pa.table({"text": [a for a, _ in rows], "with": [b for _, b in rows], "label": [b in BAD for _, b in rows]})
    table = table.set_column(2, "label", table["label"].cast("int64"))
    feature = {"label": {"names": ["plus", "minus"], "_type": "ClassLabel"}}
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    pyarrow.parquet.write_table(described, tmp_path / "pairs.parquet")
    columns = {"columns.text_pair": "with"}
    result, model, params, tokenizer = finish(
        "text_classification", bert, tmp_path / "pairs.parquet", tmp_path / "run", **columns
    )
    assert dict(model.config.id2label) == {0: "plus", 1: "minus"}
    assert result["scores"][THIS_MODEL]["accuracy"] > 0.9
    found = jm.classify(model, params, tokenizer, ["good", "good"], ["bad", "great"])
    assert found.argmax(axis=1).tolist() == [1, 0]


def test_decoders_classify_with_their_end_of_text_as_padding(opinions, tmp_path):
    init = save_checkpoint(tmp_path / "gpt2", "GPT2LMHeadModel", pad_token_id=None)
    columns = {"columns.text": "review", "columns.label": "kind"}
    result, model, _, tokenizer = finish("text_classification", init, opinions, tmp_path / "run", **columns)
    assert tokenizer.pad_token == tokenizer.eos_token and model.config.pad_token_id == tokenizer.eos_token_id
    assert result["scores"][THIS_MODEL]["accuracy"] > 0.8


def test_numbers_of_texts_are_learnt(bert, tmp_path):
    """Numbers with a decimal point; the loss is of all rows of an incomplete batch, and of no others."""
    chance, words = random.Random(0), {"poor": -1.5, "dull": -0.5, "fine": 0.5, "great": 2}
    rows = [(word, words[word]) for word in chance.choices(list(words), k=82)]
    (tmp_path / "rows.csv").write_text(
        "\n".join(["text,stars", *(f"the film was {word},{stars}" for word, stars in rows)])
    )
    options = {"columns.label": "stars", "epochs": 12.0}
    result, model, params, tokenizer = finish(
        "text_classification", bert, tmp_path / "rows.csv", tmp_path / "run", **options
    )
    ours, mean = result["scores"][THIS_MODEL], result["scores"]["mean"]
    assert ours["Pearson"] > 0.95 and ours["Spearman"] > 0.95 > mean["Pearson"] == 0
    assert ours["mean squared error"] < 0.5 < mean["mean squared error"]
    assert model.config.problem_type == "regression" and dict(model.config.id2label) == {0: "stars"}
    assert jm.classify(model, params, tokenizer, ["the film was great"]).item() == pytest.approx(2, abs=0.7)
    for row in curve(tmp_path / "run"):
        if "validation_loss" in row:
            assert row["validation_loss"] == pytest.approx(row["validation_mean squared error"], rel=1e-4)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert theirs.config.problem_type == "regression" and theirs.config.num_labels == 1


@pytest.mark.parametrize("kind", ["lists", "columns"])
def test_several_labels_of_texts_are_learnt(bert, tmp_path, kind):
    chance, rows = random.Random(0), []
    for _ in range(80):
        words = chance.sample([*GOOD, *BAD], chance.randrange(3))
        labels = {"good": any(word in GOOD for word in words), "bad": any(word in BAD for word in words)}
        names = [name for name, present in labels.items() if present]
        rows.append({"text": " ".join(["it", *words]), "label": names} | {k: int(v) for k, v in labels.items()})
    file = write_lines(tmp_path / "rows.jsonl", rows)
    columns = {"columns.label": "bad,good"} if kind == "columns" else {}
    options = {"epochs": 12.0} if kind == "lists" else {"epochs": 0.1}
    result, model, params, tokenizer = finish("text_classification", bert, file, tmp_path / "run", **columns, **options)
    assert model.config.problem_type == "multi_label_classification"
    assert dict(model.config.id2label) == {0: "bad", 1: "good"}
    ours, frequent = result["scores"][THIS_MODEL], result["scores"]["most frequent labels"]
    assert {"micro F1", "macro F1", "exact match"} == ours.keys()
    if kind == "lists":
        assert ours["micro F1"] > 0.9 > frequent["micro F1"] and ours["exact match"] > 0.8
        found = jm.classify(model, params, tokenizer, ["it great", "it", "it dull good"])
        assert (found > 0.5).tolist() == [[False, True], [False, False], [True, True]]


LABELS = [
    (["a"], 3, {}, "label is a list of names or of whole numbers, got 3"),
    (["a"], ["c"], {}, "the training data has no class 'c'"),
    (0.5, "x", {}, "label is a number, got 'x'"),
    (1, float("nan"), {"problem_type": "regression"}, "label is a number, got nan"),
    (1, 1, {"problem_type": "ordinal"}, "problem_type is one of single_label_classification, "),
    (1, 2, {"columns.label": "label,label"}, "each column of the label is 0 or 1, got [2, 2]"),
]


@pytest.mark.parametrize(("first", "second", "options", "message"), LABELS)
def test_invalid_label_is_located(bert, tmp_path, first, second, options, message):
    train = write_lines(tmp_path / "train.jsonl", [{"text": "good", "label": first}] * 8)
    other = write_lines(tmp_path / "other.jsonl", [{"text": "good", "label": second}])
    error = refused("text_classification", bert, train, tmp_path, **{"data.validation": str(other)}, **options)
    assert message in error and (f"{other}, line 1: " in error or "problem_type" in options)


@pytest.fixture(scope="module")
def adapted(bert, opinions, tmp_path_factory):
    """LoRA kept as an adapter, in float16, with microbatches and frozen parameters."""
    folder = tmp_path_factory.mktemp("runs") / "adapted"
    folder.mkdir()
    changes = {"lora.rank": 4, "lora.save": "adapter", "dtype": "float16", "microbatches": 2, "freeze": "pooler/bias"}
    columns = {"columns.text": "review", "columns.label": "kind"}
    config = settings("text_classification", bert, opinions, **columns | changes)
    return folder, config, finetune.run(config, folder)


def test_adapter_is_trained_in_float16_and_used_as_printed(adapted, capsys):
    folder, config, result = adapted
    assert result["scores"][THIS_MODEL]["accuracy"] == 1 and result["different_after_reload"] == 0
    assert {row["loss_scale"] for row in curve(folder) if "loss" in row} == {65536}
    assert not (folder / "model").exists()
    finetune.show(result, config, folder)
    used = capsys.readouterr().out.strip().splitlines()[-4:]
    names = {"jm": jm}
    exec("\n".join(used).replace("A text.", "the film was great"), names)
    assert dict(names["model"].config.id2label) == {0: "down", 1: "up"}
    found = jm.classify(names["model"], names["params"], names["tokenizer"], ["the film was great", "it was dull"])
    assert found.argmax(axis=1).tolist() == [1, 0]


def test_adapter_and_new_head_are_trained_and_read_by_peft(adapted, bert):
    """PEFT's classes add the classifier to the modules that an adapter stores; here it has the pooler, too."""
    peft = pytest.importorskip("peft")
    folder, config, _ = adapted
    model, initial = jm.load(bert, cls="AutoModelForSequenceClassification", num_labels=2, key=jax.random.key(0))
    params = jm.load_adapter(folder / "adapter", model, initial)
    same = {p: np.array_equal(a, flatten(initial)[p]) for p, a in flatten(params).items()}
    changed = {path for path, equal in same.items() if not equal}
    kernels = {path for path in same if re.search("layers/(attention|feed_forward)/.*/kernel", path)}
    assert changed == kernels | {"bert/pooler/kernel", "classifier/kernel", "classifier/bias"}
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapter").eval()
    encoded = jm.load_tokenizer(folder / "adapter")(["the film was great"])
    expected = theirs(**{name: torch.tensor(rows) for name, rows in encoded.items()}).logits.detach().numpy()
    got = model.apply({"params": params}, **{name: np.array(rows) for name, rows in encoded.items()}).logits
    np.testing.assert_allclose(got, expected, atol=1e-5)


TUNING = {
    "rank 0": ({"lora.rank": 0}, "lora.rank and lora.alpha must be above 0, got 0 and 16.0; to train without"),
    "alpha alone": ({"lora.alpha": 8.0}, "lora.alpha is for LoRA, which --config.lora.rank=8 turns on"),
    "unknown target": (
        {"lora.rank": 2, "lora.targets": "q_proj"},
        "lora.targets='q_proj' is found in no path of a linear layer; there are .*attention/qkv",
    ),
    "no expression": (
        {"lora.rank": 2, "lora.targets": "*"},
        r"lora.targets='\*' is not a regular expression: nothing to",
    ),
    "unknown save": ({"lora.rank": 2, "lora.save": "peft"}, "lora.save is merged or adapter, got 'peft'"),
    "nothing frozen": ({"freeze": "wte"}, "freeze='wte' is found in no path of a parameter that is trained; there are"),
    "frozen base": ({"lora.rank": 2, "freeze": "embeddings"}, "freeze='embeddings' is found in no path of a parameter"),
    "all frozen": ({"freeze": "."}, "freeze='.' is found in the path of every parameter: nothing is left to train"),
}


@pytest.mark.parametrize("name", TUNING)
def test_settings_that_fit_no_parameter_are_refused(name):
    changes, message = TUNING[name]
    with pytest.raises(ValueError, match=message):
        make_tuning(settings("masked_lm", "", "", **changes), tiny("BertForMaskedLM")[0], new_head=False)


INVALID = {
    "missing column": ({"columns.text": "sentence"}, "no 'sentence'; it has 'review', 'kind'"),
    "missing file": ({"data.validation": "imdb"}, "no file or folder imdb.*such as stanfordnlp/imdb:train"),
    "no rows held out": ({"data.held_out": 0.0}, "data.held_out=0.0 leaves no rows"),
    "batch of more than all examples": ({"batch_size": 1000}, "batch_size=1000 must be at least 1 and at most"),
    "no epochs": ({"epochs": 0.0}, "epochs must be above 0"),
    "warmup in steps": ({"optimizer.warmup": 10.0}, "optimizer.warmup is a share of the steps, below 1; got 10.0"),
    "one class": ({"columns.label": "review", "columns.text": "kind", "data.train": "{}/same.csv"}, "one class only"),
    "unknown class": ({"data.validation": "{}/other.csv"}, "other.csv, line 3: the training data has no class 'maybe'"),
    "no class": ({"data.validation": "{}/empty.csv"}, "empty.csv, line 2: label is a name or a whole number, got ''"),
    "no rank": ({"lora.rank": 0}, "^lora.rank and lora.alpha must be above 0"),
    "no checkpoint": ({"init": "{}"}, "config"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input_ends_with_one_line(bert, opinions, tmp_path, name):
    (tmp_path / "same.csv").write_text("review,kind\n" + "good,film\n" * 20)
    (tmp_path / "other.csv").write_text("review,kind\ngood,up\ngood,maybe\n")
    (tmp_path / "empty.csv").write_text("review,kind\ngood,\n")
    changes, message = INVALID[name]
    changes = {key: str(value).format(tmp_path) if isinstance(value, str) else value for key, value in changes.items()}
    columns = {"columns.text": "review", "columns.label": "kind"}
    assert re.search(message, refused("text_classification", bert, opinions, tmp_path, **columns | changes))


def test_unknown_task_is_rejected():
    with pytest.raises(ValueError, match="is one of text_classification, .*; got 'ner'"):
        get_config("ner")
    assert set(COLUMNS) == set(finetune.TASKS)


@pytest.mark.slow
def test_killed_run_continues_to_the_same_best_parameters(bert, opinions, tmp_path):
    """On two devices, with LoRA, frozen parameters, microbatches, scaled float16, and the end of patience."""
    start = starter(
        "finetune",
        "--config=finetune:text_classification",
        f"--config.init={bert}",
        f"--config.data.train={opinions}",
        "--config.columns.text=review",
        "--config.columns.label=kind",
        "--config.dtype=float16",
        "--config.lora.rank=4",
        "--config.lora.targets=attention",
        "--config.freeze=pooler",
        "--config.batch_size=8",
        "--config.microbatches=2",
        "--config.epochs=30",
        "--config.patience=10",
        "--config.eval_epochs=0.5",
        "--config.optimizer.learning_rate=0.003",
    )
    output = finish_process(start(tmp_path / "whole", devices=2))
    # Rows of three checkpoints: the second one has waited for the first, which is saved in the background.
    assert kill_when(start(tmp_path / "killed", devices=2), lambda: logged(tmp_path / "killed" / "metrics.jsonl") >= 24)
    again = finish_process(start(tmp_path / "killed", devices=2))
    assert "resuming from the checkpoint of step" in again
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    (best,) = re.findall("the parameters of step .* are the best", output)
    assert best in again and "jm.classify(" in again
    evaluated = [row["validation_accuracy"] for row in curve(tmp_path / "whole") if "validation_accuracy" in row]
    assert len(evaluated) < 60 and max(evaluated[-10:]) <= max(evaluated[:-10]), "it stopped early"
    killed, whole = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("killed", "whole"))
    assert killed == whole
