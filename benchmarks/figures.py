"""The statistics in the tables, as pure functions."""

import statistics
from collections.abc import Mapping, Sequence


def ratio(baseline: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the speedup over a baseline: the median over the rounds of baseline / seconds.

    The ratio is taken within each round, when both had the same load on the machine.

    Raises:
      ValueError: Different numbers of rounds, or none.
    """
    if len(baseline) != len(seconds) or not seconds:
        raise ValueError(f"expected the same number of rounds, at least one; got {len(baseline)} and {len(seconds)}")
    return statistics.median(b / s for b, s in zip(baseline, seconds, strict=True))


def ratios(seconds: Mapping[str, Sequence[float]], label: str) -> dict[str, float]:
    """Return the speedup of a participant over every participant, including itself (1.0)."""
    return {other: ratio(baseline, seconds[label]) for other, baseline in seconds.items()}


def share(cost: float, seconds: Sequence[float], limits: Sequence[float]) -> float:
    """Return the share of the machine's limit that was reached, as the median over the rounds.

    Args:
      cost: GB or GFLOP of one call.
      seconds: Seconds of each round.
      limits: Limit in GB/s or GFLOP/s in each round.
    """
    return ratio([cost / limit for limit in limits], seconds)


def agreement(values: Sequence[float], reference: Sequence[float], width: int | None) -> str | None:
    """Return None if the values agree with the reference, else a description of the difference.

    Args:
      values: Output of a call.
      reference: Output of the reference.
      width: Values are token ids in sequences of this length, which must be equal; None: they are numbers, which may
        differ by a thousandth of the largest.
    """
    if len(values) != len(reference):
        return f"{len(values)} values instead of {len(reference)}"
    if width is not None:
        different = [i for i, (a, b) in enumerate(zip(values, reference, strict=True)) if a != b]
        return f"sequence {different[0] // width} differs from token {different[0] % width} on" if different else None
    largest = max(map(abs, reference))
    differences = [abs(a - b) for a, b in zip(values, reference, strict=True)]
    if all(difference <= 1e-3 * largest for difference in differences):  # False for NaN
        return None
    return f"off by up to {max(differences):.1e} where the largest is {largest:.1e}"
