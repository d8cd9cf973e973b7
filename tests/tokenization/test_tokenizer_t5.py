"""T5: tokenizer.json and spiece.model compared with transformers (docs/parity.md, T10)."""

import copy
import json
import pickle
import shutil
import sys

import pytest
import sentencepiece
import transformers
from support.hard_texts import HARD_TEXTS
from test_tokenizer_bart import real_texts
from test_tokenizer_families import PAIRS, TEXTS, assert_equal_fields
from tokenizers import AddedToken

import jaxmodels as jm

# special tokens without spaces after them, and with spaces, which the slow tokenizer treats differently
SENTINEL_TEXTS = [
    "Hello <extra_id_0>.",
    "a<extra_id_0>b<extra_id_1>",
    "1<extra_id_99>2",
    "<extra_id_100> <extra_id_-1>",
]
SENTINEL_TEXTS += ["<pad> a<unk>b", "\u2581a \u2581 b", "a \u2581\u2581b", "<extra_id_0><extra_id_1>"]
SPACED_TEXTS = ["<extra_id_0> x <extra_id_1> y", "Hey  <extra_id_0>  you"]
ENDED = "x </s> y</s>"
ALL_TEXTS = [*HARD_TEXTS, *SENTINEL_TEXTS, *SPACED_TEXTS, ENDED]


@pytest.fixture(scope="module")
def t5_files(data_dir):
    folder = data_dir / "tokenizers" / "t5"
    return {"tokenizer_file": str(folder / "tokenizer.json"), "vocab_file": str(folder / "spiece.model")}


@pytest.fixture(scope="module")
def spiece_folder(t5_files, tmp_path_factory):
    """A folder with only spiece.model and a config."""
    folder = tmp_path_factory.mktemp("spiece")
    shutil.copyfile(t5_files["vocab_file"], folder / "spiece.model")
    config = {"tokenizer_class": "T5Tokenizer", "clean_up_tokenization_spaces": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["tokenizer.json", "spiece.model", "spiece.model, legacy=False"])
def both(request, t5_files, spiece_folder):
    """A tokenizer of one of the files, here and in transformers' fast implementation."""
    options = {"clean_up_tokenization_spaces": True, "model_max_length": 512}
    if request.param == "tokenizer.json":
        path = {"tokenizer_file": t5_files["tokenizer_file"]}
        return jm.T5Tokenizer(**path, **options), transformers.T5TokenizerFast(**path, **options)
    options = {"legacy": not request.param.endswith("False")}
    # the constructor of the installed version omits the space before a text, from_pretrained does not
    reference = transformers.T5TokenizerFast.from_pretrained(spiece_folder, **options)
    return jm.load_tokenizer(spiece_folder, **options), reference


@pytest.fixture(scope="module")
def t5(t5_files):
    return jm.load_tokenizer(t5_files["tokenizer_file"].rsplit("/", 1)[0])


def trained(folder, **options) -> str:
    """The path of a spiece.model trained on a line of text: pad 0, eos 1, unk 2."""
    lines = ["the river runs through the capital and the river is long", "a capital city by a river"] * 5
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2, "num_threads": 1}
    prefix = str(folder / "spiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=prefix, hard_vocab_limit=False, **{"vocab_size": 40} | ids | options
    )
    return f"{prefix}.model"


@pytest.mark.parity("T4", "T10")
def test_t5_ids_equal_the_fast_reference(both):
    tokenizer, reference = both
    assert len(tokenizer) == tokenizer.vocab_size == len(reference) == reference.vocab_size
    assert tokenizer.get_vocab() == reference.get_vocab()
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    for text in ALL_TEXTS:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text), ascii(text)
        assert tokenizer.tokenize(text) == reference.tokenize(text)
        assert tokenizer.convert_ids_to_tokens(ids) == reference.convert_ids_to_tokens(ids)
        for skip in (False, True):
            for clean_up in (False, True):
                assert tokenizer.decode(ids, skip, clean_up) == reference.decode(ids, skip, clean_up), ascii(text)


