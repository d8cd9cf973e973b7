"""GenericTokenizer against transformers' PreTrainedTokenizerFast, and when it is selected (docs/parity.md, T8, T9)."""

import json
import shutil

import numpy as np
import pytest
import transformers
from support.hard_texts import HARD_TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import jaxmodels as jm
import jaxmodels.tokenization as jt

SPECIAL = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "bert-base-uncased": {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"},
    "roberta-base": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"},
    "t5": {"eos_token": "</s>", "pad_token": "<pad>", "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]},
}
PAIRS = ["it's", "", "the river  runs", "low <mask> </s> [SEP]"]
OPTIONS = [
    {},
    {"padding": True},
    {"padding": True, "padding_side": "left", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 12, "truncation": True},
    {"truncation": True, "max_length": 9, "stride": 2, "return_overflowing_tokens": True},
    {"add_special_tokens": False, "return_special_tokens_mask": True, "return_offsets_mapping": True},
    {"return_token_type_ids": False, "return_attention_mask": False, "return_length": True},
]


@pytest.fixture(params=SPECIAL)
def json_file(request, data_dir):
    return data_dir / "tokenizers" / request.param / "tokenizer.json"


@pytest.fixture
def pair(json_file):
    """The same tokenizer.json here and in transformers."""
    special = SPECIAL[json_file.parent.name]
    return (
        jt.GenericTokenizer(json_file, **special),
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(json_file), **special),
    )


def assert_equal_fields(actual, expected):
    assert set(actual) == set(expected)
    for name, sequences in expected.items():
        sequences = sequences if isinstance(sequences, list) else [sequences]
        for a, b in zip(actual[name], sequences, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b).reshape(np.shape(a)), err_msg=name)


@pytest.mark.parity("T1", "T2", "T3", "T4")
def test_encoding_equals_transformers(pair):
    tokenizer, expected = pair
    for text in HARD_TEXTS:
        assert tokenizer.encode(text) == expected.encode(text), repr(text)
    assert_equal_fields(tokenizer("Hello world"), expected("Hello world"))
    texts = ["Hello world and the river", "low", "", "a b c d e f g h i j k l m n o p"]
    for padding_side in ("right", "left"):
        tokenizer.padding_side = expected.padding_side = padding_side
        for options in OPTIONS:
            assert_equal_fields(tokenizer(texts, **options), expected(texts, **options))
            if "stride" not in options:
                assert_equal_fields(tokenizer(texts, PAIRS, **options), expected(texts, PAIRS, **options))
    encoded = {"input_ids": [[5, 6, 7], [8]]}
    assert_equal_fields(tokenizer.pad(encoded), expected.pad(encoded))


@pytest.mark.parity("T5", "T6")
def test_decoding_and_special_tokens_equal_transformers(pair):
    tokenizer, expected = pair
    assert tokenizer.special_tokens_map == expected.special_tokens_map
    assert tokenizer.all_special_ids == expected.all_special_ids
    assert tokenizer.get_vocab() == expected.get_vocab() and tokenizer.vocab_size == expected.vocab_size
    for new in (tokenizer, expected):
        assert new.add_special_tokens({"additional_special_tokens": ["<new>"]}) == 1
        assert new.add_tokens(["wörd"]) == 1
    for text in (*HARD_TEXTS, "a <new>b wörd c"):
        ids = expected.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.convert_ids_to_tokens(ids) == expected.convert_ids_to_tokens(ids)
        for skip in (False, True):
            for clean_up in (None, True, False):
                options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean_up}
                assert tokenizer.decode(ids, **options) == expected.decode(ids, **options), repr(text)


@pytest.mark.parity("T8", "T9")
def test_save_and_load(pair, tmp_path):
    tokenizer, _ = pair
    tokenizer.add_tokens("new word")
    tokenizer.padding_side, tokenizer.model_max_length = "left", 9999
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded, reference = jm.load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is jm.GenericTokenizer and type(reference) is transformers.PreTrainedTokenizerFast
    for other in (loaded, reference):
        assert other.special_tokens_map == tokenizer.special_tokens_map
        assert other.get_vocab() == tokenizer.get_vocab()
        assert (other.padding_side, other.model_max_length) == ("left", 9999)
        for text in (*HARD_TEXTS, "a new word"):
            assert other.encode(text) == tokenizer.encode(text)
            assert other.decode(tokenizer.encode(text), True) == tokenizer.decode(tokenizer.encode(text), True)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"):
        assert (again / name).read_text() == (tmp_path / name).read_text()
    with pytest.raises(ValueError, match="has no vocabulary files"):
        loaded.save_vocabulary(tmp_path)


