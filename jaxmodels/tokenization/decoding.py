"""Ids back to tokens and text."""

from collections.abc import Iterable

import numpy as np

from jaxmodels.names import refuse_foreign
from jaxmodels.tokenization import library, refusals
from jaxmodels.tokenization.kinds import boolean, optional
from jaxmodels.wording import brief, cut

OPTIONS = ("skip_special_tokens", "clean_up_tokenization_spaces")

# The English spacing that word-level tokenizers leave behind, undone in this order.
CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
)
CLEAN_UP += ((" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


class Decoding:
    """The part of a tokenizer that goes back; `_backend` is a `tokenizers.Tokenizer`, and `_token_of` an id's token.

    Ids are ints, lists, or numpy or jax arrays; a negative one (-100 in labels) is a ValueError, and so is one beyond
    int32. What is no integer is a TypeError.
    """

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]):
        """A token's id, or the ids of several; unk_token's, or None without one, for what is not in the vocabulary."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in as_strings(tokens)]
        try:
            index = self._backend.token_to_id(tokens)
        except (TypeError, UnicodeError) as error:
            raise ValueError(f"a token must be valid Unicode, got {tokens!r}") from error
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids, skip_special_tokens: bool = False):
        """An id's token, or the tokens of ids [T]; None for an id that no token has."""
        row = as_row(ids)
        if not isinstance(ids, (list, tuple)) and np.ndim(ids) == 0:
            return self._token_of(row[0])
        skipped = self._skipped_ids() if boolean("skip_special_tokens", skip_special_tokens) else ()
        return [self._token_of(i) for i in row if i not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text that tokens stand for."""
        tokens = as_strings(tokens)
        with library.errors(f"the vocabulary cannot decode {brief(tokens)}"):
            return self._backend.decoder.decode(tokens)

    def decode(
        self,
        token_ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **foreign,
    ) -> str:
        """The text of ids [T]. An id that no token has (in a model's padded vocabulary) adds nothing.

        clean_up_tokenization_spaces: None is the tokenizer's own setting.
        """
        refuse_foreign("decode() has no option", foreign, OPTIONS, refusals.DECODE)
        tokens = self.convert_ids_to_tokens(as_row(token_ids), boolean("skip_special_tokens", skip_special_tokens))
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        clean_up = optional(boolean)("clean_up_tokenization_spaces", clean_up_tokenization_spaces)
        if self.clean_up_tokenization_spaces if clean_up is None else clean_up:
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self,
        sequences,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **foreign,
    ) -> list[str]:
        """The texts of rows of ids: lists, arrays, or one array [B, T]."""
        refuse_foreign("batch_decode() has no option", foreign, OPTIONS, refusals.DECODE)
        if not isinstance(sequences, (list, tuple)):
            sequences = as_integers(sequences)
            if sequences.ndim == 0:
                raise TypeError(f"batch_decode takes rows of ids [B, T], got {brief(sequences)}; decode takes one row")
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces before English punctuation and abbreviated words."""
        for spaced, closed in CLEAN_UP:
            out_string = out_string.replace(spaced, closed)
        return out_string

    def get_special_tokens_mask(
        self, token_ids, token_ids_1=None, already_has_special_tokens: bool = True
    ) -> list[int]:
        """1 for each special token among ids [T], which hold theirs already, else 0.

        ValueError for a second row, and for ids without special tokens, as by the reference's fast tokenizers.
        """
        if token_ids_1 is not None or not boolean("already_has_special_tokens", already_has_special_tokens):
            raise ValueError(
                "token_ids_1 and already_has_special_tokens=False are not supported: call the tokenizer with "
                "return_special_tokens_mask=True"
            )
        special = set(self.all_special_ids)
        return [int(i in special) for i in as_row(token_ids)]

    def _skipped_ids(self) -> set[int]:
        flagged = (i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)
        return {*self.all_special_ids, *flagged}


def as_row(ids) -> list[int]:
    """An id or ids [T] -> a list of int."""
    array = as_integers(ids)
    if array.ndim > 1:
        raise ValueError(f"expected one row of ids [T], got an array of shape {array.shape}; batch_decode takes [B, T]")
    return array.reshape(-1).tolist()


def as_integers(ids) -> np.ndarray:
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError, OverflowError) as error:  # rows of different lengths, and what jax traces
        raise TypeError(f"ids must be integers, in rows of one length, got {brief(ids)}: {cut(str(error))}") from error
    if array.dtype.kind == "O" and all(type(i) is int for i in array.flat):
        raise ValueError(f"no token has an id beyond int32, got {brief(ids)}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {array.dtype}: {brief(ids)}")
    if array.size and array.min() < 0:
        raise ValueError(
            f"{array.min()} is no token's id; put tok.pad_token_id where labels say -100 and pass skip_special_tokens"
        )
    if array.size and array.max() >= 2**31:
        raise ValueError(f"no token has an id beyond int32, got {array.max()}")
    return array


def as_strings(tokens) -> list[str]:
    """Tokens, or their ids' absence, as a list of str."""
    listed = None if isinstance(tokens, (str, bytes, dict)) or not isinstance(tokens, Iterable) else list(tokens)
    if listed is None or not all(isinstance(token, str) for token in listed):
        raise TypeError(f"tokens must be a list of str, got {brief(tokens)}")
    return listed
