"""Opening the output folder, killed before each of its file system operations."""

import os
import random
import signal
import sys

import pytest
from ml_collections import FrozenConfigDict

from experiments.workdir import open_workdir

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
OLD, NEW = FrozenConfigDict({"steps": 1}), FrozenConfigDict({"steps": 2})


def opened(folder, config, fresh):
    with open_workdir(folder, config, fresh):
        pass


def killed(folder, config, fresh, moment: int) -> bool:
    """Return whether a forked process died before the file system operation with the given number."""
    child = os.fork()
    if child == 0:
        left = [moment]

        def hook(event, args):
            if event in EVENTS and str(folder) in str(args[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            opened(folder, config, fresh)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork")
def test_folder_stays_usable_after_kills(tmp_path):
    """For a new folder and for an earlier run with --fresh; also killed a second time."""
    rng, kills = random.Random(0), 0
    for earlier in (False, True):
        moment, died = 0, True
        while died:
            moment += 1
            for second in (0, *(rng.randrange(1, 12) for _ in range(6))):
                folder = tmp_path / f"{earlier}-{moment}-{second}-{kills}"
                if earlier:
                    opened(folder, OLD, False)
                    (folder / "checkpoints" / "3").mkdir(parents=True)
                    for name in ("metrics.jsonl", "z.bin", "checkpoints/3/a.bin", "checkpoints/b.bin"):
                        (folder / name).write_text("x")
                died = killed(folder, NEW, earlier, moment)
                kills += died
                started = not (folder / "config.json").exists() or (folder / "config.json").read_text().count("2")
                if second:
                    kills += killed(folder, NEW, earlier, second)
                opened(folder, NEW, earlier or not started)
                assert {path.name for path in folder.iterdir()} <= {"config.json", ".lock"}
                opened(folder, NEW, False)
    assert kills >= 100
