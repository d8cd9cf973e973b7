"""Training on streams, and data sets of Hugging Face: named, as objects, in memory and streamed."""

import json
import sys
from itertools import islice
from types import ModuleType

import numpy as np
import pytest
from support.finetuned import finish, refused, settings, write_lines
from support.tiny_checkpoints import save_checkpoint

from experiments import finetune
from experiments.data import tables
from experiments.data.streams import Stream
from experiments.report import THIS_MODEL
from experiments.tasks.text_classification import TextClassification

pytestmark = pytest.mark.usefixtures("one_device")
WORDS = ("good", "great", "fine")
ROWS = [{"text": f"the film was {WORDS[n % 3] if n % 2 else 'bad'}", "label": n % 2} for n in range(50)]
COLUMNS = {"text": "text", "label": "label"}
STREAMING = {"data.streaming": True, "data.buffer": 20, "data.epoch_steps": 20}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bert", "BertForMaskedLM")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A local folder as the Hub has them: Parquet files of two splits, with names of classes."""
    datasets = pytest.importorskip("datasets", reason="the extra datasets")
    folder = tmp_path_factory.mktemp("hub") / "films"
    rows = datasets.Dataset.from_list(ROWS).cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    (folder / "data").mkdir(parents=True)
    for split, part in (("train", rows), ("test", rows.select(range(10)))):
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def texts(stream, chunks):
    return [text for _ in range(chunks) for text in stream.read().texts("text")]


def test_chunks_are_the_rows_again_and_again(lines):
    expected = [row["text"] for row in ROWS] * 3
    assert texts(Stream(str(lines), COLUMNS, 20), 7) == expected[:140]


def assert_continues_from_every_position(source):
    whole = texts(Stream(source, COLUMNS, 15), 8)
    stream = Stream(source, COLUMNS, 15)
    for chunk in range(7):
        state = json.loads(json.dumps(stream.state))
        again = Stream(source, COLUMNS, 15)
        again.state = state
        assert texts(again, 8 - chunk) == whole[15 * chunk :]
        stream.read()


def test_streams_of_files_continue_from_every_position(lines):
    assert_continues_from_every_position(str(lines))


def batches(config, folder, count, state=None):
    """The next batches of a new task, and the state after them."""
    task = TextClassification(config, folder)
    iterator = task.training_batches(seed=3, steps=99, batch_size=8, buckets=(16,), rows=None)
    if state is not None:
        iterator.set_state(json.loads(json.dumps(state)))
    return list(islice(iterator, count)), iterator.get_state()


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        for name in a | b:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_continue_from_a_saved_position(bert, lines, tmp_path):
    """Before the first batch, within a chunk and at its end, where two batches of each chunk fit."""
    config = settings("text_classification", bert, lines, **STREAMING, **{"data.validation": str(lines)})
    whole, _ = batches(config, tmp_path, 9)
    for count in (0, 1, 2, 5):
        _, state = batches(config, tmp_path, count)
        rest, _ = batches(config, tmp_path, 9 - count, state)
        assert_equal(rest, whole[count:])
    first = {tuple(row) for batch in whole[:2] for row in batch["input_ids"].tolist()}
    assert len(first) > 2 and not np.array_equal(whole[0]["input_ids"], whole[2]["input_ids"])


def test_streams_are_learnt(bert, lines, tmp_path):
    changes = STREAMING | {"data.validation": str(lines), "epochs": 2.0}
    result, *_ = finish("text_classification", bert, lines, tmp_path, **changes)
    assert result["steps"] == 40 and result["scores"][THIS_MODEL]["accuracy"] > 0.9


INVALID = {
    "no validation set": ({}, "no rows are held out of a stream; set --config.data.validation"),
    "no buffer": ({"data.buffer": 0, "data.validation": "{}"}, "data.buffer is a number of rows"),
    "small buffer": ({"data.buffer": 5, "data.validation": "{}"}, "batch_size=8 must be at least 1 and at most .*, 5"),
}


def test_tasks_that_need_all_rows_refuse_streams(bert, lines, tmp_path):
    message = refused("dpr_biencoder", bert, lines, tmp_path, **{"data.streaming": True})
    assert message.startswith("dpr_biencoder needs all rows at once")


@pytest.mark.parametrize("name", INVALID)
def test_invalid_streams_are_refused(bert, lines, tmp_path, name):
    changes, message = INVALID[name]
    changes = {key: str(lines) if value == "{}" else value for key, value in changes.items()}
    with pytest.raises(SystemExit, match=message):
        finetune.run(settings("text_classification", bert, lines, **(STREAMING | changes)), tmp_path)


def test_data_sets_need_a_package_and_a_network(bert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("text_classification", bert, "stanfordnlp/imdb:train", tmp_path)
    assert message.endswith("pip install 'jaxmodels[datasets]'")
    asked = []

    def load_dataset(*names, **options):
        asked.append((*names, options))
        raise ConnectionError("no\nroute")

    offline = ModuleType("datasets")
    offline.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", offline)
    message = refused("text_classification", bert, "nyu-mll/glue:sst2:train[:10%]", tmp_path)
    assert "cannot be reached (no route)" in message and "load_dataset('nyu-mll/glue', 'sst2') once" in message
    assert asked == [("nyu-mll/glue", "sst2", {"split": "train[:10%]", "streaming": False})]


@pytest.mark.parametrize("streaming", [False, True])
def test_named_data_sets_are_tables_with_names_of_classes(repository, streaming):
    table = tables.read(f"{repository}:train", COLUMNS, streaming)
    assert table.texts("text") == [row["text"] for row in ROWS]
    assert table.columns["label"][:2] == ["neg", "pos"] and table.class_names == {"label": ("neg", "pos")}
    with pytest.raises(ValueError, match=r"films:train, row 1: there is no 'sentence'; it has 'text', 'label'"):
        tables.read(f"{repository}:train", {"text": "sentence"}, streaming)
    with pytest.raises(ValueError, match="films:dev cannot be loaded: .*dev"):
        tables.read(f"{repository}:dev", COLUMNS, streaming)


def test_streamed_data_sets_continue_from_every_position(repository):
    assert_continues_from_every_position(f"{repository}:train")


def test_objects_are_fine_tuned(bert, repository, tmp_path):
    import datasets

    train = datasets.load_dataset(str(repository), split="train")
    changes = {"batch_size": 8, "max_tokens": 24, "optimizer.learning_rate": 0.01, "epochs": 2.0}
    data = {"train": train.to_iterable_dataset().shuffle(seed=1, buffer_size=30), "validation": train}
    streamed = finetune.fine_tune("text_classification", bert, data, tmp_path / "b", **changes, **STREAMING)
    assert streamed["scores"][THIS_MODEL]["accuracy"] > 0.9
    assert finetune.fine_tune("text_classification", bert, data, tmp_path / "b", **changes, **STREAMING) == streamed
    with pytest.raises(TypeError, match="one split of a DatasetDict"):
        finetune.fine_tune("text_classification", bert, {"train": datasets.DatasetDict()}, tmp_path / "c")
