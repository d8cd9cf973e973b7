"""Every key of every config class with every type of invalid value (docs/parity.md, C1).

The config stores the value unchanged if it is valid, or a `raise` of this library rejects it.
"""

import functools
import itertools
import json
import linecache
import math
import traceback
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm

LIBRARY = Path(jm.__file__).parent
WORDS = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
BERT = {**WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SEQ2SEQ = {**WORDS, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
SEQ2SEQ |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
BASES: dict[type, dict[str, Any]] = {
    jm.GPT2Config: {**WORDS, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2},
    jm.DPRConfig: {**BERT, "max_position_embeddings": 32},
    jm.RobertaPreLayerNormConfig: {**BERT, "max_position_embeddings": 32},
    jm.BartConfig: {**SEQ2SEQ, "max_position_embeddings": 32},
    jm.LEDConfig: {**SEQ2SEQ, "max_encoder_position_embeddings": 32, "attention_window": 4},
    jm.T5Config: {**WORDS, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}
BASES[jm.RagConfig] = {
    "question_encoder": {**BASES[jm.DPRConfig], "model_type": "dpr"},
    "generator": {**BASES[jm.BartConfig], "model_type": "bart"},
}
deep: Any = 1
for _ in range(500):
    deep = [deep]
JSON_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "'false'": "false",
    "'true'": "true",
    "'1'": "1",
    "'0.1'": "0.1",
    "text": "nonsense",
    "no text": "",
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "0": 0,
    "-1": -1,
    "3.5": 3.5,
    "2.0": 2.0,
    "-0.5": -0.5,
    "10**9": 10**9,
    "2**31": 2**31,
    "2**63": 2**63,
    "10**12": 10**12,
    "10**400": 10**400,
    "1e300": 1e300,
    "[]": [],
    "[1]": [1],
    "['a']": ["a"],
    "[null]": [None],
    "[[]]": [[]],
    "[nan]": [math.nan],
    "{}": {},
    "{'a': 1}": {"a": 1},
    "{'0': 1}": {"0": 1},
    "{'0': 'a'}": {"0": "a"},
    "{'-1': 'a'}": {"-1": "a"},
    "{'0': null}": {"0": None},
    "{'0': [99]}": {"0": [99]},
    "{'10**9': 'a'}": {"1000000000000": "a"},
    "nested": {"a": [{"b": [1, {"c": None}]}]},
    "deep": deep,
}
OBJECTS = {
    "object": object(),
    "set": {1},
    "bytes": b"1",
    "type": int,
    "complex": 1j,
    "array": np.arange(3),
    "jax array": jnp.arange(3),
    "numpy nan": np.float32(np.nan),
    "numpy bool": np.bool_(True),
    "keys": {1: 2, "a": 3},
}
# Values that each type of field accepts at most; stricter ranges are tested with the model types.
LIMIT = 2**31


def is_invalid(value) -> bool:
    """Whether a value is one that no field of a config should have."""
    if isinstance(value, float):
        return not math.isfinite(value) or abs(value) > 1000
    if isinstance(value, int):
        return not -1 < value < LIMIT
    if isinstance(value, str):
        return value in ("nonsense", "false", "true")
    if isinstance(value, tuple):
        return any(map(is_invalid, value)) or any(isinstance(item, tuple | dict) for item in value)
    return False


# Any string is valid for these.
FREE = {"architectures", "prefix", "title_sep", "doc_sep", "dataset", "dataset_split", "dataset_revision", "index_name"}
FREE |= {"index_path", "passages_path", "id2label", "label2id", "num_labels"}


def reads_as(value) -> tuple[type, ...]:
    """Whether a number was stored as an equal one: 0 becomes a float in fields of floats."""
    return {int: (int, float), np.bool_: (bool,)}.get(type(value), (type(value),))


def outcome(make, cls, key, value) -> str:
    """ "" for a config that stores the value, or an error of this library; otherwise a description."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = make()
    except (ValueError, TypeError, NotImplementedError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = linecache.getline(last.filename, last.lineno or 0)
        is_raised_here = LIBRARY in Path(last.filename).parents and line.lstrip().startswith("raise")
        if not is_raised_here or cls.__name__.removesuffix("Config") not in str(error) and key not in str(error):
            return f"raw {type(error).__name__}: {error!s:.80} ({last.filename}:{last.lineno})"
        return ""
    except Exception as error:
        return f"raw {type(error).__name__}: {error!s:.80}"
    got = getattr(config, key)
    same = got == value or (isinstance(value, list) and got == tuple(value))
    # null is replaced by another value in some fields
    if not same and key not in FREE and not (value is None and got is not None) and key != "pruned_heads":
        return f"silent: became {got!r}"
    if type(got) in (int, float, bool) and value is not None and type(got) not in reads_as(value):
        return f"silent: {value!r} became {got!r}"
    if key not in FREE and is_invalid(got):
        return f"silent: {got!r}"
    json.loads(config.to_json())
    hash(config)
    return ""


def cases():
    for cls, base in BASES.items():
        for key in cls._field_table.keys:
            for (name, value), way in itertools.product(JSON_VALUES.items(), ("file", "call")):
                yield cls, base, key, name, value, way
            for name, value in OBJECTS.items():
                yield cls, base, key, name, value, "call"


def wrong(cases) -> list[str]:
    found = []
    for cls, base, key, name, value, way in cases:
        values = {k: v for k, v in base.items() if cls._field_table.keys[k] != cls._field_table.keys[key]}
        values[key] = value
        make = functools.partial(cls.from_dict, values) if way == "file" else functools.partial(cls, **values)
        if problem := outcome(make, cls, cls._field_table.keys[key], value):
            found.append(f"{cls.__name__} {key}={name} in a {way}: {problem}")
    return found


@pytest.mark.parity("C1")
def test_some_invalid_values_are_stored_or_rejected():
    """A sample of the sweep below."""
    assert wrong(itertools.islice(cases(), 0, None, 23)) == []


@pytest.mark.slow
@pytest.mark.parity("C1")
def test_every_invalid_value_of_every_field_is_stored_or_rejected():
    assert sum(1 for _ in cases()) > 10_000
    assert wrong(cases()) == []
