"""Shared fixtures: eight simulated devices, full-precision matmuls, and the folders of real data."""

import os

# Before jax is imported. Sharding tests need several devices; tiny models spend their time compiling, and unoptimised
# machine code halves that.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The TPU compiler takes a lock for the one process that drives a TPU; here it only compiles, beside other processes.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import jax
import pytest

jax.config.update("jax_default_matmul_precision", "highest")

# Every compiled program keeps some memory maps, of which Linux gives a process 65,530; beyond that compiling crashes.
MOST_MAPS = 30_000
MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """After a file of tests, if there are many: programs that later files share would be compiled again."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the folder ../shared/{name} is not here; it holds real data that the project does not ship")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real tokenizer files, corpora and checkpoints."""
    return _folder("data")


@pytest.fixture(scope="session")
def cases_dir() -> Path:
    """Ready-made parity cases: checkpoint, inputs, expected outputs."""
    return _folder("cases")
