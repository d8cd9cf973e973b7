"""What a call of `generate` starts from, checked on the host."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.architectures.inputs import as_array, check_mask
from jaxmodels.config import Config
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.config import GenerationConfig

NOTHING = -1  # no token, in a source


class Called(NamedTuple):
    """What a call of `generate` was about, on the host.

    Attributes:
      prompts: for the loop. beginning: int32 [B,T], what the sequences start with, as the caller has it.
      longest: real tokens in the longest row of it. source: int32 [B',S] for the processors.
      inputs, read: rows and columns of what the caller gave an encoder to read.
    """

    prompts: Any
    beginning: np.ndarray
    longest: int
    source: np.ndarray
    inputs: int
    read: int


def token_ids(name: str, ids, vocabulary: int) -> np.ndarray:
    """int32 [B,T] with at least one token per row, all inside the vocabulary.

    Raises:
      ValueError: another shape, type, or id. TypeError: no array, such as a tokenizer's whole batch.
    """
    if isinstance(ids, Mapping):
        raise TypeError(f"{name} is an array, got a {type(ids).__name__}; a batch goes in as generate(..., **batch)")
    ids = np.asarray(as_array(name, ids))
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        hint = "; one text alone is [1,T]: ids[None]" if ids.ndim == 1 and ids.size else ""
        raise ValueError(f"{name} is an int array [B,T] with at least one token, got {ids.dtype} {ids.shape}{hint}")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise ValueError(f"{name} holds ids from {ids.min()} to {ids.max()}; the vocabulary has {vocabulary}")
    return ids.astype(np.int32)


def ids_and_mask(
    input_ids, attention_mask, settings: GenerationConfig, config: Config, name: str = "input_ids"
) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask, int32 [B,T] each. Without a mask the pad id marks padding, if it is no eos id."""
    ids = token_ids(name, input_ids, config.vocab_size)
    pad = settings.pad_token_id
    marks_padding = pad is not None and pad not in settings.eos_token_id
    if attention_mask is None:
        mask = (ids != pad) if marks_padding else np.ones_like(ids)
    else:
        check_mask("attention_mask", attention_mask)
        mask = np.asarray(attention_mask)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has the shape of {name}, {ids.shape}; got {mask.shape}")
    mask = mask.astype(bool)
    if not mask.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(mask.any(axis=1)))} of the prompts holds padding only; give it a token")
    return ids, mask.astype(np.int32)


def beginning_of_text(config: GenerationConfig, *others: Any) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask [B,1] of texts that begin with nothing but bos; others: arrays or None, of which one says B, else 1.

    Reference: transformers/generation/utils.py, `_maybe_initialize_input_ids_for_generation`.

    Raises:
      ValueError: there is no bos id.
    """
    if config.bos_token_id is None:
        raise ValueError(
            "without input_ids a text starts from bos_token_id, and neither the checkpoint nor the call has one: pass "
            "input_ids, or bos_token_id="
        )
    rows = next((np.shape(array)[0] for array in others if np.ndim(array) > 0), 1)
    ids = np.full((rows, 1), config.bos_token_id, np.int32)
    return ids, np.ones_like(ids)


def fill_batch(array: np.ndarray) -> np.ndarray:
    """Rows up to the next bucket, copies of the last one: they are computed and thrown away."""
    rows = array.shape[0]
    return np.concatenate([array, np.repeat(array[-1:], bucket(rows, smallest=1) - rows, axis=0)])


def pad_left(array: np.ndarray, width: int, fill: int = 0) -> np.ndarray:
    """[B,T] -> [B,width]."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)), constant_values=fill)
