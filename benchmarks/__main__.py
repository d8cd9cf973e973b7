"""`python -m benchmarks [--case NAME...] [--peers NAME...] [--rounds N] [--quick]`: see the package's docstring."""

import argparse
import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import records
from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.coordinator import measure
from benchmarks.lane import Lane, Participant
from benchmarks.peers import MODULES
from benchmarks.plot import plot
from benchmarks.scales import BASE, TINY
from benchmarks.table import remarks, table

RECORDS = Path("runs/bench")


def main() -> int:
    """Run the cases; return 1 if jaxmodels failed in one of them, or its output differs from the reference."""
    arguments = _parser().parse_args()
    scale = TINY if arguments.quick else BASE
    context = {**records.environment(), "scale": dataclasses.asdict(scale)}
    print(_heading(context))
    if arguments.quick:
        print("Tiny models: these figures are meaningless.")
    failed = []
    with tempfile.TemporaryDirectory(prefix="jaxmodels-benchmarks-") as temporary:
        folder = Path(temporary)
        written: set[str] = set()
        for name in arguments.case:
            case = CASES[name](scale, folder)
            case = dataclasses.replace(case, participants=_select(case, arguments.peers))
            if not case.participants:
                continue
            if case.weights and case.weights.arguments["folder"] not in written:
                _write(case.weights)
                written.add(case.weights.arguments["folder"])
            rows = measure(case, arguments.rounds or case.rounds, partial(_report, name))
            records.append(RECORDS, name, rows, context)
            if case.curve:
                plot(case, rows, RECORDS / f"{name}.png")
            print(f"\n**{name}: {case.title}**\n", table(case, rows), "", *remarks(case, rows), sep="\n", flush=True)
            if any(row.peer == "ours" and not row.agrees for row in rows):
                failed.append(name)
    if failed:
        print(f"\nours failed, or its output differs, in: {', '.join(failed)}")
    return 1 if failed else 0


def _select(case: Case, peers: list[str]) -> tuple[Participant, ...]:
    return tuple(participant for participant in case.participants if participant.peer in peers)


def _write(weights: Participant) -> None:
    lane = Lane(weights)
    try:
        lane.call()
    finally:
        lane.close()


def _heading(context: dict) -> str:
    """Describe machine, versions and commit; warn if the machine is busy."""
    machine = context["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items() if version)
    load = machine["load_average"][0]
    lines = [
        f"{context['time']}, commit {context['commit']}: {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}, load average {load}",
        versions,
    ]
    if load > machine["cores"] / 2:
        lines.append(
            "Other processes are running: repeat this on an idle machine. PyTorch and CTranslate2 wait for all their "
            "threads at OpenMP barriers, so a busy machine slows them down far more than XLA, in favour of ours."
        )
    return "\n".join(lines)


def _report(case: str, line: str) -> None:
    print(f"{case}: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"expected a number of rounds of at least 1, got {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare speed and memory with other libraries."
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument(
        "--peers", nargs="+", choices=MODULES, default=list(MODULES), metavar="NAME", help=", ".join(MODULES)
    )
    parser.add_argument("--rounds", type=positive, help="timed calls per participant; default: set by the case")
    parser.add_argument("--quick", action="store_true", help="use tiny models, to test the benchmarks themselves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