def unknown_vocabulary(folder, **parts):
    """Write a tokenizer.json that belongs to no family."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1, "the": 2, "river": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<end>"])
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.save(str(folder / "tokenizer.json"))
    return backend


@pytest.mark.parity("T8")
def test_a_folder_with_only_an_unknown_tokenizer_json(tmp_path):
    backend = unknown_vocabulary(tmp_path)
    tokenizer = jm.load_tokenizer(tmp_path, eos_token="<end>", unk_token="<unk>")
    reference = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")
    assert type(tokenizer) is jm.GenericTokenizer
    ids = tokenizer.encode("the lake the river <end>")
    assert ids == reference.encode("the lake the river <end>") == [2, 0, 2, 3, 1]
    # without a decoder, tokens are joined by spaces
    assert tokenizer.decode(ids, True) == reference.decode(ids, True) == "the the river"
    assert tokenizer.convert_tokens_to_ids("lake") == 0
    with pytest.raises(ValueError, match="padding needs a pad token"):
        tokenizer(["the", "the river"], padding=True)
    with pytest.raises(TypeError, match="GenericTokenizer has no option 'colour'"):
        jm.load_tokenizer(tmp_path, colour="blue")


@pytest.mark.parity("T8")
def test_special_tokens_come_from_the_files_beside_it(tmp_path):
    unknown_vocabulary(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<end>", "unk_token": {"content": "<unk>"}}')
    assert jm.load_tokenizer(tmp_path).special_tokens_map == {"eos_token": "<end>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_input_names": ["input_ids"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, reference = jm.load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    assert tokenizer.pad_token_id == reference.pad_token_id == 4
    assert set(tokenizer("the river")) == set(reference("the river")) == {"input_ids"}


@pytest.mark.parity("T8")
def test_settings_stored_in_the_tokenizer_json(tmp_path):
    backend = unknown_vocabulary(tmp_path)
    backend.enable_padding(direction="left", pad_id=1, pad_token="<end>", length=7)
    backend.enable_truncation(3, direction="left")
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = jm.load_tokenizer(tmp_path)
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    texts = ["the river the river", "the"]
    for options in ({}, {"padding": True}, {"truncation": True, "max_length": 2}):
        assert_equal_fields(tokenizer(texts, **options), reference(texts, **options))
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token) == ("left", "left", "<end>")
    assert jm.load_tokenizer(tmp_path, pad_token=None, padding_side="right").pad_token is None


@pytest.mark.parity("T8")
def test_add_prefix_space(data_dir):
    path = data_dir / "tokenizers" / "gpt2" / "tokenizer.json"
    plain = jm.GenericTokenizer(path)
    spaced = jm.GenericTokenizer(path, add_prefix_space=True)
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), add_prefix_space=True)
    assert plain.add_prefix_space is None and spaced.add_prefix_space is True
    assert spaced.encode("river") == reference.encode("river") == plain.encode(" river") != plain.encode("river")
    assert jm.GenericTokenizer(path, add_prefix_space=False).encode("river") == plain.encode("river")
    with pytest.raises(ValueError, match="add_prefix_space must be True or False"):
        jm.GenericTokenizer(path, add_prefix_space="no")


@pytest.mark.parametrize(
    ("tokenizer_class", "model_type", "name"),
    [
        (None, None, "GPT2Tokenizer"),  # by its vocabulary
        (None, "llama", "GenericTokenizer"),
        ("PreTrainedTokenizerFast", None, "GenericTokenizer"),
        ("PreTrainedTokenizerFast", "llama", "GenericTokenizer"),
        ("PreTrainedTokenizerFast", "gpt2", "GPT2Tokenizer"),
        ("TokenizersBackend", None, "GPT2Tokenizer"),
        ("TokenizersBackend", "llama", "GenericTokenizer"),
        ("GPT2TokenizerFast", "llama", "GPT2Tokenizer"),
        ("GenericTokenizer", None, "GenericTokenizer"),
    ],
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parity("T8")
def test_class_of_a_folder(data_dir, tmp_path, tokenizer_class, model_type, name):
    shutil.copyfile(data_dir / "tokenizers" / "gpt2" / "tokenizer.json", tmp_path / "tokenizer.json")
    if tokenizer_class:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert type(jm.load_tokenizer(tmp_path)).__name__ == name
    for cls in (jm.GenericTokenizer, "GenericTokenizer", "PreTrainedTokenizerFast"):
        assert type(jm.load_tokenizer(tmp_path, cls=cls)) is jm.GenericTokenizer


@pytest.mark.parity("T8")
def test_an_unsupported_class_is_named_in_a_warning(data_dir, tmp_path):
    shutil.copyfile(data_dir / "tokenizers" / "t5" / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XGLMTokenizer", "unk_token": "<unk>"}')
    with pytest.warns(UserWarning, match="is for a XGLMTokenizer, which is not supported: a GenericTokenizer reads"):
        tokenizer = jm.load_tokenizer(tmp_path)
    assert type(tokenizer) is jm.GenericTokenizer and tokenizer.unk_token == "<unk>"


@pytest.mark.parity("T8")
def test_a_vocabulary_of_a_family_with_other_parts(tmp_path):
    """[CLS] and [SEP] alone do not make a tokenizer.json BERT's, nor <s>, </s> and <mask> RoBERTa's."""
    for tokens in (["[CLS]", "[SEP]", "[UNK]"], ["<s>", "</s>", "<mask>"], ["<|endoftext|>"], ["<extra_id_0>"]):
        vocabulary = {token: i for i, token in enumerate([*tokens, "the"])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens[-1]))
        backend.decoder = decoders.WordPiece()
        backend.save(str(tmp_path / "tokenizer.json"))
        assert type(jm.load_tokenizer(tmp_path)) is jm.GenericTokenizer
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens[-1]))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.save(str(tmp_path / "tokenizer.json"))
        assert type(jm.load_tokenizer(tmp_path)) is jm.GenericTokenizer


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "must contain a JSON object"),
        (b"{}", "is not a tokenizer.json that the tokenizers library can read"),
        (b'{"model": 3, "decoder": [], "normalizer": {"normalizers": 3}}', "is not a tokenizer.json"),
        (b"\xff\xfe", "tokenizer.json"),
        (b'{"a": ' * 3000, "is not valid JSON"),
    ],
)
@pytest.mark.parity("T8")
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content, match):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=match) as refused:
        jm.load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(refused.value) and len(str(refused.value)) <= 500


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("part", "state", "match"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [DOUBLE] * 40}, "normalizer could lengthen a text"),
        ("decoder", {"type": "Sequence", "decoders": [DOUBLE] * 40}, "decoder could lengthen a text"),
        (
            "post_processor",
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": []}
            | {"special_tokens": {}},
            "is not a tokenizer.json|post-processor is invalid",
        ),
        (
            "padding",
            {"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_id": 0, "pad_type_id": 0},
            "tokenizer.json",
        ),
    ],
)
@pytest.mark.parity("T8")
def test_hostile_parts_are_refused(tmp_path, part, state, match):
    unknown_vocabulary(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {part: state}))
    with pytest.raises(ValueError, match=match):
        jm.load_tokenizer(tmp_path)


@pytest.mark.parity("T8")
def test_stored_padding_takes_no_memory(tmp_path):
    backend = unknown_vocabulary(tmp_path)
    backend.enable_padding(pad_id=1, pad_token="<end>", length=10**12)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert jm.load_tokenizer(tmp_path).encode("the river") == [2, 3]


@pytest.mark.parity("T8")
def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json, which GenericTokenizer needs; it contains"):
        jm.load_tokenizer(tmp_path, cls=jm.GenericTokenizer)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        jm.GenericTokenizer(tmp_path / "tokenizer.json")
