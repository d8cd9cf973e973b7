"""Each family's tokenizer compared with recorded ids of transformers, which need not be installed.

`tests/tools/record_ids.py` made the record of the cut-down vocabularies.
"""

import ast
import json
from pathlib import Path

import pytest
from support.full_data import TESTDATA
from support.hard_texts import HARD_TEXTS
from tokenizers import AddedToken

import jaxmodels as jm
import jaxmodels.tokenization as jt

FOLDER = TESTDATA / "tokenizers"
RECORDED = json.loads((TESTDATA / "ids.json").read_text(encoding="utf-8"))
FOLDERS = {
    jm.GPT2Tokenizer: "gpt2",
    jm.RobertaTokenizer: "roberta-base",
    jm.BartTokenizer: "roberta-base",
    jm.LEDTokenizer: "roberta-base",
    jm.BertTokenizer: "bert-base-uncased",
    jm.DPRReaderTokenizer: "bert-base-uncased",
    jm.T5Tokenizer: "t5",
    jm.LlamaTokenizer: "llama",
}
families = pytest.mark.parametrize("cls", FOLDERS, ids=lambda cls: cls.__name__)


@pytest.fixture
def load():
    return lambda cls: jm.load_tokenizer(FOLDER / FOLDERS[cls], cls=cls)


@families
def test_ids_equal_the_record_before_and_after_saving(cls, load, tmp_path):
    recorded, pair = RECORDED[FOLDERS[cls]]["texts"], RECORDED[FOLDERS[cls]]["pair"]
    assert [text for text, _ in recorded] == HARD_TEXTS, "run tests/tools/record_ids.py"
    load(cls).save_pretrained(tmp_path)
    for tokenizer in (load(cls), jm.load_tokenizer(tmp_path, cls=cls)):
        for text, ids in recorded:
            assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.encode("Hello world", "it's") == pair


@pytest.mark.parametrize("cls", [cls for cls in FOLDERS if cls is not jm.DPRReaderTokenizer], ids=lambda c: c.__name__)
def test_overflowing_windows_cover_the_text(cls, load):
    """pyproject.toml excludes releases of `tokenizers` that lose overflowing windows."""
    tokenizer, text = load(cls), "one two three four five six seven"
    whole = tokenizer.encode(text, add_special_tokens=False)
    options = {"add_special_tokens": False, "truncation": True, "return_overflowing_tokens": True}
    windows = [list(window) for window in tokenizer([text], max_length=4, stride=1, **options).input_ids]
    assert len(windows) == -(-(len(whole) - 1) // 3) > 1
    assert [*windows[0], *(i for window in windows[1:] for i in window[1:])] == whole


@families
@pytest.mark.parametrize("flags", [{}, {"normalized": False}, {"special": True}], ids=["plain", "raw", "special"])
def test_added_tokens_decode_unchanged(cls, load, flags):
    """Newer releases of `tokenizers` return it in lower case if the normalizer converts texts to it."""
    tokenizer = load(cls)
    token = "New Wörd"
    assert tokenizer.add_tokens(AddedToken(token, **flags)) == 1
    index = len(tokenizer) - 1
    assert index in tokenizer.encode(f"a {token} b")
    assert tokenizer.convert_ids_to_tokens(index) == token
    assert tokenizer.convert_ids_to_tokens([index]) == [token]
    assert tokenizer.decode([index]) == token
    tokenizer.pad_token_id = index
    assert tokenizer.pad_token == token


def test_post_processor_arguments_are_positional():
    """RobertaProcessing's second argument is `cls` before 0.23 of `tokenizers`, and `cls_token` from then on."""
    calls = [
        node
        for path in sorted(Path(jt.__file__).parent.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("RobertaProcessing", "BertProcessing")
    ]
    assert calls
    for call in calls:
        assert len(call.args) == 2 and not {"sep", "cls", "cls_token"} & {each.arg for each in call.keywords}
