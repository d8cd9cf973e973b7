"""Embeddings, meshes and a brute-force search as the reference."""

import jax
import numpy as np

from jaxmodels.sharding import make_mesh

# Name -> mesh and the axes that rows are sharded over.
MESHES = {
    "one": lambda: (None, None),
    "two": lambda: (make_mesh({"data": 2}, jax.devices()[:2]), None),
    "eight": lambda: (make_mesh({"data": 2, "model": 4}), None),
    "eight, crosswise": lambda: (make_mesh({"data": 2, "model": 4}), ("model", "data")),
    "four of eight": lambda: (make_mesh({"data": 2, "model": 4}), "model"),
}


def random_integers(rows: int, width: int, seed: int = 0, largest: int = 3) -> np.ndarray:
    """Small integers: sums are exact in any order and dtype, and scores have many ties."""
    return np.random.default_rng(seed).integers(-largest, largest + 1, (rows, width)).astype(np.float32)


def normal(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


def brute_force(rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and ids of the k largest inner products, ties ordered by id."""
    scores = queries @ rows.T
    ids = np.stack([np.lexsort((np.arange(len(rows)), -row))[:k] for row in scores])
    return np.take_along_axis(scores, ids, axis=1), ids
