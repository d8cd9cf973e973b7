"""Hundreds of wrong calls: each is rejected by this library or has the requested effect; none compiles."""

import warnings

import jax
import numpy as np
import pytest
from support.diverse_models import random_ids

import jaxmodels as jm
from jaxmodels.generation import merging, options
from jaxmodels.generation.api import PreparedCall
from jaxmodels.generation.loop import num_compiled

IDS = random_ids(2, 4)
JUNK = [
    "abc",
    "3",
    -7,
    2.5,
    float("nan"),
    float("inf"),
    10**12,
    True,
    [1.9, "3"],
    [[1.9, "3"]],
    {"a": 1},
    object(),
    b"1",
]
ARGUMENTS = ("input_ids", "attention_mask", "generation_config", "key", "streamer", "logits_processor")
ARGUMENTS += ("stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer", "cache_dtype")


def misspelled(name: str) -> list[str]:
    return [name + "s", name[:-1], name.upper(), name.replace("_", "-") if "_" in name else f"{name}_"]


def wrong_sets() -> list[dict]:
    found = [{name: value} for name in (*options.DEFAULTS, *ARGUMENTS) for value in JUNK]
    found.remove({"tokenizer": b"1"})  # bytes have a `decode`
    found += [{wrong: 1} for name in options.DEFAULTS for wrong in misspelled(name)]
    names = merging.OTHER_LIBRARIES | merging.UNSUPPORTED_METHODS | merging.NEWER_UNSUPPORTED_METHODS
    found += [{name: value} for name in names for value in ("abc", 7, object())]
    return found + [{"generation_config": keywords} for keywords in found[: len(options.DEFAULTS) * len(JUNK) : 3]]


class Reached(Exception):
    """A call was accepted and would run its program."""


def verdict(model, params, keywords: dict) -> str:
    """Returns "rejected" by a `raise` in this library, "accepted" as valid, or a description of what else happened."""
    arguments = {"input_ids": IDS, "key": jax.random.key(0), **keywords}
    try:
        jm.generate(model, params, **arguments)
    except Reached as reached:
        return accepted(keywords, *reached.args)
    except (TypeError, ValueError, NotImplementedError) as error:
        frame = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        own = "/jaxmodels/" in frame.tb_frame.f_code.co_filename
        return "rejected" if own and str(error) else f"raw: {type(error).__name__}: {error}"
    return "ran"


def accepted(keywords: dict, call: PreparedCall) -> str:
    """Whether the options of a call have the requested values."""
    (name, value), *_ = keywords.items()
    if name == "generation_config":
        ((name, value),) = value.items() if isinstance(value, dict) else ((None, None),)
    actual = getattr(call.config, name, None)
    none = ((), None) if name == "eos_token_id" else ()  # a negative one
    return "accepted" if actual in (value, (value,), *none) else "silent"


@pytest.fixture
def stopped(monkeypatch):
    """Calls end before the loop runs."""

    def reached(call):
        raise Reached(call)

    monkeypatch.setattr(PreparedCall, "run", reached)


def test_wrong_calls_are_rejected_by_name(fresh_gpt2, stopped):
    sets, before = wrong_sets(), num_compiled()
    assert len(sets) > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [(verdict(*fresh_gpt2, keywords), keywords) for keywords in sets]
    bad = [each for each in found if each[0] not in ("rejected", "accepted")]
    assert not bad, "\n".join(map(str, bad[:40])) + f"\n{len(bad)} of {len(sets)}"
    assert sum(verdict == "rejected" for verdict, _ in found) > 0.9 * len(sets)
    assert num_compiled() == before


def test_wrong_configurations_are_rejected_by_name():
    bad = []
    for keywords in wrong_sets():
        if keywords.keys() & set(ARGUMENTS):
            continue
        try:
            made = jm.GenerationConfig(**keywords)
        except (TypeError, ValueError, NotImplementedError) as error:
            frame = error.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            if "/jaxmodels/" not in frame.tb_frame.f_code.co_filename:
                bad.append((keywords, error))
        else:
            ((name, value),) = keywords.items()
            none = ((),) if name == "eos_token_id" else ()  # a negative one
            if not np.isscalar(value) or getattr(made, name, None) not in (value, (value,), *none):
                bad.append((keywords, made))
    assert not bad, bad[:20]
