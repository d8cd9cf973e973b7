"""Memory of this process on Linux."""

from pathlib import Path


def status(key: str) -> int:
    """Return a size in bytes, such as VmRSS."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024
