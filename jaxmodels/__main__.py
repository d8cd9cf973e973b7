"""The command `jaxmodels`, also `python -m jaxmodels`: see --help, and the files in `jaxmodels.commands`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import jaxmodels
from jaxmodels.commands import COMMANDS, ERRORS
from jaxmodels.commands.output import discard

PROGRAM = "jaxmodels"
# Those of a shell, for a process that SIGINT or SIGPIPE ended.
INTERRUPTED, PIPE_CLOSED = 130, 141


def console() -> NoReturn:
    """The process `jaxmodels`."""
    status = main()
    if status == INTERRUPTED:
        # Python would destroy JAX's client, which crashes while a thread still compiles for it (JAX 0.10.2).
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      The exit status: 0; 2 after one line that says what to mend; 130 after Ctrl-C; 141 if nobody reads the output.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        if stopped.args:
            print(stopped, file=sys.stderr, flush=True)
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _run(arguments: Sequence[str] | None) -> int:
    given = make_parser().parse_args(arguments)
    command = COMMANDS[given.command]
    try:
        with discard(contextlib.redirect_stderr) if given.quiet else contextlib.nullcontext():
            command.run(given)
    except BrokenPipeError:
        raise
    except getattr(command, "ERRORS", ERRORS) as error:
        print(f"{PROGRAM} {given.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {jaxmodels.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = parsers.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(subparser)
        subparser.add_argument("--quiet", action="store_true", help="print results and errors only")
    return parser


if __name__ == "__main__":
    console()
