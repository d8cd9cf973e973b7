"""Every option and method of transformers' tokenizers works or is refused with the replacement (T1 to T9)."""

import inspect
import traceback

import numpy as np
import pytest

import jaxmodels.tokenization as jt
from jaxmodels.tokenization import unsupported
from jaxmodels.tokenization.arguments import EncodeOptions

transformers = pytest.importorskip("transformers")

CHAT = [{"role": "user", "content": "the river"}]
# Options of older and newer releases than the installed one, 4.57, and of its **kwargs.
ALSO = {
    "__call__": ["pad_to_max_length", "truncation_strategy", "split_special_tokens", "add_prefix_space"],
    "from_pretrained": ["subfolder", "use_auth_token", "proxies", "resume_download", "mirror", "use_fast", "from_slow"]
    + ["legacy", "tokenizer_type", "tokenizer_class", "config", "gguf_file", "backend", "max_len", "verbose", "dtype"]
    + [
        "torch_dtype",
        "device_map",
        "tokenizer_object",
        "vocab_file",
        "merges_file",
        "tokenizer_file",
        "vocab",
        "merges",
    ],
    "save_pretrained": ["save_jinja_files", "repo_id", "token", "commit_message", "private", "create_pr", "tags"],
    "decode": ["spaces_between_special_tokens", "use_source_tokenizer"],
    "batch_decode": ["spaces_between_special_tokens", "use_source_tokenizer"],
    "get_special_tokens_mask": ["already_has_special_tokens"],
    "apply_chat_template": ["add_special_tokens", "processor_kwargs"],
}
ASKING = {
    "padding": True, "max_length": 3, "truncation": True, "padding_side": "left", "return_tensors": "np", "stride": 0,
    "pad_to_multiple_of": 2, "text_target": "low", "text_pair_target": "low", "text_pair": "low", "pair": "low",
    "chat_template": "{{ messages }}", "tokenizer_kwargs": {"padding": True}, "cache_dir": "x", "token": "x",
    "subfolder": ".", "filename_prefix": "x", "special_tokens": True, "replace_additional_special_tokens": False,
    "continue_final_message": False, "force_download": True, "local_files_only": True, "tokenize": False,
}  # fmt: skip
# Positional in these tests.
FIRST = {"self", "cls", "pretrained_model_name_or_path", "init_inputs", "kwargs", "text", "token_ids", "sequences"}
FIRST |= {"encoded_inputs", "conversation", "new_tokens", "special_tokens_dict", "tokens", "ids", "token_ids_0"}
FIRST |= {"batch_text_or_text_pairs", "save_directory", "out_string"}


@pytest.fixture
def tokenizer(small_folder):
    return jt.load_tokenizer(small_folder, pad_token="<|endoftext|>")


@pytest.fixture
def calls(tokenizer, small_folder, tmp_path):
    """Method -> a function that calls it with options only."""
    encoded = tokenizer(["a", "the river"])
    return {
        "__call__": lambda **o: tokenizer("the river", **o),
        "encode": lambda **o: tokenizer.encode("the river", **o),
        "encode_plus": lambda **o: tokenizer.encode_plus("the river", **o),
        "batch_encode_plus": lambda **o: tokenizer.batch_encode_plus(["the river"], **o),
        "tokenize": lambda **o: tokenizer.tokenize("the river", **o),
        "pad": lambda **o: tokenizer.pad(dict(encoded), **o),
        "decode": lambda **o: tokenizer.decode([3, 4], **o),
        "batch_decode": lambda **o: tokenizer.batch_decode([[3, 4]], **o),
        "convert_ids_to_tokens": lambda **o: tokenizer.convert_ids_to_tokens([3, 4], **o),
        "apply_chat_template": lambda **o: tokenizer.apply_chat_template(CHAT, **o),
        "add_tokens": lambda **o: tokenizer.add_tokens(["new word"], **o),
        "add_special_tokens": lambda **o: tokenizer.add_special_tokens({"sep_token": "<sep>"}, **o),
        "get_special_tokens_mask": lambda **o: tokenizer.get_special_tokens_mask([0, 1], **o),
        "num_special_tokens_to_add": lambda **o: tokenizer.num_special_tokens_to_add(**o),
        "from_pretrained": lambda **o: jt.GPT2Tokenizer.from_pretrained(small_folder, **o),
        "save_pretrained": lambda **o: tokenizer.save_pretrained(tmp_path, **o),
        "save_vocabulary": lambda **o: tokenizer.save_vocabulary(tmp_path, **o),
    }


