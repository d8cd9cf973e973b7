"""Run the participants of a case in rounds, and collect their results in rows."""

import dataclasses
import statistics
from collections.abc import Callable

from benchmarks.case import Case
from benchmarks.figures import agreement, ratios, share
from benchmarks.lane import Lane, NoReply, Participant, Reply

# The outputs of the first of these that took part are the reference for the others.
REFERENCES = ("hf-torch-sdpa", "ours")


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a participant.

    Attributes:
      label: Label of the participant.
      peer: Its library.
      seconds: Seconds of each round.
      first: Seconds of the first call, before the rounds.
      ratios: Speedup over each participant.
      rate: Throughput by the median of the seconds.
      limit: Median limit of the machine in these rounds, in GB/s or GFLOP/s.
      reached: Throughput of this participant in the same unit.
      share: Median over the rounds of the share of the limit.
      peak_mib: Peak memory of the process.
      rise_mib: Memory allocated by a call, at most.
      facts: Further numbers.
      output: How the outputs of all calls compare with the reference.
      agrees: Whether they agree.
      problem: Why there are no results.
    """

    label: str
    peer: str
    seconds: tuple[float, ...] = ()
    first: float | None = None
    ratios: dict[str, float] = dataclasses.field(default_factory=dict)
    rate: float | None = None
    limit: float | None = None
    reached: float | None = None
    share: float | None = None
    peak_mib: float | None = None
    rise_mib: float | None = None
    facts: dict[str, float] = dataclasses.field(default_factory=dict)
    output: str = ""
    agrees: bool = True
    problem: str | None = None


def measure(case: Case, rounds: int, report: Callable[[str], None]) -> list[Row]:
    """Run a case; return its rows, the fastest first and those without results last.

    Args:
      case: The case.
      rounds: Number of timed calls.
      report: Called with a line for each call.
    """
    participants = [*case.participants, *([case.machine] if case.machine else [])]
    replies, problems = take_rounds(participants, rounds, case.fresh, report)
    if case.machine and case.machine.label in problems:
        raise RuntimeError(f"the limits of the machine could not be measured: {problems[case.machine.label]}")
    limits = [reply.values[0] for reply in replies.pop(case.machine.label)[1:]] if case.machine else None
    rows = [_row(case, p, replies, limits) for p in case.participants if p.label in replies]
    rows.sort(key=lambda row: statistics.median(row.seconds))
    missing = [p for p in case.participants if p.label in problems]
    return rows + [Row(p.label, p.peer, problem=problems[p.label], agrees=False) for p in missing]


def take_rounds(
    participants: list[Participant], rounds: int, fresh: bool, report: Callable[[str], None]
) -> tuple[dict[str, list[Reply]], dict[str, str]]:
    """Run a first call of all participants and then the rounds; return replies and problems by label.

    The participant "machine" keeps its process even if the others get fresh ones, since it has no startup cost to
    measure.
    """
    lanes = {p.label: Lane(p, fresh and p.peer != "machine") for p in participants}
    replies: dict[str, list[Reply]] = {label: [] for label in lanes}
    problems: dict[str, str] = {}
    try:
        for number in range(rounds + 1):
            for label, lane in lanes.items():
                if label in problems:
                    continue
                try:
                    replies[label].append(lane.call())
                    report(f"round {number}/{rounds} {label}: {replies[label][-1].seconds:.3g} s")
                except NoReply as problem:
                    problems[label] = str(problem)
                    lane.close()
                    report(f"round {number}/{rounds} {label}: {problem}")
    finally:
        for lane in lanes.values():
            lane.close()
    return {label: got for label, got in replies.items() if label not in problems}, problems


def _row(case: Case, participant: Participant, replies: dict[str, list[Reply]], limits: list[float] | None) -> Row:
    label = participant.label
    seconds = {other: tuple(reply.seconds for reply in got[1:]) for other, got in replies.items()}
    own, median = replies[label], statistics.median(seconds[label])
    output, agrees = _output(case, label, replies)
    rises = [reply.rise_mib for reply in own if reply.rise_mib is not None]
    return Row(
        label=label,
        peer=participant.peer,
        seconds=seconds[label],
        first=own[0].seconds,
        ratios=ratios(seconds, label),
        rate=case.rate.amount / median if case.rate else None,
        limit=statistics.median(limits) if limits else None,
        reached=case.rate.cost / median if case.rate else None,
        share=share(case.rate.cost, seconds[label], limits) if case.rate and limits else None,
        peak_mib=max((reply.peak_mib for reply in own if reply.peak_mib is not None), default=None),
        rise_mib=max(rises, default=None),
        facts=own[-1].facts,
        output=output,
        agrees=agrees,
    )


def _output(case: Case, label: str, replies: dict[str, list[Reply]]) -> tuple[str, bool]:
    reference = next((name for name in REFERENCES if name in replies), None)
    if reference is None or not replies[label][0].values:
        return "", True
    if reference == label:
        return "reference", True
    for reply, expected in zip(replies[label], replies[reference], strict=True):
        difference = agreement(reply.values, expected.values, case.token_width)
        if difference:
            return f"DIFFERS from {reference}: {difference}", False
    equal = "equal to" if case.token_width else "within 1e-3 of"
    return f"{equal} {reference}", True
