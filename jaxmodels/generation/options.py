"""The options of `generate`: names, types and defaults, and the validation of a single value.

Scalars of NumPy and JAX are accepted as numbers (`config.fields`).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from jax.typing import ArrayLike

from jaxmodels.config.fields import INT, InvalidValueError, Validator, field_validators, in_range
from jaxmodels.messages import brief
from jaxmodels.outputs import Output

INT32 = 2**31 - 1
_MAX_BATCH = 2**16  # far more than fits any machine, and low enough to be rejected before anything is allocated


class OptionError(ValueError):
    """An option out of range, or options that contradict each other; names: the options that decide it."""

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


class MethodError(NotImplementedError):
    """An option of a decoding method that is not implemented; names: the options."""

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


_int = in_range(INT, "", -INT32 - 1, INT32).validate


def _items(value: Any) -> list[Any]:
    """The items of a list, a set or an array; strings and mappings are rejected."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidValueError
    try:
        return list(value)
    except TypeError:  # an array without dimensions
        raise InvalidValueError from None


def _bias(value: Any) -> float:
    """A float that may be infinite: -inf forbids a token, inf forces it."""
    if isinstance(value, str | bytes | bool | np.bool_ | complex) or np.ndim(value) > 0:
        raise InvalidValueError
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError from None
    if math.isnan(number):
        raise InvalidValueError
    return number


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(map(_int, _items(value)))


def _id_or_ids(value: Any) -> tuple[int, ...]:
    try:
        return (_int(value),)
    except InvalidValueError:
        return _ids(value)


def _sequence(value: Any) -> tuple[int, ...]:
    if not (ids := _ids(value)):
        raise InvalidValueError
    return ids


def _sequences(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(_sequence, _items(value)))


