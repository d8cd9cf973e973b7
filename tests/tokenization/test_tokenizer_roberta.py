"""RoBERTa: ids, pairs and offsets equal transformers', slow and fast (docs/parity.md, T4)."""

import json

import numpy as np
import pytest
import tokenizers
import transformers
from support.hard_texts import HARD_TEXTS

import jaxmodels.tokenization as jt

ROBERTA_TEXTS = [
    "<s> a</s>b<pad><unk> x",
    "a <mask> b<mask>c  <mask>\n<mask>",
    "Paris is the <mask> of France.",
    "<|endoftext|> <MASK> <mask",
]
PAIRS = [("a b", "c d"), ("", "c"), ("a", ""), ("", ""), ("a <mask>", " <mask> b")]


@pytest.fixture(scope="module")
def roberta(data_dir):
    return jt.load_tokenizer(data_dir / "tokenizers" / "roberta-base")


@pytest.fixture(scope="module")
def slow_roberta(roberta_files):
    return transformers.RobertaTokenizer(**roberta_files)


@pytest.fixture(scope="module")
def fast_roberta(roberta_files):
    return transformers.RobertaTokenizerFast(**roberta_files)


@pytest.mark.parity("T4")
def test_roberta_ids_equal_both_references(roberta, slow_roberta, fast_roberta):
    assert type(roberta) is jt.RobertaTokenizer
    for text in (*HARD_TEXTS, *ROBERTA_TEXTS):
        ids = roberta.encode(text)
        assert ids == fast_roberta.encode(text), ascii(text)
        assert ids == slow_roberta.encode(text), ascii(text)
        assert roberta.tokenize(text) == fast_roberta.tokenize(text)
        for skip in (False, True):
            assert roberta.decode(ids, skip, False) == fast_roberta.decode(ids, skip, False)


@pytest.mark.parity("T4")
def test_roberta_real_text_equals_both_references(roberta, slow_roberta, fast_roberta, data_dir):
    articles = json.loads((data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
    texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    ids = [sequence.tolist() for sequence in roberta(texts)["input_ids"]]
    assert ids == fast_roberta(texts)["input_ids"]
    assert all(ids[i] == slow_roberta.encode(texts[i]) for i in range(0, len(texts), 20))


@pytest.mark.parity("T3", "T4", "T8")
def test_roberta_from_vocabulary_equals_tokenizer_json(roberta, roberta_files):
    tokenizer = jt.RobertaTokenizer(**roberta_files)
    texts = [*HARD_TEXTS, *ROBERTA_TEXTS]
    for name in ("input_ids", "offset_mapping"):
        actual, expected = (tok(texts, return_offsets_mapping=True)[name] for tok in (tokenizer, roberta))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert tokenizer.special_tokens_map == roberta.special_tokens_map
    assert len(tokenizer) == len(roberta)


@pytest.mark.parametrize(("text", "pair"), PAIRS)
@pytest.mark.parity("T3", "T4")
def test_roberta_pairs_equal_both_references(roberta, slow_roberta, fast_roberta, text, pair):
    options = {"return_special_tokens_mask": True, "return_token_type_ids": True}
    actual = roberta(text, pair, **options)
    for reference in (slow_roberta, fast_roberta):
        # the fast one ignores an empty second text, but not in a batch
        expected = reference([text], [pair], **options)
        for name in ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask"):
            assert actual[name].tolist() == expected[name][0], name
    assert set(roberta(text, pair)) == {"input_ids", "attention_mask"}
    for is_pair in (False, True):
        assert roberta.num_special_tokens_to_add(is_pair) == slow_roberta.num_special_tokens_to_add(is_pair)


@pytest.mark.parametrize("trim_offsets", [True, False])
@pytest.mark.parametrize("add_prefix_space", [True, False])
@pytest.mark.parametrize("source", ["vocabulary", "tokenizer.json"])
@pytest.mark.parity("T3")
def test_roberta_offsets_and_prefix_space(data_dir, roberta_files, source, trim_offsets, add_prefix_space):
    options = {"trim_offsets": trim_offsets, "add_prefix_space": add_prefix_space}
    folder = data_dir / "tokenizers" / "roberta-base"
    from_json = source == "tokenizer.json"
    arguments = {"tokenizer_file": str(folder / source)} if from_json else roberta_files
    tokenizer = jt.RobertaTokenizer(**arguments, **options)
    reference = transformers.RobertaTokenizerFast(**arguments, **options)
    assert (tokenizer.trim_offsets, tokenizer.add_prefix_space) == (trim_offsets, add_prefix_space)
    for text in ("a b", " a  b\n c", "é 🙂 x", "a <mask> b", ""):
        actual = tokenizer(text, return_offsets_mapping=True)
        expected = reference(text, return_offsets_mapping=True)
        assert actual["input_ids"].tolist() == expected["input_ids"]
        assert actual["offset_mapping"].tolist() == [list(span) for span in expected["offset_mapping"]]


@pytest.mark.parity("T6")
def test_roberta_mask_token_absorbs_the_space_before_it(roberta, roberta_files):
    assert roberta.encode("a  <mask> b") == [0, *roberta.convert_tokens_to_ids(["a", "<mask>", "Ġb"]), 2]
    assert roberta.mask_token_id == len(roberta) - 1
    plain = tokenizers.AddedToken("<mask>", lstrip=False, special=True, normalized=False)
    tokenizer = jt.RobertaTokenizer(**roberta_files, mask_token=plain)
    reference = transformers.RobertaTokenizerFast(**roberta_files, mask_token=plain)
    assert tokenizer.tokenize("a  <mask> b") == reference.tokenize("a  <mask> b") == ["a", "Ġ", "Ġ", "<mask>", "Ġb"]


@pytest.mark.parity("T6")
def test_roberta_accepts_other_special_tokens(roberta_files):
    options = {"cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "[mask]"}
    tokenizer = jt.RobertaTokenizer(**roberta_files, **options)
    reference = transformers.RobertaTokenizer(**roberta_files, **options)
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    assert tokenizer.encode("a [mask]", "b") == reference.encode("a [mask]", "b")
    tokenizer.sep_token = "</s>"
    assert tokenizer.encode("a") == [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids("a"), 2]
    with pytest.raises(ValueError, match="needs a cls_token and a sep_token"):
        jt.RobertaTokenizer(**roberta_files, cls_token=None)


@pytest.mark.parity("T3")
def test_roberta_pretokenized_input_needs_a_prefix_space(roberta, roberta_files):
    with pytest.raises(ValueError, match="add_prefix_space=True"):
        roberta(["a", "b"], is_split_into_words=True)
    tokenizer = jt.RobertaTokenizer(**roberta_files, add_prefix_space=True)
    reference = transformers.RobertaTokenizerFast(**roberta_files, add_prefix_space=True)
    words = [["Empire", "State", "Building"], ["don't", "🙂", ""]]
    actual, expected = (tok(words, is_split_into_words=True) for tok in (tokenizer, reference))
    assert [sequence.tolist() for sequence in actual["input_ids"]] == expected["input_ids"]
    assert [actual.word_ids(i) for i in range(2)] == [expected.word_ids(i) for i in range(2)]
