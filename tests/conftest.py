"""Shared fixtures: eight simulated devices, full-precision matmuls, and the folders of data."""

# Before jax is imported: it reads the environment then.
from support import environment  # isort: skip

environment.prepare()

import gc
import os
from pathlib import Path

import jax
import pytest
from support import full_data

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


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        environment.forget_old_programs(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    try:
        full_data.folder()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_finish():
    """What was imported stays: a garbage collector that leaves it out saves a seventh of the processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_report_header():
    return full_data.left_out()


def pytest_terminal_summary(terminalreporter, config):
    if config.get_verbosity() < 0:  # then there was no header
        terminalreporter.write_line(full_data.left_out())


def pytest_collection_modifyitems(config, items):
    """Left out rather than skipped: a run without the data has nothing to report of them."""
    out = {item for item in items if not full_data.here(item.get_closest_marker("full_data"))}
    config.hook.pytest_deselected(items=list(out))
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Cut-down tokenizer files, texts and checkpoints; tests/testdata/README.md says of what."""
    return full_data.TESTDATA


@pytest.fixture(scope="session")
def full_data_dir() -> Path:
    """The same and more, whole; for tests marked full_data."""
    return full_data.folder()


@pytest.fixture(scope="session")
def cases_dir() -> Path:
    """Ready-made parity cases: checkpoint, inputs, expected outputs."""
    return full_data.TESTDATA / "cases"
