"""CoNLL, BANKING77 and the English corpus: what is read, and how damaged files are named."""

import json

import pytest

from experiments.data import banking, conll, corpus, english
from experiments.data.conll import Sentence


def test_sentences_end_at_empty_lines_also_at_those_with_a_tab(tmp_path):
    file = tmp_path / "a.conll"
    file.write_bytes("New\tB-location\nYork\tI-location\r\n\t\n\n\nx\u2028y\tO\nO\u2019Hara\tB-person\n".encode())
    assert conll.read(file) == [
        Sentence(["New", "York"], ["B-location", "I-location"]),
        Sentence(["x\u2028y", "O\u2019Hara"], ["O", "B-person"]),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"word", r"a\.conll, line 2: a line is a word, a tab and its tag; got 'word'"),
        (b"word\tB-x\tO", "line 2: a line is a word, a tab and its tag"),
        (b"\tO", "line 2: a line is a word, a tab and its tag"),
        (b"word\tB", "line 2: a tag is O, B-type or I-type; got 'B'"),
        (b"word\tE-person", "got 'E-person'"),
        (b"word\tI-person", "line 2: I-person continues an entity, but the word before has O"),
        (b"\xff\tO", "line 2: not UTF-8"),
    ],
)
def test_a_malformed_conll_line_is_named(tmp_path, line, message):
    (tmp_path / "a.conll").write_bytes(b"one\tO\n" + line + b"\n")
    with pytest.raises(ValueError, match=message):
        conll.read(tmp_path / "a.conll")


def test_an_entity_does_not_go_on_over_the_end_of_a_sentence(tmp_path):
    (tmp_path / "a.conll").write_text("one\tB-person\n\ntwo\tI-person\n")
    with pytest.raises(ValueError, match="line 3: I-person continues an entity, but the word before has O"):
        conll.read(tmp_path / "a.conll")


def test_an_empty_or_absent_conll_file_is_refused(tmp_path):
    (tmp_path / "a.conll").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        conll.read(tmp_path / "a.conll")
    with pytest.raises(FileNotFoundError, match=r"no file .*b\.conll; data\.path names the folder"):
        conll.read(tmp_path / "b.conll")


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "categories.json").write_text(json.dumps(["lost", "found"]))
    return tmp_path


def test_quoted_texts_may_hold_commas_and_lines(bank):
    (bank / "train.csv").write_text('text,category\n"Where, oh\nwhere?",lost\nHere,found\n')
    assert banking.read(bank, "train") == [("Where, oh\nwhere?", "lost"), ("Here", "found")]
    assert banking.categories(bank) == ["lost", "found"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,lost\n", r"train\.csv, line 1: the header is text,category; got \['a', 'lost'\]"),
        ("", "line 1: the header is text,category; got None"),
        ("text,category\na,lost\nb\n", "line 3: a row is a text and its category"),
        ("text,category\na,lost,x\n", "line 2: a row is a text and its category"),
        ("text,category\n ,lost\n", "line 2: a row is a text and its category"),
        ("text,category\na,stolen\n", r"line 2: categories\.json has no category 'stolen'"),
        ('text,category\na,lost\n"b,lost\n', "line 3: unexpected end of data"),
        ("text,category\n", "holds no example"),
    ],
)
def test_a_malformed_csv_row_is_named(bank, content, message):
    (bank / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        banking.read(bank, "train")


@pytest.mark.parametrize("content", ["[", "{}", '["a", "a"]', "[]"])
def test_malformed_categories_are_refused(bank, content):
    (bank / "categories.json").write_text(content)
    with pytest.raises(ValueError, match=r"categories\.json: "):
        banking.categories(bank)


def test_the_real_files_have_their_known_sizes(data_dir):
    sizes = {
        "wnut17train.conll": (3394, 1975),
        "emerging.dev.conll": (1009, 836),
        "emerging.test.annotated": (1287, 1079),
    }
    for name, (count, entities) in sizes.items():
        sentences = conll.read(data_dir / "ner" / "wnut17" / name)
        assert len(sentences) == count
        assert sum(tag[0] == "B" for sentence in sentences for tag in sentence.tags) == entities
    folder = data_dir / "classification" / "banking77"
    assert (len(banking.read(folder, "train")), len(banking.read(folder, "test"))) == (10003, 3080)
    assert len(banking.categories(folder)) == 77


def test_english_is_read_by_article(data_dir):
    documents = list(english.read(data_dir))
    groups = {group for group, _ in documents}
    assert sum(group.startswith("squad:") for group in groups) == 48
    assert sum(group.startswith("wikitext:") for group in groups) > 100
    text = "".join(text for _, text in documents)
    assert 5_000_000 < len(text) < 6_000_000
    assert "<unk>" not in text and " @-@ " not in text
    assert "I am still waiting on my card?" in text, "from BANKING77's training texts"
    assert "How do I locate my card?" not in text, "nothing comes from a test set"


def test_english_without_its_files_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"valid\.txt; data\.path names the folder"):
        list(corpus.read("english", str(tmp_path)))
