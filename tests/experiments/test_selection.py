"""The best state of a run: selected by a score, kept when a run is resumed, and the end of patience."""

import jax.numpy as jnp
import optax
import pytest

from experiments.selection import BestState, Criterion
from jaxmodels.training import TrainState


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"kernel": jnp.full(3, float(step))}, optax.EmptyState())


def best_of(folder, criterion, scores, rows=()):
    """Add a score for each of the steps; return the best step, and the steps after which the patience was over."""
    with BestState(folder, criterion, rows) as best:
        stopped = []
        for step, score in scores.items():
            best.add(step, {"score": score}, state(step))
            stopped += [step] if best.stopped else []
        step, found = best.restore(state(0))
        assert (found.params["kernel"] == step).all()
        return step, stopped


@pytest.mark.parametrize("higher", [True, False])
def test_best_state_is_the_first_with_the_best_score(tmp_path, higher):
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3}
    signed = {step: score if higher else -score for step, score in scores.items()}
    assert best_of(tmp_path, Criterion("score", higher, 0), signed) == (2, [])


def test_patience_counts_evaluations_in_a_row_without_a_better_score(tmp_path):
    scores = {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.6, 5: 0.1}
    assert best_of(tmp_path, Criterion("score", True, 2), scores) == (3, [5])


def test_resumed_run_keeps_its_best_state_and_its_patience(tmp_path):
    criterion = Criterion("score", True, 3)
    assert best_of(tmp_path, criterion, {1: 0.5, 2: 0.9, 3: 0.4, 4: 0.4}) == (2, [])
    rows = [{"step": 1, "loss": 3.0}, {"step": 1, "score": 0.5}, {"step": 2, "score": 0.9}, {"step": 3, "score": 0.4}]
    assert best_of(tmp_path, criterion, {4: 0.4, 5: 0.4}, rows) == (2, [5])
    assert best_of(tmp_path, criterion, {2: 0.9, 3: 0.4}, rows[:2]) == (2, []), "saved before the run was killed"


def test_scores_that_are_not_numbers_are_never_better(tmp_path):
    nan = float("nan")
    assert best_of(tmp_path / "a", Criterion("score", True, 0), {1: nan, 2: 0.1, 3: nan}) == (2, [])
    assert best_of(tmp_path / "b", Criterion("score", False, 0), {1: nan, 2: nan}) == (1, [])
