"""The order in which the products of a kernel are written down."""

from collections import deque
from collections.abc import Generator, Iterable


def staggered(jobs: Iterable[Generator], ahead: int) -> None:
    """Runs jobs of two halves: the second half of each after the first halves of the `ahead` jobs that follow it.

    A matrix unit takes its products in the order of the program, and a second half (weights times values) waits for the
    arithmetic on what its own first half (scores) gave. With the next first halves written in between, the unit has
    work meanwhile: a third fewer bundles. A job yields once, between its halves.
    """
    begun: deque[Generator] = deque()
    for job in jobs:
        next(job)
        begun.append(job)
        if len(begun) > ahead:
            next(begun.popleft(), None)
    for job in begun:
        next(job, None)
