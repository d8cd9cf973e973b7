"""The options of a tokenizer call, and what they mean for padding and truncation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from jaxmodels.names import refuse_foreign
from jaxmodels.tokenization import refusals
from jaxmodels.tokenization.kinds import Kind, boolean, one_of, optional, whole

PADDING = {
    True: "longest",
    False: None,
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": None,
}
TRUNCATION = {True: "longest_first", False: None, "do_not_truncate": None}
TRUNCATION |= {name: name for name in ("longest_first", "only_first", "only_second")}

UNBOUNDED = 10**20
"""Files write "no limit" as int(1e30); any `model_max_length` or `max_length` from here on means that."""
LONGEST = 2**31 - 1
MOST_PADDED = 2**24
"""Tokens of a padded row; more would take all of a machine's memory."""


def _length(name: str, value) -> int:
    number = whole(1, 10**100)(name, value)
    return number if number >= UNBOUNDED else whole(1, LONGEST)(name, value)


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """Options of a tokenizer call; names, defaults and meanings as in Hugging Face's documentation.

    add_special_tokens: add what the model expects around a text ([CLS], <s>, ...).
    padding: True or "longest" (to the longest row), "max_length" (to `max_length`, else to `model_max_length`), False.
    truncation: True or "longest_first" (from the longer text of a pair), "only_first", "only_second", False. None, the
      default, is "longest_first" where `max_length` is given without padding, else no truncation.
    max_length: in tokens, special tokens included. stride: tokens that consecutive overflowing rows share.
    is_split_into_words: a text is a list of words. pad_to_multiple_of: round the padded length up.
    padding_side: "left" or "right" in place of the tokenizer's.
    return_tensors: "np" or "jax": one array for each field, [1, T] for a single text.
    return_token_type_ids, return_attention_mask: None is what the model takes.
    return_overflowing_tokens: what truncation cut off becomes further rows; `overflow_to_sample_mapping` [B'] names
      each row's text.
    return_offsets_mapping: `offset_mapping` [B, T, 2], a token's first character and the one after its last.
    return_special_tokens_mask: 1 for special tokens and padding. return_length: `length` [B], padding included.
    split_special_tokens: special tokens in a text are ordinary text; None is the tokenizer's own setting.
    verbose: False keeps the warning about too long a text back.
    """

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    split_special_tokens: bool | None = None
    verbose: bool = True

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not _DEFAULTS[name]:
                object.__setattr__(self, name, _KINDS.get(name, boolean)(name, value))

    @staticmethod
    def has(name: str) -> bool:
        """Whether there is an option of that name."""
        return name in _DEFAULTS

    @classmethod
    def of(cls, call: str, options: Mapping[str, Any]) -> Self:
        """The options of a `call`; TypeError for one that is not here, with what to write instead."""
        if options.keys() <= _DEFAULTS.keys():
            return cls(**options)
        own = {name: value for name, value in options.items() if name in _DEFAULTS}
        others = {name: value for name, value in options.items() if name not in _DEFAULTS}
        refuse_foreign(f"{call} has no option", others, _DEFAULTS, refusals.CALL)
        return cls(**own)


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(EncodeOptions)}
_KINDS: dict[str, Kind] = {
    "padding": one_of(*PADDING),
    "truncation": one_of(None, *TRUNCATION),
    "max_length": optional(_length),
    "stride": whole(-1, LONGEST),  # below 0 has an error of its own, which knows the length
    "pad_to_multiple_of": optional(whole(1, MOST_PADDED)),
    "padding_side": one_of(None, "left", "right"),
    "return_tensors": one_of(None, "np", "jax"),
    "return_token_type_ids": optional(boolean),
    "return_attention_mask": optional(boolean),
    "split_special_tokens": optional(boolean),
}


class Bounds(NamedTuple):
    """What a call does to the length of its rows: strategies ("longest", "only_first", ...) or None, and tokens."""

    padding: str | None
    truncation: str | None
    max_length: int | None


def bounds(tokenizer, options: EncodeOptions) -> Bounds:
    """The reference's rules (`_get_padding_truncation_strategies`) for a tokenizer with `model_max_length`.

    Raises ValueError for padding without a pad token, and for a truncation length that the multiple does not divide.
    """
    padding, truncation, max_length = options.padding, options.truncation, options.max_length
    pad_to_multiple_of = options.pad_to_multiple_of
    if truncation is None and max_length is not None and padding is False:
        truncation = "longest_first"
    padding, truncation = PADDING[padding], TRUNCATION[truncation or False]
    if padding == "longest" and truncation is None and max_length is not None:
        tokenizer.warn_once(
            "max_length ignored",
            "max_length has no effect with padding=True alone: pass truncation=True, or padding='max_length'",
        )
    if padding == "max_length" or truncation:
        if max_length is None:
            max_length = tokenizer.model_max_length
        if max_length >= UNBOUNDED:
            max_length = None
            tokenizer.warn_once(
                "no maximum",
                "no truncation and no padding to a maximum: the tokenizer has no model_max_length, pass max_length",
            )
            padding, truncation = (None if padding == "max_length" else padding), None
    if padding == "max_length" and max_length > MOST_PADDED:
        raise ValueError(f"rows cannot be padded to {max_length} tokens: pass max_length, at most {MOST_PADDED}")
    if padding and tokenizer.pad_token is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: set tok.pad_token = tok.eos_token, or add one with "
            'tok.add_special_tokens({"pad_token": "[PAD]"}) and give the model an embedding row for it'
        )
    if padding and truncation and pad_to_multiple_of and max_length % pad_to_multiple_of:
        raise ValueError(
            f"truncation to {max_length} tokens and padding to a multiple of {pad_to_multiple_of} contradict each "
            "other: give a max_length that the multiple divides"
        )
    return Bounds(padding, truncation, max_length)
