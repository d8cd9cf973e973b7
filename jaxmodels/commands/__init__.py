"""Commands of the command line, one module each: `HELP`, `add_arguments(parser)` and `run(arguments)`.

`run` prints the results to standard output, and notes to standard error. Errors that the user can fix are raised as one
of `ERRORS`, which `jaxmodels` prints as one line; a module may name others. A module's docstring is the description in
its `--help`.
"""

from jaxmodels.commands import ask, convert, estimate, evaluate, generate, run, verify

COMMANDS = {
    "ask": ask,
    "convert": convert,
    "estimate": estimate,
    "evaluate": evaluate,
    "generate": generate,
    "run": run,
    "verify": verify,
}
ERRORS = (ValueError, OSError, TypeError, ImportError, NotImplementedError)

__all__ = ["COMMANDS", "ERRORS"]
