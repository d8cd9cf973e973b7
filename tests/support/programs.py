"""Calls of `generate` whose program is looked at, or run with another stretch or clock."""

from functools import partial

from jaxmodels.generation.call import Extras, Ready, call
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.program import Program


def program_of(model, params, ids, **options) -> Program:
    """What `generate` would run."""
    return call(model, params, ids, None, options, Extras(), lambda ready: ready.program)


def run_with(looks: dict, model, params, ids, attention_mask, tokenizer=None, **options) -> GenerateOutput:
    """`generate`, with options of `Program.run`."""
    return call(model, params, ids, attention_mask, options, Extras(tokenizer=tokenizer), partial(Ready.run, **looks))
