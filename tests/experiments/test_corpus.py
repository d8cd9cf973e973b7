"""Corpora: documents, and the held-out split."""

import json

import pytest

from experiments.data.corpus import Document, held_out, module, read


def test_standard_library_is_split_by_module():
    documents = list(read("stdlib"))
    groups = {document.group for document in documents}
    assert {"json", "asyncio", "argparse", "decimal"} <= groups
    assert sum(len(document.text) for document in documents) > 3_000_000
    assert not any("site-packages" in group for group in groups)


@pytest.mark.parametrize(
    ("file", "group"),
    [
        ("json/decoder.py", "json"),
        ("test/test_json/test_decode.py", "json"),
        ("test/test_json.py", "json"),
        ("_pydecimal.py", "decimal"),
        ("test/support/__init__.py", "support"),
        ("__future__.py", "future__"),
    ],
)
def test_module_tests_and_python_copy_share_a_group(tmp_path, file, group):
    assert module((tmp_path / file).relative_to(tmp_path)) == group


def test_split_depends_on_the_name_only():
    names = [f"module{i}" for i in range(2000)]
    held = {name for name in names if held_out(name, 0.1)}
    assert 150 < len(held) < 250
    assert held <= {name for name in names if held_out(name, 0.2)}, "a larger share keeps what was held out"
    assert held_out("json", 0.03) and held_out("queue", 0.03) and not held_out("asyncio", 0.03)
    assert not any(held_out(name, 0.0) for name in names) and all(held_out(name, 1.0) for name in names)


def test_text_folder_skips_binary_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("zwei\n")
    (tmp_path / "sub" / "a.md").write_text("één\n", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").write_text("")
    assert list(read("text", str(tmp_path))) == [Document("b.txt", "zwei\n"), Document("sub/a.md", "één\n")]


def test_line_ends_are_preserved(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"a\r\nb\r\n")
    assert [document.text for document in read("text", str(tmp_path))] == ["a\r\nb\r\n"]


def test_json_lines_of_a_folder_or_one_file(tmp_path):
    rows = [{"body": "one", "id": 1}, {"body": "two", "id": 2}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [Document("x.jsonl:1", "one"), Document("x.jsonl:2", "two")]
    assert list(read("jsonl", str(tmp_path), "body")) == expected
    assert list(read("jsonl", str(tmp_path / "x.jsonl"), "body")) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "one"}', r"x\.jsonl, line 1: expected a text under data\.field='text'; got body"),
        ('{"text": 3}', "line 1: expected a text under"),
        ('["text"]', "got list"),
        ('{"text": ', "line 1: not JSON"),
    ],
)
def test_invalid_json_line_is_reported_with_its_location(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(read("jsonl", str(tmp_path)))


def test_invalid_data_sources_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"data\.kind is one of stdlib, english, text, jsonl; got 'csv'"):
        list(read("csv"))
    with pytest.raises(FileNotFoundError, match="data.path='/no/such/place' does not exist"):
        list(read("text", "/no/such/place"))
    with pytest.raises(FileNotFoundError, match="data.path='' does not exist"):
        list(read("jsonl"))
    with pytest.raises(ValueError, match="no documents of kind 'text'"):
        list(read("text", str(tmp_path)))
