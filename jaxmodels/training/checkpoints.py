"""Checkpoints of a training run (Orbax): written beside the training, whole or not at all."""

import errno
import operator
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxmodels.training import digests
from jaxmodels.training.state import TrainState, not_finite


class DamagedCheckpoint(ValueError):
    """The newest checkpoint is not what was saved.

    Attributes:
      step: of the damaged one.
      sound: step of the newest one that is not damaged; None: there is none.
    """

    def __init__(self, message: str, step: int, sound: int | None):
        super().__init__(message)
        self.step, self.sound = step, sound


class Checkpoints:
    """The checkpoints of one run, one folder per step; a context manager that waits for the last one on leaving.

    A checkpoint gets its name only when it is complete, and an older one is deleted only after that: a run killed in
    the middle of a save finds the one before it. Check values of all its files lie in it, and restoring looks at them.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        """Opens or makes the folder, and removes what an interrupted save left there.

        Args:
          keep: this many of the newest are kept.

        Raises:
          ValueError: keep is not a whole number from 1 on.
        """
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_whole("keep", keep, 1),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._writing: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, _):
        try:
            self._wait()
        except OSError as failed:
            if error is None:
                raise
            error.add_note(str(failed))
        finally:
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, **items: Any) -> None:
        """Copies the state off the devices and writes it in the background.

        Args:
          step: above that of the newest checkpoint.
          items: more to be saved beside the state, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointSave(it).

        Raises:
          ValueError: the step is not above the newest one's.
          FloatingPointError: a parameter is infinite or no number.
          OSError: this save could not be begun, or the one before it not be written (a full disk); leaving the context
            raises the same for the last save.
        """
        step = _whole("step", step, 0)
        self._wait()
        if self.latest is not None and step <= self.latest:
            raise ValueError(
                f"a checkpoint of step {step} would not be written: {self.folder} has one of step {self.latest}, and "
                "steps go up; save a later step, or use another folder"
            )
        if (path := not_finite(state.params)) is not None:
            raise FloatingPointError(
                f"the state of step {step} is not saved: {path} has numbers that are not finite; {self._newest()}"
            )
        self._writing = step
        try:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), **items))
        except OSError as error:
            raise self._failed(error) from error

    def restore(self, like: TrainState, *, skip_damaged: bool = False, **items: Any) -> TrainState:
        """The newest state, read straight onto the devices that `like` names.

        Args:
          like: from `abstract_state`.
          skip_damaged: where the newest checkpoint is damaged, take the newest one that is not. The damaged ones are
            set aside as STEP.damaged, and training goes on from the older step.
          items: what was saved beside it, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointRestore(it).

        Raises:
          FileNotFoundError: there is no checkpoint.
          DamagedCheckpoint: a file of the newest one is missing or is not what was written; the message names it, and
            the newest sound checkpoint.
          ValueError: the checkpoint is of another model or optimizer.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check(step, like)
                if damaged and not skip_damaged:
                    raise self._refusal(damaged, step)
                state = self._read(step, like, items)
            except _Damage as error:
                damaged[step] = str(error)
                continue
            self._set_aside(list(damaged))
            return state
        if damaged:
            raise self._refusal(damaged, None)
        raise FileNotFoundError(f"no checkpoint in {self.folder}")

    def _check(self, step: int, like: TrainState) -> None:
        """Raises _Damage, and ValueError for another model: Orbax's two trees of some thousand names have no shapes."""
        found = self._damage(step)
        if found is not None:
            raise _Damage(found)
        try:
            stored = ocp.StandardCheckpointHandler().metadata(self.folder / str(step) / "state")
            shapes = _shapes(stored.tree)
        except Exception as error:  # Orbax raises plain ones too
            raise _Damage(f"state/_METADATA cannot be read: {_first_line(error)}") from error
        wanted = _shapes(like)
        for path in sorted(shapes.keys() | wanted.keys()):
            if shapes.get(path) != wanted.get(path):
                raise ValueError(
                    f"the checkpoint of step {step} in {self.folder} is of another model or optimizer: {path} is "
                    f"{shapes.get(path, 'absent')} there, {wanted.get(path, 'absent')} here"
                )

    def _damage(self, step: int) -> str | None:
        """What the check values say; each process reads its part of the files, and all hear of it."""
        process, processes = jax.process_index(), jax.process_count()
        try:
            found = digests.damage(self.folder / str(step), process, processes)
        except FileNotFoundError:  # saved before there were any
            found = None
        if processes == 1:
            return found
        anywhere = multihost_utils.process_allgather(np.asarray(found is not None)).any()
        return found or ("a file is not what was written, as another process found" if anywhere else None)

    def _read(self, step: int, like: TrainState, items: dict[str, Any]) -> TrainState:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), **items)
        sealed = (self.folder / str(step) / digests.NAME).exists()
        try:
            return self._manager.restore(step, args=args).state
        except Exception as error:  # Orbax raises plain ones too
            # Where check values fit, the files are what was written, and it is something else; so is a lack of memory.
            if sealed or isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
                raise
            raise _Damage(f"it cannot be read: {_first_line(error)}") from error

    def _refusal(self, damaged: dict[int, str], sound: int | None) -> DamagedCheckpoint:
        newest = max(damaged)
        offer = (
            "no older one is sound"
            if sound is None
            else f"that of step {sound} is the newest sound one, and restore(..., skip_damaged=True) takes it"
        )
        message = (
            f"the checkpoint of step {newest}, {self.folder / str(newest)}, is damaged: {damaged[newest]}; {offer}"
        )
        return DamagedCheckpoint(message, newest, sound)

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self.folder / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def _seal(self) -> None:
        """Called by Orbax in the first process when all files are there, before the checkpoint gets its name."""
        drafts = self._drafts()
        digests.write(drafts[0] if drafts else self.folder / str(self._writing))

    def _drafts(self) -> list[Path]:
        return list(self.folder.glob(f"{self._writing}.orbax-checkpoint-tmp*"))

    def _wait(self) -> None:
        """For the save that is under way.

        Raises:
          OSError: it failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever the threads of Orbax and TensorStore raise
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OSError:
        """In words, with what was half written removed: on a full disk it would keep the next save from room."""
        if jax.process_index() == 0:
            for draft in self._drafts():
                shutil.rmtree(draft, ignore_errors=True)
        self._manager.reload()  # which has already forgotten what it would have deleted
        full = os.strerror(errno.ENOSPC)  # TensorStore says so at the end of a long line
        why = full if full in str(error) else _first_line(error)
        return OSError(
            f"the checkpoint of step {self._writing} could not be written to {self.folder}: {why}; {self._newest()}"
        )

    def _newest(self) -> str:
        return "there is no earlier one" if self.latest is None else f"the newest is of step {self.latest}"


class _Damage(Exception):
    """A checkpoint that is not what was saved."""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} is a whole number from {least} on, got {value!r}")
    return number


def _first_line(error: BaseException) -> str:
    """Of what was raised first: Orbax's threads wrap it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
