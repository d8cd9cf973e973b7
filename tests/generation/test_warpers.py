"""Each warper, and several in succession, match the scores of the reference (docs/parity.md, N3, X1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as reference

import jaxmodels as jm
from jaxmodels.generation.sampling import Warpers

V, N = 40, 6
KEEPS = {1: {}, 2: {"num_beams": 2, "eos_token_id": [1]}, 4: {"num_beams": 3, "eos_token_id": [1, 2, 3]}}


@jax.jit
def _apply(warpers, scores):
    return warpers(scores).over_vocabulary(scores.shape[1])


def make_scores(kind: str) -> np.ndarray:
    """float32 [N,V]: distributions from flat to peaked."""
    scores = np.random.default_rng(3).normal(size=(N, V)).astype(np.float32) * np.linspace(0.3, 6, N)[:, None]
    if kind == "banned":
        scores[:, ::3] = -np.inf
    if kind == "few":
        scores[:, 5:] = -np.inf
    return scores.astype(np.float32)


# In the order of the reference; min_p, which 4.37 lacks, where later versions apply it.
CLASSES = {
    "temperature": lambda value, keep: reference.TemperatureLogitsWarper(value),
    "top_k": lambda value, keep: reference.TopKLogitsWarper(value, min_tokens_to_keep=keep),
    "top_p": lambda value, keep: reference.TopPLogitsWarper(value, min_tokens_to_keep=keep),
    "min_p": lambda value, keep: reference.MinPLogitsWarper(value, min_tokens_to_keep=keep),
    "typical_p": lambda value, keep: reference.TypicalLogitsWarper(value, min_tokens_to_keep=keep),
    "epsilon_cutoff": lambda value, keep: reference.EpsilonLogitsWarper(value, min_tokens_to_keep=keep),
    "eta_cutoff": lambda value, keep: reference.EtaLogitsWarper(value, min_tokens_to_keep=keep),
    "renormalize_logits": lambda value, keep: reference.LogitNormalization(),
}


def warped_scores(options: dict, keep: int, scores: np.ndarray) -> np.ndarray:
    config = jm.GenerationConfig(do_sample=True, **{"top_k": 0, **options}, **KEEPS[keep])
    return np.asarray(_apply(Warpers.from_config(config, V), jnp.asarray(scores)))


def reference_scores(options: dict, keep: int, scores: np.ndarray) -> np.ndarray:
    values = torch.from_numpy(scores.copy())
    for name, make in CLASSES.items():
        if name in options:
            values = make(options[name], keep)(None, values)
    return values.numpy()


ALONE = [
    *({"temperature": value} for value in (0.5, 1.7)),
    *({"top_k": value} for value in (1, 7, 39, 40, 60)),
    *({"top_p": value} for value in (0.01, 0.5, 0.9, 0.999)),
    *({"min_p": value} for value in (0.02, 0.3, 1.0)),
    *({"typical_p": value} for value in (0.05, 0.5, 0.95)),
    *({"epsilon_cutoff": value} for value in (1e-3, 0.05, 0.9)),
    *({"eta_cutoff": value} for value in (1e-3, 0.1, 0.9)),
    {"renormalize_logits": True},
]


@pytest.mark.parametrize("keep", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parity("N3", "X1")
def test_every_warper_matches_the_reference(keep):
    for options in ALONE:
        for kind in ("all", "banned", "few"):
            scores = make_scores(kind)
            expected = reference_scores(options, keep, scores)
            actual = warped_scores(options, keep, scores)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=f"{options} {kind}")
            assert (np.isfinite(actual).sum(axis=1) >= min(keep, 5)).all()


CHAINS = [
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 30, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.8, "epsilon_cutoff": 0.02},
    {"typical_p": 0.6, "eta_cutoff": 0.1, "renormalize_logits": True},
]


@pytest.mark.parametrize("keep", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parity("N3")
def test_several_warpers_match_the_order_of_the_reference(keep):
    for options in CHAINS:
        for kind in ("all", "banned"):
            scores = make_scores(kind)
            actual, expected = warped_scores(options, keep, scores), reference_scores(options, keep, scores)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=f"{options} {kind}")


@pytest.mark.parity("N3")
def test_the_order_of_warpers_matters():
    """Temperature is first: the result of top_p depends on it, so the test above detects a wrong order."""
    options, scores = CHAINS[0], make_scores("all")
    hot = reference_scores({"temperature": 1.5}, 1, reference_scores({"top_k": 20, "top_p": 0.9}, 1, scores))
    assert (np.isfinite(hot) != np.isfinite(reference_scores(options, 1, scores))).any()


@pytest.mark.parity("N3")
def test_ties_with_the_kth_token_are_kept_among_the_candidates():
    """The reference keeps every tie; here those among the `num_candidates` most likely tokens."""
    scores = np.zeros((1, V), np.float32)
    scores[0, :3] = 1.0
    assert np.isfinite(reference_scores({"top_k": 5}, 1, scores)).sum() == V
    assert np.isfinite(warped_scores({"top_k": 5}, 1, scores)).sum() == 32
    scores[0, 20:] = -1.0
    np.testing.assert_array_equal(warped_scores({"top_k": 5}, 1, scores), reference_scores({"top_k": 5}, 1, scores))


@pytest.mark.parity("N3")
def test_disabled_warpers_have_no_effect():
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
    neutral |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    warpers = Warpers.from_config(jm.GenerationConfig(do_sample=True, **neutral), V)
    assert jax.tree.leaves(warpers) == []
    np.testing.assert_array_equal(_apply(warpers, make_scores("banned")), make_scores("banned"))


def test_other_values_do_not_recompile():
    every = {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "epsilon_cutoff": 0.01}
    warped_scores(every, 1, make_scores("all"))
    before = _apply._cache_size()
    for i in range(1, 30):
        warped_scores(
            {name: i if name == "top_k" else value * (1 - i / 99) for name, value in every.items()},
            1,
            make_scores("few"),
        )
    assert _apply._cache_size() == before
