"""Arguments of a tokenizer call: texts, pairs and batches of them, and the encoding options."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias, TypedDict

import numpy as np
import tokenizers

from jaxmodels.messages import reject_unsupported
from jaxmodels.tokenization import unsupported
from jaxmodels.tokenization.validation import Validator, boolean, integer, one_of, optional

TextInput: TypeAlias = str | Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[Sequence[str]]] | np.ndarray
"""A text, a pre-tokenized text, or a batch of texts or of pairs; see `Tokenizer.__call__`."""
Token: TypeAlias = str | tokenizers.AddedToken
Example: TypeAlias = str | list[str] | tuple[str, str] | tuple[list[str], list[str]]
"""One text or pair of texts, as the `tokenizers` library accepts it."""

PADDING: dict[bool | str, str | None] = {
    True: "longest",
    False: None,
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": None,
}
TRUNCATION: dict[bool | str, str | None] = {True: "longest_first", False: None, "do_not_truncate": None}
TRUNCATION |= {name: name for name in ("longest_first", "only_first", "only_second")}

NO_LIMIT = 10**20
"""Files write "no limit" as int(1e30); any `model_max_length` or `max_length` from here on means that."""
MAX_LENGTH = 2**31 - 1
MAX_PADDED_LENGTH = 2**24
"""Tokens of a padded sequence; more would exhaust the memory of a machine."""


class ExtraEncodeKwargs(TypedDict, total=False):
    """The fields of `EncodeOptions` that have no explicit parameter in any tokenizer's call."""

    add_special_tokens: bool
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: str | None
    return_token_type_ids: bool | None
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    split_special_tokens: bool | None
    verbose: bool


class ListEncodeKwargs(ExtraEncodeKwargs, total=False):
    """The fields of `EncodeOptions` without return_tensors."""

    padding: bool | str
    truncation: bool | str | None
    max_length: int | None
    return_attention_mask: bool | None


class EncodeKwargs(ListEncodeKwargs, total=False):
    """The fields of `EncodeOptions` as keyword arguments."""

    return_tensors: Literal["np", "jax"] | None


class CommonOptions(TypedDict, total=False):
    """Constructor arguments of all tokenizers, except special tokens; see `Tokenizer`."""

    model_max_length: int | None
    padding_side: str
    truncation_side: str
    clean_up_tokenization_spaces: bool
    split_special_tokens: bool
    chat_template: str | Mapping[str, str] | None
    model_input_names: Sequence[str] | None
    added_tokens_decoder: Mapping[int, tokenizers.AddedToken] | None
    extra_special_tokens: Mapping[str, Token] | Sequence[Token] | None


class CommonOptionsWithTokens(CommonOptions, total=False):
    """`CommonOptions` and additional_special_tokens."""

    additional_special_tokens: Sequence[Token] | None


class CommonOptionsWithPadding(CommonOptionsWithTokens, total=False):
    """`CommonOptionsWithTokens` and the special tokens that decoder-only models lack by default."""

    sep_token: Token | None
    pad_token: Token | None
    cls_token: Token | None
    mask_token: Token | None


