"""Special and added tokens, compared with the reference's fast tokenizer (docs/parity.md, T6)."""

import pytest
import transformers
from tokenizers import AddedToken

import jaxmodels.tokenization as jt

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TEXT = "a [PAD] <a><b>  new word<b> [PAD]end<|endoftext|>"


@pytest.fixture
def reference(small_folder):
    return transformers.GPT2TokenizerFast.from_pretrained(small_folder)


def assert_same_tokens(tokenizer, reference):
    for name in NAMES:
        assert getattr(tokenizer, name) == getattr(reference, name)
        assert getattr(tokenizer, f"{name}_id") == getattr(reference, f"{name}_id")
    assert tokenizer.additional_special_tokens == reference.additional_special_tokens
    assert tokenizer.additional_special_tokens_ids == reference.additional_special_tokens_ids
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    assert tokenizer.all_special_tokens == reference.all_special_tokens
    assert tokenizer.all_special_ids == reference.all_special_ids
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    assert (len(tokenizer), tokenizer.vocab_size) == (len(reference), reference.vocab_size)
    assert tokenizer.get_vocab() == reference.get_vocab()
    ids = tokenizer.encode(TEXT)
    assert ids == reference.encode(TEXT)
    for skip in (False, True):
        assert tokenizer.decode(ids, skip) == reference.decode(ids, skip)
        assert tokenizer.convert_ids_to_tokens(ids, skip) == reference.convert_ids_to_tokens(ids, skip)


@pytest.mark.parity("T6")
def test_special_tokens_of_a_folder(small, reference):
    assert_same_tokens(small, reference)


@pytest.mark.parity("T6")
def test_add_special_tokens(small, reference):
    changes = [
        {"pad_token": "[PAD]", "cls_token": AddedToken("<a>", lstrip=True)},
        # its ids are in this order
        {"additional_special_tokens": ["<b>", AddedToken("new word", single_word=True)], "mask_token": "<m>"},
        {"sep_token": "<b>", "mask_token": "<|endoftext|>"},
    ]
    for change, count in zip(changes, (2, 3, 0), strict=True):
        assert small.add_special_tokens(change) == count
        reference.add_special_tokens(change)
        assert_same_tokens(small, reference)


@pytest.mark.parity("T6")
def test_additional_special_tokens_are_replaced_or_extended(small, reference):
    for tokenizer in (small, reference):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
        more = {"additional_special_tokens": ["<b>", "<a>"]}
        tokenizer.add_special_tokens(more, replace_additional_special_tokens=False)
    assert small.additional_special_tokens == reference.additional_special_tokens == ["<a>", "<b>"]
    for tokenizer in (small, reference):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<b>"]})
    assert small.additional_special_tokens == reference.additional_special_tokens == ["<b>"]


@pytest.mark.parity("T6")
def test_add_tokens(small, reference):
    additions = ["<a>", ["<b>", "<a>"], [AddedToken("new word", lstrip=True, rstrip=True)], []]
    for tokens, count in zip(additions, (1, 1, 1, 0), strict=True):
        assert small.add_tokens(tokens) == count
        reference.add_tokens(tokens)
        assert_same_tokens(small, reference)


@pytest.mark.parity("T6")
def test_add_special_tokens_without_a_name(small, reference):
    assert small.add_tokens(["[PAD]"], special_tokens=True) == 1
    reference.add_tokens(["[PAD]"], special_tokens=True)
    ids = small.encode(TEXT)
    assert ids == reference.encode(TEXT)
    assert small.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)
    assert "[PAD]" not in small.convert_ids_to_tokens(ids, skip_special_tokens=True)
    assert small.add_tokens("[PAD]") == 0


@pytest.mark.parity("T6")
def test_special_tokens_of_the_constructor_are_appended(gpt2_files):
    options = {"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<b>"], "cls_token": "Hello"}
    assert_same_tokens(
        jt.GPT2Tokenizer(**gpt2_files, **options), transformers.GPT2TokenizerFast(**gpt2_files, **options)
    )


@pytest.mark.parametrize("eos_token", ["<|endoftext|>", AddedToken("<|endoftext|>", lstrip=True, rstrip=True)])
@pytest.mark.parity("T6", "T8")
def test_flags_in_tokenizer_json_take_precedence(data_dir, eos_token):
    path = str(data_dir / "tokenizers" / "gpt2" / "tokenizer.json")
    tokenizer = jt.GPT2Tokenizer(tokenizer_file=path, eos_token=eos_token)
    reference = transformers.GPT2TokenizerFast(tokenizer_file=path, eos_token=eos_token)
    assert tokenizer.encode("a <|endoftext|>  b") == reference.encode("a <|endoftext|>  b")


@pytest.mark.parity("T6")
def test_setting_a_special_token(small):
    small.pad_token = small.eos_token
    assert (small.pad_token, small.pad_token_id) == ("<|endoftext|>", 0)
    small.pad_token_id = 1
    assert small.pad_token == small.convert_ids_to_tokens(1)
    small.pad_token = None
    assert small.pad_token is None and small.pad_token_id is None
    assert "pad_token" not in small.special_tokens_map
    with pytest.raises(ValueError, match=r"add_special_tokens\(\{'pad_token': '\[PAD\]'\}\)"):
        small.pad_token = "[PAD]"
    with pytest.raises(ValueError, match="no token has the id 999; ids go from 0 to 329"):
        small.pad_token_id = 999
    with pytest.raises(ValueError, match="must be a str or"):
        small.pad_token = 3
    assert small.pad_token is None


@pytest.mark.parity("T6")
def test_unknown_names_are_refused(small, gpt2_files):
    with pytest.raises(ValueError, match="unknown names of special tokens: \\['padding_token'\\]"):
        small.add_special_tokens({"padding_token": "[PAD]"})
    with pytest.raises(TypeError, match=r"GPT2Tokenizer has no option 'colour'"):
        jt.GPT2Tokenizer(**gpt2_files, colour="red")
    with pytest.raises(ValueError, match="padding_side must be"):
        jt.GPT2Tokenizer(**gpt2_files, padding_side="top")


@pytest.mark.parity("T8")
def test_constructor_needs_one_source(gpt2_files, tmp_path):
    with pytest.raises(ValueError, match="tokenizer_file alone, or vocab_file and merges_file"):
        jt.GPT2Tokenizer()
    with pytest.raises(ValueError, match="tokenizer_file alone"):
        jt.GPT2Tokenizer(gpt2_files["vocab_file"])
    with pytest.raises(FileNotFoundError, match="no file"):
        jt.GPT2Tokenizer(tmp_path / "vocab.json", gpt2_files["merges_file"])


@pytest.mark.parity("G17")
def test_add_bos_token_needs_a_bos_token(small_folder):
    with pytest.raises(ValueError, match="needs a bos_token"):
        jt.load_tokenizer(small_folder, add_bos_token=True, bos_token=None)
