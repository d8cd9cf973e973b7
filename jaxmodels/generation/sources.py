"""Settings of several sources, the later ones over the earlier ones, and who said what."""

from collections.abc import Mapping
from typing import Any, Self

from jaxmodels.generation.options import shown

CHECKPOINT = "generation_config.json (or config.json)"
GIVEN = "generation_config="
CALL = "the call"


class Sources:
    """Settings by name.

    Attributes:
      values: as they were said last. where: who did.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.where: dict[str, str] = {}

    def over(self, where: str, values: Mapping[str, Any]) -> Self:
        """With these values in place of the earlier ones."""
        self.values |= values
        self.where |= dict.fromkeys(values, where)
        return self

    def before_the_call(self, name: str) -> bool:
        """Whether it was said, and not by the call."""
        return self.where.get(name, CALL) != CALL

    def by_a_file(self, name: str) -> bool:
        """Whether it was said by nothing of the call, its `generation_config` included."""
        return self.where.get(name, CALL) not in (CALL, GIVEN)


def told_by(said: Sources, error: Exception) -> Exception:
    """The error of an option (`options.OptionError`, `options.MethodError`), saying of a value that the call did not
    give where it stands, and how the call gives another."""
    for name in error.names:  # type: ignore[attr-defined]
        if said.before_the_call(name):
            words = f"{said.where[name]} says {name}={shown(said.values[name])}: {error}"
            if isinstance(error, NotImplementedError):
                return NotImplementedError(f"{words}, or pass {name}=None")
            return ValueError(f"{words}; pass {name}= for another value")
    return error
