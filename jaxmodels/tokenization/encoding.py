"""What a tokenizer returns: arrays under their names, and the way back from tokens to characters and words."""

from collections import UserDict
from typing import NamedTuple

import jax
import numpy as np
import tokenizers


class CharSpan(NamedTuple):
    """Characters `start` up to, without, `end` of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` up to, without, `end` of a row."""

    start: int
    end: int


def as_array(values, return_tensors: str | None = None):
    """Integers as an int32 array of numpy, or of jax for return_tensors="jax"; float32 stays so (labels of `pad`)."""
    array = np.asarray(values, np.float32 if getattr(values, "dtype", None) == np.float32 else np.int32)
    return jax.numpy.asarray(array) if return_tensors == "jax" else array


def stack(rows: list[np.ndarray], return_tensors: str | None = None):
    """Rows [T, ...] as one int32 array [B, T, ...] where they have one length, else as a list of arrays.

    `return_tensors` "np" or "jax" insists on one array: rows of different lengths are then a ValueError.
    """
    if not rows:
        return as_array(np.zeros((0, 0)), return_tensors)
    if len({np.shape(row) for row in rows}) == 1:
        return as_array(np.stack(rows), return_tensors)
    if return_tensors is not None:
        lengths = sorted({len(row) for row in rows})
        raise ValueError(
            f"return_tensors={return_tensors!r} needs rows of one length, these have {lengths[0]} to {lengths[-1]} "
            "tokens: pass padding=True (and truncation=True, max_length=... to bound them)"
        )
    return [as_array(row) for row in rows]


@jax.tree_util.register_pytree_with_keys_class
class BatchEncoding(UserDict):
    """The fields of an encoded text [T] or batch [B, T], int32, as a mapping and as attributes.

    Rows of different lengths (asked for without padding) are a list of arrays [T_b]. A BatchEncoding is a pytree of its
    fields, so it goes through `jax.jit` and `jax.device_put`; what comes out has lost the way back to the text below.
    `batch[i]` is row i's `tokenizers.Encoding`, `batch[i:j]` a dict of the rows i to j.

    The methods that take `(batch_index, index)` also take `(index)` alone for row 0. Each answers None where nothing
    corresponds, as for a special token. Field and method names are those of Hugging Face's BatchEncoding
    (transformers 4.37.2, tokenization_utils_base.py).
    """

    def __init__(self, data=None, encodings: list[tokenizers.Encoding] | None = None):
        super().__init__(data)
        self.encodings = encodings

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        return self._rows()[key]

    def __getattr__(self, name: str):
        fields = vars(self).get("data", {})  # copy and pickle look attributes up before `data` is there
        if name in fields:
            return fields[name]
        raise AttributeError(f"BatchEncoding has no field or attribute {name!r}; its fields are {list(fields)}")

    def tree_flatten_with_keys(self):
        names = tuple(sorted(self.data))
        return [(jax.tree_util.DictKey(name), self.data[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(dict(zip(names, values, strict=True)))

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs, None where the way back to the text is lost."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as strings."""
        return self._rows()[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 or 1, the text of the pair it comes from."""
        return self._rows()[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word."""
        return self._rows()[batch_index].word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1: the text of the pair that a token comes from."""
        row, token = self._locate(batch_or_token_index, token_index)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word that a token is part of."""
        row, token = self._locate(batch_or_token_index, token_index)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token covers."""
        row, token = self._locate(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return span and CharSpan(*span)

    def word_to_tokens(
        self,
        batch_or_word_index: int,
        word_index: int | None = None,
        sequence_index: int = 0,
    ) -> TokenSpan | None:
        """The tokens of a word."""
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return span and TokenSpan(*span)

    def word_to_chars(
        self,
        batch_or_word_index: int,
        word_index: int | None = None,
        sequence_index: int = 0,
    ) -> CharSpan | None:
        """The characters of a word."""
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        return span and CharSpan(*span)

    def char_to_token(
        self,
        batch_or_char_index: int,
        char_index: int | None = None,
        sequence_index: int = 0,
    ) -> int | None:
        """The token that covers a character."""
        row, char = self._locate(batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self,
        batch_or_char_index: int,
        char_index: int | None = None,
        sequence_index: int = 0,
    ) -> int | None:
        """The number of the word that a character is in."""
        row, char = self._locate(batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def _rows(self) -> list[tokenizers.Encoding]:
        if self.encodings is None:
            raise ValueError("this BatchEncoding was not made by a tokenizer call, so it has no way back to the text")
        return self.encodings

    def _locate(self, first: int, second: int | None) -> tuple[tokenizers.Encoding, int]:
        """(batch index, index) or (index) alone -> the row and the index in it."""
        row, index = (0, first) if second is None else (first, second)
        return self._rows()[row], index
