"""Commands of the command line, one module each: `HELP`, `add_arguments(parser)` and `run(arguments)`.

`run` prints the results. Errors that the user can fix are raised as ValueError, OSError, TypeError, ImportError or
NotImplementedError, which `python -m jaxmodels` prints as one line. A module's docstring is the description in its
`--help`.
"""

from jaxmodels.commands import ask, convert, estimate, generate, verify

COMMANDS = {"ask": ask, "convert": convert, "estimate": estimate, "generate": generate, "verify": verify}

__all__ = ["COMMANDS"]