@pytest.mark.filterwarnings("ignore:a text has .* tokens")
@pytest.mark.parity("T4", "T10")
def test_t5_real_texts_equal_the_fast_reference(both, data_dir):
    tokenizer, reference = both
    texts = real_texts(data_dir)
    ids = [sequence.tolist() for sequence in tokenizer(texts).input_ids]
    assert ids == reference(texts).input_ids
    assert tokenizer.batch_decode(ids[::20], True) == reference.batch_decode(ids[::20], True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40, "padding_side": "left"},
        {"truncation": True, "max_length": 9, "padding": True, "return_special_tokens_mask": True},
        {"truncation": True, "padding": "max_length"},
        {"truncation": "only_first", "max_length": 30},
        {"truncation": True, "max_length": 12, "stride": 2, "return_overflowing_tokens": True},
        {"return_offsets_mapping": True, "return_token_type_ids": True, "return_length": True},
        {"add_special_tokens": False, "return_attention_mask": False},
        {"text_target": PAIRS, "padding": "max_length", "max_length": 20, "truncation": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("second", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parity("T1", "T2", "T3", "T10")
def test_t5_calls_equal_the_fast_reference(both, options, second):
    tokenizer, reference = both
    texts = [*TEXTS, "fill <extra_id_0> in  <extra_id_1>."]
    second = second and [*second, "x"]
    if "text_target" in options:
        options = options | {"text_target": [*PAIRS, "x"]}
    actual, expected = tokenizer(texts, second, **options), reference(texts, second, **options)
    assert_equal_fields(actual, expected)
    indices = range(len(actual["input_ids"]))
    assert [actual.word_ids(i) for i in indices] == [expected.word_ids(i) for i in indices]
    assert [actual.sequence_ids(i) for i in indices] == [expected.sequence_ids(i) for i in indices]


@pytest.mark.parity("T1", "T10")
def test_t5_words_and_pad(both):
    tokenizer, reference = both
    words = [["Empire", "State", "<extra_id_0>"], ["don't", "🙂", ""]]
    assert_equal_fields(*(each(words, is_split_into_words=True) for each in both))
    examples = [{"input_ids": [5, 6, 1]}, {"input_ids": [7, 1]}]
    options = {"padding": "max_length", "max_length": 5}
    assert_equal_fields(tokenizer.pad(examples, **options), reference.pad(examples, **options))


@pytest.mark.parity("T10")
def test_t5_ids_of_special_texts(t5):
    assert type(t5) is jm.T5Tokenizer
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id, t5.bos_token_id) == (0, 1, 2, None)
    assert t5("a", "b").input_ids.tolist() == [3, 9, 1, 3, t5.convert_tokens_to_ids("b"), 1]
    assert set(t5("a", "b")) == {"input_ids", "attention_mask"}
    assert t5("a", "b", return_token_type_ids=True).token_type_ids.tolist() == [0] * 6
    assert (t5.num_special_tokens_to_add(), t5.num_special_tokens_to_add(pair=True)) == (1, 2)
    assert t5.decode(t5.encode("a <extra_id_3>x"), skip_special_tokens=True) == "a x"
    again = [pickle.loads(pickle.dumps(t5)), copy.deepcopy(t5)]
    assert all(each.encode(ENDED) == t5.encode(ENDED) for each in again)


@pytest.mark.parity("T10")
def test_t5_spiece_equals_tokenizer_json(t5, spiece_folder, data_dir):
    """Except for U+0085, which is white space in this folder's JSON but not in spiece.model."""
    from_spiece = jm.load_tokenizer(spiece_folder)
    texts = [text for text in ALL_TEXTS if "\x85" not in text] + real_texts(data_dir)[:700]
    for actual, expected in zip(from_spiece(texts).input_ids, t5(texts).input_ids, strict=True):
        assert actual.tolist() == expected.tolist()
    assert from_spiece.get_vocab() == t5.get_vocab()


@pytest.mark.parametrize("legacy", [None, True, False])
@pytest.mark.parity("T10")
def test_t5_ids_equal_the_slow_reference(t5_files, legacy, data_dir):
    """The cases that the docstring lists, equal and different."""
    slow = transformers.T5Tokenizer(t5_files["vocab_file"], legacy=legacy)
    tokenizer = jm.T5Tokenizer(t5_files["vocab_file"], legacy=legacy)
    assert tokenizer.legacy is slow.legacy is (legacy is not False)
    for text in [*HARD_TEXTS, *SENTINEL_TEXTS, *real_texts(data_dir)[::20]]:
        assert tokenizer.encode(text) == slow.encode(text), ascii(text)
    for text in SPACED_TEXTS:
        assert (tokenizer.encode(text) == slow.encode(text)) is (legacy is not False), text
    with pytest.warns(UserWarning, match="already has </s>"):
        assert [*slow.encode(ENDED), 1] == tokenizer.encode(ENDED)
    assert set(tokenizer.get_sentinel_tokens()) == set(slow.get_sentinel_tokens())


@pytest.mark.parity("T10")
def test_t5_sentinels(t5, t5_files):
    tokens, ids = t5.get_sentinel_tokens(), t5.get_sentinel_token_ids()
    assert tokens == [f"<extra_id_{i}>" for i in range(100)]
    pieces = len(t5) - 100
    assert ids == list(range(pieces + 99, pieces - 1, -1))
    tokenizer = jm.T5Tokenizer(t5_files["vocab_file"], extra_ids=3, additional_special_tokens=["<a>", "<b>"])
    assert tokenizer.additional_special_tokens == ["<a>", "<b>", *tokens[:3]]
    assert tokenizer.get_sentinel_tokens() == tokens[:3]
    assert tokenizer.get_sentinel_token_ids() == [pieces + 2, pieces + 1, pieces]
    assert tokenizer.additional_special_tokens_ids[:2] == [pieces + 3, pieces + 4]
    assert jm.T5Tokenizer(t5_files["vocab_file"], extra_ids=0).get_sentinel_tokens() == []


@pytest.mark.parametrize("source", ["vocab_file", "tokenizer_file"])
@pytest.mark.parametrize(
    "options",
    [
        {"extra_ids": 7},
        {"extra_ids": 0},
        {"additional_special_tokens": ["<a>", "river"]},
        {"additional_special_tokens": ["<a>", "<extra_id_1>", "<extra_id_0>"], "extra_ids": 2},
        {"additional_special_tokens": ["<extra_id_0>"], "extra_ids": 0},
        {"eos_token": "</s>", "pad_token": "[PAD]", "bos_token": "<s>"},
    ],
    ids=str,
)
@pytest.mark.parity("T6", "T10")
def test_t5_special_tokens_equal_the_fast_reference(t5_files, source, options):
    path = {source: t5_files[source]}
    tokenizer = jm.T5Tokenizer(**path, **options)
    # transformers' constructor omits this when reading spiece.model
    prefix = {"add_prefix_space": True} if source == "vocab_file" else {}
    reference = transformers.T5TokenizerFast(**path, **prefix, **copy.deepcopy(options))
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    assert tokenizer.additional_special_tokens_ids == reference.additional_special_tokens_ids
    assert tokenizer.get_vocab() == reference.get_vocab()
    for text in ("a <extra_id_1>b<a> river<extra_id_0>", "<s> [PAD]"):
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(tokenizer.encode(text), True) == reference.decode(reference.encode(text), True)


@pytest.mark.parity("T10")
def test_t5_other_eos_tokens(t5_files):
    """As in the slow reference; the fast one keeps the </s> of its tokenizer.json."""
    tokenizer = jm.T5Tokenizer(tokenizer_file=t5_files["tokenizer_file"], eos_token="<extra_id_5>")
    slow = transformers.T5Tokenizer(t5_files["vocab_file"], eos_token="<extra_id_5>", legacy=True)
    assert tokenizer.encode("a", "b") == slow.encode("a", "b")
    tokenizer.eos_token = "</s>"
    assert tokenizer.encode("a")[-1] == 1
    with pytest.raises(ValueError, match="a T5Tokenizer needs an eos_token"):
        jm.T5Tokenizer(tokenizer_file=t5_files["tokenizer_file"], eos_token=None)


@pytest.mark.parametrize(
    ("legacy", "prefix"),
    [
        (True, None),
        (False, None),
        (None, True),
        (True, True),
        (False, True),
        (None, False),
        (True, False),
        (False, False),
    ],
)
@pytest.mark.parity("T10")
def test_t5_legacy_and_prefix_override_tokenizer_json(t5_files, legacy, prefix, tmp_path):
    """transformers converts spiece.model again for these options; here the JSON is changed."""
    options = {"legacy": legacy, "add_prefix_space": prefix}
    expected = transformers.T5TokenizerFast(
        t5_files["vocab_file"], **{**options, "add_prefix_space": prefix is not False}
    )
    tokenizer = jm.T5Tokenizer(tokenizer_file=t5_files["tokenizer_file"], **options)
    assert (tokenizer.legacy, tokenizer.add_prefix_space) == (legacy is not False, prefix)
    tokenizer.save_pretrained(tmp_path)
    reloaded = jm.load_tokenizer(tmp_path)
    texts = [text for text in ALL_TEXTS if "\x85" not in text]
    for each in (tokenizer, jm.T5Tokenizer(t5_files["vocab_file"], **options), reloaded):
        assert (each.legacy, each.add_prefix_space) == (legacy is not False, prefix)
        for text in texts:
            ids = each.encode(text)
            assert ids == expected.encode(text), ascii(text)
            assert each.decode(ids, True, False) == expected.decode(ids, True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parity("T10", "T8")
def test_t5_folders_that_the_reference_wrote(spiece_folder, name, legacy, tmp_path, recwarn):
    cls = getattr(transformers, name)
    reference = cls.from_pretrained(spiece_folder, legacy=legacy)
    more = {"additional_special_tokens": ["<a>"]}
    assert reference.add_special_tokens(more, replace_additional_special_tokens=False) == 1
    reference.add_tokens(["newword"])
    reference.save_pretrained(tmp_path)
    recwarn.clear()
    tokenizer = jm.load_tokenizer(tmp_path)
    assert not recwarn
    assert type(tokenizer) is jm.T5Tokenizer and tokenizer.legacy is legacy
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    assert set(tokenizer.additional_special_tokens) == set(reference.additional_special_tokens)
    fast = transformers.T5TokenizerFast.from_pretrained(tmp_path)
    for text in SENTINEL_TEXTS:
        assert tokenizer.encode(text) == reference.encode(text), text
    for text in ("x <a> newword y", *TEXTS):  # the slow one drops the space before newword
        assert tokenizer.encode(text) == fast.encode(text), text


@pytest.mark.parity("T10")
def test_t5_sentinels_that_the_slow_reference_misplaces_are_refused(t5_files, tmp_path):
    """With other special tokens it puts those first and numbers the sentinels upwards, unlike published T5 models."""
    slow = transformers.T5Tokenizer(t5_files["vocab_file"], additional_special_tokens=["<a>"], legacy=True)
    pieces = len(slow) - 101
    assert slow.convert_tokens_to_ids(["<a>", "<extra_id_0>"]) == [pieces, pieces + 1]
    slow.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'<a>' must have the id {pieces} and would get {pieces + 100}"):
        jm.load_tokenizer(tmp_path)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parity("T9", "T10")
def test_t5_saved_folder_loads_here_and_in_the_reference(spiece_folder, legacy, tmp_path):
    tokenizer = jm.load_tokenizer(spiece_folder, legacy=legacy, extra_ids=10, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]}, replace_additional_special_tokens=False)
    tokenizer.add_tokens(["newword", AddedToken("zq", lstrip=True)])
    texts = ["a <a>river newword", *TEXTS, *SENTINEL_TEXTS[:3], "x zq"]
    expected = [tokenizer.encode(text) for text in texts]
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == (spiece_folder / "spiece.model").read_bytes()
    for cls in (transformers.T5Tokenizer, transformers.T5TokenizerFast, transformers.AutoTokenizer):
        reference = cls.from_pretrained(tmp_path)
        assert type(reference).__name__.removesuffix("Fast") == "T5Tokenizer"
        assert reference.get_added_vocab().items() >= tokenizer.get_added_vocab().items() - {("<unk>", 2)}
        if reference.is_fast:
            assert [reference.encode(text) for text in texts] == expected
        else:  # it spaces added tokens differently
            assert [reference.encode(text) for text in TEXTS] == expected[1 : 1 + len(TEXTS)]
    from_json = jm.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for loaded in (from_json, jm.load_tokenizer(tmp_path)):
        assert [loaded.encode(text) for text in texts] == expected
        assert (loaded.legacy, loaded.extra_ids, loaded.padding_side) == (legacy, 10, "left")
        loaded.save_pretrained(tmp_path / "again")
        again = (tmp_path / "again" / "tokenizer_config.json").read_text()
        assert again == (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parity("T9", "T10")
def test_t5_saving_without_spiece(t5_files, tmp_path):
    tokenizer = jm.T5Tokenizer(tokenizer_file=t5_files["tokenizer_file"])
    names = [path.rsplit("/", 1)[1] for path in tokenizer.save_pretrained(tmp_path)]
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for loaded in (jm.load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded.encode(ENDED) == tokenizer.encode(ENDED)
    with pytest.raises(ValueError, match="made from a tokenizer.json without spiece.model.*vocab_file, too"):
        tokenizer.save_vocabulary(tmp_path)


@pytest.mark.parity("T9", "T10")
def test_t5_save_vocabulary(t5, tmp_path):
    assert t5.save_vocabulary(tmp_path, "mine") == (str(tmp_path / "mine-spiece.model"),)
    assert t5.save_vocabulary(tmp_path) == (str(tmp_path / "spiece.model"),)
    assert transformers.T5Tokenizer(str(tmp_path / "spiece.model"), legacy=True).encode("river") == t5.encode("river")
    with pytest.raises(NotADirectoryError, match="needs an existing folder"):
        t5.save_vocabulary(tmp_path / "absent")


@pytest.mark.parametrize("config", [{}, {"model_type": "t5"}, {"tokenizer_class": "T5TokenizerFast"}], ids=str)
@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
@pytest.mark.parity("T10", "T8")
def test_t5_class_from_config_or_vocabulary(data_dir, tmp_path, config, file):
    shutil.copyfile(data_dir / "tokenizers" / "t5" / file, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = jm.load_tokenizer(tmp_path)
    assert type(tokenizer) is jm.T5Tokenizer
    assert tokenizer.encode("a <extra_id_0>") == [3, 9, len(tokenizer) - 1, 1]


@pytest.mark.parity("T10")
def test_t5_reads_a_newly_trained_model(tmp_path):
    """User-defined symbols, and a model without normalization."""
    path = trained(tmp_path, user_defined_symbols=["<a>", "zq"], normalization_rule_name="identity")
    tokenizer = jm.T5Tokenizer(path, extra_ids=2)
    fast = transformers.T5TokenizerFast(path, extra_ids=2, add_prefix_space=True)
    slow = transformers.T5Tokenizer(path, extra_ids=2, legacy=True)
    for text in ("the river zq<a>", "ﬁ the <extra_id_1>city", "  a  "):
        assert tokenizer.encode(text) == fast.encode(text)
    assert tokenizer.get_added_vocab() == fast.get_added_vocab()
    assert "zq" in tokenizer.get_added_vocab() and "zq" not in tokenizer.all_special_tokens
    assert tokenizer.encode("the  river ﬁ") == slow.encode("the  river ﬁ")
    rebuilt = jm.T5Tokenizer(path, extra_ids=2, legacy=False)
    assert rebuilt.encode("a<extra_id_1>b") != tokenizer.encode("a<extra_id_1>b")


@pytest.mark.parity("T10")
def test_t5_byte_fallback_is_not_used(tmp_path):
    path = trained(tmp_path, byte_fallback=True, vocab_size=300)
    with pytest.warns(UserWarning, match="represents unknown characters by bytes"):
        tokenizer = jm.T5Tokenizer(path)
    with pytest.warns(UserWarning, match="byte fallback"):
        reference = transformers.T5TokenizerFast(path, add_prefix_space=True)
    assert tokenizer.encode("the 🙂") == reference.encode("the 🙂")
    assert tokenizer.unk_token_id in tokenizer.encode("the 🙂")


@pytest.mark.parity("T10")
def test_t5_missing_packages(spiece_folder, t5, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(ImportError, match=r"spiece.model needs sentencepiece and protobuf.*pip install sentencepiece"):
        jm.load_tokenizer(spiece_folder)
    assert t5.encode("a") == [3, 9, 1]


@pytest.mark.parity("T10")
def test_t5_a_folder_with_both_files_needs_no_package(t5_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    assert jm.load_tokenizer(t5_files["vocab_file"].rsplit("/", 1)[0], legacy=False).encode("a") == [3, 9, 1]


@pytest.mark.parametrize("damage", [b"", b"{damaged", b"\x0a\xff\xff"])
@pytest.mark.parity("T8", "T10")
def test_t5_damaged_spiece_is_refused(spiece_folder, tmp_path, damage):
    path = tmp_path / "spiece.model"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"spiece.model is not a SentencePiece"):
        jm.T5Tokenizer(path)


@pytest.mark.parity("T10")
def test_t5_other_model_types_are_refused(data_dir, t5_files, tmp_path):
    with pytest.raises(ValueError, match="not a SentencePiece unigram model"):
        jm.T5Tokenizer(trained(tmp_path, model_type="bpe"))
    with pytest.raises(ValueError, match="not T5's unigram model: its model is BPE, its decoder is ByteLevel"):
        jm.load_tokenizer(data_dir / "tokenizers" / "gpt2", cls=jm.T5Tokenizer)
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer.json"):
        (tmp_path / "tokenizer.json").write_text("{damaged")
        jm.T5Tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    with open(t5_files["tokenizer_file"]) as file:
        state = json.load(file) | {"pre_tokenizer": {"type": "WhitespaceSplit"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="does not split texts as T5 does: its pre-tokenizer is WhitespaceSplit"):
        jm.T5Tokenizer(tokenizer_file=tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs is not supported.*enable_sampling"),
        ({"extra_ids": -1}, "extra_ids must be at least 0, got -1"),
        ({"additional_special_tokens": ["<extra_id_0>"]}, "1 tokens <extra_id_...> and extra_ids is 100"),
        ({"vocab_file": None}, "pass tokenizer_file, or vocab_file, or both"),
    ],
)
@pytest.mark.parity("T10")
def test_t5_bad_arguments_are_refused(t5_files, options, match):
    with pytest.raises(ValueError, match=match):
        jm.T5Tokenizer(**{"vocab_file": t5_files["vocab_file"]} | options)


@pytest.mark.parity("T8", "T10")
def test_t5_missing_files(tmp_path):
    for name in ("vocab_file", "tokenizer_file"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            jm.T5Tokenizer(**{name: tmp_path / "absent"})
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor spiece.model, which T5Tokenizer needs"):
        jm.load_tokenizer(tmp_path)
