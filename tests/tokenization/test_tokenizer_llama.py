"""Llama: tokenizer.json and tokenizer.model compared with transformers (docs/parity.md, LL8 to LL11).

The vocabulary is trained with Llama 2's settings, and its tokenizer.json has the parts of Llama 2's
(tests/tools/train_vocabulary.py).
"""

import copy
import io
import itertools
import json
import pickle
import random
import shutil
import sys
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from support.full_data import TRAINED
from support.hard_texts import HARD_TEXTS
from test_tokenizer_bart import real_texts
from test_tokenizer_families import PAIRS, TEXTS, assert_equal_fields
from tokenizers import AddedToken, processors
from transformers.convert_slow_tokenizer import generate_merges

import jaxmodels as jm
from jaxmodels.tokenization.sentencepiece import make_merges

SPECIAL_TEXTS = ["Hello <s>.", "a</s>b <s> c", "<s>", "<unk>a <s></s>  b", "<0x41> <0x0A>", "\u2581a \u2581 b", "</s> "]
ALL_TEXTS = [*HARD_TEXTS, *SPECIAL_TEXTS]
MODEL, JSON = str(TRAINED / "tokenizer.model"), str(TRAINED / "tokenizer.json")
SPACINGS = list(itertools.product((True, False), (True, False)))
LEGACY_MESSAGE = "ignore:You are using the default legacy"
# The config of Llama 2, which contradicts the tokenizer.json that is published with it.
LLAMA_2 = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False},
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 10**30,
    "pad_token": None,
    "padding_side": "right",
    "sp_model_kwargs": {},
    "spaces_between_special_tokens": False,
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
    "use_default_system_prompt": False,
}


def write(folder, files=("tokenizer.json",), config=LLAMA_2, **model_config):
    """A folder with vocabulary files and configs."""
    for name in files:
        shutil.copyfile(TRAINED / name, folder / name)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if model_config:
        (folder / "config.json").write_text(json.dumps(model_config))
    return folder


def assert_equal(tokenizer, reference, texts=ALL_TEXTS):
    """Ids, tokens, offsets and decoded texts."""
    assert tokenizer.get_vocab() == reference.get_vocab()
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text), ascii(text)
        assert tokenizer.tokenize(text) == reference.tokenize(text)
        for skip, clean_up in itertools.product((False, True), (False, True, None)):
            assert tokenizer.decode(ids, skip, clean_up) == reference.decode(ids, skip, clean_up), ascii(text)
    options = {"return_offsets_mapping": True, "return_token_type_ids": True, "return_special_tokens_mask": True}
    for second in (None, texts[::-1]):
        assert_equal_fields(tokenizer(texts, second, **options), reference(texts, second, **options))


@pytest.fixture(scope="module", params=SPACINGS, ids=lambda each: "legacy={}, add_prefix_space={}".format(*each))
def spacing(request):
    return dict(zip(("legacy", "add_prefix_space"), request.param, strict=True))


@pytest.fixture(scope="module")
def both():
    """Tokenizers with a pad token, here and in transformers."""
    return (
        jm.LlamaTokenizer(tokenizer_file=JSON, pad_token="</s>"),
        transformers.LlamaTokenizerFast(tokenizer_file=JSON, pad_token="</s>"),
    )


@pytest.mark.parametrize("source", [{"vocab_file": MODEL}, {"tokenizer_file": JSON}], ids=lambda each: [*each][0])
@pytest.mark.parity("T4", "LL8", "LL9")
def test_llama_equals_the_fast_reference(source, spacing, tmp_path):
    """transformers converts tokenizer.model for these options; a tokenizer.json is changed here."""
    reference = transformers.LlamaTokenizerFast(MODEL, **spacing)
    tokenizer = jm.LlamaTokenizer(**source, **spacing)
    assert {name: getattr(tokenizer, name) for name in spacing} == spacing
    assert_equal(tokenizer, reference)
    tokenizer.save_pretrained(tmp_path)
    assert_equal(jm.load_tokenizer(tmp_path), reference, SPECIAL_TEXTS)
    assert jm.load_tokenizer(tmp_path).legacy is spacing["legacy"]
    assert jm.LlamaTokenizer(tokenizer_file=tmp_path / "tokenizer.json").legacy is spacing["legacy"]


