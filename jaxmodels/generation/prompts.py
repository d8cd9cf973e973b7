"""What a call of `generate` starts from, checked on the host."""

import jax
import numpy as np

from jaxmodels.config import Config
from jaxmodels.generation.options import Options


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


def ids_and_mask(input_ids, attention_mask, settings: Options, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask, int32 [B,T] each. Without a mask the pad id marks padding, if it is no eos id."""
    ids = token_ids("input_ids", input_ids, config.vocab_size)
    pad = settings.pad_token_id
    marks_padding = pad is not None and pad not in settings.eos_token_id
    if attention_mask is None:
        mask = (ids != pad) if marks_padding else np.ones_like(ids)
    else:
        mask = np.asarray(attention_mask)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has the shape of input_ids, {ids.shape}; got {mask.shape}")
    mask = mask.astype(bool)
    if not mask.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(mask.any(axis=1)))} of the prompts holds padding only; give it a token")
    return ids, mask.astype(np.int32)