class AllCommonOptions(CommonOptionsWithPadding, total=False):
    """Constructor arguments of all tokenizers; see `Tokenizer`."""

    bos_token: Token | None
    eos_token: Token | None
    unk_token: Token | None


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """Options of a tokenizer call; names, defaults and meanings are those of transformers.

    Attributes:
      add_special_tokens: add the special tokens that the model expects around a text ([CLS], <s>, ...).
      padding: True or "longest" (to the longest sequence), "max_length" (to `max_length` or else `model_max_length`),
        or False.
      truncation: True or "longest_first" (from the longer text of a pair), "only_first", "only_second", or False. The
        default, None, is "longest_first" if `max_length` is passed without padding, and no truncation otherwise.
      max_length: maximum number of tokens, including special tokens.
      stride: number of tokens that consecutive overflowing sequences share.
      is_split_into_words: each text is a list of words.
      pad_to_multiple_of: round the padded length up to a multiple of this.
      padding_side: "left" or "right", overriding the tokenizer's setting.
      return_tensors: "np" or "jax" for one array per field, [1, T] for a single text.
      return_token_type_ids, return_attention_mask: None means the tokenizer's `model_input_names` decide.
      return_overflowing_tokens: return truncated tokens as additional sequences; `overflow_to_sample_mapping` [B']
        holds the index of each sequence's text.
      return_special_tokens_mask: return 1 for special tokens and padding.
      return_offsets_mapping: return `offset_mapping` [B, T, 2], the first character of each token and the one after its
        last.
      return_length: return `length` [B], padding included.
      split_special_tokens: tokenize special tokens in a text as ordinary text; None means the tokenizer's setting.
      verbose: warn about sequences longer than `model_max_length`.
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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not _DEFAULTS[name]:
                object.__setattr__(self, name, _VALIDATORS.get(name, boolean)(name, value))

    @staticmethod
    def has(name: str) -> bool:
        """Whether there is an option of that name."""
        return name in _DEFAULTS

    @classmethod
    def from_kwargs(cls, function: str, options: Mapping[str, Any]) -> Self:
        """Build the options from a call's keyword arguments.

        Args:
          function: name of the called function, for errors.
          options: the keyword arguments.

        Raises:
          TypeError: an unknown option; the message names the replacement.
          ValueError: an invalid value.
        """
        if options.keys() <= _DEFAULTS.keys():
            return cls(**options)
        known = {name: value for name, value in options.items() if name in _DEFAULTS}
        others = {name: value for name, value in options.items() if name not in _DEFAULTS}
        reject_unsupported(f"{function} has no option", others, _DEFAULTS, unsupported.CALL)
        return cls(**known)


def _max_length(name: str, value: Any) -> int:
    number = integer(1, 10**100)(name, value)
    return number if number >= NO_LIMIT else integer(1, MAX_LENGTH)(name, value)


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(EncodeOptions)}
_VALIDATORS: dict[str, Validator] = {
    "padding": one_of(*PADDING),
    "truncation": one_of(None, *TRUNCATION),
    "max_length": optional(_max_length),
    "stride": integer(-1, MAX_LENGTH),  # below 0 it has a separate error, which can name the length
    "pad_to_multiple_of": optional(integer(1, MAX_PADDED_LENGTH)),
    "padding_side": one_of(None, "left", "right"),
    "return_tensors": one_of(None, "np", "jax"),
    "return_token_type_ids": optional(boolean),
    "return_attention_mask": optional(boolean),
    "split_special_tokens": optional(boolean),
}


class LengthSettings(Protocol):
    """The part of a tokenizer that `resolve_lengths` reads."""

    model_max_length: int

    @property
    def pad_token(self) -> str | None:
        """The padding token, or None."""

    def warn_once(self, key: str, message: str) -> None:
        """Emit a warning the first time that `key` is passed."""


class Lengths(NamedTuple):
    """How a call pads and truncates: strategies ("longest", "only_first", ...) or None, and the maximum length."""

    padding: str | None
    truncation: str | None
    max_length: int | None


def resolve_lengths(tokenizer: LengthSettings, options: EncodeOptions) -> Lengths:
    """Apply the rules of transformers' `_get_padding_truncation_strategies`.

    Raises:
      ValueError: padding without a padding token, or truncation to a length that is not a multiple of
        `pad_to_multiple_of`.
    """
    max_length, multiple = options.max_length, options.pad_to_multiple_of
    padding, truncation = PADDING[options.padding], TRUNCATION[options.truncation or False]
    if options.truncation is None and max_length is not None and options.padding is False:
        truncation = "longest_first"
    if padding == "longest" and truncation is None and max_length is not None:
        tokenizer.warn_once(
            "max_length ignored",
            "max_length has no effect with padding=True alone: pass truncation=True or padding='max_length'",
        )
    if padding == "max_length" or truncation:
        if max_length is None:
            max_length = tokenizer.model_max_length
        if max_length >= NO_LIMIT:
            max_length = None
            tokenizer.warn_once(
                "no maximum",
                "no truncation and no padding to a maximum: the tokenizer has no model_max_length, pass max_length",
            )
            padding, truncation = (None if padding == "max_length" else padding), None
    if padding == "max_length" and max_length is not None and max_length > MAX_PADDED_LENGTH:
        raise ValueError(f"cannot pad sequences to {max_length} tokens: pass max_length, at most {MAX_PADDED_LENGTH}")
    if padding and tokenizer.pad_token is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: set tok.pad_token = tok.eos_token, or add one with "
            'tok.add_special_tokens({"pad_token": "[PAD]"}) and an embedding row of the model for it'
        )
    if padding and truncation and multiple and max_length is not None and max_length % multiple:
        raise ValueError(
            f"truncation to {max_length} tokens contradicts padding to a multiple of {multiple}: pass a max_length "
            "that is a multiple"
        )
    return Lengths(padding, truncation, max_length)


def to_batch(text: TextInput, pair: TextInput | None, is_split_into_words: bool) -> tuple[list[Example], bool]:
    """Convert the inputs of a call to a list of examples for the `tokenizers` library.

    Args:
      text: a text, which is a str, or a list of str with `is_split_into_words`; or a batch, which is a list, tuple or
        NumPy array of texts. Without `pair` and `is_split_into_words` a batch may also hold pairs of texts.
      pair: the second text of each, or None.
      is_split_into_words: whether texts are lists of words.

    Returns:
      The examples, and whether the input was a batch.

    Raises:
      TypeError: an input that is not text.
      ValueError: `pair` has another length than `text`.
    """
    first, second = to_list(text), to_list(pair)
    if is_split_into_words:
        batched = isinstance(first, list) and bool(first) and isinstance(first[0], (list, tuple, np.ndarray))
    else:
        batched = isinstance(first, list)
    if not batched:
        first, second = [first], None if second is None else [second]
    elif second is not None and (not isinstance(second, list) or len(second) != len(first)):
        got = f"{len(second)} of them" if isinstance(second, list) else f"a {type(second).__name__}"
        raise ValueError(f"a batch of {len(first)} texts needs a list of {len(first)} second texts, got {got}")
    validate: Callable[[Any, int], Any] = _words if is_split_into_words else _text
    examples: list[Any]
    if second is not None:
        examples = [(validate(a, i), validate(b, i)) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    elif is_split_into_words:
        examples = [_words(words, i) for i, words in enumerate(first)]
    else:
        examples = [_text_or_pair(each, i) for i, each in enumerate(first)]
    return examples, batched


def check_unicode(examples: Sequence[Example]) -> None:
    """Raise ValueError for the first text with a lone surrogate, which cannot be encoded as UTF-8."""
    for i, example in enumerate(examples):
        for text in _flatten(example):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                surrogate = f"U+{ord(text[error.start]):04X} at character {error.start}"
                raise ValueError(
                    f"text {i} contains the lone surrogate {surrogate}, which is not valid Unicode; "
                    "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') repairs it"
                ) from None


def to_list(value: Any) -> Any:
    """Convert tuples and arrays to lists and return other values unchanged."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _flatten(example: Any) -> list[str]:
    return [example] if isinstance(example, str) else [text for part in example for text in _flatten(part)]


def _text(text: Any, i: int) -> str:
    if isinstance(text, str):
        return text
    hint = "; pass is_split_into_words=True for lists of words" if isinstance(text, (list, tuple)) else ""
    raise TypeError(f"text {i} must be a str, got {type(text).__name__}{hint}")


def _text_or_pair(text: Any, i: int) -> str | tuple[str, str]:
    if isinstance(text, (list, tuple)) and len(text) == 2:
        return (_text(text[0], i), _text(text[1], i))
    return _text(text, i)


def _words(words: Any, i: int) -> list[str]:
    words = to_list(words)
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    raise TypeError(f"text {i} must be a list of str with is_split_into_words=True, got {type(words).__name__}")