@pytest.mark.parity("LL8", "LL9")
def test_llama_files_are_read_as_they_are(tmp_path):
    for options in ({"vocab_file": MODEL}, {"tokenizer_file": JSON}, {"vocab_file": MODEL, "tokenizer_file": JSON}):
        tokenizer = jm.LlamaTokenizer(**options)
        assert (tokenizer.legacy, tokenizer.add_prefix_space) == (True, None)
        assert_equal(tokenizer, transformers.LlamaTokenizerFast(tokenizer_file=JSON), SPECIAL_TEXTS)
    modern = jm.LlamaTokenizer(MODEL, legacy=False)
    modern.save_pretrained(tmp_path)
    assert jm.LlamaTokenizer(tokenizer_file=tmp_path / "tokenizer.json").legacy is False


@pytest.mark.filterwarnings("ignore:a text has .* tokens")
@pytest.mark.parity("T4", "LL8")
def test_llama_real_texts_equal_the_fast_reference(both, data_dir):
    tokenizer, reference = both
    texts = real_texts(data_dir)[::3]
    ids = [sequence.tolist() for sequence in tokenizer(texts).input_ids]
    assert ids == reference(texts).input_ids
    assert tokenizer.batch_decode(ids[::20], True) == reference.batch_decode(ids[::20], True)


@pytest.mark.parity("LL8")
def test_llama_characters_that_the_vocabulary_lacks_become_bytes(both):
    tokenizer, _ = both
    assert tokenizer.tokenize("\u2603") == ["\u2581", "<0xE2>", "<0x98>", "<0x83>"]
    assert tokenizer.decode(tokenizer.encode("\u2603 x"), True) == "\u2603 x"
    assert tokenizer.decode(tokenizer.encode("\u2603")[:-1], True) == "\ufffd\ufffd"


@pytest.mark.parity("LL8")
def test_llama_equals_sentencepiece_itself():
    """Except for special tokens in a text, which SentencePiece does not look for."""
    processor = sentencepiece.SentencePieceProcessor(model_file=MODEL)
    tokenizer = jm.LlamaTokenizer(MODEL)
    for text in HARD_TEXTS:
        if text:
            assert tokenizer.encode(text, add_special_tokens=False) == processor.encode(text), ascii(text)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parity("LL9")
def test_llama_and_the_slow_reference(legacy):
    """Without legacy, the slow one prepends a space also to a text that begins with one."""
    slow = transformers.LlamaTokenizer(MODEL, legacy=legacy)
    tokenizer = jm.LlamaTokenizer(MODEL, legacy=legacy)
    different = [text for text in ALL_TEXTS if tokenizer.encode(text) != slow.encode(text)]
    assert different == [text for text in ALL_TEXTS if not legacy and text.startswith((" ", "\u2581"))]


