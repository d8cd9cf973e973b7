"""Real vocabularies, reduced and complete, in jaxmodels and in transformers' two implementations."""

import pytest
import transformers

import jaxmodels.tokenization as jt


@pytest.fixture(scope="session", params=["cut", pytest.param("whole", marks=[pytest.mark.full_data, pytest.mark.slow])])
def data_dir(request, data_dir):
    """Tests of real vocabularies or texts run on the reduced ones and, if available, the complete ones."""
    return data_dir if request.param == "cut" else request.getfixturevalue("full_data_dir")


@pytest.fixture(scope="session")
def gpt2_files(data_dir):
    folder = data_dir / "tokenizers" / "gpt2"
    return {"vocab_file": str(folder / "encoder.json"), "merges_file": str(folder / "vocab.bpe")}


@pytest.fixture(scope="session")
def fast(data_dir):
    """The reference's fast tokenizer, with a pad token."""
    path = str(data_dir / "tokenizers" / "gpt2" / "tokenizer.json")
    return transformers.GPT2TokenizerFast(tokenizer_file=path, pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def slow(gpt2_files):
    """The reference's slow tokenizer, with a pad token."""
    return transformers.GPT2Tokenizer(**gpt2_files, pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def shared_tokenizer(data_dir):
    """The tokenizer of jaxmodels, with a pad token; tests must not modify it."""
    return jt.load_tokenizer(data_dir / "tokenizers" / "gpt2", pad_token="<|endoftext|>")


@pytest.fixture
def tiny_folder(data_dir):
    """A folder with a GPT-2 tokenizer of 21 tokens and its configs."""
    return data_dir / "checkpoints" / "tiny_gpt2"


@pytest.fixture
def small_folder(cases_dir):
    """A folder with a GPT-2 tokenizer of all bytes and 65 merges, quick to load, and its configs."""
    return cases_dir / "gpt2_tokenizer" / "tokenizer"


@pytest.fixture
def small(small_folder):
    """The tokenizer of `small_folder`, without a pad token; tests may modify it."""
    return jt.load_tokenizer(small_folder)


@pytest.fixture(scope="session")
def bert_vocabulary(data_dir):
    """The vocab.txt of bert-base-uncased."""
    return str(data_dir / "tokenizers" / "bert-base-uncased" / "vocab.txt")


@pytest.fixture(scope="session")
def roberta_files(data_dir):
    folder = data_dir / "tokenizers" / "roberta-base"
    return {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}


@pytest.fixture(scope="session")
def small_bert_folder(cases_dir):
    """A folder with a BERT vocabulary of 95 tokens, quick to load, and its configs."""
    return cases_dir / "dpr_question_tokenizer" / "tokenizer"
