"""The metrics log of a run: JSON lines and TensorBoard events, without gaps or duplicates if the run is killed."""

import json
import math
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from .files import AtomicAppender, atomic_file


class MetricsLog:
    """Writes rows {"step": n, name: number, ...} to `metrics.jsonl`, and the same numbers to `tensorboard/`.

    `flush` brings the rows to the disk. Call it before saving a checkpoint: then all rows up to the checkpoint exist
    when the run resumes from it. Later rows, which will be written again, are deleted by the constructor.
    """

    def __init__(self, folder: Path, resume_at: int = 0):
        """Open the log and delete the rows after step `resume_at`."""
        path = folder / "metrics.jsonl"
        with atomic_file(path) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in read(path) if row["step"] <= resume_at))
        self._rows = AtomicAppender(path)
        board = folder / "tensorboard"
        board.mkdir(exist_ok=True)
        self._board = AtomicAppender(
            board / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.from-{resume_at}"
        )
        # Makes TensorBoard hide events of earlier processes from this step on.
        self._event(file_version="brain.Event:2")
        self._event(step=resume_at + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: dict[str, float]) -> None:
        """Add a row of numbers (Python numbers or scalar arrays), including the number of its "step".

        Numbers that are not finite are left out, since JSON cannot represent them.
        """
        row = {name: value if name == "step" else float(value) for name, value in row.items()}
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        self._rows.add((json.dumps(row) + "\n").encode())
        for name, value in row.items():
            if name != "step":
                self._event(step=row["step"], summary=scalar(name, value))

    def _event(self, **fields: Any) -> None:
        """Add a TFRecord: length, checksum, content, checksum."""
        content = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(content))
        self._board.add(b"".join((length, _checksum(length), content, _checksum(content))))

    def flush(self) -> None:
        """Write the rows added so far to the disk.

        Raises:
          OSError: The disk is full; no partial row remains.
        """
        self._rows.flush()
        self._board.flush()


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


def read(path: Path) -> list[dict[str, float]]:
    """Return the rows of a log, or none if there is no file. An incomplete last line, left by a kill, is ignored."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def curve(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps and values of all rows that contain `name`."""
    found = [row for row in rows if name in row]
    return [row["step"] for row in found], [row[name] for row in found]
