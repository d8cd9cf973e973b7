"""`python -m benchmarks` with tiny models. No times are asserted, since the machine may be busy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_quick_run_compares_ours_with_torch(tmp_path):
    arguments = ["--quick", "--rounds", "1", "--case", "decode_b1", "--peers", "ours", "hf-torch-sdpa"]
    run = bench(tmp_path, *arguments)
    assert run.returncode == 0, run.stderr
    lines = {line.split()[1]: line for line in run.stdout.splitlines() if line.startswith("| ")}
    assert "vs hf-torch-sdpa" in lines["participant"] and "share of limit" in lines["participant"]
    assert re.search(r"\| \d+\.\d\dx +\| \d+\.\d\dx +\|", lines["ours"])
    # The same weights, and the same greedy text from both.
    assert "equal to hf-torch-sdpa" in lines["ours"] and "reference" in lines["hf-torch-sdpa"]

    (line,) = (tmp_path / "runs/bench/decode_b1.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["versions"]["jax"] and record["machine"]["cores"] == os.cpu_count()
    assert record["scale"]["model"]["n_layer"] == 2
    assert sorted(row["label"] for row in record["rows"]) == ["hf-torch-sdpa", "ours"]
    assert all(len(row["seconds"]) == 1 and row["share"] > 0 for row in record["rows"])


@pytest.mark.slow
def test_quick_runs_of_rag_match_torch_and_merged_search_matches_one_device(tmp_path):
    arguments = ["--quick", "--rounds", "1", "--case", "rag_token", "rag_sequence", "mips_merge"]
    run = bench(tmp_path, *arguments, "--peers", "ours", "hf-torch-sdpa")
    assert run.returncode == 0, run.stderr
    rows = {}
    for name in arguments[4:]:
        record = json.loads((tmp_path / f"runs/bench/{name}.jsonl").read_text())
        rows[name] = {row["label"]: row for row in record["rows"]}
        assert all(row["problem"] is None for row in rows[name].values())
    for name in ("rag_token", "rag_sequence"):
        assert rows[name]["ours"]["output"] == "equal to hf-torch-sdpa"
    assert rows["mips_merge"]["one-device"]["output"] == "within 1e-3 of ours"


def test_unknown_names_are_rejected(tmp_path):
    for arguments, message in (
        (["--case", "decode_b2"], "invalid choice: 'decode_b2'"),
        (["--peers", "tensorflow"], "invalid choice: 'tensorflow'"),
        (["--rounds", "0"], "at least 1, got '0'"),
    ):
        run = bench(tmp_path, *arguments)
        assert run.returncode == 2 and message in run.stderr
    assert not list(tmp_path.iterdir())
