"""The time table counts every second once, and the compilation cache is specific to the machine."""

import os
import time

import pytest
from support import environment
from tools.time_table import innermost, table


def test_an_instant_counts_for_the_shortest_event_around_it():
    events = [(0.0, 10.0, "tracing"), (2.0, 5.0, "lowering"), (4.0, 5.0, "tracing"), (12.0, 13.0, "XLA")]
    assert innermost(events) == {"tracing": 8.0, "lowering": 2.0, "XLA": 1.0}
    assert innermost([]) == {}


def test_running_is_what_no_other_column_has_and_small_files_are_one_row():
    files = {
        "a.py": {"tests": 2, "processor": 8.0, "wall": 9.0, "importing": 1.0, "XLA": 3.0},
        "b.py": {"tests": 1, "processor": 0.3, "wall": 0.4},
        "c.py": {"tests": 1, "processor": 0.4, "wall": 0.6},
    }
    assert table(files).splitlines()[2:] == [
        "| **all** | 4 | 9 | 10 | 1 | 0 | 0 | 3 | 6 | 0 |",
        "| a.py | 2 | 8 | 9 | 1 | 0 | 0 | 3 | 5 | 0 |",
        "| 2 others | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 1 | 0 |",
    ]


def test_the_callers_environment_wins(tmp_path):
    mine = {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "tpu", "JAX_COMPILATION_CACHE_DIR": "here"}
    environment.prepare(mine)
    assert mine["XLA_FLAGS"].startswith("--mine --xla_force_host_platform_device_count=8 ")
    assert (mine["JAX_PLATFORMS"], mine["JAX_COMPILATION_CACHE_DIR"]) == ("tpu", "here")
    theirs = {"XDG_CACHE_HOME": str(tmp_path)}
    environment.prepare(theirs)
    assert theirs["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "jaxmodels" / "tests"))


@pytest.mark.parametrize(("jaxlib", "known"), [("0.10.2", True), ("0.11.0", False), ("0.12.0", False)])
def test_a_flag_that_later_releases_refuse_is_left_out_there(jaxlib, known):
    assert ("--xla_cpu_use_fusion_emitters=false" in environment.quick(jaxlib)) == known


def test_programs_of_a_month_ago_are_forgotten(tmp_path):
    for name, days in {"old-cache": 31, "new-cache": 29, "old-other": 31}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(then := time.time() - days * 86_400, then))
    environment.forget_old_programs(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new-cache", "old-other"]
