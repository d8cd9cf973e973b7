"""Two and four processes over the loopback: batches, training, evaluation and search are those of one process."""

import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support import environment

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "shared_rows.py"
QUICK = environment.quick(metadata.version("jaxlib"))
REFUSALS = {
    "unequal": r"got \[4, 6",
    "missing": r"has to pass the 8 rows that sharding.addressable_rows\(mesh, rules, 8\) returns, got 1",
    "indivisible": "8 examples does not divide among the 3 devices",
}


def results(processes: int, *trained: str) -> list[dict[str, dict]]:
    """The results that each process prints, by name; it trains on these meshes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = os.environ | {"XLA_FLAGS": f"{environment.devices(4 // processes)} {QUICK}"}
    command = [sys.executable, PROGRAM]
    running = [
        subprocess.Popen([*command, str(i), str(processes), port, *trained], env=own, stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in running]
    found = [[json.loads(line) for line in output.splitlines() if line.startswith("{")] for output in outputs]
    return [{line.pop("name"): line for line in lines} for lines in found]


@pytest.mark.slow
def test_several_processes_equal_one():
    (expected,) = results(1, "both")
    two, four = results(2, "data", "model", "both", "shared rows"), results(4, "both")
    for processes in (two, four):
        for name in expected:
            rows = [found[name].pop("rows") for found in processes]
            assert set().union(*rows) == set(range(8))
            assert name != "model" or all(len(own) == 8 for own in rows), "shared by all processes"
            for found in processes:
                assert found[name].pop("whole")
                for key, value in found[name].items():
                    assert value == pytest.approx(expected["both"][key], rel=1e-5), (name, key)
        for name, message in REFUSALS.items():
            assert all(re.search(message, found[name]["error"]) for found in processes), name
    assert "hits" in two[0]["shared rows"] and "contrastive loss" in four[3]["both"]
    assert [found["uneven"] for found in two] == [
        {"rows": [0, 1, 2, 3], "right": True},
        {"rows": [4, 5], "right": True},
    ]
