"""Lines as a model reads them, and which of them it cannot read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import jaxmodels as jm
from experiments.batch_generation.lines import Line
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer

# What counts the tokens of a prompt, or looks at them, takes those that pad it for some of them.
LOOK_AT_PADDING = (
    "min_length",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "sequence_bias",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_decoder_ids",
)


@dataclass(frozen=True)
class Prompt:
    """A line as tokens.

    Attributes:
      ids: int32 [T]. wide: how many of the first ones are global, in a model that has such tokens.
    """

    line: Line
    ids: np.ndarray
    wide: int = 0


def tokenize(
    lines: Sequence[Line], tokenizer: Tokenizer, model: Model, settings: jm.GenerationConfig
) -> tuple[list[Prompt], list[str]]:
    """Prompts for all lines, and what is wrong with those that the model cannot read or continue.

    A decoder-only model gets what the tokenizer puts before a text, but not what it puts after it. An encoder-decoder
    gets both. LED gets `<s> query </s> prompt </s>` with a global query; without a query, <s> alone is global.

    Raises:
      ValueError: more new tokens than the decoder of an encoder-decoder has positions.
    """
    reads_queries = has_global_tokens(model)
    problems = [
        f'line {line.number}: only LED reads a "query" beside the prompt, not {type(model).__name__}; rename the field'
        for line in lines
        if "query" in line.fields and not reads_queries
    ]
    prompts = list(map(Prompt, lines, _ids(lines, tokenizer, model)))
    if reads_queries:
        prompts = _with_queries(prompts, tokenizer)
    limit = _limit(model, settings)
    for prompt in prompts:
        try:
            _check(prompt.ids, model, limit)
        except ValueError as problem:
            problems.append(f"line {prompt.line.number}: {problem}")
    return prompts, problems


def has_global_tokens(model: Model) -> bool:
    return "global_attention_mask" in getattr(model, "encoding_options", ())


def looks_at_padding(model: Model, settings: jm.GenerationConfig) -> bool:
    """Whether the text that a prompt gets depends on the padding before it, and so on the rest of its batch."""
    if model.config.is_encoder_decoder:
        return False
    off = jm.GenerationConfig()
    return settings.max_new_tokens is None or any(
        getattr(settings, name) != getattr(off, name) for name in LOOK_AT_PADDING
    )


def _ids(lines: Sequence[Line], tokenizer: Tokenizer, model: Model) -> list[np.ndarray]:
    texts = [line.fields["prompt"] for line in lines]
    if has_global_tokens(model):
        return _rows(tokenizer, texts, add_special_tokens=False)
    if model.config.is_encoder_decoder:
        return _rows(tokenizer, texts)
    # RoBERTa's <s> and </s>, say, of which a text that goes on has the first only.
    before = np.asarray(tokenizer("")["input_ids"][:1], np.int32)
    return [np.concatenate([before, row]) for row in _rows(tokenizer, texts, add_special_tokens=False)]


def _with_queries(prompts: list[Prompt], tokenizer: Tokenizer) -> list[Prompt]:
    queries = _rows(tokenizer, [prompt.line.fields.get("query", "") for prompt in prompts])
    found = []
    for prompt, query in zip(prompts, queries, strict=True):
        asked = "query" in prompt.line.fields
        start = query if asked else query[:1]
        found.append(Prompt(prompt.line, np.concatenate([start, prompt.ids, query[-1:]]), len(start)))
    return found


def _rows(tokenizer: Tokenizer, texts: list[str], **options) -> list[np.ndarray]:
    return [np.asarray(row, np.int32) for row in tokenizer(texts, **options)["input_ids"]] if texts else []


def _limit(model: Model, settings: jm.GenerationConfig) -> Callable[[int], int]:
    """The most tokens that a prompt of that many may have."""
    if not model.config.is_encoder_decoder:
        return lambda tokens: model.max_tokens - settings.new_tokens(tokens)
    if (most := 1 + settings.new_tokens(1)) > model.max_tokens:
        raise ValueError(
            f"{most} tokens of output are more than the {model.max_tokens} positions of this model's decoder"
        )
    return lambda tokens: model.max_source_tokens


def _check(ids: np.ndarray, model: Model, limit: Callable[[int], int]) -> None:
    if not len(ids):
        raise ValueError("the prompt has no tokens")
    if ids.max() >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer's id {ids.max()} is outside the model's vocabulary of {model.config.vocab_size}; "
            f"is it another model's?"
        )
    if len(ids) > (most := limit(len(ids))):
        raise ValueError(f"too long: {len(ids)} tokens, and with these options there is room for {most}")
