"""The ids of a vocabulary: one for each token, and none that no table of embeddings has."""

from collections.abc import Mapping
from typing import Any

import tokenizers

from jaxmodels.tokenization.special_tokens import as_id


def check_backend(path, backend: tokenizers.Tokenizer):
    """ValueError for a library's tokenizer whose vocabulary, read from `path`, is none."""
    size = backend.get_vocab_size(with_added_tokens=False)
    # as many tokens as ids up to there: the vocabulary need not be copied
    if any(backend.model.id_to_token(i) is None for i in range(size)):
        check_ids(path, backend.get_vocab(with_added_tokens=False))


def check_ids(path, vocabulary: Mapping[str, Any]):
    """ValueError for what is no id, and for an id that two tokens share; gaps are allowed."""
    holders: dict[int, str] = {}
    for token, i in vocabulary.items():
        i = as_id(f"{path}: the id of {token!r}", i)
        if holders.setdefault(i, token) != token:
            raise ValueError(f"{path}: {holders[i]!r} and {token!r} have the same id, {i}")
