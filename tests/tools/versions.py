"""Run tests with the newest versions of all packages, and with the oldest that pyproject.toml allows.

    python tests/tools/versions.py [newest] [lowest]

Makes an environment for each (.venv/versions-newest, .venv/versions-lowest) with what the library needs at run time,
the extras of tokenizers and passages, and pytest; neither torch nor transformers. "newest" is on the newest Python at
hand, "lowest" on the oldest one that pyproject.toml allows. Both run at the same time, in a process each.

What runs is CHOSEN less LEFT_OUT: the parity cases, tokenizers, loading and saving, training steps, sharded models, the
files of indexes and passages, generation inside traced functions, and the kernels in the interpreter; a test in there
that needs more packages is skipped by itself (`stand_ins.py`). Left out are properties of the mathematics, which no
version of a package changes, attention without a kernel, which the parity cases go through, and the experiments, with
needs of their own. A DeprecationWarning that this repository's code causes is an error.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPECTED, NEWEST = (3, 13), 14  # what the newest packages should run on at least, and the last minor that is looked for
EXTRAS = ("chat", "t5", "retrieval")
CHOSEN = ("tokenization", "parity", "weights", "tensor_files", "training", "sharding", "pallas_kernels")
CHOSEN += ("retrieval/test_index_files.py", "retrieval/test_passages.py", "generation/test_traced.py")
LEFT_OUT = tuple(
    f"pallas_kernels/test_{name}.py"
    for name in ("blocked", "cuda_compiled", "microbatch", "reference", "sliding_window")
)
OURS = r"error::DeprecationWarning:(jaxmodels|pallas_kernels)(\.|$)"


def project(text: str | None = None) -> dict:
    return tomllib.loads(text or (ROOT / "pyproject.toml").read_text())["project"]


def lowest(requirement: str) -> str:
    """ "name>=1.2,!=1.3" -> "name==1.2".

    Raises:
      ValueError: no lower bound.
    """
    name = re.match(r"[\w.-]+", requirement)[0]
    bound = re.search(r">=\s*([\w.]+)", requirement)
    if bound is None:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound; write {name}>=VERSION")
    return f"{name}=={bound[1]}"


def packages(kind: str, project: dict) -> list[str]:
    """Return additional requirements for pip; for the oldest versions, they are pinned."""
    extras = project["optional-dependencies"]
    if kind == "newest":
        return [*(each for extra in EXTRAS for each in extras[extra]), "pytest"]
    test = [each for each in extras["test"] if re.match(r"pytest\b(?!-)", each)]
    return [lowest(each) for each in [*project["dependencies"], *(e for x in EXTRAS for e in extras[x]), *test]]


def python(version: tuple[int, int]) -> str | None:
    """Find a Python of a version on the PATH, or among those of pyenv."""
    name = _name(version)
    roots = [os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"]
    kept = [path for root in roots if root for path in sorted(Path(root).glob(f"versions/{name}.*/bin/python"))]
    for path in [sys.executable, shutil.which(f"python{name}"), *map(str, reversed(kept))]:
        if path and _version(path) == version:
            return path
    return None


def _version(path: str) -> tuple[int, int] | None:
    """Return the version of a Python, or None if it does not run, such as an inactive shim of pyenv."""
    done = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


def choose(oldest: tuple[int, int], find: Callable = python) -> tuple[dict[str, str], list[str]]:
    """Return {kind: Python}, and a message for each that is skipped or runs with another version than intended."""
    at_hand = {version: path for minor in range(oldest[1], NEWEST + 1) if (path := find(version := (3, minor)))}
    found, said = {}, []
    if at_hand:
        last = max(at_hand)
        found["newest"] = at_hand[last]
        if last < EXPECTED:
            said += [f"newest: Python {_name(EXPECTED)} or newer is not at hand; {_name(last)} gets older packages."]
    else:
        said += [f"newest: left out, since no Python from {_name(oldest)} to 3.{NEWEST} is at hand."]
    if oldest in at_hand:
        found["lowest"] = at_hand[oldest]
    else:
        said += [f"lowest: left out, since Python {_name(oldest)} is not at hand."]
    return found, said


def _name(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def environment(kind: str, interpreter: str) -> Path:
    """Return the Python of the environment, which is created again if pyproject.toml, this file or Python changed."""
    folder = ROOT / ".venv" / f"versions-{kind}"
    sources = [(ROOT / "pyproject.toml").read_bytes(), Path(__file__).read_bytes(), interpreter.encode()]
    stamp, mark = folder / "stamp", hashlib.sha256(b"\0".join(sources)).hexdigest()
    inside = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != mark:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        install = [shutil.which("uv"), "pip", "install", "--python", inside] if shutil.which("uv") else None
        install = install or [inside, "-m", "pip", "install"]
        subprocess.run([*install, "--quiet", "--editable", ROOT, *packages(kind, project())], check=True)
        stamp.write_text(mark)
    return inside


def versions(inside: Path) -> str:
    """Return a line for each package of the project, and for Python."""
    names = [re.match(r"[\w.-]+", each)[0] for each in packages("lowest", project())]
    code = "import sys; from importlib.metadata import version; print('Python', sys.version.split()[0])\n"
    code += "for name in sys.argv[1:]: print(name, version(name))"
    return subprocess.run([inside, "-c", code, *names, "jaxlib"], check=True, capture_output=True, text=True).stdout


def run(kind: str, inside: Path) -> tuple[int, str]:
    """Return exit status and last line of pytest; all lines are printed immediately, with the kind as prefix."""
    command = [inside, "-m", "pytest", "-q", "-m", "not slow", "-p", "tests.tools.stand_ins"]
    command += ["-o", f"filterwarnings={OURS}", *(f"tests/{name}" for name in CHOSEN)]
    command += [f"--ignore=tests/{name}" for name in LEFT_OUT]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = ""
    for line in process.stdout:
        print(f"{kind}: {line}", end="", flush=True)
    return process.wait(), line.strip()


def main(kinds: list[str]) -> int:
    if unknown := set(kinds) - {"newest", "lowest"}:
        sys.exit(f"expected newest, lowest or nothing for both, got {' '.join(sorted(unknown))}")
    oldest = tuple(map(int, re.findall(r"\d+", project()["requires-python"])[:2]))
    found, said = choose(oldest)
    print(*said, sep="\n", flush=True)
    made = {kind: environment(kind, path) for kind, path in found.items() if kind in (kinds or found)}
    shown = {kind: versions(inside) for kind, inside in made.items()}
    for kind, text in shown.items():
        print(*(f"{kind}: {line}" for line in text.splitlines()), sep="\n", flush=True)
    with ThreadPoolExecutor() as threads:
        results = dict(zip(made, threads.map(run, made, made.values()), strict=True))
    print(*said, *(f"{kind}: {line}" for kind, (_, line) in results.items()), sep="\n")
    return int(not results or any(status for status, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
