"""From seconds to the figures of the tables; pure functions."""

import statistics
from collections.abc import Mapping, Sequence


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast as they we are: the median over the rounds of their seconds by ours.

    Not the ratio of the medians: within a round both met the same machine.

    Raises:
      ValueError: different numbers of rounds, or none.
    """
    if len(theirs) != len(ours) or not ours:
        raise ValueError(f"a ratio is taken round by round; got {len(theirs)} and {len(ours)} rounds")
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def ratios(seconds: Mapping[str, Sequence[float]], label: str) -> dict[str, float]:
    """`ratio` of one participant to every one, itself included (1.0)."""
    return {other: ratio(theirs, seconds[label]) for other, theirs in seconds.items()}


def share(cost: float, seconds: Sequence[float], limits: Sequence[float]) -> float:
    """The share of the machine's limit that was reached, the median over the rounds.

    Args:
      cost: GB or GFLOP of one call.
      limits: GB/s or GFLOP/s, one a round.
    """
    return ratio([cost / limit for limit in limits], seconds)


def agreement(values: Sequence[float], reference: Sequence[float], width: int | None) -> str | None:
    """None where the values of one call agree with the reference's, else what differs.

    Args:
      width: values are token ids in rows of that width, which must be equal; None: they are numbers, whose difference
        may be a thousandth of the largest.
    """
    if len(values) != len(reference):
        return f"{len(values)} values instead of {len(reference)}"
    if width is not None:
        places = [i for i, (a, b) in enumerate(zip(values, reference, strict=True)) if a != b]
        return f"row {places[0] // width} differs from token {places[0] % width} on" if places else None
    largest = max(map(abs, reference))
    differences = [abs(a - b) for a, b in zip(values, reference, strict=True)]
    if all(difference <= 1e-3 * largest for difference in differences):  # nan is not
        return None
    return f"off by up to {max(differences):.1e} where the largest is {largest:.1e}"
