"""Checkpoints of a training run (Orbax): written beside the training, whole or not at all."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxmodels.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, one folder per step; a context manager that waits for the last one on leaving.

    A checkpoint gets its name only when it is complete, and an older one is deleted only after that: a run killed in
    the middle of a save finds the one before it.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        """Opens or makes the folder, and removes what an interrupted save left there.

        Args:
          keep: this many of the newest are kept.
        """
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, **items: Any) -> None:
        """Copies the state off the devices and writes it in the background.

        Args:
          items: more to be saved beside the state, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointSave(it).
        """
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), **items))

    def restore(self, like: TrainState, **items: Any) -> TrainState:
        """The newest state, read straight onto the devices that `like` names.

        Args:
          like: from `abstract_state`.
          items: what was saved beside it, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointRestore(it).

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: the checkpoint is of another model or optimizer.
        """
        step = self.latest
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        self._check(step, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), **items)
        return self._manager.restore(step, args=args).state

    def _check(self, step: int, like: TrainState) -> None:
        """Orbax refuses too, with two trees of some thousand names and no shapes."""
        stored = ocp.StandardCheckpointHandler().metadata(self.folder / str(step) / "state")
        found, wanted = _shapes(stored.tree), _shapes(like)
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                raise ValueError(
                    f"the checkpoint of step {step} in {self.folder} is of another model or optimizer: {path} is "
                    f"{found.get(path, 'absent')} there, {wanted.get(path, 'absent')} here"
                )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
