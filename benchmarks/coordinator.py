"""Takes the participants of a case in rounds, and puts their replies into rows."""

import dataclasses
import statistics
from collections.abc import Callable

from benchmarks.case import Case
from benchmarks.figures import agreement, ratios, share
from benchmarks.lane import Lane, NoReply, Participant, Reply

# Whose outputs the others' are compared with: the first of these that took part.
REFERENCES = ("hf-torch-sdpa", "ours")


@dataclasses.dataclass(frozen=True)
class Row:
    """One participant's figures.

    Attributes:
      seconds: one for each round; first: the call before the rounds.
      ratios: to each participant, above 1 where this one is faster.
      limit: the machine's median GB/s or GFLOP/s in these rounds; reached: of them, this one's; share: by rounds.
      output: how the outputs of all calls compare with the reference's; agrees: whether they do.
      problem: why there are no figures.
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
    """The case's rows, fastest first; those without figures at the end.

    Args:
      report: gets one line for each call.
    """
    everyone = [*case.participants, *([case.machine] if case.machine else [])]
    replies, problems = take_rounds(everyone, rounds, case.fresh, report)
    if case.machine and case.machine.label in problems:
        raise RuntimeError(f"the machine's limits could not be measured: {problems[case.machine.label]}")
    limits = [reply.values[0] for reply in replies.pop(case.machine.label)[1:]] if case.machine else None
    rows = [_row(case, p, replies, limits) for p in case.participants if p.label in replies]
    rows.sort(key=lambda row: statistics.median(row.seconds))
    missing = [p for p in case.participants if p.label in problems]
    return rows + [Row(p.label, p.peer, problem=problems[p.label], agrees=False) for p in missing]


def take_rounds(
    participants: list[Participant], rounds: int, fresh: bool, report: Callable[[str], None]
) -> tuple[dict[str, list[Reply]], dict[str, str]]:
    """A first call of everyone, then the rounds: replies by label, and the problems of those that dropped out.

    The machine keeps its process also where the others get fresh ones: it has nothing to show the first time.
    """
    lanes = {p.label: Lane(p, fresh and p.peer != "machine") for p in participants}
    replies: dict[str, list[Reply]] = {label: [] for label in lanes}
    problems: dict[str, str] = {}
    try:
        for turn in range(rounds + 1):
            for label, lane in lanes.items():
                if label in problems:
                    continue
                try:
                    replies[label].append(lane.call())
                    report(f"round {turn}/{rounds} {label}: {replies[label][-1].seconds:.3g} s")
                except NoReply as problem:
                    problems[label] = str(problem)
                    lane.close()
                    report(f"round {turn}/{rounds} {label}: {problem}")
    finally:
        for lane in lanes.values():
            lane.close()
    return {label: got for label, got in replies.items() if label not in problems}, problems


def _row(case: Case, participant: Participant, replies: dict[str, list[Reply]], limits: list[float] | None) -> Row:
    label = participant.label
    seconds = {other: tuple(reply.seconds for reply in got[1:]) for other, got in replies.items()}
    mine, median = replies[label], statistics.median(seconds[label])
    output, agrees = _output(case, label, replies)
    rises = [reply.rise_mib for reply in mine if reply.rise_mib is not None]
    return Row(
        label=label,
        peer=participant.peer,
        seconds=seconds[label],
        first=mine[0].seconds,
        ratios=ratios(seconds, label),
        rate=case.rate and case.rate.amount / median,
        limit=limits and statistics.median(limits),
        reached=case.rate and case.rate.cost / median,
        share=limits and share(case.rate.cost, seconds[label], limits),
        peak_mib=max((reply.peak_mib for reply in mine if reply.peak_mib is not None), default=None),
        rise_mib=max(rises, default=None),
        facts=mine[-1].facts,
        output=output,
        agrees=agrees,
    )


def _output(case: Case, label: str, replies: dict[str, list[Reply]]) -> tuple[str, bool]:
    reference = next((name for name in REFERENCES if name in replies), None)
    if reference is None or not replies[label][0].values:
        return "", True
    if reference == label:
        return "reference", True
    for mine, theirs in zip(replies[label], replies[reference], strict=True):
        difference = agreement(mine.values, theirs.values, case.token_width)
        if difference:
            return f"DIFFERS from {reference}: {difference}", False
    equal = "equal to" if case.token_width else "within 1e-3 of"
    return f"{equal} {reference}", True
