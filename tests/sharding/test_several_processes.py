"""Two processes over the loopback: the batch is complete however the mesh splits it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "shared_rows.py"


@pytest.mark.slow
def test_batch_shared_by_the_devices_of_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = os.environ | {"XLA_FLAGS": environment.devices(2)}
    command = [sys.executable, PROGRAM]
    both = [
        subprocess.Popen([*command, str(process), port], env=own, stdout=subprocess.PIPE, text=True)
        for process in (0, 1)
    ]
    outputs = [process.communicate(timeout=400)[0] for process in both]
    lines = [[json.loads(line) for line in output.splitlines() if line.startswith("{")] for output in outputs]
    assert lines[0] == lines[1] and len(lines[0]) == 4
    for found in lines[0]:
        assert found == pytest.approx(lines[0][0], rel=1e-5) and found["whole"]
