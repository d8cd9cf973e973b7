"""What a call of `generate` starts from, checked on the host."""

from typing import Any, NamedTuple

import jax
import numpy as np

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
      ValueError: another shape, type, or id. TypeError: a traced array.
    """
    if isinstance(ids, jax.core.Tracer):
        raise TypeError("generate compiles its own loop and pads to buckets: call it outside jit")
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} is an int array [B,T] with at least one token, got {ids.dtype} {ids.shape}")
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
        mask = np.asarray(attention_mask)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has the shape of {name}, {ids.shape}; got {mask.shape}")
    mask = mask.astype(bool)
    if not mask.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(mask.any(axis=1)))} of the prompts holds padding only; give it a token")
    return ids, mask.astype(np.int32)


def fill_batch(array: np.ndarray) -> np.ndarray:
    """Rows up to the next bucket, copies of the last one: they are computed and thrown away."""
    rows = array.shape[0]
    return np.concatenate([array, np.repeat(array[-1:], bucket(rows, smallest=1) - rows, axis=0)])


def pad_left(array: np.ndarray, width: int, fill: int = 0) -> np.ndarray:
    """[B,T] -> [B,width]."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)), constant_values=fill)
