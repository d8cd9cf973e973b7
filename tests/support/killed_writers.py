"""Program that kills a writer before each of its operations on the file system, and reads what is left.

Arguments: a folder, a name of `WRITERS`. Prints one line of JSON: the version found after each kill, the files that a
further save leaves behind, and the kills after which reading changed a file. Of writers that are slow to start only
every fifth operation is tested.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from support.writers import WRITERS

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree", "tempfile.mkdtemp")
OLD, NEW = 1, 2


def write_in_fork(write, folder: Path, version: int, operation: int | None = None) -> bool:
    """Writes in a fork that is killed before its n-th operation in the folder; returns whether it finished."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = [operation]

    def hook(event, args):
        # Other operations, e.g. on temporary files, do not count.
        if event in EVENTS and left[0] is not None and f"{args[0]}/".startswith(f"{folder}/"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write(folder, version)
    os._exit(0)


def listing(folder: Path) -> list:
    return [(str(path), path.lstat().st_mtime_ns, path.lstat().st_ino) for path in sorted(folder.rglob("*"))]


def main(folder: Path, name: str) -> None:
    sys.stdout = sys.stderr  # the convert command prints
    writer, found, moved = WRITERS[name], [], []
    if not writer.device:
        writer.write(folder.with_name("first"), OLD)  # traces once instead of in each fork
    assert write_in_fork(writer.write, folder, OLD)
    for operation in itertools.count(1, 5 if writer.device else 1):
        survived = write_in_fork(writer.write, folder, NEW, operation)
        before = listing(folder)
        try:
            found.append(writer.see(folder))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}"[:300])
        moved += [] if listing(folder) == before else [operation]
        assert write_in_fork(writer.write, folder, OLD)
        if survived:
            break
    clean = folder.with_name("clean")
    assert write_in_fork(writer.write, clean, OLD)
    left = {path.name for path in folder.iterdir()} ^ {path.name for path in clean.iterdir()}
    print(json.dumps({"found": found, "moved": moved, "left": sorted(left)}), file=sys.__stdout__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
