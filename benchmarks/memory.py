"""Resident memory of this process, from /proc on Linux; None on other systems.

`resource.getrusage` is not used because its peak is inherited from the parent process and cannot be reset.
"""

from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident() -> float | None:
    """Return the current MiB."""
    return _field("VmRSS")


def peak() -> float | None:
    """Return the peak in MiB since the start, or since `reset_peak`."""
    return _field("VmHWM")


def reset_peak() -> None:
    """Reset the peak to the current memory (proc(5), clear_refs)."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def provide(gigabytes: float = 2) -> None:
    """Touch and release memory, so that the next allocation does not wait for the host of the virtual machine.

    A virtual machine gets memory from its host when it is first touched, which took 2 s per GB here, ten times as long
    as on the machine itself; some seconds after the memory is released, the host takes it back.
    """
    np.ones(int(gigabytes * 1e9), np.uint8)
    reset_peak()


def _field(name: str) -> float | None:
    if not _STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields[name].split()[0]) / 1024
