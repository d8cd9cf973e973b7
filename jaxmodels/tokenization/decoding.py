"""Decoding: ids back to tokens and text."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, overload

import jax
import numpy as np

from jaxmodels.messages import brief, reject_unsupported, truncate
from jaxmodels.tokenization import unsupported
from jaxmodels.tokenization.backend import library_errors
from jaxmodels.tokenization.special_tokens import SpecialTokens
from jaxmodels.tokenization.validation import boolean, optional

Ids: TypeAlias = int | np.integer | Sequence[int] | Sequence[np.integer] | np.ndarray | jax.Array
OPTIONS = ("skip_special_tokens", "clean_up_tokenization_spaces")

# Replacements that remove the English spacing of word-level tokenizers, applied in this order.
CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Decoding(SpecialTokens):
    """The part of a tokenizer that converts ids to tokens and text.

    Ids are ints, lists, or NumPy or JAX arrays. A negative id (-100 in labels) or one beyond int32 raises ValueError;
    anything that is not an integer raises TypeError.
    """

    clean_up_tokenization_spaces: bool

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]  # a str is one token

    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int] | None:
        """Return the id of a token, or the ids of several.

        A token that is not in the vocabulary gets the id of unk_token, or None without one.
        """
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in to_strings(tokens)]
        try:
            index = self._backend.token_to_id(tokens)
        except (TypeError, UnicodeError) as error:
            raise ValueError(f"a token must be valid Unicode, got {brief(tokens)}") from error
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of ids [T]; None for ids outside the vocabulary."""
        sequence = to_sequence(ids)
        if not isinstance(ids, (list, tuple)) and np.ndim(ids) == 0:
            return self._id_to_token(sequence[0])
        skipped = self._skipped_ids() if boolean("skip_special_tokens", skip_special_tokens) else set()
        return [self._id_to_token(i) for i in sequence if i not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens."""
        tokens = to_strings(tokens)
        with library_errors(f"the vocabulary cannot decode {brief(tokens)}"):
            decoder = self._backend.decoder
            return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **other_options: object,
    ) -> str:
        """Return the text of ids [T]. Ids outside the vocabulary (in a model's padded vocabulary) are ignored.

        Args:
          token_ids: the ids.
          skip_special_tokens: leave out special tokens.
          clean_up_tokenization_spaces: remove English spacing (" ." -> "."); None means the tokenizer's setting.
          other_options: raise TypeError; the message names the replacement.
        """
        reject_unsupported("decode() has no option", other_options, OPTIONS, unsupported.DECODE)
        skip = boolean("skip_special_tokens", skip_special_tokens)
        tokens = self.convert_ids_to_tokens(to_sequence(token_ids), skip)
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        clean_up = optional(boolean)("clean_up_tokenization_spaces", clean_up_tokenization_spaces)
        if self.clean_up_tokenization_spaces if clean_up is None else clean_up:
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self,
        sequences: Sequence[Ids] | np.ndarray | jax.Array,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **other_options: object,
    ) -> list[str]:
        """Return the text of each sequence of ids, passed as lists, arrays or one array [B, T]; see `decode`."""
        reject_unsupported("batch_decode() has no option", other_options, OPTIONS, unsupported.DECODE)
        if not isinstance(sequences, (list, tuple)):
            sequences = to_integers(sequences)
            if sequences.ndim == 0:
                raise TypeError(
                    f"batch_decode takes sequences of ids [B, T], got {brief(sequences)}; decode takes a single one"
                )
        return [self.decode(sequence, skip_special_tokens, clean_up_tokenization_spaces) for sequence in sequences]

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces before English punctuation and contractions."""
        for spaced, closed in CLEAN_UP:
            out_string = out_string.replace(spaced, closed)
        return out_string

    def get_special_tokens_mask(
        self, token_ids: Ids, token_ids_1: object = None, already_has_special_tokens: bool = True
    ) -> list[int]:
        """Return 1 for each special token among ids [T] that already contain special tokens, and 0 otherwise.

        Raises:
          ValueError: a second sequence, or ids without special tokens; transformers' fast tokenizers refuse them too.
        """
        if token_ids_1 is not None or not boolean("already_has_special_tokens", already_has_special_tokens):
            raise ValueError(
                "token_ids_1 and already_has_special_tokens=False are not supported: call the tokenizer with "
                "return_special_tokens_mask=True"
            )
        special = set(self.all_special_ids)
        return [int(i in special) for i in to_sequence(token_ids)]

    def _skipped_ids(self) -> set[int]:
        flagged = (i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)
        return {*self.all_special_ids, *flagged}


def to_sequence(ids: Any) -> list[int]:
    """Convert an id or ids [T] to a list of int."""
    array = to_integers(ids)
    if array.ndim > 1:
        raise ValueError(
            f"expected one sequence of ids [T], got an array of shape {array.shape}; batch_decode takes [B, T]"
        )
    return array.reshape(-1).tolist()


def to_integers(ids: Any) -> np.ndarray:
    """Convert ids to an array of integers from 0 to 2**31 - 1."""
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError, OverflowError) as error:  # sequences of different lengths, and JAX tracers
        raise TypeError(
            f"ids must be integers, in sequences of equal length, got {brief(ids)}: {truncate(str(error))}"
        ) from error
    if array.dtype.kind == "O" and all(type(i) is int for i in array.flat):
        raise ValueError(f"ids must be int32, got {brief(ids)}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {array.dtype}: {brief(ids)}")
    if array.size and array.min() < 0:
        raise ValueError(
            f"{array.min()} is not a token id; replace -100 in labels by tok.pad_token_id and pass skip_special_tokens"
        )
    if array.size and array.max() >= 2**31:
        raise ValueError(f"ids must be int32, got {array.max()}")
    return array


def to_strings(tokens: Any) -> list[str]:
    """Validate an iterable of tokens and return them as a list of str."""
    listed = None if isinstance(tokens, (str, bytes, dict)) or not isinstance(tokens, Iterable) else list(tokens)
    if listed is None or not all(isinstance(token, str) for token in listed):
        raise TypeError(f"tokens must be a list of str, got {brief(tokens)}")
    return listed
