"""The log of a run: JSON lines and TensorBoard, without gaps or doubles however often the run was killed."""

import json
import math
import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from experiments.files import Appended, whole_file


class MetricsLog:
    """Rows {"step": n, name: number, ...} in `metrics.jsonl`, the same numbers in `tensorboard/`.

    Rows are on disk after `flush`; a checkpoint is saved only after that, so that every row up to the
    checkpoint is there when the run goes on from it, and the later ones, which will be written again, are cut off here.
    """

    def __init__(self, folder: Path, resume_at: int = 0):
        """Opens the log and forgets the rows after step `resume_at`."""
        path = folder / "metrics.jsonl"
        with whole_file(path) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in read(path) if row["step"] <= resume_at))
        self._rows = Appended(path)
        board = folder / "tensorboard"
        board.mkdir(exist_ok=True)
        self._board = Appended(
            board / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.from-{resume_at}"
        )
        # TensorBoard hides what an earlier process wrote from this step on.
        self._event(file_version="brain.Event:2")
        self._event(step=resume_at + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: dict[str, float]) -> None:
        """Adds a row of numbers (Python's, or scalars of an array library); `row["step"]` says when.

        Numbers that are not finite are left out: JSON has none.
        """
        row = {name: value if name == "step" else float(value) for name, value in row.items()}
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        self._rows.add((json.dumps(row) + "\n").encode())
        for name, value in row.items():
            if name != "step":
                self._event(step=row["step"], summary=scalar(name, value))

    def _event(self, **fields) -> None:
        """As a record of TensorFlow's files: length, checksum, content, checksum."""
        content = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(content))
        self._board.add(b"".join((length, _checksum(length), content, _checksum(content))))

    def flush(self) -> None:
        """Brings the rows so far to the disk.

        Raises:
          OSError: the disk is full; no part of a row is left.
        """
        self._rows.flush()
        self._board.flush()


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


def read(path: Path) -> list[dict[str, float]]:
    """The whole rows of a log; none where there is no file. A last line that a kill has cut off is no row."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def curve(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and numbers of the rows that have one of this name."""
    found = [row for row in rows if name in row]
    return [row["step"] for row in found], [row[name] for row in found]
