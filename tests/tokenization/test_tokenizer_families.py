"""The base class in all families but GPT-2, which has separate tests (docs/parity.md, T1 to T9)."""

import json
import shutil

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken

import jaxmodels.tokenization as jt

CLASSES = [
    "BertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "RobertaTokenizer",
]
TEXTS = ["What is the capital of France? Naïve  café!", "the river", "", "Seine, 東京 [SEP] <mask> </s> x"]
PAIRS = ["Paris is the capital of France, and Rome is not.", "", "runs through Rome", "a"]


@pytest.fixture(scope="module")
def folders(small_bert_folder, roberta_files, tmp_path_factory):
    """Class name -> a folder written by transformers' slow or fast tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {}
    for name in CLASSES:
        cls = getattr(transformers, name)
        options = {"clean_up_tokenization_spaces": True, "model_max_length": 512}
        if name == "RobertaTokenizer":
            slow = cls(**roberta_files, **options)
        else:
            slow = cls(str(small_bert_folder / "vocab.txt"), **options)
        slow.save_pretrained(root / name)
        getattr(transformers, f"{name}Fast").from_pretrained(root / name).save_pretrained(root / f"{name}Fast")
        folders |= {name: root / name, f"{name}Fast": root / f"{name}Fast"}
    return folders


@pytest.fixture(scope="module", params=CLASSES)
def pair(request, folders):
    """One class here and in transformers' fast implementation."""
    fast = getattr(transformers, f"{request.param}Fast").from_pretrained(folders[f"{request.param}Fast"])
    return jt.load_tokenizer(folders[request.param]), fast


def call(tokenizer, texts, pairs=None, **options):
    """Call with texts and second texts, which are questions and titles for a reader."""
    if "Reader" in type(tokenizer).__name__:
        return tokenizer(texts, titles=pairs, **options)
    return tokenizer(texts, pairs, **options)


