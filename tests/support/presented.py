"""Processors as the compiled loop calls them: on text at any place of a wider array, all numbers traced."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodels.generation.text import Text

V, N = 23, 4
COLUMNS, PROMPT = 20, 8


@jax.jit
def _apply(processor, text, scores):
    return processor(text, scores)


def written(length: int, seed: int = 0) -> np.ndarray:
    """int [N,length] of few ids, so that n-grams come again."""
    return np.random.default_rng(seed).integers(0, 5, (N, length))


def scores_of(seed: int = 0) -> np.ndarray:
    """float32 [N,V] of both signs."""
    return np.random.default_rng(seed + 100).normal(size=(N, V)).astype(np.float32) * 3


def as_text(ids: np.ndarray, start: int, earlier: np.ndarray | None = None) -> Text:
    """The ids from a column on; before and after them stand ids that must not be read."""
    around = np.random.default_rng(9).integers(0, 5, (len(ids), COLUMNS)).astype(np.int32)
    around[:, start : start + ids.shape[1]] = ids
    earlier = None if earlier is None else jnp.asarray(earlier, jnp.int32)
    return Text(jnp.asarray(around), jnp.int32(start), jnp.int32(start + ids.shape[1]), PROMPT, earlier)


def ours(processor, ids: np.ndarray, scores: np.ndarray, start: int = 6, earlier=None) -> np.ndarray:
    return np.asarray(_apply(processor, as_text(ids, start, earlier), jnp.asarray(scores)))


def theirs(processor, ids: np.ndarray, scores: np.ndarray, **more) -> np.ndarray:
    return processor(torch.from_numpy(ids), torch.from_numpy(scores.copy()), **more).numpy()


def same(processor, reference, lengths=range(1, 13), **more) -> set[bool]:
    """Both give the same at every length, wherever the text stands; says at which of them anything changed."""
    changed = set()
    for length in lengths:
        for seed, start in ((length, 0), (length + 50, COLUMNS - length)):
            ids, scores = written(length, seed), scores_of(seed)
            expected = theirs(reference, ids, scores, **more)
            np.testing.assert_allclose(ours(processor, ids, scores, start), expected, rtol=1e-5, err_msg=f"{length}")
            changed.add(not np.array_equal(expected, scores))
    return changed


def compilations() -> int:
    return _apply._cache_size()
