"""Loading: selection of the class, precedence of files, and errors (docs/parity.md, T8)."""

import json
import shutil

import pytest
import transformers

import jaxmodels.tokenization as jt


@pytest.fixture
def folder(small_folder, tmp_path):
    """A copy of a tokenizer's folder, which tests may modify."""
    for path in small_folder.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def rewrite(path, **changes):
    content = json.loads(path.read_text()) if path.is_file() else {}
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


@pytest.mark.parity("T8")
def test_every_real_folder_of_gpt2_loads(data_dir, tiny_folder, small_folder):
    for path in (data_dir / "tokenizers" / "gpt2", tiny_folder, small_folder):
        assert type(jt.load_tokenizer(path)) is jt.GPT2Tokenizer


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast"])
@pytest.mark.parity("T8")
def test_class_from_tokenizer_config(folder, name):
    rewrite(folder / "tokenizer_config.json", tokenizer_class=name)
    assert type(jt.load_tokenizer(str(folder))) is jt.GPT2Tokenizer


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neo"])
@pytest.mark.parity("T8", "GN7")
def test_class_from_model_type(folder, model_type):
    rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rewrite(folder / "config.json", model_type=model_type)
    assert type(jt.load_tokenizer(folder)) is jt.GPT2Tokenizer


@pytest.mark.parity("T8")
def test_class_from_vocabulary(folder):
    (folder / "tokenizer_config.json").unlink()
    assert type(jt.load_tokenizer(folder)) is jt.GPT2Tokenizer
    rewrite(folder / "vocab.json", **{"<|endoftext|>": "absent", "<end>": 0})
    with pytest.raises(ValueError, match="pass cls="):
        jt.load_tokenizer(folder)
    assert type(jt.load_tokenizer(folder, cls=jt.GPT2Tokenizer)) is jt.GPT2Tokenizer


@pytest.mark.parity("T8")
def test_unsupported_classes_are_named(folder):
    rewrite(folder / "tokenizer_config.json", tokenizer_class="XGLMTokenizer")
    with pytest.raises(
        ValueError, match=r"is for a XGLMTokenizer and has no tokenizer.json.*supported tokenizers are GPT2Tokenizer"
    ):
        jt.load_tokenizer(folder)
    assert type(jt.load_tokenizer(folder, cls=jt.GPT2Tokenizer)) is jt.GPT2Tokenizer
    rewrite(folder / "tokenizer_config.json", tokenizer_class="absent")
    rewrite(folder / "config.json", model_type="xglm")
    with pytest.raises(ValueError, match="model type 'xglm'"):
        jt.load_tokenizer(folder)
    with pytest.raises(TypeError, match="cls must be one of GPT2Tokenizer"):
        jt.load_tokenizer(folder, cls=transformers.GPT2Tokenizer)


@pytest.mark.parity("T8")
def test_missing_files_are_named(folder):
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor merges.txt or vocab.bpe.*vocab.json"):
        jt.load_tokenizer(folder)
    with pytest.raises(FileNotFoundError, match="question_encoder_tokenizer does not exist"):
        jt.load_tokenizer(folder, subfolder="question_encoder_tokenizer")
    with pytest.raises(ValueError, match="revision='main' is for Hub ids"):
        jt.load_tokenizer(folder, revision="main")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.json"])
@pytest.mark.parity("T8")
def test_damaged_files_are_named(folder, name):
    (folder / name).write_text("{damaged")
    with pytest.raises(ValueError, match=name):
        jt.load_tokenizer(folder)


@pytest.mark.parity("T8")
def test_tokenizer_json_of_another_family_is_refused(data_dir):
    with pytest.raises(ValueError, match="its model is WordPiece"):
        jt.load_tokenizer(data_dir / "tokenizers" / "bert-base-uncased", cls=jt.GPT2Tokenizer)


@pytest.mark.parity("T8")
def test_options_override_files(folder):
    rewrite(folder / "tokenizer_config.json", padding_side="left", model_max_length=9, pad_token="<|endoftext|>")
    tokenizer = jt.load_tokenizer(folder)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 9)
    tokenizer = jt.load_tokenizer(folder, padding_side="right", pad_token=None)
    assert (tokenizer.padding_side, tokenizer.model_max_length, tokenizer.pad_token) == ("right", 9, None)
    with pytest.raises(TypeError, match="padding_sides"):
        jt.load_tokenizer(folder, padding_sides="right")


@pytest.mark.parity("T8")
def test_ignored_keys_are_named(folder):
    rewrite(folder / "tokenizer_config.json", tokenizer_file=None, name_or_path="x", frobnicate=True, max_len=7)
    with pytest.warns(UserWarning, match="no effect on a GPT2Tokenizer: frobnicate$"):
        jt.load_tokenizer(folder)


@pytest.mark.parity("T8")
def test_max_len_is_the_old_name_of_model_max_length(folder):
    rewrite(folder / "tokenizer_config.json", model_max_length="absent", max_len=7)
    assert jt.load_tokenizer(folder).model_max_length == 7


@pytest.mark.parity("T8")
def test_older_files_equal_the_reference(folder):
    """special_tokens_map.json and added_tokens.json are read if tokenizer_config.json has no added_tokens_decoder."""
    rewrite(folder / "tokenizer_config.json", added_tokens_decoder="absent", bos_token="!", model_max_length=12)
    rewrite(folder / "special_tokens_map.json", pad_token="[PAD]", sep_token={"content": "<a>", "lstrip": True})
    rewrite(folder / "added_tokens.json", **{"[PAD]": 331, "<a>": 330, "new word": 332})
    tokenizer = jt.load_tokenizer(folder)
    reference = transformers.GPT2TokenizerFast.from_pretrained(folder)
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    assert tokenizer.get_added_vocab() == reference.get_added_vocab()
    for text in ("a [PAD]b <a>c new word", "<|endoftext|>!"):
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(tokenizer.encode(text), True) == reference.decode(reference.encode(text), True)


@pytest.mark.parity("T6", "T8")
def test_added_tokens_that_do_not_fit_the_vocabulary(folder):
    rewrite(folder / "tokenizer_config.json", added_tokens_decoder="absent")
    rewrite(folder / "added_tokens.json", **{"<a>": 400})
    with pytest.raises(ValueError, match="'<a>' must have the id 400 and would get 330"):
        jt.load_tokenizer(folder)


@pytest.mark.parity("T7", "T8")
def test_chat_template_file_takes_precedence(folder):
    rewrite(folder / "tokenizer_config.json", chat_template="from the config")
    assert jt.load_tokenizer(folder).chat_template == "from the config"
    (folder / "chat_template.jinja").write_text("from the file")
    assert jt.load_tokenizer(folder).chat_template == "from the file"
