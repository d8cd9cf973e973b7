"""The options of `generate`: names, defaults, and how a value is read, with its kind, its range and what counts as off.

Numbers of numpy and JAX are numbers (`config.fields`).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from jaxmodels.config.fields import INT, Reader, UnfitError, readers, within
from jaxmodels.messages import brief

INT32 = 2**31 - 1
_MOST_ROWS = 2**16  # far above what a machine can hold, and low enough to be refused before it is tried
_int = within(INT, "", -INT32 - 1, INT32).read


class OptionError(ValueError):
    """An option out of range, or options that contradict each other; names: whose values decide."""

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


class MethodError(NotImplementedError):
    """An option of a decoding method that is not here."""

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


def _members(value: Any) -> Iterable[Any]:
    """Of a list, a set or an array, but not of a text or a mapping."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise UnfitError
    try:
        return list(value)
    except TypeError:  # an array without dimensions
        raise UnfitError from None


def _bias(value: Any) -> float:
    """A float that may be infinite: such a bias forbids, or forces."""
    if isinstance(value, str | bytes | bool | np.bool_ | complex) or np.ndim(value) > 0:
        raise UnfitError
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnfitError from None
    if math.isnan(number):
        raise UnfitError
    return number


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(map(_int, _members(value)))


def _id_or_ids(value: Any) -> tuple[int, ...]:
    try:
        return (_int(value),)
    except UnfitError:
        return _ids(value)


def _sequence(value: Any) -> tuple[int, ...]:
    if not (ids := _ids(value)):
        raise UnfitError
    return ids


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(_sequence, _members(value)))


def _pairs(value: Any, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> tuple[tuple[Any, Any], ...]:
    """From {a: b}, as the reference's documents have it, or [[a, b], ...], as JSON has."""
    found = []
    for pair in value.items() if isinstance(value, Mapping) else _members(value):
        if len(members := list(_members(pair))) != 2:
            raise UnfitError
        found.append((first(members[0]), second(members[1])))
    return tuple(found)


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    return _pairs(value, _sequence, _bias)


def _place(value: Any) -> int:
    if (number := _int(value)) < 0:
        raise UnfitError
    return number


def _forced(value: Any) -> tuple[tuple[int, int | None], ...]:
    return _pairs(value, _place, lambda token: None if token is None else _int(token))


def _decay(value: Any) -> tuple[int, float] | None:
    if not (members := list(_members(value))):
        return None
    ((start, factor),) = _pairs([members], _place, _bias)
    if not 0.0 < factor < math.inf:
        raise UnfitError
    return start, factor


def _early(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, str) or value != "never":
        raise UnfitError
    return value


def _strings(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(_members(value))
    if not all(isinstance(text, str) and text for text in texts):
        raise UnfitError
    return texts


EarlyStopping = Annotated[bool | Literal["never"], Reader('True, False or "never"', _early)]
TokenId = Annotated[int, Reader(f"an id (an int of at most {INT32})", _int)]
Ids = Annotated[tuple[int, ...], Reader("an id (an int) or a list of ids", _id_or_ids)]
Words = Annotated[tuple[tuple[int, ...], ...], Reader("a list of lists of ids (ints), each with at least one", _words)]
Biases = Annotated[
    tuple[tuple[tuple[int, ...], float], ...],
    Reader("{ids: bias} or [[ids, bias], ...], with at least one id (an int) in ids and a number as bias", _biases),
]
ForcedIds = Annotated[tuple[tuple[int, int | None], ...], Reader("[[length, id], ...] of ints, or None as id", _forced)]
Decay = Annotated[tuple[int, float], Reader("(start, factor): an int of at least 0 and a float above 0", _decay)]
Strings = Annotated[tuple[str, ...], Reader("a text or a list of texts, each with at least one character", _strings)]

_LEAST = {
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
_MOST = dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), _MOST_ROWS)
_FLOATS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("above 0", lambda value: value > 0.0),
    **dict.fromkeys(("top_p", "typical_p"), ("in (0, 1]", lambda value: 0.0 < value <= 1.0)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), ("in [0, 1)", lambda value: 0.0 <= value < 1.0)),
    "min_p": ("in [0, 1]", lambda value: 0.0 <= value <= 1.0),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), ("above 0", lambda value: value > 0.0)),
    "diversity_penalty": ("at least 0", lambda value: value >= 0.0),
    "max_time": ("above 0 seconds", lambda value: value > 0.0),
}
_HINTS = {
    "temperature": "; for the likeliest token, do_sample=False",
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), "; 0 switches it off"),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), "; 1.0 switches it off"),
}
# What some files hold for "off" where nothing is sampled, and what a sampling call must not hold.
OFF_UNLESS_SAMPLED: Mapping[str, float] = {"temperature": 0.0, "top_p": 0.0, "typical_p": 0.0}


def _in_range(name: str, value: Any) -> bool:
    if name in _LEAST:
        return _LEAST[name] <= value <= _MOST.get(name, INT32)
    return name not in _FLOATS or _FLOATS[name][1](value) or value == OFF_UNLESS_SAMPLED.get(name)


def _expected(name: str, reader: Reader, value: Any) -> str:
    if name in _LEAST:
        beyond = isinstance(value, int) and value > _MOST.get(name, INT32)
        return f"an int of at {f'most {_MOST.get(name, INT32)}' if beyond else f'least {_LEAST[name]}'}"
    return _FLOATS[name][0] if name in _FLOATS else reader.expected


@dataclasses.dataclass(frozen=True, init=False)
class Options:
    """The options of `generate` and their defaults; what each does is said in `GenerationConfig`."""

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
    bad_words_ids: Words = ()
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
# Options that hold ids of tokens: several, or one.
IDS_OF_TOKENS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
SINGLE_IDS = ("forced_bos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")


def read(name: str, value: Any) -> Any:
    """The value of an option as `GenerationConfig` keeps it; None is the default, or for `top_k` off.

    Raises:
      OptionError: another type, or out of range.
    """
    if value is None:
        return 0 if name == "top_k" else DEFAULTS[name]
    reader = readers(Options)[name]
    try:
        found = reader.read(value)
        if name == "top_k" and found == -1:  # "off" in vLLM, and so in files
            return 0
        if not _in_range(name, found):
            raise UnfitError
    except UnfitError:
        words = f"{name} is {_expected(name, reader, value)}, got {brief(value)}{_HINTS.get(name, '')}"
        raise OptionError(words, name) from None
    return found
