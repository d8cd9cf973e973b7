"""Mutation testing: introduce faults in the library one at a time, and report whether the tests detect them.

    python tests/tools/faults.py [--tree FOLDER] [--only ID ...] [--jobs N] [--limit SECONDS] [--json FILE] [--list]

The faults are the table `planted_faults.toml`, written by hand. A library such as mutmut or cosmic-ray does not serve
here: they change every operator in turn, tens of thousands of mutants at ten seconds of imports and compilation each,
many of them equal in meaning; and their set changes with every edit, while this one says the same before and after the
tests are changed. For each fault a copy of the tree gets it, and pytest runs the tests that the table names there; the
first failure kills the fault. What failed is run once more without any fault: a test that fails then too has noticed
nothing. The exit status is 1 where fewer than 95 % are killed, 2 where the table does not fit the tree.
"""

import argparse
import dataclasses
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TABLE = Path(__file__).with_name("planted_faults.toml")
HERE = Path(__file__).resolve().parents[2]
WANTED = 0.95
# Prints where packages are imported from: it must be the copy, also in processes that tests start.
PACKAGES = ("jaxmodels", "pallas_kernels")
ANSWER = "import importlib.util as u; print(*(u.find_spec(n).origin for n in {names!r}), sep='\\n')"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault: one row of the table.

    Attributes:
      area: the part of the library. file: of the tree; old: a text that it holds once; new: what takes its place.
      breaks: what goes wrong. tests: files that ought to notice, the likeliest first; k: pytest's -k within them.
    """

    area: str
    id: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]
    k: str = ""

    def planted(self, text: str) -> str:
        """Return the text of the file with the fault; raise ValueError if `old` does not occur exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"{self.id}: {self.file} holds the old text {count} times, not once: bring the table up to date"
            )
        return text.replace(self.old, self.new)


@dataclasses.dataclass
class Result:
    """The outcome for a fault: "killed", "survived", or "survived (time)" after a timeout."""

    id: str
    area: str
    outcome: str
    seconds: float
    test: str = ""


def faults() -> list[Fault]:
    """Read the table of faults."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return [Fault(area, **{**row, "tests": tuple(row["tests"])}) for area, several in rows.items() for row in several]


class Copy:
    """A copy of a repository without ignored files, next to a link to the data that is next to the repository."""

    def __init__(self, tree: Path, folder: Path):
        self.root = folder / "tree"
        listed = ["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
            if name and (tree / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree / name, self.root / name)
        if (shared := tree.parent / "shared").is_dir():
            (folder / "shared").symlink_to(shared.resolve())
        self.environment = {**os.environ, "PYTHONPATH": str(self.root), "COLUMNS": "1000"}
        # Run in another folder, like processes that tests start.
        ask = [sys.executable, "-c", ANSWER.format(names=PACKAGES)]
        found = subprocess.run(ask, check=True, capture_output=True, text=True, cwd=folder, env=self.environment).stdout
        if outside := [path for path in found.splitlines() if not path.startswith(str(self.root))]:
            raise RuntimeError(f"expected to test the code of the copy, but imports resolve to {', '.join(outside)}")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")
        # A file with the same size and time stamp (in seconds) would be mistaken for the compiled one.
        shutil.rmtree((self.root / name).parent / "__pycache__", ignore_errors=True)

    def pytest(self, *arguments: str, limit: float | None) -> tuple[int | None, str]:
        """Run a command; return exit status and output, or None after a timeout, which also ends its children."""
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments]
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def failures(output: str) -> list[str]:
    """Return the failed tests (or files that failed to import) in pytest's short summary."""
    lines = [line.partition(" ") for line in output.splitlines()]
    return [rest.partition(" - ")[0] for kind, _, rest in lines if kind in ("FAILED", "ERROR") and "tests/" in rest]


