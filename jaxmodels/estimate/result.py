"""What is found out about a program, per device, and the least time that this allows."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jaxmodels.chips import Device, slice_of
from jaxmodels.estimate.collectives import Collective


class Floor(NamedTuple):
    """The least seconds: of the products at a device's peak (bfloat16), and of the bytes that its memory has to move.

    Collectives are not in it. Products of float32 run at that peak by default, in one pass of bfloat16; at the matmul
    precision "high" they take three passes, at "highest" six, and so many times `compute`.
    """

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def limit(self) -> str:
        """Which of both it is."""
        return "FLOPs at peak" if self.compute >= self.memory else "memory bandwidth"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one compiled program, per device.

    Attributes:
      arguments: bytes of what it is given and uses: state and batch, or parameters and inputs.
      results: bytes of what it gives. reused: how many of them take the place of arguments (a donated state).
      temporaries: bytes of everything else that lives while it runs, at the peak.
      flops: floating-point operations, by the compiler's count; products in further turns of a loop, and those of
        kernels, which it leaves out, are counted as they were traced, split over the axes that the rules use.
      collectives: how often each kind runs, and the bytes of its results.
    """

    topology: str
    devices: int
    arguments: int
    results: int
    reused: int
    temporaries: int
    flops: float
    collectives: Mapping[str, Collective]

    @property
    def device(self) -> Device:
        """What each has."""
        return slice_of(self.topology)[0]

    @property
    def memory(self) -> int:
        """Bytes per device at the peak."""
        return self.arguments + self.results - self.reused + self.temporaries

    @property
    def moved(self) -> int:
        """Bytes that a device's memory has to move at least: arguments read, results written, temporaries both.

        (The compiler's own count is no such bound: it has the accesses to the chip's inner memory in it.)
        """
        return self.arguments + self.results + 2 * self.temporaries

    @property
    def floor(self) -> Floor:
        return Floor(self.flops / self.device.flops, self.moved / self.device.bandwidth)

    @property
    def seconds(self) -> float:
        """What it takes at least."""
        return self.floor.seconds

    def __str__(self) -> str:
        sent = ", ".join(f"{each.count} {kind}" for kind, each in sorted(self.collectives.items())) or "none"
        return (
            f"{self.topology}: {self.devices} devices, {self.memory / 2**30:.2f} GiB each "
            f"({self.arguments / 2**30:.2f} arguments, {(self.results - self.reused) / 2**30:.2f} results, "
            f"{self.temporaries / 2**30:.2f} temporary), {self.flops:.3g} flops each, at least "
            f"{1e3 * self.seconds:.3g} ms, collectives: {sent}"
        )


@dataclasses.dataclass(frozen=True)
class Generation(Estimate):
    """Of a call of `generate` in which no text ends early, per device.

    Attributes:
      rows: texts of the batch, filled up to a bucket. new_tokens: of each.
      weights: bytes of the parameters that every token reads.
      cache: bytes of all that decoding remembers: keys and values, and which of them are valid; part of `results`.
      token_flops: of `flops`, what each token after the first takes.
    """

    rows: int
    new_tokens: int
    weights: int
    cache: int
    token_flops: float

    @property
    def first(self) -> Floor:
        """Of the prompt (or of what an encoder reads) and the first token."""
        flops = self.flops - (self.new_tokens - 1) * self.token_flops
        return Floor(flops / self.device.flops, self.weights / self.device.bandwidth)

    @property
    def token(self) -> Floor:
        """Of every further token of all texts together: the weights and the whole cache are read once."""
        return Floor(self.token_flops / self.device.flops, (self.weights + self.cache) / self.device.bandwidth)

    @property
    def seconds(self) -> float:
        """What the whole call takes at least."""
        return self.first.seconds + (self.new_tokens - 1) * self.token.seconds
