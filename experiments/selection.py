"""Selection of the best parameters of a run by a validation score, and early stopping."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from jaxmodels.training import TrainState
from jaxmodels.training.checkpoints import Checkpoints


class Criterion(NamedTuple):
    """Which parameters are best.

    Attributes:
      score: Name of a number that the evaluation returns.
      higher_is_better: Whether the highest or the lowest one is best.
      patience: Stop after this many evaluations in a row without a better score; 0 to train to the last step.
    """

    score: str
    higher_is_better: bool
    patience: int


class BestState:
    """The state with the best score so far, in a folder; a context manager that waits for pending saves on exit.

    A run that is resumed evaluates again what it evaluated after its last checkpoint, with the same scores; states that
    are saved already are not saved again.
    """

    def __init__(self, folder: Path, criterion: Criterion, rows: Sequence[dict[str, float]]):
        """Open the folder.

        Args:
          folder: The folder.
          criterion: Which state is best.
          rows: Rows of the metrics log up to the step from which the run resumes.
        """
        self._criterion, self._checkpoints = criterion, Checkpoints(folder, keep=1)
        self._best, self._since = float("-inf"), 0
        for row in rows:
            if criterion.score in row:
                self._count(row[criterion.score])

    def __enter__(self) -> "BestState":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._checkpoints.__exit__(error_type, error, traceback)

    @property
    def stopped(self) -> bool:
        """Whether the patience is over."""
        return 0 < self._criterion.patience <= self._since

    def add(self, step: int, values: dict[str, float], state: TrainState) -> None:
        """Save the state of a step if its score is the best one, or the first."""
        latest, better = self._checkpoints.latest, self._count(values[self._criterion.score])
        if latest is None or (better and step > latest):
            self._checkpoints.save(step, state)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """Return the best state and its step."""
        state = self._checkpoints.restore(like)
        return int(state.step), state

    def _count(self, score: float) -> bool:
        """Return whether the score is better than all before."""
        signed = score if self._criterion.higher_is_better else -score
        better = signed > self._best
        self._best, self._since = (signed, 0) if better else (self._best, self._since + 1)
        return better
