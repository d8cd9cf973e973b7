"""Tiny models with random parameters, for tests that need no reference."""

import jax
import numpy as np

import jaxmodels as jm
from jaxmodels.parameters import abstract

TINY = {"vocab_size": 67, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}


def tiny(name: str = "GPT2LMHeadModel", *, seed: int = 0, choices: dict | None = None, **config) -> tuple:
    """(model, params). The parameters are plain random numbers: compiling the initialisation would take seconds."""
    model = getattr(jm, name)(jm.GPT2Config(**{**TINY, **config}), **(choices or {}))
    return model, random_params(model, seed)


def random_params(model, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)

    def leaf(shape):
        return jax.numpy.asarray(rng.normal(0.0, 0.15, shape.shape), shape.dtype)

    return jax.tree.map(leaf, abstract(model))
