"""Checkpoints of a training run (Orbax): saved asynchronously and atomically, with checksums."""

import errno
import operator
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxmodels.training import digests
from jaxmodels.training.state import TrainState, not_finite


class DamagedCheckpoint(ValueError):
    """The newest checkpoint is damaged.

    Attributes:
      step: step of the damaged checkpoint.
      intact: step of the newest checkpoint that is not damaged; None if there is none.
    """

    def __init__(self, message: str, step: int, intact: int | None):
        super().__init__(message)
        self.step, self.intact = step, intact


class Checkpoints:
    """The checkpoints of a run, one folder per step; a context manager that waits for pending saves on exit.

    A checkpoint is renamed into place when it is complete, and an old one is deleted only after that: a run killed
    during a save finds the previous checkpoint. A checkpoint contains checksums of its files, which `restore` verifies.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> optimizer = optax.adamw(1e-4)
      >>> state = training.init_state(optimizer, jm.init(model, jax.random.key(0)))
      >>> with Checkpoints("run/checkpoints", keep=2) as checkpoints:
      ...     checkpoints.save(1, state)
      >>> with Checkpoints("run/checkpoints") as checkpoints:
      ...     state = checkpoints.restore(training.abstract_state(model, optimizer))
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        """Opens or creates the folder, and removes the remains of an interrupted save.

        Args:
          folder: folder of the checkpoints.
          keep: number of checkpoints to keep; older ones are deleted.

        Raises:
          ValueError: keep is not an integer of at least 1.
        """
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_integer("keep", keep, 1),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self._wait()
        except OSError as save_error:
            if error is None:
                raise
            error.add_note(str(save_error))
        finally:
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, **items: Any) -> None:
        """Copies the state to the host and writes it in the background.

        Args:
          step: step of the state; must be above that of the newest checkpoint.
          state: state to save.
          **items: additional items to save, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointSave(iterator).

        Raises:
          ValueError: the step is not above that of the newest checkpoint.
          FloatingPointError: a parameter contains infinity or NaN.
          OSError: this save could not be started, or the previous one failed (e.g. a full disk); leaving the context
            raises the same for the last save.
        """
        step = _integer("step", step, 0)
        self._wait()
        if self.latest is not None and step <= self.latest:
            raise ValueError(
                f"cannot save step {step}: {self.folder} has a checkpoint of step {self.latest}, and steps must "
                "increase; save a later step, or use another folder"
            )
        if (path := not_finite(state.params)) is not None:
            raise FloatingPointError(f"cannot save step {step}: {path} contains infinity or NaN; {self._newest()}")
        self._saving = step
        try:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), **items))
        except OSError as error:
            raise self._save_error(error) from error

    def restore(self, like: TrainState, *, skip_damaged: bool = False, **items: Any) -> TrainState:
        """Restores the newest state straight onto the devices of `like`.

        Args:
          like: abstract state, from `abstract_state`.
          skip_damaged: if the newest checkpoint is damaged, restore the newest one that is intact. Damaged ones are
            renamed to STEP.damaged, and training continues from the older step.
          **items: additional items to restore, as Orbax arguments, e.g. data=grain.checkpoint.CheckpointRestore(it).

        Raises:
          FileNotFoundError: there is no checkpoint.
          OSError: the previous save failed.
          DamagedCheckpoint: a file of the newest checkpoint is missing or changed; the message names the file and the
            newest intact checkpoint.
          ValueError: the checkpoint is of another model or optimizer.
        """
        self._wait()
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check(step, like)
                if damaged and not skip_damaged:
                    raise self._damage_error(damaged, step)
                state = self._read(step, like, items)
            except _Damage as error:
                damaged[step] = str(error)
                continue
            self._rename_damaged(list(damaged))
            return state
        if damaged:
            raise self._damage_error(damaged, None)
        raise FileNotFoundError(f"no checkpoint in {self.folder}")

    def read_json(self, step: int, name: str) -> dict[str, Any]:
        """Returns an item that was saved with `orbax.checkpoint.args.JsonSave`.

        Raises:
          FileNotFoundError: the checkpoint of this step does not contain it.
        """
        if not (self.folder / str(step) / name).is_dir():
            raise FileNotFoundError(
                f"the checkpoint of step {step} in {self.folder} has no {name}: another version of the program saved "
                "it; start over"
            )
        found = self._manager.restore(step, args=ocp.args.Composite(**{name: ocp.args.JsonRestore()}))
        return found[name]

    def _check(self, step: int, like: TrainState) -> None:
        """Raises _Damage, and ValueError for another model; Orbax's own error prints both trees without shapes."""
        found = self._damage(step)
        if found is not None:
            raise _Damage(found)
        try:
            stored = ocp.StandardCheckpointHandler().metadata(self.folder / str(step) / "state")
            shapes = _shapes(stored.tree)
        except Exception as error:  # Orbax raises plain ones too
            raise _Damage(f"state/_METADATA cannot be read: {_first_line(error)}") from error
        expected = _shapes(like)
        for path in sorted(shapes.keys() | expected.keys()):
            if shapes.get(path) != expected.get(path):
                raise ValueError(
                    f"the checkpoint of step {step} in {self.folder} is of another model or optimizer: {path} is "
                    f"{shapes.get(path, 'missing')} in the checkpoint, {expected.get(path, 'missing')} in the state"
                )

    def _damage(self, step: int) -> str | None:
        """Verifies the checksums; each process reads a part of the files, and all get the result."""
        process, processes = jax.process_index(), jax.process_count()
        try:
            found = digests.damage(self.folder / str(step), process, processes)
        except FileNotFoundError:  # saved by a version without checksums
            found = None
        if processes == 1:
            return found
        is_damaged = multihost_utils.process_allgather(np.asarray(found is not None)).any()
        return found or ("a file is damaged, as another process found" if is_damaged else None)

    def _read(self, step: int, like: TrainState, items: dict[str, Any]) -> TrainState:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), **items)
        has_checksums = (self.folder / str(step) / digests.NAME).exists()
        try:
            return self._manager.restore(step, args=args).state
        except Exception as error:  # Orbax raises plain ones too
            # If the checksums match, the files are intact and the cause is another one, as is a lack of memory.
            if has_checksums or isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
                raise
            raise _Damage(f"it cannot be read: {_first_line(error)}") from error

    def _damage_error(self, damaged: dict[int, str], intact: int | None) -> DamagedCheckpoint:
        newest = max(damaged)
        offer = (
            "no older checkpoint is intact"
            if intact is None
            else f"step {intact} is the newest intact one; restore it with restore(..., skip_damaged=True)"
        )
        message = (
            f"the checkpoint of step {newest}, {self.folder / str(newest)}, is damaged: {damaged[newest]}; {offer}"
        )
        return DamagedCheckpoint(message, newest, intact)

    def _rename_damaged(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                renamed = self.folder / f"{step}.damaged"
                shutil.rmtree(renamed, ignore_errors=True)
                (self.folder / str(step)).rename(renamed)
        multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._manager.reload()

    def _write_checksums(self) -> None:
        """Called by Orbax on the first process when all files are written, before the checkpoint is renamed."""
        temporary = self._temporary_folders()
        digests.write(temporary[0] if temporary else self.folder / str(self._saving))

    def _temporary_folders(self) -> list[Path]:
        return list(self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"))

    def _wait(self) -> None:
        """Waits for the pending save; raises OSError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # threads of Orbax and TensorStore raise various types
            raise self._save_error(error) from error

    def _save_error(self, error: Exception) -> OSError:
        """Returns an error with a short message, after removing partial files, which may have filled the disk."""
        if jax.process_index() == 0:
            for folder in self._temporary_folders():
                shutil.rmtree(folder, ignore_errors=True)
        self._manager.reload()  # it has already dropped the checkpoint that it would have deleted
        full = os.strerror(errno.ENOSPC)  # TensorStore puts it at the end of a long line
        reason = full if full in str(error) else _first_line(error)
        return OSError(
            f"cannot write the checkpoint of step {self._saving} to {self.folder}: {reason}; {self._newest()}"
        )

    def _newest(self) -> str:
        return "there is no checkpoint" if self.latest is None else f"the newest checkpoint is of step {self.latest}"


class _Damage(Exception):
    """A checkpoint is damaged."""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _integer(name: str, value: Any, minimum: int) -> int:
    try:
        number: int | None = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return number


def _first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
