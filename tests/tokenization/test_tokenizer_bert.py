"""WordPiece and BERT's basic tokenization equal the reference's slow tokenizer, and its fast one on real text.

Rows: docs/parity.md, D10.
"""

import copy
import itertools
import json
import pickle
import random
import unicodedata
import warnings

import numpy as np
import pytest
import tokenizers
import transformers
from support.hard_texts import HARD_TEXTS

import jaxmodels.tokenization as jt

BERT_TEXTS = [
    "ΑΣ ὈΔΥΣΣΕΎΣ Σ İstanbul IŞIK",
    "J\u030c x\u030c \u212b \u2126 \u1fef \u037e",  # lower-casing comes before composition
    "Ωé e\u0301 É E\u0301 \ufb01 ǆ",
    "[SEP] a [MASK]b[PAD] [sep] [Mask] [CLS][UNK]",
    "a" * 100 + " " + "a" * 101 + " " + "é" * 100 + " " + "e\u0301" * 51,
    "x\x1cy \x85 a\u2028b\u180ec\u00add \u2060e",
    "中\u0301文 \U00020000a\U0002b900b\U0002ceb0c \uf900\ufa0e カタカナ ひらがな ㄅ 한",
    "$5 ^caret `tick ~ a_b <x> «q» ¿? ‽ ⸘ 、 。 ٪ \u2e3a",
    "##ing a##b # # ##",
]
OPTIONS = list(itertools.product([True, False], [None, True, False], [True, False]))