def assert_equal_fields(actual, expected):
    assert set(actual) == set(expected)
    for name, sequences in expected.items():
        sequences = sequences if isinstance(sequences, list) else [sequences]
        for a, b in zip(actual[name], sequences, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b).reshape(np.shape(a)), err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "max_length", "max_length": 40},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": True, "padding_side": "left"},
        {"truncation": True, "max_length": 9},
        {"truncation": "only_first", "max_length": 30},
        {"truncation": True, "max_length": 9, "padding": True, "return_special_tokens_mask": True},
        {"truncation": True, "max_length": 12, "stride": 2, "return_overflowing_tokens": True},
        {"return_offsets_mapping": True, "return_token_type_ids": True, "return_length": True},
        {"add_special_tokens": False},
        {"return_attention_mask": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("second", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parity("T1", "T2", "T3", "T4")
def test_calls_equal_the_fast_reference(pair, options, second):
    tokenizer, fast = pair
    assert_equal_fields(call(tokenizer, TEXTS, second, **options), call(fast, TEXTS, second, **options))


@pytest.mark.parity("T3")
def test_mapping_to_the_text_equals_the_fast_reference(pair):
    tokenizer, fast = pair
    actual, reference = (call(tok, TEXTS, PAIRS) for tok in (tokenizer, fast))
    for batch_index in range(len(TEXTS)):
        assert actual.tokens(batch_index) == reference.tokens(batch_index)
        assert actual.word_ids(batch_index) == reference.word_ids(batch_index)
        assert actual.sequence_ids(batch_index) == reference.sequence_ids(batch_index)
        for char in range(len(TEXTS[batch_index])):
            assert actual.char_to_token(batch_index, char) == reference.char_to_token(batch_index, char)


@pytest.mark.parity("T3", "T4")
def test_words_targets_and_single_texts(pair, folders):
    tokenizer, fast = pair
    if isinstance(tokenizer, jt.RobertaTokenizer):
        folder = folders["RobertaTokenizerFast"]
        tokenizer = jt.load_tokenizer(folder, add_prefix_space=True)
        fast = transformers.RobertaTokenizerFast.from_pretrained(folder, add_prefix_space=True)
    words = [text.split() for text in TEXTS]
    options = {"is_split_into_words": True}
    assert_equal_fields(call(tokenizer, words, **options), call(fast, words, **options))
    actual = tokenizer("a", text_target="the river")
    assert actual["labels"].tolist() == fast("a", text_target="the river")["labels"]
    assert tokenizer.encode(TEXTS[0], PAIRS[0]) == fast.encode(TEXTS[0], PAIRS[0])
    assert tokenizer.encode("the river Seine", max_length=4) == fast.encode("the river Seine", max_length=4)
    assert tokenizer.tokenize(TEXTS[0]) == fast.tokenize(TEXTS[0])
    assert tokenizer.vocab_size == fast.vocab_size and tokenizer.get_vocab() == fast.get_vocab()


@pytest.mark.parity("T1")
def test_pad_equals_the_fast_reference(pair):
    tokenizer, fast = pair
    sequences = {"input_ids": [[5, 6, 7], [8]], "token_type_ids": [[0, 1, 1], [0]]}
    options = {"padding": "max_length", "max_length": 5}
    for actual, expected in zip(
        tokenizer.pad(sequences, **options).items(), fast.pad(sequences, **options).items(), strict=True
    ):
        assert actual[0] == expected[0]
        np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("suffix", ["", "Fast"])
@pytest.mark.parity("T8")
def test_folders_that_the_reference_wrote(folders, suffix):
    for name in CLASSES:
        folder = folders[name + suffix]
        assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] in (name, f"{name}Fast")
        tokenizer = jt.load_tokenizer(folder)
        assert type(tokenizer) is getattr(jt, name)
        reference = getattr(transformers, name + suffix).from_pretrained(folder)
        assert tokenizer.special_tokens_map == reference.special_tokens_map
        assert tokenizer.model_input_names == reference.model_input_names
        for text in TEXTS:
            assert tokenizer.encode(text) == reference.encode(text)


@pytest.fixture
def changed(pair):
    """A function that loads a tokenizer and changes every setting that is saved."""
    name = type(pair[0]).__name__
    options = {"trim_offsets": False, "errors": "ignore"}
    if name != "RobertaTokenizer":
        options = {"do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True}
    return lambda folder: _change(jt.load_tokenizer(folder, padding_side="left", **options))


def _change(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<a>", lstrip=True)]})
    tokenizer.add_tokens(["newword", AddedToken("zq", normalized=False)])
    return tokenizer


@pytest.mark.parity("T6", "T9")
def test_added_tokens_and_saving(pair, changed, folders, tmp_path):
    name = type(pair[0]).__name__
    tokenizer = changed(folders[name])
    tokenizer.save_pretrained(tmp_path)
    texts = ["the <a> river newword", " zq Seine ÉTÉ", "the newwords"]
    options = (*tokenizer.OPTIONS, "padding_side", "model_max_length", "model_input_names")
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.convert_tokens_to_ids("newword") == len(tokenizer) - 2 in expected[0]
    references = [getattr(transformers, name), getattr(transformers, f"{name}Fast"), transformers.AutoTokenizer]
    for cls in references:
        reference = cls.from_pretrained(tmp_path)
        assert type(reference).__name__.removesuffix("Fast") == name
        assert reference.get_added_vocab() == tokenizer.get_added_vocab()
        assert [reference.encode(text) for text in texts] == expected, cls
        if reference.is_fast:
            assert [reference.decode(ids, True) for ids in expected] == [tokenizer.decode(i, True) for i in expected]
    from_json = jt.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for loaded in (from_json, jt.load_tokenizer(tmp_path)):
        assert type(loaded) is type(tokenizer)
        assert [loaded.encode(text) for text in texts] == expected
        assert [getattr(loaded, key) for key in options] == [getattr(tokenizer, key) for key in options]
        loaded.save_pretrained(tmp_path / "again")
        again = (tmp_path / "again" / "tokenizer_config.json").read_text()
        assert again == (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parity("T8")
def test_classes_of_real_folders(data_dir, small_bert_folder, tmp_path):
    assert type(jt.load_tokenizer(data_dir / "tokenizers" / "bert-base-uncased")) is jt.BertTokenizer
    assert type(jt.load_tokenizer(data_dir / "tokenizers" / "roberta-base")) is jt.RobertaTokenizer
    assert type(jt.load_tokenizer(data_dir / "checkpoints" / "bert-xsmall-dummy")) is jt.BertTokenizer
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(data_dir / "checkpoints" / "bert_tiniest" / name, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor vocab.txt, which BertTokenizer needs"):
        jt.load_tokenizer(tmp_path)
    shutil.copyfile(data_dir / "tokenizers" / "bert-base-uncased" / "tokenizer.json", tmp_path / "tokenizer.json")
    tokenizer = jt.load_tokenizer(tmp_path)
    assert type(tokenizer) is jt.BertTokenizer
    reference = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer.encode("Hello, is my dog cute?") == reference.encode("Hello, is my dog cute?")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "bert"}, "BertTokenizer"),
        ({"model_type": "dpr"}, "DPRQuestionEncoderTokenizer"),
        ({"model_type": "dpr", "architectures": ["DPRContextEncoder"]}, "DPRContextEncoderTokenizer"),
        ({"model_type": "dpr", "architectures": ["DPRReader"]}, "DPRReaderTokenizer"),
        ({"model_type": "dpr", "architectures": ["Other"]}, "DPRQuestionEncoderTokenizer"),
        ({"model_type": "dpr", "tokenizer_class": "BertTokenizerFast"}, "BertTokenizer"),
        ({}, "BertTokenizer"),
    ],
)
@pytest.mark.parity("T8", "BE9")
def test_class_from_config(small_bert_folder, tmp_path, config, name):
    shutil.copyfile(small_bert_folder / "vocab.txt", tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(jt.load_tokenizer(tmp_path)).__name__ == name


@pytest.mark.parametrize("model_type", ["roberta", "roberta-prelayernorm"])
@pytest.mark.parity("T8", "RO6")
def test_roberta_from_config(roberta_files, tmp_path, model_type):
    for path in roberta_files.values():
        shutil.copyfile(path, tmp_path / path.rsplit("/", 1)[1])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert type(jt.load_tokenizer(tmp_path)) is jt.RobertaTokenizer
