"""The environment of a test run, set before jax, torch and numpy are imported; processes that tests start inherit it.

Tiny models spend their time compiling, so programs are compiled as quickly as XLA can, and kept between runs in the
user's cache folder: JAX's persistent compilation cache, whose keys hold the program, the flags and the versions.
"""

import hashlib
import os
import platform
import time
from importlib import metadata
from pathlib import Path

# Programs older than this are compiled anew: the folder holds what a month of changes compiled, and no more.
DAYS = 30


def prepare(environment=os.environ) -> None:
    """Fills in what the caller's environment leaves open; his XLA_FLAGS come first."""
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {devices(8)} {quick(metadata.version('jaxlib'))}"
    environment.setdefault("JAX_PLATFORMS", "cpu")
    # The TPU compiler takes a lock for the one process that drives a TPU; here it only compiles, beside others.
    environment.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    environment.setdefault("HF_HUB_OFFLINE", "1")
    # torch and faiss would start a thread a core in each worker of pytest, and wait for each other on tiny arrays.
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder(environment)))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def devices(count: int) -> str:
    """XLA's flag for so many simulated devices."""
    return f"--xla_force_host_platform_device_count={count}"


def quick(jaxlib: str) -> str:
    """XLA's flags for quick compilation."""
    flags = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Their successors take three times as long to compile; later releases have nothing else.
    known = tuple(map(int, jaxlib.split(".")[:2])) < (0, 11)
    return f"{flags} --xla_cpu_use_fusion_emitters=false" if known else flags


def cache_folder(environment) -> Path:
    """Of this user and this processor: machine code for another one may crash."""
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    named = ("model name", "flags", "Features")
    kind = sorted({line for line in text.splitlines() if line.startswith(named)} or [text])
    return Path(caches) / "jaxmodels" / "tests" / hashlib.sha256("\n".join(kind).encode()).hexdigest()[:16]


def forget_old_programs(folder: Path, days: float = DAYS) -> None:
    for file in folder.glob("*-cache"):
        try:
            if file.stat().st_mtime < time.time() - days * 86_400:
                file.unlink()
        except FileNotFoundError:  # another run was quicker
            pass