@pytest.mark.parametrize(("bos", "eos"), SPACINGS)
@pytest.mark.parity("LL10")
def test_llama_bos_and_eos_flags_equal_the_fast_reference(bos, eos, tmp_path):
    options = {"add_bos_token": bos, "add_eos_token": eos}
    reference = transformers.LlamaTokenizerFast(tokenizer_file=JSON, **options)
    tokenizer = jm.LlamaTokenizer(tokenizer_file=JSON, **options)
    assert_equal(tokenizer, reference, SPECIAL_TEXTS)
    assert tokenizer.encode("a", "b") == [*[1] * bos, 262, *[2] * eos, *[1] * bos, 275, *[2] * eos]
    for pair in (False, True):
        assert tokenizer.num_special_tokens_to_add(pair) == reference.num_special_tokens_to_add(pair)
    changed = jm.LlamaTokenizer(tokenizer_file=JSON)
    changed.add_bos_token, changed.add_eos_token = bos, eos
    assert_equal(changed, reference, ["a </s>"])
    tokenizer.save_pretrained(tmp_path)
    for loaded in (jm.load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert (loaded.add_bos_token, loaded.add_eos_token) == (bos, eos)
        assert_equal(tokenizer, loaded, ["a </s>"])


@pytest.mark.parity("LL10")
def test_llama_other_bos_and_eos_tokens(tmp_path):
    options = {"bos_token": "<start>", "eos_token": AddedToken("</s>", lstrip=True), "pad_token": "<pad>"}
    options |= {"add_eos_token": True}
    tokenizer = jm.LlamaTokenizer(tokenizer_file=JSON, **options)
    reference = transformers.LlamaTokenizerFast(tokenizer_file=JSON, **copy.deepcopy(options))
    assert_equal(tokenizer, reference, ["a <start> b <pad></s>"])
    tokenizer.bos_token = tokenizer.eos_token
    assert tokenizer.encode("a") == [2, 262, 2]
    with pytest.raises(ValueError, match="add_eos_token=True needs an eos_token"):
        tokenizer.eos_token = None
    for name in ("bos", "eos"):
        with pytest.raises(ValueError, match=f"add_{name}_token=True needs an {name}_token"):
            jm.LlamaTokenizer(tokenizer_file=JSON, **{f"add_{name}_token": True, f"{name}_token": None})
        with pytest.raises(ValueError, match=f"add_{name}_token must be True or False, got 'no'"):
            setattr(tokenizer, f"add_{name}_token", "no")
    without = jm.LlamaTokenizer(tokenizer_file=JSON, add_bos_token=False, bos_token=None)
    assert without.encode("a") == [262] and without.bos_token_id is None


@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s>", "<s> $A <unk>"])
@pytest.mark.parity("LL10")
def test_llama_flags_may_follow_the_post_processor(tmp_path, single):
    backend = tokenizers.Tokenizer.from_file(JSON)
    special = [(token, i) for i, token in enumerate(("<unk>", "<s>", "</s>")) if token in single]
    backend.post_processor = processors.TemplateProcessing(single, f"{single} $B:1", special)
    backend.enable_padding(direction="left", length=50)
    backend.enable_truncation(1)
    backend.save(str(tmp_path / "tokenizer.json"))
    options = {"add_bos_token": None, "add_eos_token": None}
    tokenizer = jm.LlamaTokenizer(tokenizer_file=tmp_path / "tokenizer.json", **options)
    assert (tokenizer.add_bos_token, tokenizer.add_eos_token) == ("<s>" in single, "</s>" in single)
    assert jm.LlamaTokenizer(tokenizer_file=tmp_path / "tokenizer.json").encode("a") == [1, 262]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40, "padding_side": "right"},
        {"truncation": True, "max_length": 9, "padding": True, "return_special_tokens_mask": True},
        {"truncation": "only_first", "max_length": 30},
        {"truncation": True, "max_length": 12, "stride": 2, "return_overflowing_tokens": True},
        {"return_offsets_mapping": True, "return_token_type_ids": True, "return_length": True},
        {"add_special_tokens": False, "return_attention_mask": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("second", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parity("T1", "T2", "T3", "LL10")
def test_llama_calls_equal_the_fast_reference(both, options, second):
    tokenizer, reference = both
    texts = [*TEXTS, "a <s> in  </s>."]
    second = second and [*second, "x"]
    actual, expected = tokenizer(texts, second, **options), reference(texts, second, **options)
    assert_equal_fields(actual, expected)
    indices = range(len(actual["input_ids"]))
    assert [actual.word_ids(i) for i in indices] == [expected.word_ids(i) for i in indices]
    assert [actual.sequence_ids(i) for i in indices] == [expected.sequence_ids(i) for i in indices]


@pytest.mark.parity("T1", "LL10")
def test_llama_defaults(both):
    tokenizer, reference = both
    assert tokenizer.padding_side == reference.padding_side == "left"
    assert tokenizer.model_input_names == reference.model_input_names == ["input_ids", "attention_mask"]
    assert tokenizer.clean_up_tokenization_spaces is reference.clean_up_tokenization_spaces is False
    assert jm.LlamaTokenizer(tokenizer_file=JSON).pad_token is None
    words = [["Empire", "State", "<s>"], ["don't", "\u2603", ""]]
    assert_equal_fields(*(each(words, is_split_into_words=True) for each in both))
    examples = [{"input_ids": [5, 6, 1]}, {"input_ids": [7, 1]}]
    options = {"padding": "max_length", "max_length": 5}
    assert_equal_fields(tokenizer.pad(examples, **options), reference.pad(examples, **options))
    again = [pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)]
    assert all(each.encode("a </s>") == tokenizer.encode("a </s>") for each in again)


@pytest.mark.parity("LL10")
def test_llama_padding_stored_in_the_tokenizer_json(tmp_path):
    backend = tokenizers.Tokenizer.from_file(JSON)
    backend.enable_padding(direction="right", pad_id=0, pad_token="<unk>")
    backend.enable_truncation(3, direction="left")
    backend.save(str(tmp_path / "tokenizer.json"))
    for options in ({}, {"pad_token": "</s>", "padding_side": "left"}, {"pad_token": None}):
        tokenizer = jm.LlamaTokenizer(tokenizer_file=tmp_path / "tokenizer.json", **options)
        path = str(tmp_path / "tokenizer.json")
        reference = transformers.LlamaTokenizerFast(tokenizer_file=path, **options)
        for name in ("padding_side", "truncation_side", "pad_token"):
            assert getattr(tokenizer, name) == getattr(reference, name)
    assert len(tokenizer.encode("the river runs")) > 3


@pytest.mark.filterwarnings("error", LEGACY_MESSAGE)
@pytest.mark.parametrize("prefix", ["absent", None, True, False])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parity("T8", "LL9")
def test_llama_2_folders(tmp_path, legacy, prefix):
    """legacy counts beside a tokenizer.json only if there is an add_prefix_space."""
    config = LLAMA_2 | {"legacy": legacy} | ({} if prefix == "absent" else {"add_prefix_space": prefix})
    folder = write(tmp_path, ("tokenizer.json", "tokenizer.model"), config, model_type="llama")
    tokenizer = jm.load_tokenizer(folder)
    assert type(tokenizer) is jm.LlamaTokenizer
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert_equal(tokenizer, transformers.AutoTokenizer.from_pretrained(folder), SPECIAL_TEXTS)
    for other in (True, False):  # an argument counts in any case
        space = {"add_prefix_space": prefix is not False}
        changed = jm.load_tokenizer(folder, legacy=other)
        assert_equal(changed, transformers.LlamaTokenizerFast(MODEL, legacy=other, **space), SPECIAL_TEXTS)


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parity("T8", "LL8")
def test_llama_folders_that_the_reference_wrote(tmp_path, name, legacy, recwarn):
    write(tmp_path, ("tokenizer.model",))
    reference = getattr(transformers, name).from_pretrained(tmp_path, legacy=legacy, add_eos_token=True)
    reference.add_special_tokens({"additional_special_tokens": ["<a>"], "pad_token": "<pad>"})
    reference.add_tokens(["newword"])
    reference.save_pretrained(tmp_path / "saved")
    recwarn.clear()
    tokenizer = jm.load_tokenizer(tmp_path / "saved")
    assert not recwarn.list
    assert type(tokenizer) is jm.LlamaTokenizer
    assert (tokenizer.legacy, tokenizer.add_eos_token, tokenizer.padding_side) == (legacy, True, "right")
    fast = transformers.LlamaTokenizerFast.from_pretrained(tmp_path / "saved")
    assert_equal(tokenizer, fast, [*SPECIAL_TEXTS, "x <a> newword y<pad>"])


@pytest.mark.parity("T9", "LL8")
def test_llama_saved_folder_loads_here_and_in_the_reference(tmp_path, spacing):
    tokenizer = jm.LlamaTokenizer(MODEL, **spacing, chat_template="{{ bos_token }}{{ messages[0].content }}")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"], "pad_token": "<pad>"})
    tokenizer.add_tokens(["newword", AddedToken("zq", lstrip=True)])
    texts = ["a <a>river newword", *TEXTS, *SPECIAL_TEXTS[:4], "x zq"]
    expected = [tokenizer.encode(text) for text in texts]
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (TRAINED / "tokenizer.model").read_bytes()
    for cls in (transformers.LlamaTokenizerFast, transformers.AutoTokenizer):
        reference = cls.from_pretrained(tmp_path)
        assert type(reference) is transformers.LlamaTokenizerFast
        assert reference.get_added_vocab() == tokenizer.get_added_vocab()
        assert [reference.encode(text) for text in texts] == expected
        assert reference.chat_template == tokenizer.chat_template
    from_json = jm.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for loaded in (from_json, jm.load_tokenizer(tmp_path)):
        assert [loaded.encode(text) for text in texts] == expected
        assert (loaded.legacy, loaded.padding_side) == (spacing["legacy"], "left")
        chat = [{"role": "user", "content": "the river"}]
        assert loaded.apply_chat_template(chat) == reference.apply_chat_template(chat)
        loaded.save_pretrained(tmp_path / "again")
        again = (tmp_path / "again" / "tokenizer_config.json").read_text()
        assert again == (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parity("T9", "LL8")
def test_llama_save_vocabulary(both, tmp_path):
    tokenizer = jm.LlamaTokenizer(MODEL)
    assert tokenizer.save_vocabulary(tmp_path, "mine") == (str(tmp_path / "mine-tokenizer.model"),)
    assert tokenizer.save_vocabulary(tmp_path) == (str(tmp_path / "tokenizer.model"),)
    assert jm.LlamaTokenizer(tmp_path / "tokenizer.model").encode("river") == tokenizer.encode("river")
    with pytest.raises(NotADirectoryError, match="needs an existing folder"):
        tokenizer.save_vocabulary(tmp_path / "absent")
    with pytest.raises(ValueError, match="made from a tokenizer.json without tokenizer.model.*vocab_file, too"):
        both[0].save_vocabulary(tmp_path)
    names = [path.rsplit("/", 1)[1] for path in both[0].save_pretrained(tmp_path)]
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert not (tmp_path / "tokenizer.model").exists()  # of the other tokenizer


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "model_config"),
    [
        (None, {}),
        (None, {"model_type": "llama"}),
        ("LlamaTokenizerFast", {"model_type": "mistral"}),
        ("LlamaTokenizer", {}),
        ("TokenizersBackend", {"model_type": "llama"}),
    ],
)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parity("T8", "LL8")
def test_llama_class_from_config_or_vocabulary(tmp_path, name, model_config, file):
    write(tmp_path, (file,), {"tokenizer_class": name}, **model_config)
    tokenizer = jm.load_tokenizer(tmp_path)
    assert type(tokenizer) is jm.LlamaTokenizer
    assert tokenizer.encode("a <s>")[:2] == [1, 262]


