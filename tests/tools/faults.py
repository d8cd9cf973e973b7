"""Plants faults in the library, one at a time, and says whether the tests that ought to notice do.

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
# Where the copy's code has to be found, also by the processes that tests start.
PACKAGES = ("jaxmodels", "pallas_kernels")
ANSWER = "import importlib.util as u; print(*(u.find_spec(n).origin for n in {names!r}), sep='\\n')"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table.

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
        """The file's text with the fault in it; ValueError where it does not hold `old` exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"{self.id}: {self.file} holds the old text {count} times, not once: bring the table up to date"
            )
        return text.replace(self.old, self.new)


@dataclasses.dataclass
class Result:
    """What became of a fault: "killed", "survived", or "survived (time)" where the limit came first."""

    id: str
    area: str
    outcome: str
    seconds: float
    test: str = ""


def faults() -> list[Fault]:
    """The table."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return [Fault(area, **{**row, "tests": tuple(row["tests"])}) for area, several in rows.items() for row in several]


class Copy:
    """A copy of a tree, without what git ignores, beside a link to the data that lies beside the tree."""

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
        # Asked from another folder, as a process that a test starts may be in one.
        ask = [sys.executable, "-c", ANSWER.format(names=PACKAGES)]
        found = subprocess.run(ask, check=True, capture_output=True, text=True, cwd=folder, env=self.environment).stdout
        if outside := [path for path in found.splitlines() if not path.startswith(str(self.root))]:
            raise RuntimeError(f"not the copy's code would be tested, but {', '.join(outside)}")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")
        # A file of the same length and second would be taken for the one that was compiled.
        shutil.rmtree((self.root / name).parent / "__pycache__", ignore_errors=True)

    def pytest(self, *arguments: str, limit: float | None) -> tuple[int | None, str]:
        """Its exit status and output; None where the limit came first, and then nothing of it runs on."""
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
    """The tests (or files that could not be read) in pytest's short summary."""
    lines = [line.partition(" ") for line in output.splitlines()]
    return [rest.partition(" - ")[0] for kind, _, rest in lines if kind in ("FAILED", "ERROR") and "tests/" in rest]


def tried(fault: Fault, copy: Copy, limit: float) -> Result:
    """Plants the fault, runs its tests, and takes it out again."""
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
    """Tries all, in `jobs` copies of the tree at a time."""
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
    """Takes back the kills by tests that fail where there is no fault, too."""
    tests = sorted({result.test for result in results if result.test})
    if not tests:
        return
    status, output = copy.pytest(*tests, limit=None)
    broken = set(failures(output))
    if status not in (0, 1) or (status == 1 and not broken):
        raise RuntimeError(f"the tests that failed could not be run without a fault:\n{output[-2000:]}")
    for result in results:
        if result.outcome == "killed" and result.test in broken:
            result.outcome = "survived"
            print(f"{result.id}: {result.test} fails without the fault, too", flush=True)


def _keep(path: Path | None, results: list[Result]) -> None:
    if path is not None:
        path.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1) + "\n")


def report(results: list[Result]) -> float:
    """Prints a table by area; returns the share that was killed."""
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
    parser.add_argument("--tree", type=Path, default=HERE, help="the checkout whose code and tests are tried")
    parser.add_argument("--only", nargs="+", metavar="ID", help="these faults, or all of an area")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at a time")
    parser.add_argument("--limit", type=float, default=60, help="seconds for the tests of a fault")
    parser.add_argument("--json", type=Path, help="where to write the results, after each fault")
    parser.add_argument("--list", action="store_true", help="print the table and try nothing")
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
