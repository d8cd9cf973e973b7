"""The command line's commands, a file each: `HELP`, `add_arguments(parser)` and `run(arguments)`.

`run` prints what was asked for. What the user can mend it says as ValueError, OSError, TypeError or ImportError, which
`python -m jaxmodels` shows as one line.
"""

from jaxmodels.commands import ask

COMMANDS = {"ask": ask}

__all__ = ["COMMANDS"]
