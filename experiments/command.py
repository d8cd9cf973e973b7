"""The command line that the experiments share: --config, --workdir, --fresh."""

import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict, config_flags

from experiments import failures
from experiments.data import published
from experiments.files import write_json
from experiments.report import print0
from experiments.workdir import open_workdir
from jaxmodels.messages import brief

Run = Callable[[FrozenConfigDict, Path], dict]


def run_once(run: Run) -> Run:
    """Decorate an experiment's `run`: its result and duration go to result.json, which later calls only read."""

    @functools.wraps(run)
    def read_or_run(config: FrozenConfigDict, folder: Path) -> dict:
        file = folder / "result.json"
        if file.exists():
            print0("this run is complete; pass --fresh to train again")
            return json.loads(file.read_text())
        start = time.perf_counter()
        result = run(config, folder)
        result["seconds"] = time.perf_counter() - start
        if jax.process_index() == 0:
            write_json(file, result)
        return result

    return read_or_run


def _wrong_seed(config: FrozenConfigDict) -> str | None:
    """Return an error message if the seed of the config is invalid; NumPy, grain and JAX all accept 32 bits."""
    seed = config.get("seed", 0)
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        return None
    return f"config.seed is a whole number from 0 to {2**32 - 1}, got {brief(seed)}"


def launch(
    run: Run,
    show: Callable[[dict, FrozenConfigDict, Path], None],
    default: str,
    required_data: published.RequiredData = published.no_data,
) -> None:
    """Parse the command line, run an experiment in its folder, and print the result.

    Args:
      run: (config, folder) -> result. Does everything that is not done yet.
      show: (result, config, folder). Prints the result; called in the first process only.
      default: Path of the config file to use without --config.
      required_data: Returns the config keys that must be set, with a description of each; if one is missing, an error
        is printed and nothing runs.
    """
    file = config_flags.DEFINE_config_file("config", default, "config file: model, data and training settings")
    workdir = flags.DEFINE_string("workdir", None, "output folder; default: runs/NAME for a config file NAME.py")
    fresh = flags.DEFINE_bool("fresh", False, "delete the output of an earlier run and start over")

    def main(_: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # At INFO, Orbax logs a dozen lines per checkpoint, and a traceback per thread for each exception.
            logging.set_verbosity(logging.FATAL)
        config = FrozenConfigDict(file.value)
        if problem := _wrong_seed(config) or published.missing_data(config, required_data(config)):
            raise SystemExit(problem)
        if config.distributed:
            failures.initialize_distributed()
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        folder = Path(workdir.value or Path("runs") / name)
        first = jax.process_index() == 0
        with (
            failures.abort_on_error(),
            failures.one_line_errors(),
            open_workdir(folder, config, fresh.value) if first else contextlib.nullcontext(),
        ):
            multihost_utils.sync_global_devices("workdir")
            result = run(config, folder)
            if first:
                show(result, config, folder)

    app.run(main)
