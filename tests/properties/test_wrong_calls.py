"""Whatever is wrong with a keyword, a `raise` of this library says so: nothing is taken in silence."""

import dataclasses
import inspect
import itertools

import jax
import pytest
from support.arrays import ids
from support.tiny import CLASSES, tiny
from support.wrong_calls import PublicCall, invalid_calls

import jaxmodels as jm
from jaxmodels.architectures import base, calls
from jaxmodels.architectures.calls import parameters
from jaxmodels.download import HUB_OPTIONS
from jaxmodels.hub.options import UNSUPPORTED


def config_keys(cls) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls) if field.name not in ("generation", "extra"))


def parameter_names(function) -> tuple[str, ...]:
    found = inspect.signature(function).parameters.values()
    return tuple(p.name for p in found if p.kind is not p.VAR_KEYWORD)


def taken_by(cls) -> tuple[str, ...]:
    return (*parameters(cls, "__call__"), "rngs")


@pytest.fixture(scope="module")
def public_calls(tmp_path_factory) -> list[PublicCall]:
    """`load` and its relatives, models and what is done with them, and the call of every class."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("GPT2LMHeadModel", "DPRQuestionEncoder", "BartForConditionalGeneration"):
        jm.save(folder / name, *tiny(name))
    gpt2 = folder / "GPT2LMHeadModel"
    rag = {"question_encoder": folder / "DPRQuestionEncoder", "generator": folder / "BartForConditionalGeneration"}
    model, params = tiny()
    named = {"model": model, "params": params}
    hub = ("subfolder", *HUB_OPTIONS)
    load = tuple(name for name in parameter_names(jm.load) if name != "name")
    rag_names = (*(f"{side}_{name}" for side in rag for name in load), *load)
    found = [
        PublicCall("load", jm.load, {"name": gpt2}, (*load, *config_keys(jm.GPT2Config)), tuple(UNSUPPORTED)),
        PublicCall("load_config", jm.load_config, {"name": gpt2}, ("cls", *hub, *config_keys(jm.GPT2Config))),
        PublicCall("load_rag", jm.load_rag, rag, rag_names, tuple(UNSUPPORTED)),
        PublicCall("save", jm.save, {**named, "folder": folder / "saved"}, parameter_names(jm.save)),
        PublicCall("init", jm.init, {"model": model, "key": jax.random.key(0)}, parameter_names(jm.init)),
        PublicCall("prune_heads", jm.prune_heads, {**named, "heads": {0: [1]}}, parameter_names(jm.prune_heads)),
        PublicCall(
            "resize_token_embeddings",
            jm.resize_token_embeddings,
            {**named, "size": 70, "key": jax.random.key(0)},
            parameter_names(jm.resize_token_embeddings),
        ),
    ]
    for name in CLASSES:
        cls, (model, params) = getattr(jm, name), tiny(name)
        attributes = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
        found.append(
            PublicCall(name, cls, {"config": model.config}, tuple(sorted(attributes)), tuple(base.UNSUPPORTED))
        )
        good = {"variables": {"params": params}, **inputs(model)}
        found.append(PublicCall(f"{name}.apply", model.apply, good, taken_by(cls), tuple(calls.UNSUPPORTED)))
    for name in ("RagModel", "RagTokenForGeneration", "RagSequenceForGeneration"):
        model, params = jm.load_rag(**rag, cls=name)
        good = {"variables": {"params": params}, **model.dummy_inputs()}
        found.append(PublicCall(f"{name}.apply", model.apply, good, taken_by(type(model)), tuple(calls.UNSUPPORTED)))
    return found


def inputs(model) -> dict:
    """What the class reads at the least, [2,4] in place of the shape it is initialised with."""
    found = {name: ids((*array.shape[:-2], 2, 4), low=3) for name, array in model.dummy_inputs().items()}
    found["input_ids"][..., -1] = 2  # the end of a text, which some heads look for
    return found


def outcomes(public_calls, count: int) -> list[str]:
    tried = itertools.islice(invalid_calls(public_calls), count)
    return [f"{wrong}: {came}" for wrong in tried if (came := wrong.outcome())]


@pytest.mark.filterwarnings("ignore")
def test_some_invalid_keywords_are_rejected(public_calls):
    assert outcomes(public_calls, 300) == []


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_invalid_keywords_are_rejected(public_calls):
    assert outcomes(public_calls, 2000) == []


@pytest.mark.filterwarnings("ignore")
def test_valid_arguments_work(public_calls):
    for public_call in public_calls:
        public_call.call(**public_call.valid)
