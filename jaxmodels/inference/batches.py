"""From texts to batches of one width, and from outputs of batches to outputs of texts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jaxmodels.architectures.base import Model
from jaxmodels.batching import length_batches
from jaxmodels.layers.losses import IGNORE
from jaxmodels.messages import brief
from jaxmodels.tokenization import BatchEncoding
from jaxmodels.tokenization.base import Tokenizer

# Padded lengths are multiples of this, so that few shapes are compiled.
_MULTIPLE = 32
_SEQUENCES = ("input_ids", "attention_mask", "token_type_ids", "labels")


def check_texts(name: str, texts: Any) -> None:
    """Raises TypeError for what is no sequence of str."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a sequence of str, got {brief(texts)}; a single text is a list of one")


def tokenize(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None,
    max_length: int | None,
    **options: Any,
) -> BatchEncoding:
    """Unpadded fields of all texts, which are cut to `max_length` and to what model and tokenizer allow."""
    check_texts("texts", texts)
    if text_pairs is not None:
        check_texts("text_pairs", text_pairs)
        if len(text_pairs) != len(texts):
            raise ValueError(f"text_pairs must have a text for each of the {len(texts)} texts, got {len(text_pairs)}")
    limit = min(tokenizer.model_max_length, model.max_source_tokens)
    max_length = limit if max_length is None else min(max_length, limit)
    options = {"truncation": True, "max_length": max_length, "return_attention_mask": True, **options}
    return tokenizer(list(texts), None if text_pairs is None else list(text_pairs), **options)


def run(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    pad_token_id: int | None,
    longest: int,
    batch_size: int,
    progress: bool,
) -> list[Any]:
    """Calls `function(params, batch)` for all examples.

    Args:
      function: returns a tree of arrays [B, ...].
      fields: unpadded sequences by name.
      pad_token_id: pads input_ids; None: 0.
      longest: number of tokens that the model has positions for.
      batch_size: examples of a batch.
      progress: show a progress bar.

    Returns:
      The tree of each example, as numpy arrays; those over tokens keep the padding of their batch.

    Raises:
      ValueError: a batch_size below 1.
    """
    sequences = {name: fields[name] for name in _SEQUENCES if name in fields}
    lengths = [len(ids) for ids in sequences["input_ids"]]
    padding = {"input_ids": pad_token_id or 0, "labels": IGNORE}
    results: list[Any] = [None] * len(lengths)

    def fetch(places: np.ndarray, found: Any) -> None:
        found = jax.device_get(found)
        for row, place in enumerate(places):
            results[place] = jax.tree.map(lambda array: array[row], found)  # noqa: B023

    pending: tuple[np.ndarray, Any] | None = None
    with tqdm(total=len(lengths), unit="text", disable=not progress) as bar:
        for places, width in length_batches(lengths, batch_size, multiple=_MULTIPLE):
            # The last batch repeats its examples, so that it has the shape of the others.
            rows, width = np.resize(places, min(batch_size, len(lengths))), min(width, longest)
            batch = {
                name: np.stack([padded(each[row], width, padding.get(name, 0)) for row in rows])
                for name, each in sequences.items()
            }
            found = function(params, batch)
            if pending is not None:  # fetched while this batch is computed
                fetch(*pending)
            pending = places, found
            bar.update(len(places))
        if pending is not None:
            fetch(*pending)
    return results


def padded(values: Any, width: int, padding: int) -> np.ndarray:
    """int32 [width]."""
    return np.pad(np.asarray(values, np.int32), (0, width - len(values)), constant_values=padding)
