"""Prompts of a batch job: read from JSON lines, tokenized, checked, and grouped into batches."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer

OUTPUT_FIELDS = ("text", "texts", "score", "scores")  # fields of the output
MAX_LISTED = 20  # invalid lines that are listed; the others are only counted


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
      number: Line number, from 1.
      fields: The JSON object, including an id.
    """

    number: int
    fields: dict[str, Any]

    @property
    def id(self) -> str | int:
        """The identifier of the line: its field "id", by default its number."""
        return self.fields["id"]


def read_lines(file: Path) -> tuple[list[Line], list[str]]:
    """Return the valid lines, and a message for each of the others.

    Raises:
      FileNotFoundError: The file does not exist.
      ValueError: It has no lines.
    """
    lines: list[Line] = []
    problems: list[str] = []
    first: dict[str | int, int] = {}
    with file.open("rb") as raw:
        for number, content in enumerate(raw, 1):
            try:
                line = Line(number, _parse(content, number))
                if line.id in first:
                    raise ValueError(f"its id {line.id!r} is already used in line {first[line.id]}")
            except ValueError as problem:
                problems.append(f"line {number}: {problem}")
                continue
            first[line.id] = number
            lines.append(line)
    if not lines and not problems:
        raise ValueError(f'{file} has no lines; expected lines of the form {{"prompt": "..."}}')
    return lines, problems


def raise_problems(file: Path, problems: list[str]) -> None:
    """Raise ValueError with all problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        listed = "\n  ".join([*problems[:MAX_LISTED], *more])
        raise ValueError(f"{file} has invalid lines; nothing was generated:\n  {listed}")


def _parse(content: bytes, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except ValueError as error:  # of the JSON or of the UTF-8
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object, got {type(fields).__name__}")
    for name in ("prompt", "query"):
        if not isinstance(fields.get(name, "" if name == "query" else None), str):
            raise ValueError(f'"{name}" is a string, got {json.dumps(fields.get(name))}')
    if taken := [name for name in OUTPUT_FIELDS if name in fields]:
        raise ValueError(f'the field "{taken[0]}" would be overwritten by the result; rename it')
    name = fields.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f'"id" is a string or an integer, got {json.dumps(name)}')
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair, which is not a valid character") from None
    return {"id": name, **fields}


# Options that count or inspect the tokens of a prompt, and treat its padding as part of it.
PADDING_SENSITIVE = (
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
    """A tokenized line.

    Attributes:
      line: The line.
      ids: Token ids, int32 [T].
      num_global: The number of leading tokens that are global, for models with global attention.
    """

    line: Line
    ids: np.ndarray
    num_global: int = 0


def tokenize(
    lines: Sequence[Line], tokenizer: Tokenizer, model: Model, settings: jm.GenerationConfig
) -> tuple[list[Prompt], list[str]]:
    """Tokenize all lines; also return a message for each prompt that the model cannot process.

    For a decoder-only model, only the special tokens before a text are added, not those after it; an encoder-decoder
    gets both. LED gets `<s> query </s> prompt </s>` with a global query; without a query, only <s> is global.

    Raises:
      ValueError: More new tokens than the decoder of an encoder-decoder has positions.
    """
    reads_queries = has_global_tokens(model)
    problems = [
        f'line {line.number}: only LED reads a "query" with the prompt, not {type(model).__name__}; rename the field'
        for line in lines
        if "query" in line.fields and not reads_queries
    ]
    prompts = list(map(Prompt, lines, _token_ids(lines, tokenizer, model)))
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
    """Return whether the model has global attention."""
    return "global_attention_mask" in getattr(model, "encoding_options", ())


def is_padding_sensitive(model: Model, settings: jm.GenerationConfig) -> bool:
    """Return whether the text generated for a prompt depends on its padding, and so on the rest of its batch."""
    if model.config.is_encoder_decoder:
        return False
    default = jm.GenerationConfig()
    return settings.max_new_tokens is None or any(
        getattr(settings, name) != getattr(default, name) for name in PADDING_SENSITIVE
    )


def _token_ids(lines: Sequence[Line], tokenizer: Tokenizer, model: Model) -> list[np.ndarray]:
    texts = [line.fields["prompt"] for line in lines]
    if has_global_tokens(model):
        return _encode(tokenizer, texts, add_special_tokens=False)
    if model.config.is_encoder_decoder:
        return _encode(tokenizer, texts)
    # Of special tokens such as <s> and </s> of RoBERTa, a text to be continued has only the first one.
    before = np.asarray(tokenizer("")["input_ids"][:1], np.int32)
    return [np.concatenate([before, row]) for row in _encode(tokenizer, texts, add_special_tokens=False)]


def _with_queries(prompts: list[Prompt], tokenizer: Tokenizer) -> list[Prompt]:
    queries = _encode(tokenizer, [prompt.line.fields.get("query", "") for prompt in prompts])
    found = []
    for prompt, query in zip(prompts, queries, strict=True):
        prefix = query if "query" in prompt.line.fields else query[:1]
        found.append(Prompt(prompt.line, np.concatenate([prefix, prompt.ids, query[-1:]]), len(prefix)))
    return found


def _encode(tokenizer: Tokenizer, texts: list[str], **options: Any) -> list[np.ndarray]:
    return [np.asarray(row, np.int32) for row in tokenizer(texts, **options)["input_ids"]] if texts else []


def _limit(model: Model, settings: jm.GenerationConfig) -> Callable[[int], int]:
    """Return a function from the number of tokens in a prompt to the allowed number."""
    if not model.config.is_encoder_decoder:
        return lambda tokens: model.max_tokens - settings.new_tokens(tokens)
    if (most := 1 + settings.new_tokens(1)) > model.max_tokens:
        raise ValueError(
            f"{most} output tokens are more than the {model.max_tokens} positions of the decoder of this model"
        )
    return lambda tokens: model.max_source_tokens


def _check(ids: np.ndarray, model: Model, limit: Callable[[int], int]) -> None:
    if not len(ids):
        raise ValueError("the prompt has no tokens")
    if ids.max() >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer's id {ids.max()} is outside the model's vocabulary of {model.config.vocab_size}; "
            f"does it belong to another model?"
        )
    if len(ids) > (most := limit(len(ids))):
        raise ValueError(f"too long: {len(ids)} tokens; with these options at most {most} are possible")


def plan_batches(lengths: Sequence[int], batch_size: int, *, one_length: bool) -> list[np.ndarray]:
    """Return the indices of the prompts in each batch: prompts of similar length together, the longest first.

    The plan depends on the input only, so that a resumed job has the same batches. If the memory does not suffice, that
    shows in the first batch. `generate` pads a batch to a bucket of lengths, and compiles one program per bucket.

    Args:
      lengths: Number of tokens in each prompt.
      batch_size: Largest number of prompts in a batch.
      one_length: Do not combine prompts of different lengths.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1) if one_length else [order]
    return [part for group in groups for part in np.split(group, range(batch_size, len(group), batch_size))]
