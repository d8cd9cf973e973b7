"""The definition of a benchmark case: participants, throughput, and the weights that they load."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale


@dataclasses.dataclass(frozen=True)
class Rate:
    """What one call processes, and what it costs relative to a limit of the machine.

    Attributes:
      amount: Amount processed by one call.
      unit: Unit of `amount`.
      limit: "bandwidth" or "gemm".
      cost: GB for "bandwidth", GFLOP for "gemm".
    """

    amount: float
    unit: str
    limit: str
    cost: float


@dataclasses.dataclass(frozen=True)
class Case:
    """A benchmark case, which results in one table.

    Attributes:
      name: Name of the case.
      title: Heading of the table.
      participants: The participants.
      rounds: Number of timed calls per participant, unless `--rounds` is given.
      rate: Throughput of a call; None: not reported.
      machine: Measures the limit of `rate` in every round.
      weights: Writes the folder that the participants load; None: they load nothing.
      fresh: Run every call in a new process.
      token_width: The outputs are sequences of token ids of this length; None: they are numbers, or there are none.
      goals: Minimum speedup over each peer.
      curve: The labels of participants are numbers in this unit, to plot the seconds against; None: no plot.
      rise_over: MiB of the parameters and of the largest tensor, if the memory allocated by the call is reported.
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
    names: Iterable[str], job: str, weights: Path, environment: dict | None = None, **arguments: Any
) -> tuple[Participant, ...]:
    """Create one participant per library, all with the same job and the same weights."""
    arguments = {"folder": str(weights), **arguments}
    return tuple(Participant(name, name, MODULES[name], job, arguments, environment or {}) for name in names)


def writer(cls: str, config: dict, weights: Path) -> Participant:
    """Create the participant that writes random weights of a class of jaxmodels, which all peers load."""
    arguments = {"folder": str(weights), "cls": cls, "config": config}
    return Participant("weights", "ours", MODULES["ours"], "write_weights", arguments)


def machine(rate: Rate, scale: Scale) -> Participant:
    """Create the participant that measures the limit of a rate."""
    sizes: dict[str, dict[str, int]] = {"bandwidth": {"mib": scale.bandwidth_mib}, "gemm": {"size": scale.gemm_size}}
    arguments = {"folder": "", **sizes[rate.limit]}
    return Participant("machine", "machine", "benchmarks.peers.machine", rate.limit, arguments)


def random_ids(model: Mapping[str, float], batch: int, length: int) -> list[list[int]]:
    """Return random token ids [batch,length], without 0 and 1, which are padding."""
    return np.random.default_rng(0).integers(2, int(model["vocab_size"]), (batch, length)).tolist()
