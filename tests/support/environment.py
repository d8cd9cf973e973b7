"""Environment variables of a test run, set before importing jax, torch and numpy, and inherited by child processes.

Tests of tiny models mostly compile, so the flags of XLA minimise compile time, and programs are cached between runs in
the cache folder of the user: JAX's persistent compilation cache, whose keys contain the program, the flags and the
versions.
"""

import hashlib
import os
import platform
import time
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path

# Older programs are deleted, to limit the size of the cache.
DAYS = 30


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set variables that are not set yet; existing XLA_FLAGS come first."""
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {devices(8)} {quick(metadata.version('jaxlib'))}"
    environment.setdefault("JAX_PLATFORMS", "cpu")
    # The TPU compiler takes a lock for the process that uses the TPU; here several processes only compile.
    environment.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    environment.setdefault("HF_HUB_OFFLINE", "1")
    # torch and faiss would start one thread per core in each pytest worker, and synchronise them for tiny arrays.
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder(environment)))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def devices(count: int) -> str:
    """Return the flag of XLA for a number of simulated devices."""
    return f"--xla_force_host_platform_device_count={count}"


def quick(jaxlib: str) -> str:
    """Return the flags of XLA for fast compilation."""
    flags = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # The new emitters take three times as long to compile; later releases only have those.
    known = tuple(map(int, jaxlib.split(".")[:2])) < (0, 11)
    return f"{flags} --xla_cpu_use_fusion_emitters=false" if known else flags


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder for this user and processor: machine code for another processor may crash."""
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    keys = ("model name", "flags", "Features")
    processor = sorted({line for line in text.splitlines() if line.startswith(keys)} or [text])
    return Path(caches) / "jaxmodels" / "tests" / hashlib.sha256("\n".join(processor).encode()).hexdigest()[:16]


def forget_old_programs(folder: Path, days: float = DAYS) -> None:
    """Delete old programs from the cache."""
    for file in folder.glob("*-cache"):
        try:
            if file.stat().st_mtime < time.time() - days * 86_400:
                file.unlink()
        except FileNotFoundError:  # deleted by another run
            pass
