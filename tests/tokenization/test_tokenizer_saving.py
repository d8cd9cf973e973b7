"""Saved folders load here and in the reference, fast and slow (docs/parity.md, G17, T9)."""

import json

import pytest
import transformers
from support.hard_texts import HARD_TEXTS
from tokenizers import AddedToken

import jaxmodels.tokenization as jt

FILES = [
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
]
ATTRIBUTES = ("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces", "add_prefix_space")


@pytest.fixture
def changed(small_folder):
    """A tokenizer with a changed value of every setting that is saved."""
    tokenizer = jt.load_tokenizer(
        small_folder,
        padding_side="left",
        truncation_side="left",
        model_max_length=7777,
        clean_up_tokenization_spaces=True,
        add_bos_token=True,
        errors="ignore",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": [AddedToken("<a>", lstrip=True)]})
    tokenizer.add_tokens("new word")
    return tokenizer


@pytest.mark.parametrize(
    "cls", [transformers.GPT2TokenizerFast, transformers.GPT2Tokenizer, transformers.AutoTokenizer]
)
@pytest.mark.parity("T9")
def test_tokenizer_saved_loads_in_the_reference(changed, tmp_path, cls):
    paths = changed.save_pretrained(tmp_path)
    assert [path.removeprefix(f"{tmp_path}/") for path in paths] == FILES
    reference = cls.from_pretrained(tmp_path)
    assert reference.special_tokens_map == changed.special_tokens_map
    assert reference.get_added_vocab() == changed.get_added_vocab()
    assert reference.chat_template == changed.chat_template
    for name in ATTRIBUTES:
        assert getattr(reference, name) == getattr(changed, name)
    for text in (*HARD_TEXTS, "a [PAD]b  <a>c new wordd"):
        ids = changed.encode(text)
        assert reference.encode(text) == ids
        if not reference.is_fast:  # the slow one inserts spaces around added tokens by default
            assert reference.decode(ids, True, spaces_between_special_tokens=False) == changed.decode(ids, True)
        else:
            assert reference.decode(ids, True) == changed.decode(ids, True)


@pytest.mark.parity("T9")
def test_tokenizer_saved_loads_here(changed, tmp_path):
    changed.save_pretrained(tmp_path)
    from_json = jt.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    from_vocabulary = jt.load_tokenizer(tmp_path)
    texts = [*HARD_TEXTS, "a [PAD]b  <a>c new wordd"]
    expected = changed(texts, padding=True)
    for tokenizer in (from_json, from_vocabulary):
        assert tokenizer(texts, padding=True).input_ids.tolist() == expected.input_ids.tolist()
        assert tokenizer.special_tokens_map == changed.special_tokens_map
        assert tokenizer.get_vocab() == changed.get_vocab()
        for name in (*ATTRIBUTES, "errors", "add_bos_token", "chat_template", "model_input_names"):
            assert getattr(tokenizer, name) == getattr(changed, name), name
        again = tmp_path / f"again{id(tokenizer)}"
        tokenizer.save_pretrained(again)
        assert (again / "tokenizer_config.json").read_text() == (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parity("T9")
def test_saved_files_do_not_depend_on_earlier_calls(small, tmp_path):
    small.pad_token = small.eos_token
    small("a b c", padding="max_length", truncation=True, max_length=2)
    small.save_pretrained(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    assert state["truncation"] is None and state["padding"] is None


@pytest.mark.parity("T9")
def test_tokenizer_real_vocabulary_survives(shared_tokenizer, tmp_path, data_dir):
    shared_tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "vocab.json").read_text())
    assert saved == json.loads((data_dir / "tokenizers" / "gpt2" / "encoder.json").read_text())
    merges = (tmp_path / "merges.txt").read_text().splitlines()
    assert merges[1:] == (data_dir / "tokenizers" / "gpt2" / "vocab.bpe").read_text().splitlines()[1:]


@pytest.mark.parity("G17", "T9")
def test_tokenizer_save_vocabulary(small, tmp_path):
    assert small.save_vocabulary(tmp_path) == (str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    small.save_vocabulary(tmp_path, "mine")
    assert (tmp_path / "mine-vocab.json").read_text() == (tmp_path / "vocab.json").read_text()
    assert (tmp_path / "mine-merges.txt").read_text() == (tmp_path / "merges.txt").read_text()
    reference = transformers.GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert reference.encode("Hello newest worlds") == small.encode("Hello newest worlds")
    with pytest.raises(NotADirectoryError, match="needs an existing folder"):
        small.save_vocabulary(tmp_path / "absent")


@pytest.mark.parity("T9")
def test_failed_saves_change_nothing(small, tmp_path):
    small.save_pretrained(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    small.add_tokens("[PAD]")
    small.chat_template = object()  # not JSON
    with pytest.raises(TypeError):
        small.save_pretrained(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.parity("T9")
def test_saving_over_an_earlier_tokenizer(small, changed, tmp_path):
    changed.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("old")
    small.save_pretrained(tmp_path)
    reloaded = jt.load_tokenizer(tmp_path)
    assert len(reloaded) == len(small) and reloaded.chat_template is None


@pytest.mark.parity("T7", "T9")
def test_several_chat_templates(small, tmp_path):
    small.chat_template = {"default": "one", "tool": "two"}
    small.save_pretrained(tmp_path)
    assert jt.load_tokenizer(tmp_path).chat_template == small.chat_template
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == small.chat_template
