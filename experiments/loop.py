"""The training loop that the experiments share: it goes on from the last checkpoint, and its log has no gap."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import optax
from ml_collections import FrozenConfigDict

from experiments import report
from experiments.metrics import MetricsLog
from experiments.progress import Progress
from jaxmodels.training import Step, TrainState
from jaxmodels.training.checkpoints import Checkpoints

# Steps on end that may change nothing, where the config is silent: a batch may overflow, so many are no accident.
MAX_SKIPPED = 10


def train(
    config: FrozenConfigDict,
    folder: Path,
    *,
    step: Step,
    fresh: Callable[[], TrainState],
    like: Callable[[], TrainState],
    data: grain.DatasetIterator,
    place: Callable[[Any], Any],
    validate: Callable[[Any], dict[str, float]],
    schedule: optax.Schedule,
    work: tuple[int, str],
) -> Any:
    """Trains from the last checkpoint on, or from nothing, to the last step; returns the parameters.

    Args:
      config: seed, steps, log_every, eval_every, save_every, max_skipped and skip_damaged are read.
      folder: gets checkpoints/, metrics.jsonl and tensorboard/.
      step: (state, batch, key) -> (state, metrics with "loss", "grad_norm" and "skipped").
      fresh: the state before the first step; like: its shapes, which a checkpoint is restored into.
      data: host batches; its state is part of the checkpoints. place: a host batch -> the step's.
      validate: parameters -> numbers that go to the log under their names.
      schedule: the learning rate by step, for the log.
      work: what a step does, e.g. (4096, "tokens"), for the speed.

    Raises:
      DamagedCheckpoint: the last checkpoint is damaged, and config.skip_damaged does not say to take an older one.
      FloatingPointError: more than config.max_skipped steps on end changed nothing, or a parameter is not finite; no
        such state is saved.
      OSError: the disk is full.
    """
    key = jax.random.key(config.seed)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        if checkpoints.latest is None:
            start, state = 0, fresh()
        else:
            saved = grain.checkpoint.CheckpointRestore(data)
            state = checkpoints.restore(like(), skip_damaged=config.get("skip_damaged", False), data=saved)
            start = checkpoints.latest
            report.say(f"going on from the checkpoint of step {start}")
        log = MetricsLog(folder, start) if jax.process_index() == 0 else None
        with Progress(
            log,
            schedule,
            start=start,
            steps=config.steps,
            work=work,
            max_skipped=config.get("max_skipped", MAX_SKIPPED),
        ) as progress:
            for n in range(start + 1, config.steps + 1):
                state, metrics = step(state, place(next(data)), key)
                progress.add(n, metrics)
                if n % config.log_every == 0 or n == start + 1:
                    progress.flush()
                if n % config.eval_every == 0 or n == config.steps:
                    progress.flush()
                    progress.add_validation(n, validate(state.params))
                if n % config.save_every == 0 or n == config.steps:
                    progress.sync()
                    checkpoints.save(n, state, data=grain.checkpoint.CheckpointSave(data))
    return state.params
