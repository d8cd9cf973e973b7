"""What every model has: its config, the choices of the run, and the checks on what is passed in."""

import warnings
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.config import Config
from jaxmodels.convert import Table
from jaxmodels.layers.cache import Cache


class Model(nn.Module):
    """Base of all models.

    Attributes:
      config: the facts of the checkpoint.
      dtype: compute type. Softmax, norms' statistics, logits and losses are float32 whatever it is.
      param_dtype: type the parameters are made in.
      attention: implementation of the attention function ("auto", "xla", "xla_blocked", "pallas").
      remat: recompute layers in the backward pass (the reference's gradient checkpointing).
      unroll: unroll the loop over layers also where no cache is used.
    """

    config_class: ClassVar[type[Config]]
    table: ClassVar[Table]

    config: Config
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention: str = "auto"
    remat: bool = False
    unroll: bool = False

    def __post_init__(self):
        if not isinstance(self.config, self.config_class):
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, got {type(self.config).__name__}"
            )
        super().__post_init__()

    @property
    def choices(self) -> dict[str, Any]:
        """The attributes that a head passes on to its base model."""
        return {name: getattr(self, name) for name in ("dtype", "param_dtype", "attention", "remat", "unroll")}

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty key-value cache for `batch` rows of up to `length` tokens. Needs no parameters."""
        raise TypeError(f"{type(self).__name__} does not decode step by step, it has no cache")

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """The smallest inputs that reach every parameter, for initialisation."""
        return {"input_ids": jnp.zeros((1, 1), jnp.int32)}


def is_concrete(*arrays) -> bool:
    """Values can be looked at (outside jit), so a wrong one can be refused by name."""
    return not any(isinstance(a, jax.core.Tracer) for a in arrays)


def check_ids(name: str, ids: jax.Array, size: int, what: str, ranks: tuple[int, ...] = (2,)) -> jax.Array:
    """ids as an int array of an allowed rank, all inside [0, size).

    Raises:
      ValueError: wrong rank, no token, or an id outside the table (under jit such an id gives NaN).
      TypeError: not integers.
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} holds integers, got {ids.dtype}")
    if ids.ndim not in ranks:
        shapes = " or ".join(("[T]", "[B,T]", "[B,choices,T]")[r - 1] for r in ranks)
        raise ValueError(f"{name} has shape {shapes}, got {ids.shape}; one text alone is [1,T]: ids[None]")
    if ids.size == 0:
        raise ValueError(f"{name} is empty: shape {ids.shape}; give at least one token per row")
    if is_concrete(ids):
        values = np.asarray(ids)  # not jnp: inside a jit even a constant's minimum would be traced
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise ValueError(f"{name} holds ids from {low} to {high}, but {what} has {size} entries (0 to {size - 1})")
    return ids


def check_shape(name: str, array: jax.Array, expected: tuple[int | None, ...]) -> jax.Array:
    """The array, if it has the expected shape (None: any size)."""
    array = jnp.asarray(array)
    fits = array.ndim == len(expected) and all(e in (None, n) for e, n in zip(expected, array.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected} (None: any size)")
    return array


def as_rows(name: str, ids: jax.Array, batch: int, length: int) -> jax.Array:
    """ids [...,T] as [B,T], or as [1,T] where one row serves all.

    Raises:
      ValueError: another length, or another number of rows.
    """
    rows = ids.reshape(-1, ids.shape[-1])
    if rows.shape not in ((batch, length), (1, length)):
        raise ValueError(
            f"{name} has one row of {length} for each of the {batch} rows, or one for all; got {ids.shape}"
        )
    return rows


def warn_of_unmasked_padding(ids: jax.Array, pad: int | None) -> None:
    """Says so where a text begins or ends with the pad id and no mask was given (PARITY C13)."""
    if pad is not None and is_concrete(ids) and (np.asarray(ids)[..., [0, -1]] == pad).any():
        warnings.warn(
            f"input_ids begin or end with the pad id {pad}, but there is no attention_mask: padding is read like text. "
            f"If {pad} is a token of the text too, pass a mask of ones",
            stacklevel=2,
        )