def tried(fault: Fault, copy: Copy, limit: float) -> Result:
    """Introduce a fault, run its tests, and remove it again."""
    whole = (copy.root / fault.file).read_text(encoding="utf-8")
    copy.write(fault.file, fault.planted(whole))
    start = time.monotonic()
    try:
        selected = ["-k", fault.k] if fault.k else []
        status, output = copy.pytest("-x", "-m", "not slow", *selected, *fault.tests, limit=limit)
    finally:
        copy.write(fault.file, whole)
    seconds = time.monotonic() - start
    if status is not None and status > 2:
        raise ValueError(f"{fault.id}: pytest cannot run {' '.join(fault.tests)} (-k {fault.k!r}):\n{output[-2000:]}")
    if status is None or status == 0:
        return Result(fault.id, fault.area, "survived (time)" if status is None else "survived", seconds)
    return Result(fault.id, fault.area, "killed", seconds, next(iter(failures(output)), ""))


def run(chosen: list[Fault], tree: Path, jobs: int, limit: float, keep: Path | None) -> list[Result]:
    """Test all faults, with `jobs` copies of the repository at a time."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(jobs) as pool:
        free: queue.Queue[Copy] = queue.Queue()
        for number in range(jobs):
            free.put(Copy(tree, Path(folder, str(number))))

        def one(fault: Fault) -> Result:
            copy = free.get()
            try:
                return tried(fault, copy, limit)
            finally:
                free.put(copy)

        for result in pool.map(one, chosen):
            results.append(result)
            print(f"{result.outcome:16}{result.seconds:6.0f} s  {result.id:32} {result.test}", flush=True)
            _keep(keep, results)
        _without_what_fails_anyway(results, free.get())
        _keep(keep, results)
    return results


def _without_what_fails_anyway(results: list[Result], copy: Copy) -> None:
    """Correct the outcome of faults whose failing tests also fail without the fault."""
    tests = sorted({result.test for result in results if result.test})
    if not tests:
        return
    status, output = copy.pytest(*tests, limit=None)
    broken = set(failures(output))
    if status not in (0, 1) or (status == 1 and not broken):
        raise RuntimeError(f"the failed tests could not be run without a fault:\n{output[-2000:]}")
    for result in results:
        if result.outcome == "killed" and result.test in broken:
            result.outcome = "survived"
            print(f"{result.id}: {result.test} also fails without the fault", flush=True)


def _keep(path: Path | None, results: list[Result]) -> None:
    if path is not None:
        path.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1) + "\n")


def report(results: list[Result]) -> float:
    """Print a table by area; return the share of killed faults."""
    areas = list(dict.fromkeys(result.area for result in results))
    print(f"\n{'area':16}{'faults':>8}{'killed':>8}  survived")
    for area in areas:
        here = [result for result in results if result.area == area]
        left = [
            f"{result.id}{result.outcome.removeprefix('survived')}" for result in here if result.outcome != "killed"
        ]
        print(f"{area:16}{len(here):8}{len(here) - len(left):8}  {', '.join(left)}")
    killed = sum(result.outcome == "killed" for result in results)
    print(f"{'all':16}{len(results):8}{killed:8}  {killed / len(results):.1%}, {sum(r.seconds for r in results):.0f} s")
    return killed / len(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=Path, default=HERE, help="the repository to test")
    parser.add_argument("--only", nargs="+", metavar="ID", help="test only these faults, or all of an area")
    parser.add_argument("--jobs", type=int, default=1, help="number of faults tested in parallel")
    parser.add_argument("--limit", type=float, default=60, help="timeout in seconds for the tests of a fault")
    parser.add_argument("--json", type=Path, help="file for the results, written after each fault")
    parser.add_argument("--list", action="store_true", help="print the table and exit")
    options = parser.parse_args()
    table = faults()
    names = {fault.id for fault in table} | {fault.area for fault in table}
    if unknown := sorted(set(options.only or ()) - names):
        parser.error(f"no fault and no area is called {', '.join(unknown)}")
    chosen = [fault for fault in table if not options.only or {fault.id, fault.area} & set(options.only)]
    if options.list:
        for fault in chosen:
            print(f"{fault.area:16}{fault.id:32}{fault.file}: {fault.breaks}")
        return 0
    tree = options.tree.resolve()
    try:
        for fault in chosen:
            fault.planted((tree / fault.file).read_text(encoding="utf-8"))
        results = run(chosen, tree, options.jobs, options.limit, options.json)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if report(results) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
