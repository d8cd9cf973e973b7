"""Ids of the published vocabularies that are known from publications."""

import pytest

import jaxmodels as jm

pytestmark = pytest.mark.full_data


@pytest.fixture(scope="module")
def folder(full_data_dir):
    return full_data_dir / "tokenizers"


@pytest.mark.parity("G17")
def test_gpt2(folder, full_data_dir):
    tokenizer = jm.load_tokenizer(folder / "gpt2", add_bos_token=True)
    assert (len(tokenizer), tokenizer.eos_token_id) == (50257, 50256)
    assert tokenizer.encode("Hello world") == [50256, 15496, 995]
    assert tokenizer.encode(" Hello world", add_special_tokens=False) == [18435, 995]
    text = (full_data_dir / "text/tinyshakespeare.txt").read_text()
    assert len(jm.load_tokenizer(folder / "gpt2").encode(text)) == 338025


@pytest.mark.parametrize("name", ["RobertaTokenizer", "BartTokenizer", "LEDTokenizer"])
@pytest.mark.parity("L16", "T4")
def test_roberta_bart_and_led(folder, name):
    tokenizer = jm.load_tokenizer(folder / "roberta-base", cls=getattr(jm, name))
    assert (len(tokenizer), tokenizer.mask_token_id) == (50265, 50264)
    assert tokenizer.encode("Hello world") == [0, 31414, 232, 2]
    assert tokenizer.encode("a", "b") == [0, 102, 2, 2, 428, 2]
    assert tokenizer.encode("a  <mask> b") == [0, 102, 50264, 741, 2]


@pytest.mark.parity("D10")
def test_bert(folder):
    tokenizer = jm.load_tokenizer(folder / "bert-base-uncased")
    assert len(tokenizer) == 30522
    assert tokenizer.encode("Hello, is my dog cute?") == [101, 7592, 1010, 2003, 2026, 3899, 10140, 1029, 102]


@pytest.mark.parity("T10")
def test_t5(folder):
    tokenizer = jm.load_tokenizer(folder / "t5")
    assert (len(tokenizer), tokenizer.convert_tokens_to_ids("<extra_id_0>")) == (32100, 32099)
    text = "translate English to German: The house is wonderful."
    assert tokenizer.encode(text) == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]
    assert tokenizer("a", "b").input_ids.tolist() == [3, 9, 1, 3, 115, 1]