def options(method: str) -> list[str]:
    named = set(inspect.signature(getattr(transformers.PreTrainedTokenizerFast, method)).parameters)
    return sorted({*named, *ALSO.get(method, ())} - FIRST - {"pair"})


def test_every_option_of_the_reference_works_or_is_refused(calls):
    for method, call in calls.items():
        for name in options(method):
            try:
                call(**{name: ASKING.get(name, True)})
            except (TypeError, ValueError) as error:
                assert raised_by_library(error), (method, name, error)
                assert name in str(error) or "text_pair" in name, (method, name, error)


def test_unsupported_options_name_the_replacement(calls):
    tables = {"__call__": unsupported.CALL, "decode": unsupported.DECODE, "batch_decode": unsupported.DECODE}
    tables |= {"encode": unsupported.CALL, "save_pretrained": unsupported.SAVE, "from_pretrained": unsupported.LOAD}
    for method, table in tables.items():
        for name, refusal in table.items():
            with pytest.raises(TypeError) as refused:
                calls[method](**{name: object()})
            assert refusal.instead in str(refused.value)
            for neutral in refusal.neutral:
                calls[method](**{name: neutral})
    for method in (
        "__call__",
        "decode",
        "save_pretrained",
        "from_pretrained",
        "pad",
        "apply_chat_template",
        "tokenize",
    ):
        with pytest.raises(TypeError, match="has no option 'retrun_tensors'"):
            calls[method](retrun_tensors="np")


@pytest.mark.parity("T1", "T3")
def test_option_values_of_wrong_types_are_refused(tokenizer):
    for name in inspect.signature(EncodeOptions).parameters:
        for value in ("yes", 1.5, [], {}, object(), -7, 2**70):
            if name == "max_length" and value == 2**70:
                continue  # valid: it means no limit
            with pytest.raises(ValueError, match=f"{name} must be|the stride") as refused:
                tokenizer("the river", **{name: value})
            assert raised_by_library(refused.value)


@pytest.mark.parity("T1", "T2", "T3")
def test_enums_and_numpy_scalars_are_accepted(tokenizer):
    padding = transformers.utils.PaddingStrategy.MAX_LENGTH
    assert tokenizer("a", padding=padding, max_length=np.int64(5)).input_ids.shape == (5,)
    assert tokenizer("a", truncation=np.True_, max_length=int(1e30)).input_ids.shape == (1,)
    assert tokenizer("a", return_tensors=transformers.TensorType.NUMPY).input_ids.shape == (1, 1)
    with pytest.raises(ValueError, match="return_tensors must be one of None, 'np', 'jax', got 'pt'"):
        tokenizer("a", return_tensors=transformers.TensorType.PYTORCH)
    with pytest.raises(ValueError, match="cannot pad sequences to 1000000000 tokens"):
        tokenizer("a", padding="max_length", max_length=10**9)


@pytest.mark.parity("T6")
def test_split_special_tokens_and_verbose_of_a_call(tokenizer, recwarn):
    assert 0 not in tokenizer.encode("<|endoftext|>", split_special_tokens=True)
    assert tokenizer.encode("<|endoftext|>") == [0]
    tokenizer.model_max_length = 1
    recwarn.clear()
    tokenizer("the river", verbose=False)
    assert not recwarn
    tokenizer("the river")
    assert recwarn


