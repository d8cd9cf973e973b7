"""Saving with several processes: all wait for the files, and all raise if the first one fails."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmodels.processes import on_first_process

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parity("C16")
def test_save_with_several_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": paths}
    started = [
        subprocess.Popen(
            [sys.executable, TESTS / "support" / "two_savers.py", tmp_path, str(number), str(port)],
            env={**os.environ, **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=250) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first["found"] == second["found"] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert first["error"].startswith("FileExistsError")
    assert second["error"].startswith("RuntimeError: writing failed on the first process: FileExistsError")


def test_on_first_process_with_one_process():
    done = []
    on_first_process(lambda: done.append(1), iter([2]))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        on_first_process(lambda: done.append(1 / 0))
