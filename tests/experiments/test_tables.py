"""Tables of examples: the formats give the same rows, and every invalid file one clear message."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments.data import tables

ROWS = [{"text": "good, really", "label": "yes"}, {"text": 'a "quote"\nand a line', "label": "no"}]
COLUMNS = {"text": "text", "label": "label"}


def saved_dataset(folder, table):
    """Write what `datasets.Dataset.save_to_disk` writes, in two files."""
    folder.mkdir()
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table.slice(number, 1 if number == 0 else None))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def with_class_names(table, features):
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.fixture
def files(tmp_path):
    """The same rows in every format."""
    quoted = [row["text"].replace('"', '""') for row in ROWS]
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [f"label{mark}text", *(f'{row["label"]}{mark}"{text}"' for row, text in zip(ROWS, quoted, strict=True))]
        (tmp_path / f"rows{suffix}").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1))
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    saved_dataset(tmp_path / "saved", pa.Table.from_pylist(ROWS))
    return tmp_path


FORMATS = ["rows.csv", "rows.tsv", "rows.jsonl", "lines.json", "rows.json", "rows.parquet", "saved"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_have_the_same_rows(files, name):
    table = tables.read(str(files / name), COLUMNS | {"text_pair": ""})
    assert table.texts("text") == [row["text"] for row in ROWS]
    assert table.columns.keys() == COLUMNS.keys() and len(table) == 2
    assert table.select([1]).texts("label") == ["no"]


@pytest.mark.parametrize("name", FORMATS)
def test_missing_column_is_named_with_those_that_exist(files, name):
    with pytest.raises(ValueError, match=r"no 'sentence'; it has .*'text'.*--config.columns.text"):
        tables.read(str(files / name), {"text": "sentence"})


def test_texts_of_a_folder_are_rows(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "inner" / "c.txt").write_text("third")
    (tmp_path / "notes.md").write_text("ignored")
    assert tables.read(str(tmp_path), {"text": "text"}).texts("text") == ["first", "second\n", "third"]
    assert tables.read(str(tmp_path / "b.txt"), {"text": "text"}).texts("text") == ["second\n"]


def test_conll_and_squad_files_are_tables(tmp_path):
    (tmp_path / "ner.conll").write_text("Ada\tB-person\nran\tO\n\nno\tO\n")
    table = tables.read(str(tmp_path / "ner.conll"), {"tokens": "tokens", "tags": "tags"})
    assert table.lists("tokens") == [["Ada", "ran"], ["no"]] and table.lists("tags") == [["B-person", "O"], ["O"]]
    questions = [
        {"question": "who?", "answers": [{"text": "Ada", "answer_start": 3}]},
        {"question": "why?", "answers": [{"text": "x", "answer_start": 0}], "is_impossible": True},
    ]
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "so Ada", "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    names = ("question", "context", "answers")
    table = tables.read(str(tmp_path / "squad.json"), dict(zip(names, names, strict=True)))
    assert table.texts("context") == ["so Ada"] * 2
    assert table.columns["answers"] == [{"text": ["Ada"], "answer_start": [3]}, {"text": [], "answer_start": []}]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_class_numbers_become_names(tmp_path, kind):
    def written(values):
        names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
        features = {"label": names, "tags": {"feature": names, "_type": "Sequence"}, "text": {"_type": "Value"}}
        table = pa.table({"label": values, "tags": [[value] for value in values], "text": ["a"] * len(values)})
        table = with_class_names(table, features)
        path = tmp_path / f"{values[-1]}.{kind}"
        if kind == "saved":
            return saved_dataset(path, table)
        pyarrow.parquet.write_table(table, path)
        return path

    table = tables.read(str(written([1, 0])), {"label": "label", "tags": "tags"})
    assert table.columns == {"label": ["pos", "neg"], "tags": [["pos"], ["neg"]]}
    assert table.class_names == {"label": ("neg", "pos"), "tags": ("neg", "pos")}
    with pytest.raises(ValueError, match=r"row 2: class -1 is not among 0 to 1 \(neg, pos\)"):
        tables.read(str(written([1, -1])), {"label": "label"})


INVALID = {
    "no_rows.csv": ("text,label\n", "has no rows"),
    "empty.csv": ("", "has no rows"),
    "empty.jsonl": ("", "has no rows"),
    "short.csv": ("text,label\na,b\nc\n", "line 3: expected 2 values .text, label., got 1"),
    "quote.csv": ('text,label\n"a,b\n', "line 2: unexpected end of data"),
    "damaged.jsonl": ('{"text": "a", "label": "b"}\n{"text"\n', "line 2: not JSON"),
    "list.jsonl": ("[1]\n", "line 1: expected an object"),
    "number.json": ("7", "expected a list of objects, got int"),
    "object.json": ('[{"text": "a", "label": "b"}, 3]', r"\[1\]: expected an object"),
    "text.parquet": ("text", "not a Parquet file"),
    "table.xlsx": ("text", "expected a folder or a file .csv, .tsv"),
    "other.json": ('{"data": [{"title": "x"}]}', "no 'paragraphs'"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_file_is_rejected_with_its_location(tmp_path, name):
    content, message = INVALID[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        tables.read(str(tmp_path / name), COLUMNS)


def test_other_invalid_sources_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="named ID:SPLIT or ID:CONFIG:SPLIT, such as"):
        tables.read("imdb", COLUMNS)
    (tmp_path / "latin.csv").write_bytes(b"text,label\na,b\n\xe9,c\n")
    with pytest.raises(ValueError, match=r"latin.csv, after line \d: not UTF-8"):
        tables.read(str(tmp_path / "latin.csv"), COLUMNS)
    folder = tmp_path / "splits"
    folder.mkdir()
    saved_dataset(folder / "train", pa.Table.from_pylist(ROWS))
    (folder / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="several splits; pass one of its folders: train"):
        tables.read(str(folder), COLUMNS)
    (folder / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="train is no complete data set"):
        tables.read(str(folder / "train"), COLUMNS)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing is neither a folder of .txt files nor a data set"):
        tables.read(str(tmp_path / "nothing"), COLUMNS)


def test_values_of_another_type_are_rejected(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": ["b"]}\n{"text": null, "label": []}\n')
    table = tables.read(str(tmp_path / "rows.jsonl"), COLUMNS)
    with pytest.raises(ValueError, match="line 2: text is a text, got None"):
        table.texts("text")
    with pytest.raises(ValueError, match=r"line 2: label is a list with at least one element, got \[\]"):
        table.lists("label")
