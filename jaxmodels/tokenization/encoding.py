"""Output of a tokenizer: the encoded batch as arrays, stacking, and padding of batches that are already encoded."""

from collections import UserDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import tokenizers

from jaxmodels.messages import brief
from jaxmodels.tokenization.arguments import EncodeOptions


class CharSpan(NamedTuple):
    """Half-open range of characters [`start`, `end`) of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Half-open range of tokens [`start`, `end`) of a sequence."""

    start: int
    end: int


def to_array(values: Any, return_tensors: str | None = None) -> Any:
    """Convert integers to an int32 NumPy array, or to a JAX array with return_tensors="jax".

    float32 input (labels passed to `pad`) keeps its dtype.
    """
    array = np.asarray(values, np.float32 if getattr(values, "dtype", None) == np.float32 else np.int32)
    return jax.numpy.asarray(array) if return_tensors == "jax" else array


def stack(sequences: Sequence[np.ndarray], return_tensors: str | None = None) -> Any:
    """Stack sequences [T, ...] into one int32 array [B, T, ...] if their lengths are equal, else return a list.

    Raises:
      ValueError: `return_tensors` ("np" or "jax") requires one array and the lengths differ.
    """
    if not sequences:
        return to_array(np.zeros((0, 0)), return_tensors)
    if len({np.shape(sequence) for sequence in sequences}) == 1:
        return to_array(np.stack(sequences), return_tensors)
    if return_tensors is not None:
        lengths = sorted({len(sequence) for sequence in sequences})
        raise ValueError(
            f"return_tensors={return_tensors!r} needs sequences of equal length, these have {lengths[0]} to "
            f"{lengths[-1]} tokens: pass padding=True (and truncation=True, max_length=... to limit them)"
        )
    return [to_array(sequence) for sequence in sequences]


