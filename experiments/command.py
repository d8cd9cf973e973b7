"""The command line that the experiments share: --config, --workdir, --fresh, --quiet."""

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags, logging
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict, config_flags

from jaxmodels.commands.output import discard
from jaxmodels.messages import brief

from . import failures, results
from .data import published
from .files import write_json
from .interruption import Interrupted
from .report import print0
from .workdir import open_workdir

Run = Callable[[FrozenConfigDict, Path], dict]
CONFIGS = Path(__file__).with_name("configs")


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


def config_file(name: str) -> str:
    """Return the path of a config: a NAME of those in `configs` or a file, and :ARGUMENT after it or not.

    Raises:
      ValueError: There is no such config.
    """
    stem, colon, argument = name.partition(":")
    path = Path(stem) if stem.endswith(".py") else CONFIGS / f"{stem}.py"
    if not path.is_file():
        names = sorted(file.stem for file in CONFIGS.glob("[!_]*.py"))
        raise ValueError(f"--config={name} is neither a file NAME.py nor one of {', '.join(names)}")
    return f"{path}{colon}{argument}"


def parse(arguments: Sequence[str], run: Run, default: str) -> tuple[argparse.Namespace, FrozenConfigDict]:
    """Parse the command line of an experiment.

    Returns:
      The options, and the config with its overrides.

    Raises:
      ValueError: There is no such config, key or option, or a value is invalid.
    """
    module = sys.modules[run.__module__]
    name = module.__name__.rpartition(".")[2]
    parser = argparse.ArgumentParser(
        prog=f"jaxmodels run {name}",
        description="\n".join(filter(None, [module.__doc__, results.help_text(name)])),
        epilog="--config.KEY=VALUE replaces a value of the config, as in --config.seed=1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default=default, help="name or file of the config (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, help="output folder (default: runs/NAME for a config NAME)")
    parser.add_argument("--fresh", action="store_true", help="delete the output of an earlier run and start over")
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")
    # At INFO, Orbax logs a dozen lines per checkpoint, and a traceback per thread for each exception.
    parser.add_argument("--verbosity", type=int, default=logging.FATAL, help="level of absl's log; 0 is INFO")
    options, overrides = parser.parse_known_args(arguments)
    return options, read_config(parser.prog, options.config, overrides)


def read_config(program: str, name: str, overrides: Sequence[str]) -> FrozenConfigDict:
    """Read a config and replace values.

    Args:
      program: Name of the program, for messages.
      name: Name or file of the config.
      overrides: --config.KEY=VALUE, ...

    Raises:
      ValueError: There is no such config or key, a value is invalid, or an argument is no override.
    """
    values = flags.FlagValues()
    line = [program, f"--config={config_file(name)}", *overrides]
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    try:
        unknown = values(line)[1:]
    except flags.Error as error:
        raise ValueError(str(error)) from None
    except (AttributeError, KeyError) as error:  # of ml_collections; the first wraps the second
        key = error.args[0] if isinstance(error, AttributeError) else error
        raise ValueError(f"the config has no key {' '.join(map(str, key.args))}") from None
    if unknown:
        raise ValueError(f"unexpected argument {brief(unknown[0])}")
    return FrozenConfigDict(config.value)


def launch(
    run: Run,
    show: Callable[[dict, FrozenConfigDict, Path], None],
    default: str,
    required_data: published.RequiredData,
    arguments: Sequence[str],
) -> None:
    """Run an experiment in its folder, and print the result.

    Args:
      run: (config, folder) -> result. Does everything that is not done yet.
      show: (result, config, folder). Prints the result; called in the first process only.
      default: Name of the config without --config.
      required_data: Returns the config keys that must be set, with a description of each; if one is missing, an error
        is raised and nothing runs.
      arguments: Those of the command line.

    Raises:
      SystemExit: An error that is not a bug, with a one-line message.
    """
    try:
        options, config = parse(arguments, run, default)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if problem := _wrong_seed(config) or published.missing_data(config, required_data(config)):
        raise SystemExit(problem)
    logging.set_verbosity(options.verbosity)
    if config.distributed:
        failures.initialize_distributed()
    folder = options.workdir or Path("runs") / Path(options.config.partition(":")[0]).stem
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if options.quiet:
            stack.enter_context(discard(contextlib.redirect_stderr))
        stack.enter_context(failures.abort_on_error())
        stack.enter_context(failures.one_line_errors())
        if first:
            stack.enter_context(open_workdir(folder, config, options.fresh))
        multihost_utils.sync_global_devices("workdir")
        with discard(contextlib.redirect_stdout) if options.quiet else contextlib.nullcontext():
            try:
                result = run(config, folder)
            except Interrupted as end:
                print0(str(end))
                return
        if first:
            show(result, config, folder)
