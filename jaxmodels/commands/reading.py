"""A checkpoint as it is: in the type it is stored in, and with what loading had to say."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.hub import load
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.tensor_files import TensorEntry, open_folder
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, read_snapshot


class Checkpoint(NamedTuple):
    """entries: the tensors of its files, by torch name. notes: what was initialised and what was unused, in words."""

    folder: Path
    entries: dict[str, TensorEntry]
    model: Model
    params: dict
    notes: list[str]


def read(
    source: str | Path,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    **options,
) -> Checkpoint:
    """Loads a folder or Hub id; raises what `load` raises.

    Args:
      dtype: None is the type of the tensors, and of several types the one that holds them all.
      options: of `load`.
    """
    folder = checkpoint_folder(source, revision=revision, subfolder=subfolder)
    # Tensors and parameters of one save: no other one came before both were read.
    return read_snapshot(folder, lambda saved: _read(saved, dtype, options))


def _read(folder: FolderSnapshot, dtype: str | None, options: dict[str, Any]) -> Checkpoint:
    entries = open_folder(folder)
    kind = dtype or _stored(entries)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model, params = load(folder.path, dtype=kind, param_dtype=kind, **options)
    return Checkpoint(folder.path, entries, model, params, [str(warning.message) for warning in caught])


def _stored(entries: dict[str, TensorEntry]) -> Any:
    # Kind V is that of bfloat16 and float8.
    kinds = {entry.dtype for entry in entries.values() if entry.dtype.kind in "fV"}
    return jnp.result_type(*kinds) if kinds else jnp.float32
