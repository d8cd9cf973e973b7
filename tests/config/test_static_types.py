"""A type checker knows the fields of the configs and the options of `load` and `save`."""

import re

import pytest
from mypy import api

# Other packages are not followed: their types do not matter here, and checking them takes a minute.
CONFIG = """[mypy]
follow_imports = silent
ignore_missing_imports = true
[mypy-jax.*,flax.*,numpy.*,optax.*,orbax.*,tokenizers.*,huggingface_hub.*,einops.*,ml_dtypes.*,safetensors.*]
follow_imports = skip
"""
VALID = [
    "jm.GPT2Config(n_layer=2, num_labels=3, id2label={0: 'a'}, pad_token_id=0, extra={'note': 'text'})",
    "jm.RagConfig(question_encoder=jm.DPRConfig(projection_dim=8), generator=jm.T5Config(), n_docs=3)",
    "assert_type(jm.GPT2Config().n_layer, int)",
    "assert_type(jm.GPT2Config().replace(n_layer=2), jm.GPT2Config)",
    "jm.load('gpt2', dtype='bfloat16', revision='main', num_labels=3, id2label={0: 'a'}, n_positions=512)",
    "jm.load_rag('dpr', 'bart', token=True, generator_revision='main', n_docs=3)",
    "jm.save('folder', *jm.load('gpt2'), max_shard_size='1GB')",
]
INVALID = {
    "jm.GPT2Config(n_layers=2)": 'Unexpected keyword argument "n_layers"',
    "jm.GPT2Config(num_label=2)": 'Unexpected keyword argument "num_label"',
    "jm.GPT2Config(n_layer='2')": 'Argument "n_layer" .* expected "int"',
    "jm.T5Config(pad_token_id='<pad>')": 'Argument "pad_token_id" .* expected "int | None"',
    "jm.GPT2Config().n_layer = 3": '"n_layer" .* read-only',
    "jm.load('gpt2', remat='yes')": 'Argument "remat" .* expected',
    "jm.load_config('gpt2', token=3)": 'Argument "token"',
    "jm.save('folder', *jm.load('gpt2'), max_shards=3)": 'Unexpected keyword argument "max_shards"',
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, str]:
    """The error of each line of `VALID` and `INVALID` that has one."""
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(CONFIG)
    lines = ["from typing import assert_type", "import jaxmodels as jm", *VALID, *INVALID]
    (folder / "calls.py").write_text("\n".join(lines) + "\n")
    options = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache")]
    output, problem, _ = api.run([*options, "--no-error-summary", str(folder / "calls.py")])
    assert problem == ""
    found = re.findall(r"calls\.py:(\d+): error: (.*)", output)
    return {lines[int(number) - 1]: message for number, message in found}


def test_valid_calls_have_no_errors(errors):
    assert errors.keys() & set(VALID) == set()


@pytest.mark.parametrize("call", INVALID)
def test_invalid_calls_have_errors(call, errors):
    assert re.search(INVALID[call].replace("|", r"\|"), errors[call])
