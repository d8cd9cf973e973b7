"""What a case is made of: participants, their rate, and who writes the weights they load."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale


@dataclasses.dataclass(frozen=True)
class Rate:
    """What one call is worth: `amount` in `unit` for the user, and what it costs of one of the machine's limits.

    Attributes:
      cost: GB of a "bandwidth" limit, GFLOP of a "gemm" limit.
    """

    amount: float
    unit: str
    limit: str
    cost: float


@dataclasses.dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
      rounds: how often everyone is timed, unless `--rounds` says otherwise.
      machine: measures the limit of `rate` in every round.
      weights: writes the folder that the participants load; None: they load nothing.
      fresh: every call in a new process, and so the first one there.
      token_width: the outputs are token ids in rows of that width; None: they are numbers, or there are none.
      goals: the least ratio to a peer that ours is to reach.
      curve: the unit of the participants' labels, which are numbers to plot the seconds against; None: no plot.
      rise_over: MiB of the parameters and of the largest tensor, where the rise of memory in the call matters.
    """

    name: str
    title: str
    participants: tuple[Participant, ...]
    rounds: int = 5
    rate: Rate | None = None
    machine: Participant | None = None
    weights: Participant | None = None
    fresh: bool = False
    token_width: int | None = None
    goals: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curve: str | None = None
    rise_over: tuple[float, float] | None = None


# The second argument is the folder for weights and caches.
CaseMaker = Callable[[Scale, Path], Case]


def peers(
    names: Iterable[str], job: str, weights: Path, environment: dict | None = None, **arguments
) -> tuple[Participant, ...]:
    """One participant per library, all with the same job and the same weights."""
    arguments = {"folder": str(weights), **arguments}
    return tuple(Participant(name, name, MODULES[name], job, arguments, environment or {}) for name in names)


def writer(cls: str, config: dict, weights: Path) -> Participant:
    """Writes random weights of one of our classes, which all peers then load."""
    arguments = {"folder": str(weights), "cls": cls, "config": config}
    return Participant("weights", "ours", MODULES["ours"], "write_weights", arguments)


def machine(rate: Rate, scale: Scale) -> Participant:
    """Measures the limit of that rate."""
    sizes = {"bandwidth": {"mib": scale.bandwidth_mib}, "gemm": {"size": scale.gemm_size}}
    arguments = {"folder": "", **sizes[rate.limit]}
    return Participant("machine", "machine", "benchmarks.peers.machine", rate.limit, arguments)


def random_ids(model: Mapping[str, float], batch: int, length: int) -> list[list[int]]:
    """Random ids of that model's vocabulary without 0 and 1, the paddings."""
    return np.random.default_rng(0).integers(2, model["vocab_size"], (batch, length)).tolist()
