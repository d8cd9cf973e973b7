"""Resident memory of this process, from Linux's /proc; None on other systems.

Not `resource.getrusage`: its peak is inherited from the process that forked this one, and it cannot be reset.
"""

from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident() -> float | None:
    """MiB now."""
    return _field("VmRSS")


def peak() -> float | None:
    """MiB at most since the start, or since `reset_peak`."""
    return _field("VmHWM")


def reset_peak() -> None:
    """Lets the peak start from the memory that is resident now (proc(5), clear_refs)."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def provide(gigabytes: float = 2) -> None:
    """Touches that much memory and gives it back, so that the next to take it finds it there.

    A virtual machine has memory from its host only once it is touched, here 2 s for a GB, ten times as long as the
    machine itself takes; some seconds after it was given back the host has it again.
    """
    np.ones(int(gigabytes * 1e9), np.uint8)
    reset_peak()


def _field(name: str) -> float | None:
    if not _STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields[name].split()[0]) / 1024
