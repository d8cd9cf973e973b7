"""The parts of a corpus on disk: each is written whole or not at all, and a journal says which are there."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.batch_generation.journal import Journal, of_file
from jaxmodels.retrieval.index_files import write_shard
from jaxmodels.retrieval.rows import Stored
from jaxmodels.tensor_files.atomic_save import atomic_save

FILE = "embeddings.safetensors"


class Parts:
    """The parts of one corpus. Several processes may write different ones at the same time; a context manager."""

    def __init__(self, folder: Path, sizes: Sequence[int], process: int):
        """Opens the journal of this process.

        Args:
          sizes: rows of each part.

        Raises:
          ValueError: another process writes this journal.
        """
        self._folder, self._sizes = folder, sizes
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / f"finished-{process:05}.jsonl")

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_):
        self._journal.__exit__()

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self._folder / f"{number:05}" / FILE

    def missing(self) -> list[int]:
        """Parts that no process has finished, or whose files are not what the journal says.

        Each process may call this before any of them writes.
        """
        noted = {}
        for journal in sorted(self._folder.glob("finished-*.jsonl")):
            for line in journal.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # a kill may have cut the last one off
                    entry = json.loads(line)
                    noted[entry["id"]] = entry
        return [number for number in range(len(self._sizes)) if not self._is_whole(number, noted.get(number))]

    def add(self, number: int, rows: Stored) -> None:
        """Writes a part and then its line of the journal; killed in between, the part is made again, the same."""
        if len(rows[0]) != self._sizes[number]:
            raise ValueError(f"part {number} has {self._sizes[number]} rows, got {len(rows[0])}")
        path = self.path(number)
        with atomic_save(path.parent, "rows") as staging:
            write_shard(staging / FILE, rows)
        entry = {"id": number, "rows": len(rows[0]), "bytes": path.stat().st_size, "sha256": of_file(path)}
        self._journal.done.discard(number)  # noted before, and its file was lost
        self._journal.add([entry])

    def _is_whole(self, number: int, entry: dict | None) -> bool:
        path = self.path(number)
        return (
            entry is not None
            and entry["rows"] == self._sizes[number]
            and path.is_file()
            and path.stat().st_size == entry["bytes"]
            and of_file(path) == entry["sha256"]
        )
