"""Readers of CoNLL, BANKING77 and the English corpus, and errors for damaged files."""

import json

import pytest

from experiments.data import banking, conll, corpus
from experiments.data.conll import Sentence


def test_sentences_end_at_lines_with_only_white_space(tmp_path):
    file = tmp_path / "a.conll"
    file.write_bytes("New\tB-location\nYork\tI-location\r\n\t\n\n\nx\u2028y\tO\nO\u2019Hara\tB-person\n".encode())
    assert conll.read(file) == [
        Sentence(["New", "York"], ["B-location", "I-location"]),
        Sentence(["x\u2028y", "O\u2019Hara"], ["O", "B-person"]),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"word", r"a\.conll, line 2: expected a word, a tab and its tag; got 'word'"),
        (b"word\tB-x\tO", "line 2: expected a word, a tab and its tag"),
        (b"\tO", "line 2: expected a word, a tab and its tag"),
        (b"word\tB", "line 2: a tag is O, B-type or I-type; got 'B'"),
        (b"word\tE-person", "got 'E-person'"),
        (b"word\tI-person", "line 2: I-person continues an entity, but the previous word has O"),
        (b"\xff\tO", "line 2: not UTF-8"),
    ],
)
def test_malformed_conll_line_is_reported(tmp_path, line, message):
    (tmp_path / "a.conll").write_bytes(b"one\tO\n" + line + b"\n")
    with pytest.raises(ValueError, match=message):
        conll.read(tmp_path / "a.conll")


def test_entity_cannot_continue_in_the_next_sentence(tmp_path):
    (tmp_path / "a.conll").write_text("one\tB-person\n\ntwo\tI-person\n")
    with pytest.raises(ValueError, match="line 3: I-person continues an entity, but the previous word has O"):
        conll.read(tmp_path / "a.conll")


def test_empty_or_missing_conll_file_is_rejected(tmp_path):
    (tmp_path / "a.conll").write_text("\n\n")
    with pytest.raises(ValueError, match="contains no sentences"):
        conll.read(tmp_path / "a.conll")
    with pytest.raises(FileNotFoundError, match=r"no file .*b\.conll; data\.path is the folder"):
        conll.read(tmp_path / "b.conll")


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "categories.json").write_text(json.dumps(["lost", "found"]))
    return tmp_path


def test_quoted_texts_may_contain_commas_and_newlines(bank):
    (bank / "train.csv").write_text('text,category\n"Where, oh\nwhere?",lost\nHere,found\n')
    assert banking.read(bank, "train") == [("Where, oh\nwhere?", "lost"), ("Here", "found")]
    assert banking.categories(bank) == ["lost", "found"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,lost\n", r"train\.csv, line 1: the header is text,category; got \['a', 'lost'\]"),
        ("", "line 1: the header is text,category; got None"),
        ("text,category\na,lost\nb\n", "line 3: expected a text and its category"),
        ("text,category\na,lost,x\n", "line 2: expected a text and its category"),
        ("text,category\n ,lost\n", "line 2: expected a text and its category"),
        ("text,category\na,stolen\n", r"line 2: categories\.json has no category 'stolen'"),
        ('text,category\na,lost\n"b,lost\n', "line 3: unexpected end of data"),
        ("text,category\n", "contains no examples"),
    ],
)
def test_malformed_csv_row_is_reported(bank, content, message):
    (bank / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        banking.read(bank, "train")


@pytest.mark.parametrize("content", ["[", "{}", '["a", "a"]', "[]"])
def test_malformed_categories_are_rejected(bank, content):
    (bank / "categories.json").write_text(content)
    with pytest.raises(ValueError, match=r"categories\.json: "):
        banking.categories(bank)


def sizes_are(folder, *, entities, banking77):
    """entities: numbers of sentences and entities in each file of WNUT-17."""
    names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
    for name, expected in zip(names, entities, strict=True):
        sentences = conll.read(folder / "ner" / "wnut17" / name)
        assert (len(sentences), sum(tag[0] == "B" for each in sentences for tag in each.tags)) == expected
    folder = folder / "classification" / "banking77"
    assert (len(banking.read(folder, "train")), len(banking.read(folder, "test"))) == banking77
    assert len(banking.categories(folder)) == 77


def test_sizes_of_the_test_data(data_dir):
    sizes_are(data_dir, entities=[(120, 75), (60, 61), (60, 48)], banking77=(201, 62))


@pytest.mark.full_data
def test_sizes_of_the_full_files(full_data_dir):
    sizes_are(full_data_dir, entities=[(3394, 1975), (1009, 836), (1287, 1079)], banking77=(10003, 3080))


def english_is_read(folder, *, articles, characters):
    documents = list(corpus.read_english(folder))
    groups = {group for group, _ in documents}
    assert sum(group.startswith("squad:") for group in groups) == articles["squad"]
    assert sum(group.startswith("wikitext:") for group in groups) == articles["wikitext"]
    text = "".join(text for _, text in documents)
    assert len(text) == pytest.approx(characters, rel=0.1)
    assert "<unk>" not in text and " @-@ " not in text
    assert "I am still waiting on my card?" in text, "from BANKING77's training texts"
    assert "How do I locate my card?" not in text, "nothing comes from a test set"
    assert (folder / "classification/banking77/test.csv").read_text().count("How do I locate my card?") == 1


def test_english_test_data(data_dir):
    english_is_read(data_dir, articles={"squad": 16, "wikitext": 9}, characters=183_000)


@pytest.mark.full_data
def test_english_full_files(full_data_dir):
    english_is_read(full_data_dir, articles={"squad": 48, "wikitext": 108}, characters=5_500_000)


def test_missing_english_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"valid\.txt; data\.path is the folder"):
        list(corpus.read("english", str(tmp_path)))
