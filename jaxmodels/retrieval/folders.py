"""Folders that hold an index with its passages, and checks that index, passages and encoders belong together."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from jaxmodels.parameters import flatten
from jaxmodels.retrieval.building import validate_batches
from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.index_files import SHARD_BYTES, IndexFiles, write_index
from jaxmodels.retrieval.passages import Passages, write_passages
from jaxmodels.retrieval.rows import encode_rows, validate_dtype
from jaxmodels.tensor_files.atomic_save import atomic_save, read_snapshot

INDEX_FOLDER, FAISS_FILE = "index", "index.faiss"


def write_folder(
    folder: str | Path,
    batches: Iterable[ArrayLike],
    passages: Iterable[tuple[str, str]],
    dtype: DTypeLike = "float32",
    fingerprint: str | None = None,
) -> None:
    """Writes an index folder from batches of embeddings and their passages, atomically; no device is used.

    Args:
      folder: folder to write; other files in it stay.
      batches: embeddings [n, D], batch by batch.
      passages: (title, text) of each row.
      dtype: storage dtype of the rows, as of `DenseIndex`.
      fingerprint: of the encoder that computed the embeddings.

    Raises:
      ValueError: embeddings that `DenseIndex` refuses, or different numbers of passages and embeddings.
    """
    dtype, rows = validate_dtype(dtype), validate_batches(batches, None)
    first = next(rows, None)
    if first is None:
        raise ValueError("no embeddings: an index must have at least one row")
    parts = (encode_rows(batch, dtype) for batch in itertools.chain([first], rows))
    with atomic_save(Path(folder), "index", "passages") as staging:
        num_passages, digest = write_passages(staging, passages)
        num_rows = write_index(staging, parts, first.shape[1], dtype, fingerprint, digest, SHARD_BYTES)
        if num_rows != num_passages:
            raise ValueError(f"got {num_rows} embeddings and {num_passages} passages; every row needs its own passage")


def load_folder(
    folder: str | Path,
    mesh: Mesh | None = None,
    axes: str | tuple[str, ...] | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[DenseIndex, Passages]:
    """Loads the index and the passages of a folder, both from the same save even if the folder is saved to meanwhile.

    Args:
      folder: folder written by `write_folder`, or by `DenseIndex.save` and `Passages.save`.
      mesh: see `DenseIndex.load`.
      axes: see `DenseIndex.load`.
      dtype: see `DenseIndex.load`.

    Raises:
      ValueError: index and passages do not belong together (see `check_passages`).
      FileNotFoundError, TensorFileError: see `DenseIndex.load` and `Passages.load`.
    """
    files, passages = read_snapshot(folder, lambda snapshot: (IndexFiles(snapshot), Passages.load(snapshot)))
    index = DenseIndex.from_files(files, mesh, axes, dtype)
    check_passages(index, passages)
    return index, passages


def save_index(folder: Path, index: Any, passages: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Writes a retriever's index and passages into a folder; returns the RagConfig fields that refer to them.

    Paths in the returned fields are relative to the folder.

    Raises:
      TypeError: the index is neither a DenseIndex nor a FaissIndex.
    """
    if not isinstance(index, DenseIndex | FaissIndex):
        raise TypeError(
            f"only a DenseIndex or a FaissIndex can be saved, got {type(index).__name__}; save it yourself, and create "
            "the retriever with RagRetriever(config, ..., index=..., passages=...)"
        )
    with atomic_save(folder / INDEX_FOLDER, "index", "passages") as staging:
        _, digest = write_passages(staging, passages)
        if isinstance(index, DenseIndex):
            index.with_passages(digest).save(staging)
    if isinstance(index, FaissIndex):
        index.save(folder / FAISS_FILE)
    return {
        "index_name": "custom",
        "passages_path": INDEX_FOLDER,
        "index_path": FAISS_FILE if isinstance(index, FaissIndex) else None,
        "retrieval_vector_size": index.width,
    }


def check_passages(index: Any, passages: Sequence[Any]) -> None:
    """Checks that the rows of an index are those of the passages, as far as this is known.

    An index written together with its passages knows their digest (`DenseIndex.passages`); any other index is only
    compared in size.

    Raises:
      ValueError: different sizes or digests.
    """
    if len(passages) != index.size:
        raise ValueError(f"the index has {index.size} rows, got {len(passages)} passages; every row needs its own")
    expected, actual = getattr(index, "passages", None), getattr(passages, "digest", None)
    if expected is not None and actual is not None and expected != actual:
        raise ValueError(
            f"the index was written for the passages {expected[:16]}..., got the passages {actual[:16]}...: load both "
            "with load_folder, or encode these passages again; if the index is theirs, set "
            "index.with_passages(passages.digest)"
        )


def fingerprint(model: nn.Module, params: Mapping[str, Any]) -> str:
    """Returns 32 hexadecimal digits that identify an encoder: its class, its config and all parameters.

    Parameters are rounded to bfloat16, so that a checkpoint has the same fingerprint in float32 and bfloat16, and on
    any mesh. Run options (compute dtype, attention implementation, requested outputs) have no effect.
    """
    config = model.config.replace(
        architectures=None,
        torch_dtype=None,
        output_hidden_states=False,
        output_attentions=False,
        return_dict=True,
        generation={},
        extra={},
    )
    leaves = flatten(params)
    sums = {path: [*leaves[path].shape, int(value)] for path, value in sorted(_checksums(leaves).items())}
    text = json.dumps([type(model).__name__, config.to_dict(), sums], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_encoders(index: Any, encoders: Sequence[tuple[nn.Module, Mapping[str, Any]]]) -> None:
    """Checks that an index belongs to the encoders, as far as this is known.

    An index has a single fingerprint: that of the question encoder, if the index was built with it, else that of the
    context encoder that computed its rows. It is accepted if any of the encoders has this fingerprint. An index without
    one (such as faiss's) is only compared in width. Training a question encoder changes its fingerprint: then also pass
    the context encoder if the index has its fingerprint, or assign a new one (`DenseIndex.with_fingerprint`).

    Args:
      index: the index.
      encoders: (model, params) pairs; if there are none, nothing is checked.

    Raises:
      ValueError: the index differs in width from an encoder, or has the fingerprint of none of them.
    """
    for model, _ in encoders:
        width = getattr(model.config, "projection_dim", 0) or model.config.hidden_size
        if index.width != width:
            raise ValueError(
                f"the index has vectors of width {index.width}, but this {type(model).__name__} has width {width}: the "
                "index was built by another model"
            )
    expected = getattr(index, "fingerprint", None)
    if expected is None or not encoders:
        return
    actual = {fingerprint(*encoder): type(encoder[0]).__name__ for encoder in encoders}
    if expected not in actual:
        names = " and ".join(f"{name} {digits}" for digits, name in actual.items())
        raise ValueError(
            f"the index was built for the encoder {expected}, got {names}: pass the encoder that the index was built "
            "with (the context encoder if the index has its fingerprint), or encode the passages again"
        )


@jax.jit
def _checksums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _checksum(leaf) for path, leaf in leaves.items()}


def _checksum(leaf: jax.Array) -> jax.Array:
    """Position-dependent checksum modulo 2**32; the order of summation, and hence the sharding, has no effect."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    weights = jnp.ones(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        step = math.prod(leaf.shape[axis + 1 :]) * 2654435761 % 2**32
        weights += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(step)
    return (bits * weights).sum(dtype=jnp.uint32)
