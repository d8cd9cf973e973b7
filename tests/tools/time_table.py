"""Measure where the time of a test run is spent, by file.

    python tests/tools/time_table.py [arguments of pytest]

Runs pytest with this file as a plugin and prints for every test file its tests, the processor seconds of them and of
the processes they start, the seconds of wall clock, and how these divide: importing (by every worker), tracing,
lowering, XLA (with reads of the compilation cache), and running, which is all else; last the number of processes
started. Wall clocks of workers that run beside each other (`-n 2`) add up. Where JAX's events nest, an instant counts
for the innermost one.
"""

import os
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

PHASES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "XLA",
}
PARTS = ("importing", *PHASES.values())
COLUMNS = ("tests", "processor", "wall", *PARTS, "running", "processes")

Event = tuple[float, float, str]  # start, end, phase


def innermost(events: Iterable[Event]) -> dict[str, float]:
    """Return the seconds of each phase; for nested events, the time counts for the shortest."""
    events = sorted(events, key=lambda event: event[0] - event[1])  # longest first: shorter ones overwrite
    edges = sorted({edge for start, end, _ in events for edge in (start, end)})
    place = {edge: i for i, edge in enumerate(edges)}
    owner = [""] * len(edges)
    for start, end, phase in events:
        owner[place[start] : place[end]] = [phase] * (place[end] - place[start])
    seconds: Counter = Counter()
    for phase, (left, right) in zip(owner, pairwise(edges), strict=False):
        seconds[phase] += right - left
    return {phase: value for phase, value in seconds.items() if phase}


class Meter:
    """Measures the time that this process spends between `start` and `read`."""

    def __init__(self):
        self.events: list[Event] = []
        self.processes = 0
        self.listening = False
        sys.addaudithook(self._audit)
        self.start()

    def _audit(self, name, arguments):
        self.processes += name == "subprocess.Popen"

    def _event(self, name, seconds, **_):
        if name in PHASES:
            now = time.perf_counter()
            self.events.append((now - seconds, now, PHASES[name]))

    def start(self) -> None:
        if not self.listening and "jax" in sys.modules:  # conftest.py sets the environment before it imports jax
            import jax.monitoring

            jax.monitoring.register_event_duration_secs_listener(self._event)
            self.listening = True
        self.events.clear()
        self.began = time.perf_counter(), processor_seconds(), self.processes

    def read(self) -> dict[str, float]:
        wall, processor, processes = self.began
        spent = {"wall": time.perf_counter() - wall, "processor": processor_seconds() - processor}
        return spent | {"processes": self.processes - processes} | innermost(self.events)


def processor_seconds() -> float:
    """Return the CPU time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def table(files: Mapping[str, Mapping[str, float]]) -> str:
    """Format a Markdown table by descending CPU time; files below a second are combined in one row."""
    rows = sorted(files.items(), key=lambda row: -row[1]["processor"])
    small = [spent for _, spent in rows if spent["processor"] < 1]
    named = [("**all**", total(files.values()))]
    named += [(name, spent) for name, spent in rows if spent["processor"] >= 1]
    named += [(f"{len(small)} others", total(small))] if small else []
    lines = [" | ".join(["", "file", *COLUMNS, ""]).strip(), "|---|" + "---:|" * len(COLUMNS)]
    for name, spent in named:
        running = spent.get("wall", 0) - sum(spent.get(part, 0) for part in PARTS)
        cells = [f"{dict(spent, running=running).get(column, 0):.0f}" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def total(rows: Iterable[Mapping[str, float]]) -> Counter:
    together: Counter = Counter()
    for row in rows:
        together.update(row)
    return together


class Plugin:
    """Measures in the process that runs tests; the reports transfer the numbers to the process that prints."""

    def __init__(self):
        self.files: dict[str, Counter] = defaultdict(Counter)
        self.meter = Meter()

    def pytest_collectstart(self, collector):
        if isinstance(collector, pytest.Module):
            self.meter.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_make_collect_report(self, collector):
        outcome = yield
        if isinstance(collector, pytest.Module):
            outcome.get_result().spent = self.meter.read()

    def pytest_collectreport(self, report):
        if spent := getattr(report, "spent", None):
            # Compilation during imports counts as import time.
            row = {"processor": spent["processor"], "wall": spent["wall"], "importing": spent["wall"]}
            self.files[report.nodeid].update(row)

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):  # xdist reports tests by itself, but not what was collected
            session.config.workeroutput["imported"] = {name: dict(row) for name, row in self.files.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        for name, row in getattr(node, "workeroutput", {}).get("imported", {}).items():
            self.files[name].update(row)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self):
        self.meter.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, call):
        outcome = yield
        if call.when == "teardown":
            outcome.get_result().user_properties.append(("spent", self.meter.read()))

    def pytest_runtest_logreport(self, report):
        if "PYTEST_XDIST_WORKER" in os.environ:
            return
        spent = dict(report.user_properties).get("spent")
        if report.when == "teardown" and spent:
            self.files[report.nodeid.partition("::")[0]].update({"tests": 1} | spent)

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line("\n" + table({name: row for name, row in self.files.items() if row["tests"]}))


def pytest_configure(config):
    config.pluginmanager.register(Plugin(), "time table")


def main(arguments: list[str]) -> int:
    here = Path(__file__)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(here.parent), environment.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, "-m", "pytest", "-p", here.stem, *arguments], env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
