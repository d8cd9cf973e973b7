"""The same ways in on every tokenizer class: from_pretrained, save_pretrained, load_tokenizer (T8, T9, A18)."""

import shutil

import huggingface_hub
import numpy as np
import pytest

import jaxmodels.tokenization as jt
from jaxmodels.tokenization.families import TOKENIZERS

HUB = {"revision": "abc", "token": "hf_x", "cache_dir": "cache", "local_files_only": True, "force_download": True}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub, with repositories that the test adds: {id: folder}; `hub.asked` is what was asked of it."""

    class Hub(dict):
        asked: dict

    repositories = Hub()

    def snapshot_download(repo_id, *, allow_patterns, **options):
        repositories.asked = {"repo_id": repo_id, "patterns": allow_patterns, **options}
        for name in allow_patterns:  # names, not patterns: no weights come with them
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
        if issubclass(cls, jt.BertTokenizer):
            return cls(bert / "vocab.txt")
        return cls(gpt2 / "vocab.json", gpt2 / "merges.txt")

    return make


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parity("T8", "T9")
def test_every_class_loads_by_itself_by_its_name_and_by_the_folder(saved, name):
    cls, folder = TOKENIZERS[name], saved[name]
    ways = [cls.from_pretrained(folder), cls.from_pretrained(folder.parent, subfolder=folder.name)]
    ways += [jt.load_tokenizer(folder, cls=way) for way in (None, cls, name, f"{name}Fast", "AutoTokenizer")]
    for tokenizer in ways:
        assert type(tokenizer) is cls
        assert tokenizer.encode("the river") == ways[0].encode("the river")
    assert cls.from_pretrained(folder, padding_side="left", use_fast=True).padding_side == "left"


@pytest.mark.parity("T8")
def test_a_misspelt_class_is_answered_with_the_nearest(saved):
    with pytest.raises(ValueError, match="no tokenizer class 'RobertaTokeniser'; did you mean 'RobertaTokenizer'"):
        jt.load_tokenizer(saved["RobertaTokenizer"], cls="RobertaTokeniser")
    with pytest.raises(TypeError, match="cls must be one of GPT2Tokenizer.*RagTokenizer, or its name, got 3"):
        jt.load_tokenizer(saved["RobertaTokenizer"], cls=3)
    with pytest.raises(TypeError, match="a folder or a Hub id must be"):
        jt.load_tokenizer(None)


@pytest.mark.parity("A18", "T8")
def test_a_folder_of_rag_gives_its_two_tokenizers(rag_folder, tmp_path):
    ways = [jt.load_tokenizer(rag_folder), jt.load_tokenizer(rag_folder.parent, subfolder=rag_folder.name)]
    ways += [jt.load_tokenizer(rag_folder, cls="RagTokenizer"), jt.RagTokenizer.from_pretrained(rag_folder)]
    for tokenizer in ways:
        assert type(tokenizer) is jt.RagTokenizer
    written = ways[0].save_pretrained(tmp_path)
    assert {path.rsplit("/", 2)[1] for path in written} == {"question_encoder_tokenizer", "generator_tokenizer"}
    again = jt.load_tokenizer(tmp_path, model_max_length=9)
    assert again.question_encoder.model_max_length == again.generator.model_max_length == 9
    np.testing.assert_array_equal(again("who?")["input_ids"], ways[0]("who?")["input_ids"])
    with pytest.raises(TypeError, match=r"save_pretrained\(\) has no option 'push_to_hub' \(got True\)"):
        ways[0].save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(FileNotFoundError, match="has no generator_tokenizer, so it is no folder of a RagTokenizer"):
        shutil.rmtree(tmp_path / "generator_tokenizer")
        jt.RagTokenizer.from_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="'prepare_seq2seq_batch': use"):
        _ = ways[0].prepare_seq2seq_batch


@pytest.mark.parity("T8")
def test_a_hub_id_fetches_the_tokenizers_files_alone(hub, small_folder):
    hub["openai-community/gpt2"] = small_folder.parent
    for way in (jt.load_tokenizer, jt.GPT2Tokenizer.from_pretrained):
        tokenizer = way("openai-community/gpt2", subfolder="tokenizer", padding_side="left", **HUB)
        assert (len(tokenizer), tokenizer.padding_side) == (330, "left")
        patterns = hub.asked.pop("patterns")
        assert hub.asked == {"repo_id": "openai-community/gpt2", **HUB}
        assert {"tokenizer/tokenizer.json", "tokenizer/vocab.json", "tokenizer/config.json"} <= set(patterns)
        assert not any("safetensors" in pattern or "*" in pattern for pattern in patterns)


@pytest.mark.parity("A18", "T8")
def test_a_rag_from_the_hub(hub, rag_folder):
    hub["facebook/rag"] = rag_folder
    for way in (jt.load_tokenizer, jt.RagTokenizer.from_pretrained):
        assert type(way("facebook/rag", revision="abc")) is jt.RagTokenizer
        assert hub.asked["revision"] == "abc"


@pytest.mark.parity("T8")
def test_a_hub_id_that_cannot_be_reached():
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is not a folder here"):
        jt.load_tokenizer("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="absent/folder/here' is neither a folder here nor a Hub id"):
        jt.load_tokenizer("./absent/folder/here")
