"""Damaged tokenizer files are refused by name, or load and work (docs/parity.md, T8)."""

import random
import shutil
from collections import Counter

import pytest
from support import hostile_tokenizers as hostile
from support.full_data import TRAINED

import jaxmodels.tokenization as jt

# Parts of a tokenizer.json that the class replaces, and flags that another file overrides.
SET_ANYWAY = ("post_processor", "normalizer", "pre_tokenizer", "decoder", "added_tokens")
SET_ANYWAY += ("truncation", "padding", "version")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, data_dir, cases_dir):
    """A folder of each type of vocabulary, with every file and setting, with tokenizer.json and without."""
    base = tmp_path_factory.mktemp("families")
    small = cases_dir / "gpt2_tokenizer" / "tokenizer"
    named = {"extra_special_tokens": {"image_token": "<image>"}, "chat_template": "{{ messages }}"}
    gpt2 = jt.load_tokenizer(small, pad_token="[PAD]", **named)
    gpt2.add_tokens("new word")
    tokenizers = {
        "gpt2": gpt2,
        "roberta": jt.RobertaTokenizer(small / "vocab.json", small / "merges.txt"),
        "dpr": jt.load_tokenizer(cases_dir / "dpr_question_tokenizer" / "tokenizer", never_split=["paris"]),
        "t5": jt.load_tokenizer(data_dir / "tokenizers" / "t5"),
        "llama": jt.load_tokenizer(TRAINED, pad_token="<pad>", **named),
        "generic": jt.GenericTokenizer(data_dir / "tokenizers" / "gpt2" / "tokenizer.json", pad_token="[PAD]", **named),
    }
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(base / name / "json")
        if name != "generic":  # it has no vocabulary files
            shutil.copytree(base / name / "json", base / name / "vocabulary")
            (base / name / "vocabulary" / "tokenizer.json").unlink()
    return [folder for family in sorted(base.iterdir()) for folder in sorted(family.iterdir())]


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=[pytest.mark.slow, pytest.mark.long])])
@pytest.mark.parity("T8")
def test_damaged_files_are_refused_or_work(folders, tmp_path, count):
    every = [(folder, *case) for folder in folders for case in hostile.cases(folder, seed=count)]
    counts, unexpected = Counter(), []
    for folder, what, name, content in random.Random(count).sample(every, count):
        outcome = hostile.outcome(folder, name, content, tmp_path / "changed")
        result = outcome if outcome in ("refused", "works", "no effect") else "raw"
        counts[result] += 1
        if result == "raw" or result == "no effect" and not _means_nothing(what):
            unexpected.append((folder.parent.name, folder.name, what, outcome))
    assert unexpected == []
    assert counts["refused"] > count / 2, counts


def _means_nothing(what: str) -> bool:
    """Whether a change has no effect by design: null means the default, and other files may override a value."""
    file, _, rest = what.partition(": ")
    flag = rest.endswith(" is True") and file == "special_tokens_map.json"
    absent = file == "tokenizer_config.json" and rest in (
        "('tokenizer_class',) is ''",
        "('added_tokens_decoder',) is {}",
    )
    other = file == "tokenizer.json" and (rest.startswith(tuple(f"('{part}'" for part in SET_ANYWAY)))
    score = file == "tokenizer.model" and rest.startswith("byte ")  # BPE depends on the order of scores only
    return rest.endswith(" is None") or flag or absent or other or score


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("tokenizer_config.json", '{"padding_side": "up"}', r"tokenizer_config.json: padding_side must be one of"),
        ("tokenizer_config.json", '{"model_max_length": "512"}', "model_max_length must be an integer, got '512'"),
        (
            "tokenizer_config.json",
            '{"add_prefix_space": "false"}',
            "add_prefix_space must be True or False, got 'false'",
        ),
        ("tokenizer_config.json", '{"model_input_names": ["input_ids", 3]}', r"model_input_names\[1\] must be a str"),
        ("tokenizer_config.json", '{"pad_token": ["[PAD]"]}', r"tokenizer_config.json: pad_token must be a str or"),
        ("tokenizer_config.json", '{"pad_token": {"content": "a", "lstrip": 1}}', "pad_token: lstrip must be True or"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "a"}]}', "chat_template must be a list of"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": "<a>"}}', "whose keys are ids, as decimal numbers"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"-1": "<a>"}}', "added_tokens_decoder must be at least 0"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"99999999999": "<a>"}}', "must be at most 16777216"),
        ("tokenizer_config.json", '{"extra_special_tokens": "<a>"}', "extra_special_tokens must be an object of names"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}', "tokenizer_class must be a str, got 3"),
        (
            "special_tokens_map.json",
            '{"additional_special_tokens": "<a>"}',
            r"special_tokens_map.json: additional_special",
        ),
        ("added_tokens.json", '{"<a>": 330, "<b>": 330}', "added_tokens.json: '<a>' and '<b>' have the same id, 330"),
        ("added_tokens.json", '{"<a>": "330"}', "added_tokens.json: <a> must be an integer, got '330'"),
        ("vocab.json", '{"a": 0, "b": 0}', "vocab.json: 'a' and 'b' have the same id, 0"),
        ("vocab.json", '{"a": 4294967301}', "vocab.json: the id of 'a' must be at most"),
        ("vocab.json", '{"a": "0"}', "vocab.json: the id of 'a' must be an integer"),
    ],
)
@pytest.mark.parity("T8")
def test_errors_name_the_file_and_the_key(small_folder, tmp_path, file, content, match):
    shutil.copytree(small_folder, tmp_path, dirs_exist_ok=True)
    if file in ("special_tokens_map.json", "added_tokens.json"):
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=match) as refused:
        jt.load_tokenizer(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parity("T6", "T8")
def test_vocabularies_with_gaps_load_but_accept_no_tokens(tmp_path, small_folder):
    shutil.copytree(small_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0, "a": 1, "b": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = jt.load_tokenizer(tmp_path)
    assert tokenizer.encode("ab") == [1, 3]
    with pytest.raises(
        ValueError, match="'c' would get the id 3, which is 'b''s: the ids of this vocabulary have gaps"
    ):
        tokenizer.add_tokens("c")


@pytest.mark.parity("T6", "T8")
def test_ids_that_the_library_would_renumber_are_refused(tmp_path, folders):
    source = next(folder for folder in folders if folder.parts[-2:] == ("gpt2", "json"))
    text = (source / "tokenizer.json").read_text()
    tokenizer = jt.load_tokenizer(source)
    wrong = text.replace(f'"id": {tokenizer.image_token_id},', '"id": 500,')
    assert wrong != text
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(wrong)
    with pytest.raises(ValueError, match="tokenizer.json: added_tokens: '<image>' must have the id 500"):
        jt.load_tokenizer(tmp_path)
