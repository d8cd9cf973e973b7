"""BART and LED: calls, ids and folders equal transformers', slow and fast (docs/parity.md, A19, L16)."""

import json
import shutil

import pytest
import transformers
from support.hard_texts import HARD_TEXTS
from test_tokenizer_families import PAIRS, TEXTS, assert_equal_fields
from tokenizers import AddedToken

import jaxmodels as jm

NAMES = ["BartTokenizer", "LEDTokenizer"]
SPECIAL_TEXTS = ["<s> a</s>b<pad><unk> x", "a <mask> b<mask>c  <mask>\n<mask>", "Paris is the <mask> of France. <MASK>"]
OPTIONS = {"clean_up_tokenization_spaces": True, "model_max_length": 1024}


def real_texts(data_dir) -> list[str]:
    """Encyclopedia articles, meetings, and poetry with line breaks."""
    articles = json.loads((data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
    texts = [paragraph["context"] for article in articles[:12] for paragraph in article["paragraphs"]]
    texts += (data_dir / "text/wikitext-2/valid.txt").read_text().splitlines(keepends=True)[:800]
    with open(data_dir / "longdoc/qmsum/val.jsonl") as lines:
        meetings = [json.loads(line)["meeting_transcripts"] for line, _ in zip(lines, range(3), strict=False)]
    texts += ["\n".join(f"{turn['speaker']}: {turn['content']}" for turn in meeting) for meeting in meetings]
    plays = (data_dir / "text/tinyshakespeare.txt").read_text()
    return [*texts, *(plays[i : i + 700] for i in range(0, 70_000, 700))]


@pytest.fixture(scope="module", params=NAMES)
def three(request, roberta_files):
    """One class here and in transformers' two implementations."""
    references = [getattr(transformers, request.param + suffix)(**roberta_files, **OPTIONS) for suffix in ("Fast", "")]
    return getattr(jm, request.param)(**roberta_files, **OPTIONS), *references


@pytest.mark.parity("L16", "T4")
def test_ids_equal_both_references(three):
    tokenizer, fast, slow = three
    for text in (*HARD_TEXTS, *SPECIAL_TEXTS):
        ids = tokenizer.encode(text)
        assert ids == fast.encode(text) == slow.encode(text), ascii(text)
        assert tokenizer.tokenize(text) == fast.tokenize(text)
        for skip in (False, True):
            assert tokenizer.decode(ids, skip) == fast.decode(ids, skip)


@pytest.mark.filterwarnings("ignore:a text has .* tokens")
@pytest.mark.parity("L16", "T4")
def test_real_texts_equal_both_references(three, data_dir):
    tokenizer, fast, slow = three
    texts = real_texts(data_dir)
    ids = [sequence.tolist() for sequence in tokenizer(texts).input_ids]
    assert max(map(len, ids)) > 7_000
    assert ids == fast(texts).input_ids
    assert all(ids[i] == slow.encode(texts[i]) for i in range(0, len(texts), 20))
    assert tokenizer.batch_decode(ids[::20], True) == fast.batch_decode(ids[::20], True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40, "padding_side": "left"},
        {"truncation": True, "max_length": 9, "padding": True, "return_special_tokens_mask": True},
        {"truncation": "only_first", "max_length": 30},
        {"truncation": True, "max_length": 14, "stride": 2, "return_overflowing_tokens": True},
        {"return_offsets_mapping": True, "return_token_type_ids": True, "return_length": True},
        {"add_special_tokens": False, "return_attention_mask": False},
        {"text_target": PAIRS, "padding": "max_length", "max_length": 20, "truncation": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("second", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parity("L16", "T1", "T2", "T3")
def test_calls_equal_the_fast_reference(three, options, second):
    tokenizer, fast, _ = three
    actual, expected = tokenizer(TEXTS, second, **options), fast(TEXTS, second, **options)
    assert_equal_fields(actual, expected)
    indices = range(len(actual["input_ids"]))
    assert [actual.word_ids(i) for i in indices] == [expected.word_ids(i) for i in indices]
    assert [actual.sequence_ids(i) for i in indices] == [expected.sequence_ids(i) for i in indices]


@pytest.mark.parity("L16", "T3")
def test_pretokenized_input_needs_a_prefix_space(three, roberta_files):
    tokenizer, fast, _ = three
    words = [["Empire", "State"], ["don't", ""]]
    with pytest.raises(ValueError, match="add_prefix_space=True"):
        tokenizer(words, is_split_into_words=True)
    tokenizer, fast = (type(each)(**roberta_files, add_prefix_space=True) for each in (tokenizer, fast))
    assert_equal_fields(*(each(words, is_split_into_words=True) for each in (tokenizer, fast)))


@pytest.mark.parity("L16", "T6")
def test_errors_name_missing_special_tokens(three, roberta_files):
    cls = type(three[0])
    with pytest.raises(ValueError, match=f"a {cls.__name__} needs a cls_token and a sep_token"):
        cls(**roberta_files, sep_token=None)


@pytest.mark.parametrize("kind", [1, 2], ids=["fast", "slow"])
@pytest.mark.parity("L16", "T8")
def test_folders_that_the_reference_wrote(three, kind, tmp_path):
    tokenizer, reference = three[0], three[kind]
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file() == reference.is_fast
    loaded = jm.load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.special_tokens_map == reference.special_tokens_map
    assert loaded.model_max_length == 1024
    for text in (*TEXTS, *SPECIAL_TEXTS):
        assert loaded.encode(text, "a") == reference.encode(text, "a")


@pytest.mark.parity("L16", "T9")
def test_saved_folders_load_here_and_in_the_reference(three, tmp_path):
    name = type(three[0]).__name__
    three[0].save_pretrained(tmp_path)
    tokenizer = jm.load_tokenizer(tmp_path, trim_offsets=False, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<a>", lstrip=True)]})
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(tmp_path)
    texts = ["the <a> river newword", " <mask> Seine", *TEXTS]
    expected = [tokenizer.encode(text) for text in texts]
    for cls in (getattr(transformers, name), getattr(transformers, f"{name}Fast"), transformers.AutoTokenizer):
        reference = cls.from_pretrained(tmp_path)
        assert type(reference).__name__.removesuffix("Fast") == name
        assert reference.get_added_vocab() == tokenizer.get_added_vocab()
        assert [reference.encode(text) for text in texts] == expected, cls
    from_json = jm.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for loaded in (from_json, jm.load_tokenizer(tmp_path)):
        assert type(loaded) is type(tokenizer)
        assert [loaded.encode(text) for text in texts] == expected
        assert (loaded.trim_offsets, loaded.padding_side, len(loaded)) == (False, "left", len(three[0]) + 2)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "bart"}, "BartTokenizer"),
        ({"model_type": "led"}, "LEDTokenizer"),
        ({"model_type": "led", "tokenizer_class": "BartTokenizerFast"}, "BartTokenizer"),
        ({"tokenizer_class": "LEDTokenizer"}, "LEDTokenizer"),
        ({}, "RobertaTokenizer"),
    ],
)
@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]], ids=str)
@pytest.mark.parity("L16", "T8")
def test_class_from_config(data_dir, tmp_path, config, name, files):
    for file in files:
        shutil.copyfile(data_dir / "tokenizers" / "roberta-base" / file, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = jm.load_tokenizer(tmp_path)
    assert type(tokenizer).__name__ == name
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    assert tokenizer.encode("a", "b") == [0, a, 2, 2, b, 2]