def test_unsupported_methods_name_the_replacement(tokenizer):
    has = {name for name in dir(transformers.GPT2TokenizerFast) if not name.startswith("_")}
    here = {name for name in dir(tokenizer) if not name.startswith("_")}
    known = {name for name in has if name.endswith(("_token", "_token_id")) or name.isupper()}
    known |= {"vocab_files_names", "truncate", "set_truncation", "model_input_names"} | {
        name for name in has if "pretrained" in name or name.endswith("_class")
    }
    for name in sorted(has - here - known):
        with pytest.raises(AttributeError) as refused:
            getattr(tokenizer, name)
        assert unsupported.METHODS[name] in str(refused.value), name
    for name in unsupported.METHODS:
        assert not hasattr(tokenizer, name)


@pytest.mark.parity("T3", "T5")
def test_invalid_ids_are_refused(tokenizer):
    for wrong in ("3", ["3"], 1.5, [1.5], None, [None], [[1], [2, 3]], [2**70], 2**33, [-1], {"a": 1}, [True], b"a"):
        for call in (tokenizer.decode, tokenizer.convert_ids_to_tokens, tokenizer.get_special_tokens_mask):
            with pytest.raises((TypeError, ValueError)) as refused:
                call(wrong)
            assert raised_by_library(refused.value), wrong
    for wrong in ("3", 3, ["3"], [[1.5]], None, [[2**70]], {"a": 1}):
        with pytest.raises((TypeError, ValueError)) as refused:
            tokenizer.batch_decode(wrong)
        assert raised_by_library(refused.value), wrong
    assert tokenizer.decode(np.int64(40)) == tokenizer.decode(40) == tokenizer.decode([np.int32(40)])


@pytest.mark.parity("T3", "T6")
def test_invalid_tokens_and_texts_are_refused(tokenizer):
    calls = [tokenizer.convert_tokens_to_ids, tokenizer.convert_tokens_to_string, tokenizer.add_tokens]
    calls += [tokenizer.add_special_tokens, tokenizer.pad, tokenizer.apply_chat_template, tokenizer.encode]
    for call in calls:
        for wrong in (3, None, [3], [None], b"a", object(), ["\ud800"]):
            with pytest.raises((TypeError, ValueError)) as refused:
                call(wrong)
            assert raised_by_library(refused.value), (call, wrong)
    with pytest.raises(ValueError, match="must not be empty"):
        tokenizer.add_tokens("")


@pytest.mark.parity("T1")
def test_pad_refuses_invalid_sequences(tokenizer):
    for wrong in ([1.9, 2.0], ["3"], [2**40], [[1, 2], 3], "ab", None, 3):
        with pytest.raises(ValueError, match="input_ids must"):
            tokenizer.pad({"input_ids": wrong})
    with pytest.raises(ValueError, match="with the same fields"):
        tokenizer.pad([{"input_ids": [1]}, {"input_ids": [1], "labels": [2]}])
    with pytest.raises(ValueError, match="return_tensors must be one of"):
        tokenizer.pad({"input_ids": [1]}, return_tensors="pt")
    padded = tokenizer.pad([{"input_ids": [1, 2], "labels": 0.5}, {"input_ids": [1], "labels": 1.5}])
    assert padded["labels"].tolist() == [0.5, 1.5] and padded["input_ids"].tolist() == [[1, 2], [1, 0]]


@pytest.mark.parity("T7")
def test_template_variables_are_passed(tokenizer):
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ tools }}{{ mood }}"
    options = {"chat_template": template, "tokenize": False}
    assert tokenizer.apply_chat_template(CHAT, tools=[1], mood="kind", **options) == "[the river][1]kind"
    final = tokenizer.apply_chat_template(CHAT, continue_final_message=True, tools=[1], **options)
    assert final == "[the river"
    with pytest.raises(ValueError, match="mutually exclusive"):
        tokenizer.apply_chat_template(CHAT, continue_final_message=True, add_generation_prompt=True, **options)
    with pytest.raises(TypeError, match="has no option 'moood'"):
        tokenizer.apply_chat_template(CHAT, moood="kind", **options)


def raised_by_library(error: BaseException) -> bool:
    return "jaxmodels/" in traceback.extract_tb(error.__traceback__)[-1].filename