@jax.tree_util.register_pytree_with_keys_class
class BatchEncoding(UserDict[str, Any]):
    """The fields of an encoded text [T] or batch [B, T], int32, accessible as a mapping and as attributes.

    Sequences of different lengths (without padding) are a list of arrays [T_b]. A BatchEncoding is a pytree of its
    fields, so it can be passed through `jax.jit` and `jax.device_put`; the result no longer maps to the text.
    `batch[i]` is the `tokenizers.Encoding` of sequence i, `batch[i:j]` a dict of the sequences i to j.

    Methods that take `(batch_index, index)` also take `(index)` alone for sequence 0. They return None if nothing
    corresponds, as for a special token. Names of fields and methods are those of transformers' BatchEncoding
    (transformers 4.37.2, tokenization_utils_base.py).
    """

    def __init__(self, data: Mapping[str, Any] | None = None, encodings: list[tokenizers.Encoding] | None = None):
        super().__init__(data)
        self.encodings = encodings

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        return self._encodings()[key]

    def __getattr__(self, name: str) -> Any:
        fields = vars(self).get("data", {})  # copy and pickle look up attributes before `data` exists
        if name in fields:
            return fields[name]
        raise AttributeError(f"BatchEncoding has no field or attribute {name!r}; its fields are {list(fields)}")

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Return the fields with their keys, and the names of the fields."""
        names = tuple(sorted(self.data))
        return [(jax.tree_util.DictKey(name), self.data[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: Iterable[str], values: Iterable[Any]) -> Self:
        """Rebuild a BatchEncoding from the names and values of its fields."""
        return cls(dict(zip(names, values, strict=True)))

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs, None if the mapping to the text is not available."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a sequence as strings."""
        return self._encodings()[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token which text of the pair it comes from, 0 or 1."""
        return self._encodings()[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the index of each token's word."""
        return self._encodings()[batch_index].word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return which text of the pair a token comes from, 0 or 1."""
        encoding, token = self._locate(batch_or_token_index, token_index)
        return encoding.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the index of the word that a token belongs to."""
        encoding, token = self._locate(batch_or_token_index, token_index)
        return encoding.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of a token."""
        encoding, token = self._locate(batch_or_token_index, token_index)
        span = encoding.token_to_chars(token)
        return span and CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word."""
        encoding, word = self._locate(batch_or_word_index, word_index)
        span = encoding.word_to_tokens(word, sequence_index)
        return span and TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word."""
        encoding, word = self._locate(batch_or_word_index, word_index)
        span = encoding.word_to_chars(word, sequence_index)
        return span and CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the index of the token that contains a character."""
        encoding, char = self._locate(batch_or_char_index, char_index)
        return encoding.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the index of the word that contains a character."""
        encoding, char = self._locate(batch_or_char_index, char_index)
        return encoding.char_to_word(char, sequence_index)

    def _encodings(self) -> list[tokenizers.Encoding]:
        if self.encodings is None:
            raise ValueError(
                "this BatchEncoding was not returned by a tokenizer call, so it has no mapping to the text"
            )
        return self.encodings

    def _locate(self, first: int, second: int | None) -> tuple[tokenizers.Encoding, int]:
        """Resolve (batch index, index), or (index) alone, to an encoding and an index in it."""
        batch_index, index = (0, first) if second is None else (first, second)
        return self._encodings()[batch_index], index


def collect_fields(
    encodings: list[tokenizers.Encoding], options: EncodeOptions, input_names: Sequence[str], batched: bool
) -> BatchEncoding:
    """Collect the fields that a call returns.

    Args:
      encodings: the encoded examples.
      options: the options of the call.
      input_names: fields that are returned unless an option says otherwise.
      batched: whether to keep the batch axis.
    """
    sample = list(range(len(encodings)))
    if options.return_overflowing_tokens:
        sample = [i for i, encoding in enumerate(encodings) for _ in range(1 + len(encoding.overflowing))]
        encodings = [part for encoding in encodings for part in (encoding, *encoding.overflowing)]
    requested = {
        "input_ids": ("ids", True),
        "token_type_ids": ("type_ids", options.return_token_type_ids),
        "attention_mask": ("attention_mask", options.return_attention_mask),
        "special_tokens_mask": ("special_tokens_mask", options.return_special_tokens_mask),
        "offset_mapping": ("offsets", options.return_offsets_mapping),
    }
    fields: dict[str, Any] = {}
    for name, (attribute, is_requested) in requested.items():
        if name in input_names if is_requested is None else is_requested:
            width = (2,) if attribute == "offsets" else ()
            sequences = [to_array(getattr(encoding, attribute)).reshape(-1, *width) for encoding in encodings]
            fields[name] = stack(sequences, options.return_tensors)
    if not (batched or options.return_tensors or options.return_overflowing_tokens):
        fields = {name: value[0] for name, value in fields.items()}
    if options.return_length:
        fields["length"] = to_array([len(encoding) for encoding in encodings], options.return_tensors)
    if options.return_overflowing_tokens:
        fields["overflow_to_sample_mapping"] = to_array(sample, options.return_tensors)
    return BatchEncoding(fields, encodings)


def pad_batch(
    encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    max_length: int | None,
    strategy: str | None,
    pad_to_multiple_of: int | None,
    padding_side: str,
    padding_values: Mapping[str, int],
    return_attention_mask: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Pad the fields that have a padding value, and stack all fields.

    Args:
      encoded_inputs: one example {name: [T]}, a batch {name: [B, T] or sequences of different lengths}, or a list of
        examples.
      max_length: length for the strategy "max_length".
      strategy: "longest", "max_length" or None.
      pad_to_multiple_of: round the length up to a multiple of this.
      padding_side: "left" or "right".
      padding_values: padding value of each field. Other fields (labels, ...) are not padded.
      return_attention_mask: add a mask of ones if it is missing; False removes it.
      return_tensors: "np" or "jax" for one array per field.

    Raises:
      ValueError: missing input_ids, fields of different batch sizes, or values that are not int32 numbers.
    """
    fields = encoded_inputs if isinstance(encoded_inputs, Mapping) else _collate(encoded_inputs, padding_values)
    if "input_ids" not in fields:
        raise ValueError(f"pad needs the field input_ids, got {brief(list(fields))}")
    for name, value in fields.items():
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or np.shape(value[:0]) == ():
            raise ValueError(f"{name} must be a sequence of numbers or a list of sequences, got {brief(value)}")
    ids = fields["input_ids"]
    single = len(ids) > 0 and not hasattr(ids[0], "__len__")
    batch = {
        name: [_sequence(name, each, name in padding_values) for each in ([value] if single else value)]
        for name, value in fields.items()
    }
    sizes = {name: len(sequences) for name, sequences in batch.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the fields have different batch sizes: {sizes}")
    if return_attention_mask:
        batch.setdefault("attention_mask", [np.ones(len(sequence), np.int32) for sequence in batch["input_ids"]])
    else:
        batch.pop("attention_mask", None)

    if strategy:
        longest = max((len(sequence) for sequence in batch["input_ids"]), default=0)
        length = longest if strategy == "longest" or max_length is None else max_length
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        for name in batch.keys() & padding_values.keys():
            batch[name] = [_pad(sequence, length, padding_side, padding_values[name]) for sequence in batch[name]]
    keep_batch_axis = not single or return_tensors is not None
    stacked = {name: stack(sequences, return_tensors) for name, sequences in batch.items()}
    return BatchEncoding(stacked if keep_batch_axis else {name: values[0] for name, values in stacked.items()})


def _collate(examples: Any, names: Iterable[str]) -> dict[str, list[Any]]:
    """Convert examples {name: [T]} to a batch {name: list of sequences}."""
    expected = "pad takes a dict of fields, or a list of such dicts with the same fields"
    if not isinstance(examples, (list, tuple)) or not all(isinstance(each, Mapping) for each in examples):
        raise ValueError(f"{expected}, got {brief(examples)}")
    for example in examples:
        if example.keys() != examples[0].keys():
            raise ValueError(f"{expected}, got {brief([list(each) for each in examples])}")
    return {name: [example[name] for example in examples] for name in (examples[0] if examples else names)}


def _sequence(name: str, values: Any, is_padded: bool) -> np.ndarray:
    """Convert a sequence to int32, or to float32 if it has floats and is not padded."""
    try:
        sequence = np.asarray(values)
    except ValueError:  # lists of different lengths
        sequence = np.asarray(None)
    if sequence.dtype.kind == "f" and not (is_padded and sequence.size):
        return sequence.astype(np.float32 if sequence.size else np.int32)
    is_integer = sequence.dtype.kind in "biu"
    in_range = not sequence.size or (is_integer and -(2**31) <= sequence.min() <= sequence.max() < 2**31)
    if (is_padded and sequence.ndim != 1) or not is_integer or not in_range:
        raise ValueError(f"{name} must hold int32 numbers, got {brief(values)}")
    return sequence.astype(np.int32)


def _pad(sequence: np.ndarray, length: int, side: str, value: int) -> np.ndarray:
    missing = max(0, length - len(sequence))
    return np.pad(sequence, (missing, 0) if side == "left" else (0, missing), constant_values=value)
