"""Calls of `generate` whose program is inspected, or run with another chunk size or clock."""

from jaxmodels.generation.api import CallArguments, prepare_call
from jaxmodels.generation.loop import DecodingProgram
from jaxmodels.generation.output import GenerateOutput


def program_of(model, params, ids, **options) -> DecodingProgram:
    """The program that `generate` would run."""
    return prepare_call(model, params, ids, None, options, CallArguments()).program


def run_with(timing: dict, model, params, ids, attention_mask, tokenizer=None, **options) -> GenerateOutput:
    """`generate`, with further arguments of `DecodingProgram.run`."""
    arguments = CallArguments(tokenizer=tokenizer)
    return prepare_call(model, params, ids, attention_mask, options, arguments).run(**timing)