def corpus(data_dir, name: str) -> list[str]:
    """Return real texts by the name of their corpus."""
    if name == "squad":
        articles = json.loads((data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
        return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    if name == "dpr":
        contexts = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
        records = json.loads((data_dir / "qa/dpr/sample.json").read_text())
        return [f"{c['title']} | {c['text']}" for record in records for key in contexts for c in record[key]]
    if name == "nq_gold":
        lines = (data_dir / "qa/nq_gold/dev.jsonl").read_text().splitlines()
        return [f"{record['question']} {record['title']} {record['passage']}" for record in map(json.loads, lines)]
    return (data_dir / "text/wikitext-2/test.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("lower", "accents", "chinese"), OPTIONS)
@pytest.mark.parity("D10")
def test_hard_texts_equal_the_slow_reference(bert_vocabulary, lower, accents, chinese):
    options = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
    tokenizer = jt.BertTokenizer(bert_vocabulary, **options)
    slow = transformers.BertTokenizer(bert_vocabulary, **options)
    for text in (*HARD_TEXTS, *BERT_TEXTS):
        assert tokenizer.tokenize(text) == slow.tokenize(text), ascii(text)
        assert tokenizer.encode(text) == slow.encode(text), ascii(text)


@pytest.mark.parity("D10")
def test_random_unicode_equals_the_slow_reference(bert_vocabulary):
    """Excludes characters that only one of the Unicode tables of the library and of Python contains."""
    rng = random.Random(0)
    ranges = [(0, 0x80), (0x80, 0x370), (0x300, 0x370), (0x370, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    ranges += [(0x20, 0x7F), (0x1F00, 0x2100), (0x2B700, 0x2BA00), (0xF900, 0xFB00), (0xAC00, 0xAD00)]
    other = tokenizers.normalizers.Replace(tokenizers.Regex(r"\p{C}"), "")

    def character():
        while True:
            char = chr(rng.randrange(*rng.choice(ranges)))
            if (other.normalize_str(char) == "") == (unicodedata.category(char)[0] == "C"):
                return char

    texts = ["".join(character() for _ in range(rng.randrange(60))) for _ in range(600)]
    for options in ({}, {"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": False} | ACCENTS):
        tokenizer = jt.BertTokenizer(bert_vocabulary, **options)
        slow = transformers.BertTokenizer(bert_vocabulary, **options)
        for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
            assert ids.tolist() == slow.encode(text), (ascii(text), options)


ACCENTS = {"strip_accents": True}


@pytest.mark.parametrize("name", ["dpr", "squad", "nq_gold", "wikitext"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parity("D10")
def test_real_text_equals_both_references(bert_vocabulary, data_dir, name, lower):
    texts = corpus(data_dir, name)
    tokenizer = jt.BertTokenizer(bert_vocabulary, do_lower_case=lower)
    slow = transformers.BertTokenizer(bert_vocabulary, do_lower_case=lower)
    fast = transformers.BertTokenizerFast(bert_vocabulary, do_lower_case=lower)
    ids = [sequence.tolist() for sequence in tokenizer(texts)["input_ids"]]
    assert sum(map(len, ids)) > 7_000
    assert ids == fast(texts)["input_ids"]
    assert all(sequence == slow.encode(text) for sequence, text in zip(ids, texts, strict=True))


@pytest.mark.parity("D10")
def test_a_sample_of_every_corpus_equals_the_slow_reference(bert_vocabulary, data_dir):
    tokenizer, slow = jt.BertTokenizer(bert_vocabulary), transformers.BertTokenizer(bert_vocabulary)
    for name in ("squad", "nq_gold", "wikitext"):
        for text in corpus(data_dir, name)[::40]:
            assert tokenizer.encode(text) == slow.encode(text)


@pytest.mark.parity("D10")
def test_offsets_on_real_text_equal_the_fast_reference(bert_vocabulary, data_dir):
    texts = corpus(data_dir, "squad")[:300] + BERT_TEXTS[4:5]
    tokenizer, fast = jt.BertTokenizer(bert_vocabulary), transformers.BertTokenizerFast(bert_vocabulary)
    actual, expected = (tok(texts, return_offsets_mapping=True)["offset_mapping"] for tok in (tokenizer, fast))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("text", "expected", "fast"),
    [
        ("a\U0002b900b", ["a", "[UNK]", "b"], ["[UNK]"]),  # Chinese; the fast range begins 256 characters later
        ("a\u0378t", ["at"], ["[UNK]"]),  # unassigned, so removed
        ("a\u061db", ["a", "[UNK]", "b"], ["[UNK]"]),  # punctuation since Unicode 14
    ],
)
@pytest.mark.parity("D10")
def test_follows_the_slow_reference_where_they_differ(bert_vocabulary, text, expected, fast):
    assert jt.BertTokenizer(bert_vocabulary).tokenize(text) == expected
    assert transformers.BertTokenizer(bert_vocabulary).tokenize(text) == expected
    assert transformers.BertTokenizerFast(bert_vocabulary).tokenize(text) == fast


@pytest.mark.parity("D10")
def test_text_is_composed_after_lower_casing_as_in_the_slow_reference(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nÉ\nE\n##\u0301\nj\n##\u030c\n\u01f0\n", encoding="utf-8")
    for text, options, tokens in [
        ("E\u0301 É E", {"do_lower_case": False}, ["É", "É", "E"]),
        ("J\u030c", {"strip_accents": False}, ["\u01f0"]),  # there is no composed capital
    ]:
        assert jt.BertTokenizer(path, **options).tokenize(text) == tokens
        assert transformers.BertTokenizer(str(path), **options).tokenize(text) == tokens


@pytest.mark.parity("D10")
def test_without_basic_tokenization(bert_vocabulary):
    tokenizer = jt.BertTokenizer(bert_vocabulary, do_basic_tokenize=False)
    slow = transformers.BertTokenizer(bert_vocabulary, do_basic_tokenize=False)
    for text in (*HARD_TEXTS, *BERT_TEXTS):
        assert tokenizer.encode(text) == slow.encode(text), ascii(text)


@pytest.mark.parity("D10")
def test_never_split(bert_vocabulary):
    words = ["[unused1]", "-", "[MASK]"]
    tokenizer = jt.BertTokenizer(bert_vocabulary, never_split=words)
    slow = transformers.BertTokenizer(bert_vocabulary, never_split=words)
    for text in ("a [unused1] b", "[unused1]", "x[unused1] [unused1]. [unused2]", "[MASK] - a-b", "[Unused1]"):
        assert tokenizer.tokenize(text) == slow.tokenize(text)
    assert "[unused1]" in tokenizer.tokenize("a [unused1] b")
    for word in ("c++", "[Unused1]"):
        with pytest.raises(ValueError, match=r"never_split: '.*' is not a token of the vocabulary.*add_tokens"):
            jt.BertTokenizer(bert_vocabulary, never_split=[word])


@pytest.mark.parity("D10")
def test_vocabulary_keeps_white_space_and_line_numbers(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n\u00a0\na\n\nb\n", encoding="utf-8")
    tokenizer, slow = jt.BertTokenizer(path), transformers.BertTokenizer(str(path))
    assert tokenizer.get_vocab() == slow.get_vocab()
    assert tokenizer.encode("a b c") == slow.encode("a b c") == [2, 7, 9, 1, 3]
    (written,) = tokenizer.save_vocabulary(tmp_path, "mine")
    assert written == str(tmp_path / "mine-vocab.txt")
    assert jt.BertTokenizer(written).encode("a b c") == [2, 7, 9, 1, 3]
    with pytest.raises(NotADirectoryError, match="needs an existing folder"):
        tokenizer.save_vocabulary(tmp_path / "absent")


@pytest.mark.parity("D10")
def test_real_vocabulary_survives(bert_vocabulary, tmp_path):
    (path,) = jt.BertTokenizer(bert_vocabulary).save_vocabulary(tmp_path)
    with open(path, "rb") as written, open(bert_vocabulary, "rb") as source:
        assert written.read() == source.read()


@pytest.mark.parity("D10", "T5")
def test_decode_equals_the_slow_reference(bert_vocabulary):
    tokenizer, slow = jt.BertTokenizer(bert_vocabulary), transformers.BertTokenizer(bert_vocabulary)
    for text in ("Isn't it unaffable , O'Neil's ? (yes) a.b", *BERT_TEXTS):
        ids = slow.encode(text)
        for skip, clean in itertools.product([True, False], repeat=2):
            expected = slow.decode(ids, skip, clean_up_tokenization_spaces=clean)
            assert tokenizer.decode(ids, skip, clean_up_tokenization_spaces=clean) == expected
    assert tokenizer.decode([2003, 1005, 1055]) == "is's"
    tokens = ["un", "##aff", "##able", "[SEP]"]
    assert tokenizer.convert_tokens_to_string(tokens) == slow.convert_tokens_to_string(tokens)


@pytest.mark.parity("D10", "T8")
def test_unknown_token_must_be_in_the_vocabulary(bert_vocabulary, small_bert_folder):
    with pytest.raises(ValueError, match="has no token '<unk>'"):
        jt.BertTokenizer(bert_vocabulary, unk_token="<unk>")
    with pytest.raises(ValueError, match="needs an unk_token"):
        jt.load_tokenizer(small_bert_folder, unk_token=None)
    with pytest.raises(ValueError, match="needs cls_token, sep_token and unk_token"):
        jt.load_tokenizer(small_bert_folder, sep_token=None)
    tokenizer = jt.load_tokenizer(small_bert_folder)
    tokenizer.unk_token = "paris"
    tokenizer.sep_token = "."
    assert tokenizer.tokenize("zzz") == ["paris"]
    assert tokenizer.encode("zzz") == tokenizer.convert_tokens_to_ids(["[CLS]", "paris", "."])


@pytest.mark.parity("T8")
def test_constructor_needs_one_source(bert_vocabulary, data_dir, tmp_path):
    for arguments in ({}, {"vocab_file": bert_vocabulary, "tokenizer_file": bert_vocabulary}):
        with pytest.raises(ValueError, match="tokenizer_file alone, or vocab_file alone"):
            jt.BertTokenizer(**arguments)
    with pytest.raises(FileNotFoundError, match="no file"):
        jt.BertTokenizer(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="its model is BPE"):
        jt.BertTokenizer(tokenizer_file=data_dir / "tokenizers" / "gpt2" / "tokenizer.json")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\xff\xfe[UNK]")
    with pytest.raises(ValueError, match="damaged is not a vocabulary in UTF-8"):
        jt.BertTokenizer(damaged)
    with pytest.raises(ValueError, match="damaged is not text in UTF-8"):
        jt.BertTokenizer(tokenizer_file=damaged)
    with pytest.raises(TypeError, match=r"BertTokenizer has no option 'colour'"):
        jt.BertTokenizer(bert_vocabulary, colour="red")


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
@pytest.mark.parity("D10", "T8")
def test_other_text_processing_is_refused(data_dir, tmp_path, part):
    state = json.loads((data_dir / "tokenizers" / "bert-base-uncased" / "tokenizer.json").read_text())
    state[part] = {"normalizer": {"type": "NFKC"}, "pre_tokenizer": {"type": "WhitespaceSplit"}}[part]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="does not prepare texts as BERT does"):
        jt.BertTokenizer(tokenizer_file=path)


@pytest.mark.parity("D10", "T8")
def test_do_lower_case_overrides_tokenizer_json_with_a_warning(data_dir, tmp_path):
    folder = data_dir / "tokenizers" / "bert-base-uncased"
    state = json.loads((folder / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(state))
    for lower in (True, False):
        reference = transformers.BertTokenizerFast(tokenizer_file=str(path), do_lower_case=lower)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tokenizer = jt.BertTokenizer(tokenizer_file=path, do_lower_case=lower)
        assert tokenizer.encode("Hello World") == reference.encode("Hello World")
        assert ["pass do_lower_case=False" in str(each.message) for each in caught] == [True] * lower


@pytest.mark.parity("D10", "T6")
def test_added_tokens_equal_the_fast_reference(bert_vocabulary):
    tokenizer, fast = jt.BertTokenizer(bert_vocabulary), transformers.BertTokenizerFast(bert_vocabulary)
    for tok in (tokenizer, fast):
        tok.add_tokens(["NewWord", tokenizers.AddedToken("RaW", normalized=False), "é"])
        tok.add_special_tokens({"additional_special_tokens": ["<Q>"]})
    for text in ("a NewWord newword NEWWORDS", "RaW raw <Q>x <q>", "é e cafe"):
        ids = tokenizer.encode(text)
        assert ids == fast.encode(text)
        assert tokenizer.decode(ids) == fast.decode(ids)


def test_pickle_and_copy(small_bert_folder):
    tokenizer = jt.load_tokenizer(small_bert_folder, strip_accents=False)
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again.encode("the river É") == tokenizer.encode("the river É")
        assert again.strip_accents is False
