"""Dropout of a model and of the reference, seen in many copies of one text: how their results scatter."""

import jax
import numpy as np
import torch
from support.reference import Pair, reference_output

COPIES = 3000


def in_many_copies(pair: Pair, text: dict[str, np.ndarray]) -> tuple:
    """The outputs of the model and of the reference, both in training, for `COPIES` rows of a text [1,...]; the
    same key gives the same numbers again."""
    rows = {name: np.tile(value, (COPIES, 1)) for name, value in text.items()}
    run = jax.jit(lambda key, params: pair.model.apply({"params": params}, **rows, rngs={"dropout": key}))
    got, again = (run(jax.random.key(0), pair.params) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, got, again)
    torch.manual_seed(0)
    pair.reference.train()
    with torch.no_grad():
        return got, reference_output(pair, **rows)


def assert_same_means(mine: np.ndarray, reference: np.ndarray, name: str) -> None:
    """Of arrays [COPIES,...], as far as they scatter."""
    error = (mine.var(axis=0) + reference.var(axis=0)) / COPIES
    assert np.mean((mine.mean(axis=0) - reference.mean(axis=0)) ** 2 / error) < 1.5, f"{name}: another mean"


def assert_scatter_alike(mine: np.ndarray, reference: np.ndarray, name: str) -> None:
    """As much as the reference, within 1 %, around the same means."""
    ratio = mine.std(axis=0).mean() / reference.std(axis=0).mean()
    assert abs(ratio - 1) < 0.01, f"{name}: {ratio}"
    assert_same_means(mine, reference, name)
