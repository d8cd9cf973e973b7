"""Results of an estimate, per device: memory, FLOPs, collectives, and lower bounds of the time."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jaxmodels.chips import Device, slice_of
from jaxmodels.estimate.analysis import Collective


class Floor(NamedTuple):
    """Lower bounds of the time in seconds: FLOPs at a device's peak (bfloat16), and bytes at its memory bandwidth.

    Collectives are not included. By default float32 products run at that peak, in one bfloat16 pass; at the matmul
    precision "high" they take three passes, at "highest" six, and `compute` grows accordingly.
    """

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger bound."""
        return max(self)

    @property
    def limit(self) -> str:
        """Name of the larger bound."""
        return "FLOPs at peak" if self.compute >= self.memory else "memory bandwidth"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimate of one compiled program, per device.

    Attributes:
      topology: TPU slice that the program was compiled for.
      devices: number of devices.
      arguments: bytes of the inputs in use: state and batch, or parameters and inputs.
      results: bytes of the outputs.
      reused: bytes of the outputs that alias inputs (a donated state).
      temporaries: peak bytes of everything else.
      flops: floating-point operations by the compiler's count, plus matrix products that it misses, in further
        iterations of loops and in kernels; these are counted in the traced program and divided among the axes that the
        rules use.
      collectives: by type, number of runs and bytes of the results.
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
        """Specification of a device."""
        return slice_of(self.topology)[0]

    @property
    def memory(self) -> int:
        """Peak bytes per device."""
        return self.arguments + self.results - self.reused + self.temporaries

    @property
    def moved(self) -> int:
        """Lower bound of the bytes read and written: arguments read, results written, temporaries both.

        (The compiler's own count is no such bound: it includes accesses to the chip's on-chip memory.)
        """
        return self.arguments + self.results + 2 * self.temporaries

    @property
    def floor(self) -> Floor:
        """Lower bounds of the time."""
        return Floor(self.flops / self.device.flops, self.moved / self.device.bandwidth)

    @property
    def seconds(self) -> float:
        """Lower bound of the time in seconds."""
        return self.floor.seconds

    def __str__(self) -> str:
        sent = ", ".join(f"{each.count} {name}" for name, each in sorted(self.collectives.items())) or "none"
        return (
            f"{self.topology}: {self.devices} devices, {self.memory / 2**30:.2f} GiB each "
            f"({self.arguments / 2**30:.2f} arguments, {(self.results - self.reused) / 2**30:.2f} results, "
            f"{self.temporaries / 2**30:.2f} temporary), {self.flops:.3g} flops each, at least "
            f"{1e3 * self.seconds:.3g} ms, collectives: {sent}"
        )


@dataclasses.dataclass(frozen=True)
class Generation(Estimate):
    """Estimate of a call of `generate` in which no sequence ends early, per device.

    Attributes:
      rows: sequences of the batch, padded to a bucket.
      new_tokens: generated tokens of each sequence, rounded up to a bucket.
      weights: bytes of the parameters read by every token.
      cache: bytes of the decoding state: keys and values, and which of them are valid; part of `results`.
      token_flops: the part of `flops` for each token after the first.
    """

    rows: int
    new_tokens: int
    weights: int
    cache: int
    token_flops: float

    @property
    def first(self) -> Floor:
        """Bounds of the prefill (or the encoder) and the first token."""
        flops = self.flops - (self.new_tokens - 1) * self.token_flops
        return Floor(flops / self.device.flops, self.weights / self.device.bandwidth)

    @property
    def token(self) -> Floor:
        """Bounds of every further token of all sequences together: weights and cache are each read once."""
        return Floor(self.token_flops / self.device.flops, (self.weights + self.cache) / self.device.bandwidth)

    @property
    def seconds(self) -> float:
        """Lower bound of the time of the whole call in seconds."""
        return self.first.seconds + (self.new_tokens - 1) * self.token.seconds
