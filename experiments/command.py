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

from experiments import endings, together
from experiments.data import published
from experiments.files import write_json
from experiments.report import say
from experiments.workdir import open_workdir
from jaxmodels.messages import brief

Run = Callable[[FrozenConfigDict, Path], dict]


def once(run: Run) -> Run:
    """An experiment's `run` that leaves its result, with the seconds it took, in result.json and then only reads it."""

    @functools.wraps(run)
    def kept(config: FrozenConfigDict, folder: Path) -> dict:
        file = folder / "result.json"
        if file.exists():
            say("this run is complete; --fresh trains again")
            return json.loads(file.read_text())
        began = time.perf_counter()
        result = run(config, folder)
        result["seconds"] = time.perf_counter() - began
        if jax.process_index() == 0:
            write_json(file, result)
        return result

    return kept


def _wrong_seed(config: FrozenConfigDict) -> str | None:
    """What is wrong with the config's seed; numpy, grain and JAX agree on 32 bits."""
    seed = config.get("seed", 0)
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        return None
    return f"config.seed is a whole number from 0 to {2**32 - 1}, got {brief(seed)}"


def start(
    run: Run,
    show: Callable[[dict, FrozenConfigDict, Path], None],
    default: str,
    wanted: published.Wanted = published.nothing,
) -> None:
    """Runs an experiment in its folder, and shows the result.

    Args:
      run: (config, folder) -> result, everything that is not done yet.
      show: (result, config, folder), called in the first process.
      default: config file where --config names none.
      wanted: the keys of the config that have to name something, and what; without it there is one sentence and no run.
    """
    file = config_flags.DEFINE_config_file("config", default, "what is trained, and how")
    workdir = flags.DEFINE_string("workdir", None, "folder of the run; default: runs/ and the name of the config file")
    fresh = flags.DEFINE_bool("fresh", False, "delete what an earlier run left in the folder, and start over")

    def main(_):
        if not flags.FLAGS["verbosity"].present:
            # Orbax says a dozen lines per checkpoint at INFO, and a traceback of each thread beside its exception.
            logging.set_verbosity(logging.FATAL)
        config = FrozenConfigDict(file.value)
        if complaint := _wrong_seed(config) or published.absent(config, wanted(config)):
            raise SystemExit(complaint)
        if config.distributed:
            together.join()
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        folder = Path(workdir.value or Path("runs") / name)
        first = jax.process_index() == 0
        with (
            together.ends_alone(),
            endings.in_words(),
            open_workdir(folder, config, fresh.value) if first else contextlib.nullcontext(),
        ):
            multihost_utils.sync_global_devices("workdir")
            result = run(config, folder)
            if first:
                show(result, config, folder)

    app.run(main)
