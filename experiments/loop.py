"""The training loop that the experiments share: resumable from checkpoints, with a log without gaps."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import grain
import jax
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.sharding import Rules
from jaxmodels.training import TrainState
from jaxmodels.training.checkpoints import Checkpoints

from . import failures, report
from .interruption import Interrupted, Interruption
from .metrics import MetricsLog, read
from .progress import TrainingProgress
from .selection import BestState, Criterion
from .workdir import UnusableFolder

# Default of config.max_skipped: a single batch may overflow, but this many consecutive ones are no coincidence.
MAX_SKIPPED = 10


TrainStep: TypeAlias = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]

# Item of a checkpoint: the state of the data, which is the same in all processes and for any number of them.
POSITION = "position"


class Sharding(TypedDict):
    """Keyword arguments that place arrays: the mesh of all devices, and the rules that shard arrays over it."""

    mesh: Mesh
    rules: Rules


def mesh_and_rules(config: FrozenConfigDict) -> Sharding:
    """Return the mesh and the sharding rules (a table of the library with changes) that config.sharding specifies."""
    options = config.sharding
    rules = {**getattr(jm.sharding, options.table), **options.changes}
    return {"mesh": jm.sharding.make_mesh(dict(options.mesh)), "rules": rules}


def train(
    config: FrozenConfigDict,
    folder: Path,
    *,
    step: TrainStep,
    init_state: Callable[[], TrainState],
    abstract_state: Callable[[], TrainState],
    data: grain.DatasetIterator,
    place_batch: Callable[[Any], Any],
    validate: Callable[[Any], dict[str, float]],
    schedule: optax.Schedule,
    items_per_step: tuple[int, str],
    criterion: Criterion | None = None,
) -> Any:
    """Train to the last step, from the last checkpoint if there is one, and return the parameters.

    Args:
      config: Keys used: seed, steps, log_every, eval_every, save_every, max_skipped and skip_damaged.
      folder: Receives checkpoints/, metrics.jsonl and tensorboard/, and with a criterion best/.
      step: (state, batch, key) -> (state, metrics with "loss", "grad_norm" and "skipped").
      init_state: Returns the state before the first step.
      abstract_state: Returns the shapes of the state, to restore a checkpoint into.
      data: Iterator over host batches; its state is part of the checkpoints.
      place_batch: Moves a host batch to the devices.
      validate: parameters -> numbers, which are logged under their names.
      schedule: The learning rate by step, for the log.
      items_per_step: What a step processes, such as (4096, "tokens"), for the throughput.
      criterion: Which parameters to return, and when to stop early; None for those of the last step.

    Raises:
      DamagedCheckpoint: The last checkpoint is damaged, and config.skip_damaged does not allow an older one.
      FloatingPointError: More than config.max_skipped consecutive steps were skipped, or a parameter is not finite;
        such a state is never saved.
      OSError: The disk is full.
      UnusableFolder: The last checkpoint lacks the position in the data, as those of earlier versions.
      Interrupted: SIGTERM or a notice of maintenance came; the state of the last step was saved.
    """
    key = jax.random.key(config.seed)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        if checkpoints.latest is None:
            start, state = 0, init_state()
        else:
            state = _resume(checkpoints, abstract_state(), data, skip_damaged=config.get("skip_damaged", False))
            start = checkpoints.latest
        before = [row for row in read(folder / "metrics.jsonl") if row["step"] <= start]
        log = MetricsLog(folder, start) if jax.process_index() == 0 else None
        with (
            TrainingProgress(
                log,
                schedule,
                start=start,
                steps=config.steps,
                items_per_step=items_per_step,
                max_skipped=config.get("max_skipped", MAX_SKIPPED),
            ) as progress,
            BestState(folder / "best", criterion, before) if criterion else contextlib.nullcontext() as best,
            Interruption() as interruption,
        ):
            for n in range(start + 1, config.steps + 1):
                if best and best.stopped:
                    break
                state, metrics = step(state, place_batch(next(data)), key)
                progress.add(n, metrics)
                if n % config.log_every == 0 or n == start + 1:
                    progress.flush()
                if n % config.eval_every == 0 or n == config.steps:
                    progress.flush()
                    values = validate(state.params)
                    progress.add_validation(n, values)
                    if best:
                        best.add(n, values, state)
                interrupted = interruption.asked(n)
                if interrupted or n % config.save_every == 0 or n == config.steps or (best and best.stopped):
                    progress.sync()
                    checkpoints.save(n, state, **{POSITION: ocp.args.JsonSave(data.get_state())})
                if interrupted and n < config.steps:
                    raise Interrupted(f"interrupted after step {n}, which is saved; {failures.RESUME}")
            if best and criterion:
                n, state = best.restore(abstract_state())
                report.print0(f"the parameters of step {n} are the best by {criterion.score.replace('_', ' ')}")
    return state.params


def _resume(
    checkpoints: Checkpoints, like: TrainState, data: grain.DatasetIterator, *, skip_damaged: bool
) -> TrainState:
    """Return the state of the last checkpoint, and continue the data after it."""
    state = checkpoints.restore(like, skip_damaged=skip_damaged)
    step = checkpoints.latest
    assert step is not None
    try:
        data.set_state(checkpoints.read_json(step, POSITION))
    except FileNotFoundError as error:
        raise UnusableFolder(f"{error}, with --fresh or another --workdir") from None
    report.print0(f"resuming from the checkpoint of step {step}")
    return state