def _pairs(value: Any, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> tuple[tuple[Any, Any], ...]:
    """From {a: b}, as the reference documents it, or [[a, b], ...], as JSON stores it."""
    found = []
    for pair in value.items() if isinstance(value, Mapping) else _items(value):
        if len(members := _items(pair)) != 2:
            raise InvalidValueError
        found.append((first(members[0]), second(members[1])))
    return tuple(found)


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    return _pairs(value, _sequence, _bias)


def _length(value: Any) -> int:
    if (number := _int(value)) < 0:
        raise InvalidValueError
    return number


def _forced_ids(value: Any) -> tuple[tuple[int, int | None], ...]:
    return _pairs(value, _length, lambda token: None if token is None else _int(token))


def _decay(value: Any) -> tuple[int, float] | None:
    if not (members := _items(value)):
        return None
    ((start, factor),) = _pairs([members], _length, _bias)
    if not 0.0 < factor < math.inf:
        raise InvalidValueError
    return start, factor


def _early_stopping(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, str) or value != "never":
        raise InvalidValueError
    return value


def _strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(_items(value))
    if not all(isinstance(string, str) and string for string in strings):
        raise InvalidValueError
    return strings


EarlyStopping = Annotated[bool | Literal["never"], Validator('True, False or "never"', _early_stopping)]
TokenId = Annotated[int, Validator(f"an id (an int of at most {INT32})", _int)]
Ids = Annotated[tuple[int, ...], Validator("an id (an int) or a list of ids", _id_or_ids)]
Sequences = Annotated[
    tuple[tuple[int, ...], ...], Validator("a list of lists of ids (ints), each with at least one", _sequences)
]
Biases = Annotated[
    tuple[tuple[tuple[int, ...], float], ...],
    Validator("{ids: bias} or [[ids, bias], ...], with at least one id (an int) in ids and a number as bias", _biases),
]
ForcedIds = Annotated[
    tuple[tuple[int, int | None], ...], Validator("[[length, id], ...] of ints, or None as id", _forced_ids)
]
Decay = Annotated[tuple[int, float], Validator("(start, factor): an int of at least 0 and a float above 0", _decay)]
Strings = Annotated[
    tuple[str, ...], Validator("a string or a list of strings, each with at least one character", _strings)
]


@dataclasses.dataclass(frozen=True, init=False)
class Options:
    """The options of `generate` and their defaults; `GenerationConfig` documents them."""

    max_new_tokens: int | None = None
    max_length: int = 20
    min_length: int = 0
    min_new_tokens: int | None = None
    max_time: float | None = None
    stop_strings: Strings = ()
    early_stopping: EarlyStopping = False
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequences = ()
    sequence_bias: Biases = ()
    guidance_scale: float | None = None
    renormalize_logits: bool = False
    remove_invalid_values: bool = False
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: Ids = ()
    forced_decoder_ids: ForcedIds = ()
    exponential_decay_length_penalty: Decay | None = None
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    num_return_sequences: int = 1
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    eos_token_id: Ids = ()
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    decoder_start_token_id: TokenId | None = None


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
NAMES = frozenset(DEFAULTS)
# Options that hold token ids: several, or one.
ID_LIST_OPTIONS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
SINGLE_ID_OPTIONS = ("forced_bos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")


class OptionsExceptLength(TypedDict, total=False):
    """Every option but max_new_tokens, as a call may give it; None means the default."""

    max_length: int | None
    min_length: int | None
    min_new_tokens: int | None
    max_time: float | None
    stop_strings: str | Iterable[str] | None
    early_stopping: bool | Literal["never"] | None
    do_sample: bool | None
    num_beams: int | None
    num_beam_groups: int | None
    diversity_penalty: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    encoder_repetition_penalty: float | None
    length_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Iterable[Iterable[int]] | None
    sequence_bias: Mapping[tuple[int, ...], float] | Iterable[tuple[Iterable[int], float]] | None
    guidance_scale: float | None
    renormalize_logits: bool | None
    remove_invalid_values: bool | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Iterable[int] | None
    forced_decoder_ids: Mapping[int, int | None] | Iterable[tuple[int, int | None]] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    suppress_tokens: Iterable[int] | None
    begin_suppress_tokens: Iterable[int] | None
    num_return_sequences: int | None
    output_scores: bool | None
    output_logits: bool | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    eos_token_id: int | Iterable[int] | None
    pad_token_id: int | None
    bos_token_id: int | None
    decoder_start_token_id: int | None


class GenerationOptions(OptionsExceptLength, total=False):
    """The options of `GenerationConfig`, as keywords."""

    max_new_tokens: int | None


class ModelInputs(TypedDict, total=False):
    """Inputs that `generate` accepts for some models, beyond input_ids and attention_mask."""

    # decoder-only models
    negative_prompt_ids: ArrayLike | None
    negative_prompt_attention_mask: ArrayLike | None
    # encoder-decoders
    decoder_input_ids: ArrayLike | None
    encoder_outputs: Output | Sequence[Any] | None
    # LED
    global_attention_mask: ArrayLike | None
    max_global_tokens: int | None
    # RAG
    context_input_ids: ArrayLike | None
    context_attention_mask: ArrayLike | None
    doc_scores: ArrayLike | None
    retriever: Any
    n_docs: int | None
    do_deduplication: bool | None


class GenerateOptions(GenerationOptions, ModelInputs, total=False):
    """The keywords of `generate` beyond its parameters."""


_VALIDATORS = field_validators(Options)
_MINIMUM = {
    "max_new_tokens": 1,
    "max_length": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
_MAXIMUM = dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), _MAX_BATCH)
_FLOAT_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("above 0", lambda value: value > 0.0),
    **dict.fromkeys(("top_p", "typical_p"), ("in (0, 1]", lambda value: 0.0 < value <= 1.0)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), ("in [0, 1)", lambda value: 0.0 <= value < 1.0)),
    "min_p": ("in [0, 1]", lambda value: 0.0 <= value <= 1.0),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), ("above 0", lambda value: value > 0.0)),
    "diversity_penalty": ("at least 0", lambda value: value >= 0.0),
    "max_time": ("above 0 seconds", lambda value: value > 0.0),
}
_HINTS = {
    "temperature": "; for greedy decoding pass do_sample=False",
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), "; 0 disables it"),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), "; 1.0 disables it"),
}
# Values that some files hold for "disabled" where nothing is sampled, and that are invalid in a sampling call.
OFF_UNLESS_SAMPLED: Mapping[str, float] = {"temperature": 0.0, "top_p": 0.0, "typical_p": 0.0}


def validate_option(name: str, value: Any) -> Any:
    """The value of an option as `GenerationConfig` stores it.

    None is the default, or for `top_k` disables it.

    Raises:
      OptionError: another type, or out of range.
    """
    if value is None:
        return 0 if name == "top_k" else DEFAULTS[name]
    validator = _VALIDATORS[name]
    try:
        found = validator.validate(value)
        if name == "top_k" and found == -1:  # "disabled" in vLLM, and so in some files
            return 0
        if name in _MINIMUM:
            valid = _MINIMUM[name] <= found <= _MAXIMUM.get(name, INT32)
        else:
            valid = name not in _FLOAT_RANGES or _FLOAT_RANGES[name][1](found) or found == OFF_UNLESS_SAMPLED.get(name)
        if not valid:
            raise InvalidValueError
    except InvalidValueError:
        expected = _FLOAT_RANGES[name][0] if name in _FLOAT_RANGES else validator.expected
        if name in _MINIMUM:
            most = _MAXIMUM.get(name, INT32)
            above = isinstance(value, int) and value > most
            expected = f"an int of at {f'most {most}' if above else f'least {_MINIMUM[name]}'}"
        message = f"{name} must be {expected}, got {brief(value)}{_HINTS.get(name, '')}"
        raise OptionError(message, name) from None
    return found