def byte_level(folder, data_dir):
    """A tokenizer.json like Llama 3's: byte-level, and a post-processor that adds the first token."""
    backend = tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers" / "gpt2" / "tokenizer.json"))
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    bos = backend.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(
        "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", [("<|begin_of_text|>", bos)]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    backend.save(str(folder / "tokenizer.json"))
    return bos


LLAMA_3 = {
    "bos_token": "<|begin_of_text|>",
    "clean_up_tokenization_spaces": True,
    "eos_token": "<|end_of_text|>",
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 131072,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


@pytest.mark.filterwarnings("error", LEGACY_MESSAGE)
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend", None])
@pytest.mark.parity("T8", "LL11")
def test_llama_3_folders_are_generic(tmp_path, data_dir, name):
    bos = byte_level(tmp_path, data_dir)
    config = {**LLAMA_3, "tokenizer_class": name}
    tokenizer = jm.load_tokenizer(write(tmp_path, (), config, model_type="llama", architectures=["LlamaForCausalLM"]))
    assert type(tokenizer) is jm.GenericTokenizer
    assert tokenizer.encode("the river")[0] == bos
    write(tmp_path, (), LLAMA_3)
    assert_equal(tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parity("T8", "LL11")
def test_llama_sentencepiece_under_the_generic_name_is_generic(tmp_path):
    write(tmp_path, config={"tokenizer_class": "PreTrainedTokenizerFast"}, model_type="llama")
    assert type(jm.load_tokenizer(tmp_path)) is jm.GenericTokenizer
    assert type(jm.load_tokenizer(tmp_path, cls="LlamaTokenizer")) is jm.LlamaTokenizer


@pytest.mark.parity("T8", "LL11")
def test_llama_byte_level_under_its_name(tmp_path, data_dir):
    """DeepSeek's models name this class for byte-level vocabularies."""
    bos = byte_level(tmp_path, data_dir)
    config = LLAMA_3 | {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "unk_token": None}
    config |= {"add_bos_token": True, "add_eos_token": True, "sp_model_kwargs": {}}
    tokenizer = jm.load_tokenizer(write(tmp_path, (), config, model_type="llama"))
    assert type(tokenizer) is jm.LlamaTokenizer
    assert (tokenizer.legacy, tokenizer.padding_side) == (None, "left")
    assert tokenizer.encode("the river") == [bos, *tokenizer.encode("the river", add_special_tokens=False), bos + 1]
    assert_equal(tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert_equal(tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"), SPECIAL_TEXTS)
    assert len(jm.load_tokenizer(tmp_path / "saved")) == len(tokenizer)  # without the default unk_token
    for option in ("legacy", "add_prefix_space"):
        with pytest.raises(ValueError, match="need a tokenizer.json that replaces spaces.*is ByteLevel.*omit them"):
            jm.load_tokenizer(tmp_path, **{option: False})


@pytest.mark.parity("LL8")
def test_llama_reads_other_models(tmp_path):
    """User-defined symbols, a unigram model, and one without bytes."""
    texts = [*HARD_TEXTS, "zq zqx <a>b", "the river"]
    for options in ({"model_type": "bpe"}, {"model_type": "unigram"}, {"model_type": "bpe", "byte_fallback": False}):
        path = trained(tmp_path, user_defined_symbols=["<a>", "zq"], **options)
        reference = transformers.LlamaTokenizerFast(path, add_prefix_space=True)
        tokenizer = jm.LlamaTokenizer(path)
        assert_equal(tokenizer, reference, texts)
        assert "zq" in tokenizer.get_added_vocab() and "zq" not in tokenizer.all_special_tokens


@pytest.mark.parity("LL8")
def test_llama_merges_of_equal_scores_have_the_order_of_the_reference():
    picks = random.Random(0)
    pieces = ["".join(letters) for length in range(1, 6) for letters in itertools.product("ab", repeat=length)]
    picks.shuffle(pieces)
    vocabulary = [(piece, float(-picks.randrange(3))) for piece in pieces]
    ids = {piece: i for i, piece in enumerate(pieces)}
    assert make_merges(vocabulary, ids) == generate_merges(ids, vocabulary)


def trained(folder, **options) -> str:
    """The path of a tokenizer.model trained on two lines of text."""
    lines = ["the river runs through the capital and the river is long", "a capital city by a river"] * 5
    settings: dict[str, Any] = {"vocab_size": 320 if options.get("byte_fallback", True) else 60, "byte_fallback": True}
    settings |= {"hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2, **options}
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=written, **settings)
    path = folder / "trained.model"
    path.write_bytes(written.getvalue())
    return str(path)


@pytest.mark.parametrize("damage", [b"", b"{damaged", b"\x0a\xff\xff"])
@pytest.mark.parity("T8", "LL8")
def test_llama_damaged_model_is_refused(tmp_path, damage):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"tokenizer.model is not a SentencePiece model"):
        jm.LlamaTokenizer(path)


@pytest.mark.parity("T8", "LL8")
def test_llama_hostile_pieces_are_refused(tmp_path):
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    for pieces in (["a", "a"], ["a" * 5000]):
        proto = ModelProto.FromString((TRAINED / "tokenizer.model").read_bytes())
        for piece in pieces:
            proto.pieces.add(piece=piece, score=-1.0)
        (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match="distinct pieces of at most 1000 characters"):
            jm.LlamaTokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match="does not form a vocabulary: its model type is neither unigram nor BPE"):
        jm.LlamaTokenizer(trained(tmp_path, model_type="word", byte_fallback=False, vocab_size=16))


@pytest.mark.parity("LL8")
def test_llama_missing_packages(tmp_path, both, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(ImportError, match=r"tokenizer.model needs sentencepiece and protobuf.*pip install sentencepie"):
        jm.LlamaTokenizer(MODEL)
    assert jm.load_tokenizer(write(tmp_path, ("tokenizer.json", "tokenizer.model"))).encode("a") == [1, 262]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"sp_model_kwargs": {"enable_sampling": True}},
            ValueError,
            "sp_model_kwargs is not supported.*enable_sampling",
        ),
        ({"legacy": "no"}, ValueError, "legacy must be True or False"),
        ({"add_prefix_space": "no"}, ValueError, "add_prefix_space must be True or False"),
        ({"vocab_file": None}, ValueError, "pass tokenizer_file, or vocab_file, or both"),
        ({"vocab_file": "absent"}, FileNotFoundError, "there is no file absent"),
        ({"use_default_system_prompt": True}, TypeError, "begin the conversation with a system message"),
        ({"spaces_between_special_tokens": True}, TypeError, "no spaces are inserted"),
    ],
)
@pytest.mark.parity("LL8", "LL10")
def test_llama_bad_arguments_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        jm.LlamaTokenizer(**{"vocab_file": MODEL} | options)


@pytest.mark.parity("LL10")
def test_llama_options_of_files_without_effect(tmp_path):
    """False asks for what happens in any case; True is named in a warning."""
    write(tmp_path, config=LLAMA_2 | {"use_default_system_prompt": True})
    with pytest.warns(UserWarning, match="no effect on a LlamaTokenizer: use_default_system_prompt$"):
        jm.load_tokenizer(tmp_path)


@pytest.mark.parity("T8", "LL8")
def test_llama_missing_files(tmp_path):
    write(tmp_path, (), None, model_type="llama")
    match = "neither tokenizer.json nor tokenizer.model, which LlamaTokenizer needs"
    with pytest.raises(FileNotFoundError, match=match):
        jm.load_tokenizer(tmp_path)
