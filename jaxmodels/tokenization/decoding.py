"""Ids back to tokens and text."""

from collections.abc import Iterable

import numpy as np

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

    Ids are ints, lists, or numpy or jax arrays; a negative one (-100 in labels) is a ValueError.
    """

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]):
        """A token's id, or the ids of several; unk_token's, or None without one, for what is not in the vocabulary."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._backend.token_to_id(tokens)
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids, skip_special_tokens: bool = False):
        """An id's token, or the tokens of ids [T]; None for an id that no token has."""
        if np.ndim(ids) == 0:
            return self._token_of(as_row(ids)[0])
        skipped = self._skipped_ids() if skip_special_tokens else ()
        return [self._token_of(i) for i in as_row(ids) if i not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text that tokens stand for."""
        return self._backend.decoder.decode(list(tokens))

    def decode(
        self,
        token_ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of ids [T]. An id that no token has (in a model's padded vocabulary) adds nothing.

        clean_up_tokenization_spaces: None is the tokenizer's own setting.
        """
        tokens = self.convert_ids_to_tokens(as_row(token_ids), skip_special_tokens)
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        clean_up = clean_up_tokenization_spaces
        if self.clean_up_tokenization_spaces if clean_up is None else clean_up:
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self,
        sequences,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids: lists, arrays, or one array [B, T]."""
        if not isinstance(sequences, (list, tuple)):
            sequences = np.asarray(sequences)
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces before English punctuation and abbreviated words."""
        for spaced, closed in CLEAN_UP:
            out_string = out_string.replace(spaced, closed)
        return out_string

    def get_special_tokens_mask(self, token_ids) -> list[int]:
        """1 for each special token among ids [T], which hold theirs already, else 0."""
        special = set(self.all_special_ids)
        return [int(i in special) for i in as_row(token_ids)]

    def _skipped_ids(self) -> set[int]:
        flagged = (i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)
        return {*self.all_special_ids, *flagged}


def as_row(ids) -> list[int]:
    """An id or ids [T] -> a list of int."""
    array = np.asarray(ids)
    if array.ndim > 1:
        raise ValueError(f"expected one row of ids [T], got an array of shape {array.shape}; batch_decode takes [B, T]")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(
            f"{array.min()} is no token's id; put tok.pad_token_id where labels say -100 and pass skip_special_tokens"
        )
    return array.reshape(-1).tolist()
