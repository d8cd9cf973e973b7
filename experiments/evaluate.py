"""Scores of a checkpoint on a file: perplexity, and the tasks of fine-tuning. `jaxmodels evaluate` runs it."""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from . import command
from .configs.finetune import get_config
from .data import buckets
from .files import write_json
from .finetune import TASKS
from .tasks.common import Scores
from .tasks.perplexity import perplexity
from .tasks.run import UNTRAINED, Experiment

# The warning of jm.load about parameters that the checkpoint lacks.
NO_HEAD = ".*initialised, because"


def parse(task: str, options: Sequence[str]) -> tuple[argparse.Namespace, FrozenConfigDict]:
    """Parse the options that follow task, model and data.

    Raises:
      ValueError: There is no such option or key, or a value is invalid.
    """
    parser = argparse.ArgumentParser(prog="jaxmodels evaluate", allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to a JSON file, too")
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")
    found, overrides = parser.parse_known_args(options)
    return found, command.read_config(parser.prog, f"evaluate:{task}", overrides)


def run(task: str, model: str, data: str, options: Sequence[str], *, quiet: bool = False) -> dict[str, Any]:
    """Print the scores, and write them to a file if one is named.

    Args:
      task: "perplexity", or a name of finetune.TASKS.
      model: Folder or Hub id.
      data: File or folder, see data/tables.py.
      options: --config.KEY=VALUE, --json FILE, --quiet.
      quiet: As --quiet: no progress bar.

    Returns:
      {"task", "model", "data", "examples", "seconds", "scores": {name: number}}.

    Raises:
      ValueError: An invalid option or row, a checkpoint without a head for the task, or of another family.
      FileNotFoundError: There is no such model or file.
    """
    found, config = parse(task, options)
    quiet |= found.quiet
    if config.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {config.batch_size}")
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NO_HEAD)
        try:
            scores, examples = score(complete(config, model, data), progress=not quiet)
        except UserWarning as warning:
            raise ValueError(
                f"{model} is not trained for {task}: {warning}. Fine-tune it with jaxmodels run finetune"
            ) from None
    result = {"task": task, "model": model, "data": data, "examples": examples}
    result |= {"seconds": time.perf_counter() - start, "scores": scores}
    for name, value in scores.items():
        print(f"{name:20} {value:.6g}")
    if not quiet:
        print(f"{task} of {model} on {examples:,} rows in {result['seconds']:.1f} s", file=sys.stderr)
    if found.json is not None:
        write_json(found.json, result)
    return result


def complete(config: FrozenConfigDict, model: str, data: str) -> FrozenConfigDict:
    """Return the config with all that tasks read: a test set, and no training."""
    task = config.task
    whole = get_config("causal_lm" if task == "perplexity" else task).unlock()
    whole.update(ConfigDict(config))
    whole.init, whole.data.train, whole.data.test = model, "", data
    return FrozenConfigDict(whole)


def score(config: FrozenConfigDict, *, progress: bool) -> tuple[Scores, int]:
    """Return the scores, and the number of rows."""
    if config.task == "perplexity":
        return perplexity(config, progress=progress)
    task = TASKS[config.task](config, Path())
    # The head is part of what is scored.
    task.replaces_head, task.scores_untrained = False, True  # type: ignore[misc]  # of the class they are the defaults
    whole = ConfigDict(config).unlock()
    whole.data.buckets = buckets.cover(task.test, task.max_tokens)
    experiment = Experiment(FrozenConfigDict(whole), Path(), task)
    return experiment.untrained_scores()[UNTRAINED], len(task.tables["test"])
