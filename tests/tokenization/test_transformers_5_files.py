"""Tokenizers saved by transformers 5 load with the same ids, and vice versa (docs/parity.md, T8, T9).

What it wrote was recorded by tests/tools/tokenizers5.py; a slow test does it anew.
"""

import json
import subprocess
from pathlib import Path

import pytest
from support.full_data import TESTDATA
from tools import tokenizers5, transformers5

import jaxmodels.tokenization as jt

RECORDED = json.loads((TESTDATA / "tokenizers5.json").read_text())


def write(recorded: dict, folder: Path, model_type: str | None = None) -> Path:
    """The folder that transformers 5 wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    source = json.loads((TESTDATA / "tokenizers" / recorded["vocabulary"] / "tokenizer.json").read_text())
    whole = {part: source[part] for part in ("model", "normalizer")} | recorded["tokenizer.json"]
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(recorded["tokenizer_config.json"]))
    for name, text in recorded["files"].items():
        (folder / name).write_text(text)
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.fixture(scope="module", params=RECORDED)
def loaded(request, tmp_path_factory):
    """A recorded folder of transformers 5 and the tokenizer loaded from it."""
    recorded = RECORDED[request.param]
    return recorded, jt.load_tokenizer(write(recorded, tmp_path_factory.mktemp("five"))), request.param


@pytest.mark.filterwarnings("error")
@pytest.mark.parity("T8")
def test_ids_and_texts_equal_transformers_5(loaded):
    recorded, tokenizer, name = loaded
    assert [tokenizer.encode(text) for text in recorded["texts"]] == recorded["ids"]
    assert tokenizer.encode(*recorded["texts"][:2]) == recorded["pair"]
    texts = [tokenizer.decode(ids) for ids in recorded["ids"]]
    spaced = [
        text.replace(" ' ", "'") for text in recorded["decoded"]
    ]  # transformers 5 cleans up per token, which keeps spaces around an apostrophe
    assert texts == spaced
    for setting, value in recorded["settings"].items():
        assert getattr(tokenizer, setting) == value
    special = [token for token in recorded["special"] if "Backend" not in name]
    assert set(tokenizer.all_special_tokens) >= set(special)
    assert "Backend" in name or len(tokenizer.all_special_tokens) == len(special)


@pytest.mark.parity("T8")
def test_classes_of_transformers_5_folders(tmp_path):
    for name, recorded in RECORDED.items():
        family = name.split()[-1].split(",")[0] if "Backend" in name else name.split(",")[0]
        expected = {
            "gpt2": "GPT2",
            "bert-base-uncased": "Bert",
            "roberta-base": "Roberta",
            "t5": "T5",
            "llama": "Llama",
        }
        expected = expected.get(family)
        wanted = f"{expected}Tokenizer" if expected else recorded["tokenizer_config.json"]["tokenizer_class"]
        assert type(jt.load_tokenizer(write(recorded, tmp_path / name))).__name__ == wanted


@pytest.mark.parametrize("model_type", ["led", "bart", "roberta-prelayernorm"])
@pytest.mark.parametrize("name", ["RobertaTokenizer", "TokenizersBackend of roberta-base"])
@pytest.mark.parity("T8")
def test_model_type_selects_among_roberta_like_tokenizers(tmp_path, name, model_type):
    """transformers 5 has no separate classes for BART and LED."""
    tokenizer = jt.load_tokenizer(write(RECORDED[name], tmp_path, model_type))
    named = {"led": jt.LEDTokenizer, "bart": jt.BartTokenizer}
    assert type(tokenizer) is named.get(model_type, jt.RobertaTokenizer)


@pytest.mark.parity("T6", "T8")
def test_extra_special_tokens_are_attributes(tmp_path):
    tokenizer = jt.load_tokenizer(write(RECORDED["GPT2Tokenizer, more"], tmp_path / "five"))
    assert (tokenizer.image_token, tokenizer.image_token_id) == ("<image>", tokenizer.encode("<image>")[0])
    assert tokenizer.extra_special_tokens == {"image_token": "<image>"}
    assert tokenizer.additional_special_tokens == ["<a>", "<b>"]
    tokenizer.save_pretrained(tmp_path / "again")
    again = jt.load_tokenizer(tmp_path / "again")
    assert again.special_tokens_map == tokenizer.special_tokens_map and again.image_token == "<image>"
    with pytest.raises(ValueError, match="cannot be the name of an extra special token"):
        jt.load_tokenizer(tmp_path / "again", extra_special_tokens={"pad": "<pad>"})
    with pytest.raises(AttributeError, match="no attribute 'video_token'"):
        _ = tokenizer.video_token


@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
@pytest.mark.parity("D10", "T8")
def test_dpr_tokenizer_json_overrides_settings(tmp_path, setting):
    """transformers 5 writes do_lower_case=false beside a normalizer that lower-cases."""
    recorded = RECORDED["DPRReaderTokenizer"]
    assert recorded["tokenizer_config.json"]["do_lower_case"] is False
    text = "Hello É 中文"
    expected = jt.load_tokenizer(TESTDATA / "tokenizers" / "bert-base-uncased").encode(text)
    for value in (True, False):
        settings = recorded["tokenizer_config.json"] | {setting: value}
        folder = write(recorded | {"tokenizer_config.json": settings}, tmp_path / str(value))
        assert jt.load_tokenizer(folder).encode(text) == expected
    cased = jt.load_tokenizer(folder, do_lower_case=False)  # an argument overrides both
    assert cased.encode(text) != expected and cased.do_lower_case is False


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parity("T8", "T9")
def test_recorded_files_equal_transformers_5(tmp_path):
    """It still writes the recorded files, and reads files saved here with the same ids."""
    try:
        transformers5.install()
    except subprocess.CalledProcessError as error:
        pytest.fail(f"transformers {transformers5.VERSION} cannot be installed: {error.stderr}")
    transformers5.run("record", TESTDATA / "tokenizers", tmp_path / "written.json", script=tokenizers5.__file__)
    assert json.loads((tmp_path / "written.json").read_text()) == RECORDED
    tokenizers = {}
    for name, recorded in RECORDED.items():
        if "Backend" not in name:
            tokenizer = jt.load_tokenizer(write(recorded, tmp_path / "five" / name))
            tokenizer.save_pretrained(tmp_path / "saved" / name)
            tokenizers[name] = tokenizer
    transformers5.run("read", tmp_path / "saved", tmp_path / "read.json", script=tokenizers5.__file__)
    for name, read in json.loads((tmp_path / "read.json").read_text()).items():
        assert read["ids"] == [tokenizers[name].encode(text) for text in read["texts"]], name
        assert set(read["special"]) == set(tokenizers[name].all_special_tokens), name
        assert read["settings"] == {setting: getattr(tokenizers[name], setting) for setting in read["settings"]}, name
