"""The options of a tokenizer call, and what they mean for padding and truncation."""

import dataclasses
from typing import NamedTuple

PADDING = {
    True: "longest",
    False: None,
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": None,
}
TRUNCATION = {True: "longest_first", False: None, "do_not_truncate": None}
TRUNCATION |= {name: name for name in ("longest_first", "only_first", "only_second")}


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

    def __post_init__(self):
        check_choice("padding", self.padding, PADDING)
        check_choice("truncation", self.truncation, [None, *TRUNCATION])
        check_choice("padding_side", self.padding_side, [None, "left", "right"])
        check_choice("return_tensors", self.return_tensors, [None, "np", "jax"])


def check_choice(name: str, value, choices):
    # `in` alone would take 1 for True
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


class Bounds(NamedTuple):
    """What a call does to the length of its rows: strategies ("longest", "only_first", ...) or None, and tokens."""

    padding: str | None
    truncation: str | None
    max_length: int | None


def bounds(tokenizer, padding, truncation, max_length: int | None, pad_to_multiple_of: int | None) -> Bounds:
    """The reference's rules (`_get_padding_truncation_strategies`) for a tokenizer with `model_max_length`.

    Raises ValueError for padding without a pad token, for lengths below 1, and for a truncation length that the
    multiple does not divide.
    """
    for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1 token, got {value}")
    if truncation is None and max_length is not None and padding is False:
        truncation = "longest_first"
    padding, truncation = PADDING[padding], TRUNCATION[truncation or False]
    if padding == "longest" and truncation is None and max_length is not None:
        tokenizer.warn_once(
            "max_length ignored",
            "max_length has no effect with padding=True alone: pass truncation=True, or padding='max_length'",
        )
    if max_length is None and (padding == "max_length" or truncation):
        if tokenizer.model_max_length < UNBOUNDED:
            max_length = tokenizer.model_max_length
        else:
            tokenizer.warn_once(
                "no maximum",
                "no truncation and no padding to a maximum: the tokenizer has no model_max_length, pass max_length",
            )
            padding, truncation = (None if padding == "max_length" else padding), None
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


UNBOUNDED = 10**20
"""Files write "no limit" as int(1e30); any `model_max_length` from here on means that."""
