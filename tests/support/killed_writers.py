"""Run as a program: kills a writer at its operations on the file system, and looks what is left each time.

Arguments: a folder, a name of `WRITERS`. Prints one line of JSON: the versions that were found, by moment, what a later
save leaves behind, and what readers have changed. One operation in five is tried of writers that are slow to start.
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


def forked(write, folder: Path, version: int, moment: int | None = None) -> bool:
    """Writes in another process, which dies before its n-th operation in the folder; whether it got to its end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = [moment]

    def hook(event, args):
        # Its own device, compiler and temporary files are no concern here.
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
    sys.stdout = sys.stderr  # convert prints
    writer, found, moved = WRITERS[name], [], []
    if not writer.device:
        writer.write(folder.with_name("first"), OLD)  # what is traced is traced once, and not by each fork
    assert forked(writer.write, folder, OLD)
    for moment in itertools.count(1, 5 if writer.device else 1):
        survived = forked(writer.write, folder, NEW, moment)
        before = listing(folder)
        try:
            found.append(writer.see(folder))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}"[:300])
        moved += [] if listing(folder) == before else [moment]
        assert forked(writer.write, folder, OLD)
        if survived:
            break
    clean = folder.with_name("clean")
    assert forked(writer.write, clean, OLD)
    left = {path.name for path in folder.iterdir()} ^ {path.name for path in clean.iterdir()}
    print(json.dumps({"found": found, "moved": moved, "left": sorted(left)}), file=sys.__stdout__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
