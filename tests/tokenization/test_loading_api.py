"""Loading and saving API of every tokenizer class: from_pretrained, save_pretrained, load_tokenizer (T8, T9, A18)."""

import shutil

import huggingface_hub
import numpy as np
import pytest
from support.full_data import TRAINED

import jaxmodels.tokenization as jt
from jaxmodels.tokenization.loading import TOKENIZERS

HUB = {"revision": "abc", "token": "hf_x", "cache_dir": "cache", "local_files_only": True, "force_download": True}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake Hub, {id: folder}; `hub.requested` holds the arguments of the last download."""

    class Hub(dict):
        requested: dict

    repositories = Hub()

    def snapshot_download(repo_id, *, allow_patterns, **options):
        repositories.requested = {"repo_id": repo_id, "patterns": allow_patterns, **options}
        for name in allow_patterns:  # names without wildcards, so that no weights are downloaded
            if (repositories[repo_id] / name).is_file():
                (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(repositories[repo_id] / name, tmp_path / "hub" / name)
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return repositories


@pytest.fixture(scope="module")
def rag_folder(cases_dir):
    return cases_dir / "rag_retriever"


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_folder_of):
    """Class -> a folder of its tokenizer."""
    folders = {}
    for name, cls in TOKENIZERS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        small_folder_of(cls).save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def small_folder_of(cases_dir, data_dir):
    gpt2, bert = cases_dir / "gpt2_tokenizer" / "tokenizer", cases_dir / "dpr_question_tokenizer" / "tokenizer"

    def make(cls):
        if issubclass(cls, jt.T5Tokenizer):
            return cls(tokenizer_file=data_dir / "tokenizers" / "t5" / "tokenizer.json")
        if cls is jt.LlamaTokenizer:
            return cls(TRAINED / "tokenizer.model")
        if cls is jt.GenericTokenizer:
            return cls(data_dir / "tokenizers" / "gpt2" / "tokenizer.json")
        if issubclass(cls, jt.BertTokenizer):
            return cls(bert / "vocab.txt")
        return cls(gpt2 / "vocab.json", gpt2 / "merges.txt")

    return make


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parity("T8", "T9")
def test_every_class_loads_by_class_name_and_folder(saved, name):
    cls, folder = TOKENIZERS[name], saved[name]
    tokenizers = [cls.from_pretrained(folder), cls.from_pretrained(folder.parent, subfolder=folder.name)]
    tokenizers += [jt.load_tokenizer(folder, cls=load) for load in (None, cls, name, f"{name}Fast", "AutoTokenizer")]
    for tokenizer in tokenizers:
        assert type(tokenizer) is cls
        assert tokenizer.encode("the river") == tokenizers[0].encode("the river")
    assert cls.from_pretrained(folder, padding_side="left", use_fast=True).padding_side == "left"


@pytest.mark.parity("T8")
def test_misspelt_classes_suggest_the_nearest(saved):
    with pytest.raises(ValueError, match="no tokenizer class 'RobertaTokeniser'; did you mean 'RobertaTokenizer'"):
        jt.load_tokenizer(saved["RobertaTokenizer"], cls="RobertaTokeniser")
    with pytest.raises(TypeError, match="cls must be one of GPT2Tokenizer.*RagTokenizer, or its name, got 3"):
        jt.load_tokenizer(saved["RobertaTokenizer"], cls=3)
    with pytest.raises(TypeError, match="source must be a folder or a Hub id"):
        jt.load_tokenizer(None)


@pytest.mark.parity("A18", "T8")
def test_rag_folders_load_both_tokenizers(rag_folder, tmp_path):
    tokenizers = [jt.load_tokenizer(rag_folder), jt.load_tokenizer(rag_folder.parent, subfolder=rag_folder.name)]
    tokenizers += [jt.load_tokenizer(rag_folder, cls="RagTokenizer"), jt.RagTokenizer.from_pretrained(rag_folder)]
    for tokenizer in tokenizers:
        assert type(tokenizer) is jt.RagTokenizer
    written = tokenizers[0].save_pretrained(tmp_path)
    assert {path.rsplit("/", 2)[1] for path in written} == {"question_encoder_tokenizer", "generator_tokenizer"}
    again = jt.load_tokenizer(tmp_path, model_max_length=9)
    assert again.question_encoder.model_max_length == again.generator.model_max_length == 9
    np.testing.assert_array_equal(again("who?")["input_ids"], tokenizers[0]("who?")["input_ids"])
    with pytest.raises(TypeError, match=r"save_pretrained\(\) has no option 'push_to_hub' \(got True\)"):
        tokenizers[0].save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(FileNotFoundError, match="has no generator_tokenizer, which a RagTokenizer needs"):
        shutil.rmtree(tmp_path / "generator_tokenizer")
        jt.RagTokenizer.from_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="'prepare_seq2seq_batch': use"):
        _ = tokenizers[0].prepare_seq2seq_batch


@pytest.mark.parity("T8")
def test_hub_ids_download_only_tokenizer_files(hub, small_folder):
    hub["openai-community/gpt2"] = small_folder.parent
    for load in (jt.load_tokenizer, jt.GPT2Tokenizer.from_pretrained):
        tokenizer = load("openai-community/gpt2", subfolder="tokenizer", padding_side="left", **HUB)
        assert (len(tokenizer), tokenizer.padding_side) == (330, "left")
        patterns = hub.requested.pop("patterns")
        assert hub.requested == {"repo_id": "openai-community/gpt2", **HUB}
        assert {"tokenizer/tokenizer.json", "tokenizer/vocab.json", "tokenizer/config.json"} <= set(patterns)
        assert not any("safetensors" in pattern or "*" in pattern for pattern in patterns)


@pytest.mark.parity("A18", "T8")
def test_rag_from_the_hub(hub, rag_folder):
    hub["facebook/rag"] = rag_folder
    for load in (jt.load_tokenizer, jt.RagTokenizer.from_pretrained):
        assert type(load("facebook/rag", revision="abc")) is jt.RagTokenizer
        assert hub.requested["revision"] == "abc"


@pytest.mark.parity("T8")
def test_unreachable_hub_ids():
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is not a local folder"):
        jt.load_tokenizer("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="absent/folder/here' is neither a local folder nor a Hub id"):
        jt.load_tokenizer("./absent/folder/here")
