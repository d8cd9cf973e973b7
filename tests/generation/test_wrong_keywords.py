"""Hundreds of wrong calls: each is an error of ours with the name in it, or does what was asked; none compiles."""

import warnings

import jax
import numpy as np
import pytest
from support.lively import texts

import jaxmodels as jm
from jaxmodels.generation import foreign, options, recompiles
from jaxmodels.generation.call import Ready

IDS = texts(2, 4)
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


def misspelt(name: str) -> list[str]:
    return [name + "s", name[:-1], name.upper(), name.replace("_", "-") if "_" in name else f"{name}_"]


def wrong_sets() -> list[dict]:
    found = [{name: value} for name in (*options.DEFAULTS, *ARGUMENTS) for value in JUNK]
    found.remove({"tokenizer": b"1"})  # bytes have a `decode`
    found += [{wrong: 1} for name in options.DEFAULTS for wrong in misspelt(name)]
    names = foreign.FOREIGN | foreign.LATER | foreign.YOUNGER
    found += [{name: value} for name in names for value in ("abc", 7, object())]
    return found + [{"generation_config": keywords} for keywords in found[: len(options.DEFAULTS) * len(JUNK) : 3]]


class Reached(Exception):
    """A call got as far as its program."""


def verdict(model, params, keywords: dict) -> str:
    """ "refused" by a `raise` of ours, "taken" as sound, or what else happened."""
    arguments = {"input_ids": IDS, "key": jax.random.key(0), **keywords}
    try:
        jm.generate(model, params, **arguments)
    except Reached as reached:
        return taken(keywords, *reached.args)
    except (TypeError, ValueError, NotImplementedError) as error:
        frame = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        ours = "/jaxmodels/" in frame.tb_frame.f_code.co_filename
        return "refused" if ours and str(error) else f"raw: {type(error).__name__}: {error}"
    return "ran"


def taken(keywords: dict, ready) -> str:
    """Whether a call's options are what the keywords ask for."""
    (name, value), *_ = keywords.items()
    if name == "generation_config":
        ((name, value),) = value.items() if isinstance(value, dict) else ((None, None),)
    got = getattr(ready.config, name, None)
    none = ((), None) if name == "eos_token_id" else ()  # a negative one
    return "taken" if got in (value, (value,), *none) else "silent"


@pytest.fixture
def stopped(monkeypatch):
    """Calls end where they would run."""

    def reached(ready):
        raise Reached(ready)

    monkeypatch.setattr(Ready, "run", reached)


def test_wrong_calls_are_refused_by_name(fresh_gpt2, stopped):
    sets, before = wrong_sets(), recompiles.compiled()
    assert len(sets) > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [(verdict(*fresh_gpt2, keywords), keywords) for keywords in sets]
    bad = [each for each in found if each[0] not in ("refused", "taken")]
    assert not bad, "\n".join(map(str, bad[:40])) + f"\n{len(bad)} of {len(sets)}"
    assert sum(verdict == "refused" for verdict, _ in found) > 0.9 * len(sets)
    assert recompiles.compiled() == before


def test_wrong_configurations_are_refused_by_name():
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
