"""Runs logits processors as the compiled loop does, on sequences anywhere in a wider buffer, with all arrays traced."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodels.generation.search import Processor, Text

V, N = 23, 4
COLUMNS, PROMPT = 20, 8


@jax.jit
def _apply(processor, text, scores):
    return processor(text, scores)


def random_ids(length: int, seed: int = 0) -> np.ndarray:
    """int [N,length] of only five ids, so that n-grams repeat."""
    return np.random.default_rng(seed).integers(0, 5, (N, length))


def random_scores(seed: int = 0) -> np.ndarray:
    """float32 [N,V] of both signs."""
    return np.random.default_rng(seed + 100).normal(size=(N, V)).astype(np.float32) * 3


def make_text(ids: np.ndarray, start: int, earlier: np.ndarray | None = None) -> Text:
    """A buffer with the ids from column `start` on, surrounded by ids that must not be read."""
    around = np.random.default_rng(9).integers(0, 5, (len(ids), COLUMNS)).astype(np.int32)
    around[:, start : start + ids.shape[1]] = ids
    earlier_tokens = None if earlier is None else jnp.asarray(earlier, jnp.int32)
    return Text(jnp.asarray(around), jnp.int32(start), jnp.int32(start + ids.shape[1]), PROMPT, earlier_tokens)


def apply(
    processor: Processor, ids: np.ndarray, scores: np.ndarray, start: int = 6, earlier: np.ndarray | None = None
) -> np.ndarray:
    return np.asarray(_apply(processor, make_text(ids, start, earlier), jnp.asarray(scores)))


def apply_reference(processor: Callable, ids: np.ndarray, scores: np.ndarray, **inputs) -> np.ndarray:
    return processor(torch.from_numpy(ids), torch.from_numpy(scores.copy()), **inputs).numpy()


def assert_matches_reference(
    processor: Processor, reference: Callable, lengths: Sequence[int] = range(1, 13), **inputs
) -> set[bool]:
    """Compares the scores at every length and for sequences at both ends of the buffer.

    Returns:
      Whether any of the processors changed scores: {True}, {False}, or both if that depends on the length.
    """
    changed = set()
    for length in lengths:
        for seed, start in ((length, 0), (length + 50, COLUMNS - length)):
            ids, scores = random_ids(length, seed), random_scores(seed)
            expected = apply_reference(reference, ids, scores, **inputs)
            np.testing.assert_allclose(apply(processor, ids, scores, start), expected, rtol=1e-5, err_msg=f"{length}")
            changed.add(not np.array_equal(expected, scores))
    return changed


def num_compiled() -> int:
    """How many programs have been compiled for `apply`."""
    return _apply._cache_size()
