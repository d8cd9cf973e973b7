"""The complete language model experiment with a tiny config, also killed at random moments."""

import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from support.experiment_runs import curve, finish, in_two_processes, keys, kill_when, logged, refused, starter

import jaxmodels as jm
from experiments.configs import gpt2_demo, gpt2_smoke, gpt2_xl_pod
from jaxmodels.__main__ import INTERRUPTED

STEPS = 40


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name in ("heapq", "bisect", "queue", "sched", "cmd", "copy", "shlex", "stat"):
        source = Path(sys.modules.get(name, __import__(name)).__file__)
        (folder / source.name).write_bytes(source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def start(texts):
    """start(workdir, *flags, **environment) -> a running process with piped output."""
    return starter(
        "gpt2_lm",
        "--config=gpt2_smoke",
        f"--config.data.path={texts}",
        f"--config.steps={STEPS}",
        "--config.save_every=4",
        "--config.eval_every=10",
    )


@pytest.mark.slow
def test_run_killed_at_random_moments_matches_uninterrupted_run(start, uninterrupted, tmp_path):
    folder, rng = tmp_path / "killed", random.Random(0)
    log, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"

    first, second = rng.randrange(8, 16), rng.randrange(18, 30)
    moments = [
        lambda: (folder / "data.draft").exists(),
        lambda: logged(log) >= first,
        # While Orbax writes a checkpoint, which has a temporary name until it is complete.
        lambda: logged(log) >= second and any(checkpoints.glob("*tmp*")),
    ]
    kills = [kill_when(start(folder), moment) for moment in moments]
    output = finish(start(folder))
    assert sum(kills) >= 2, "the run was over before it could be killed"
    assert "resuming from the checkpoint of step" in output
    assert curve(folder) == curve(uninterrupted[0])
    actual, expected = ((f / "model" / "model.safetensors").read_bytes() for f in (folder, uninterrupted[0]))
    assert actual == expected, "the weights match the uninterrupted run"


def test_log_has_every_step_once(uninterrupted):
    rows = curve(uninterrupted[0])
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30, 40]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1, "it learns"
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert np.argmax(rates) == 4 and rates[0] > 0 and rates[-1] < rates[4] / 10


def test_output_files_and_messages_of_a_run(uninterrupted):
    folder, output = uninterrupted
    result = json.loads((folder / "result.json").read_text())
    bits = result["bits_per_byte"]
    assert set(bits) == {"this model", "bigram model", "gzip -9", "xz -9e"}
    assert all(f"{name}" in output and f"{value:.3f}" in output for name, value in bits.items())
    assert result["logits_after_reload"] == 0.0 and "equal, bit for bit" in output
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").iterdir())
    assert "tokens/s" in output and "8 tokens" in output


def test_validation_loss_is_reproduced_by_the_saved_model(uninterrupted):
    """Recompute the loss from the saved model and the held-out text, without code of the experiment."""
    folder, _ = uninterrupted
    result = json.loads((folder / "result.json").read_text())
    model, params = jm.load(folder / "model")
    tokens = np.fromfile(folder / "data" / "validation.bin", np.uint16).astype(np.int32)
    whole = (len(tokens) - 1) // 31
    windows = [np.stack([tokens[31 * i : 31 * i + 32] for i in range(whole)]), tokens[None, 31 * whole :]]
    total = 0.0
    for ids in windows:
        if ids.shape[1] > 1:
            total += float(model.apply({"params": params}, ids, labels=ids).loss) * ids[:, 1:].size
    size = (folder / "data" / "validation.txt").stat().st_size
    assert total / np.log(2) / size == pytest.approx(result["bits_per_byte"]["this model"], rel=1e-4)
    assert total / (len(tokens) - 1) == pytest.approx(result["validation_loss"], rel=1e-4)


def table(output) -> str:
    return output.split("bits per byte of the held-out")[1].split("---")[0]


def test_complete_run_prints_its_result_without_training(start, uninterrupted):
    folder, before = uninterrupted
    log = (folder / "metrics.jsonl").stat().st_mtime_ns
    output = finish(start(folder))
    assert "this run is complete" in output and "--fresh" in output
    assert table(output) == table(before)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == log


def test_a_quiet_run_prints_its_result_only(start, uninterrupted):
    output = finish(start(uninterrupted[0], "--quiet"))
    assert output.startswith("\nbits per byte") and "--- 'a', continued ---" in output
    assert "complete" not in output and "tokens in" not in output


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_resume(start, tmp_path):
    """While it may compile in another thread, which must not crash the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    process = start(tmp_path / "run")
    while process.poll() is None and not logged(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == INTERRUPTED and "Traceback" not in output
    assert output.rstrip().endswith("stopped; run the same command again to resume from the last checkpoint")


@pytest.mark.slow
def test_two_processes_match_one_process_with_two_devices(start, tmp_path):
    """The processes connect as on a cluster; dropout is off because the masks depend on the position in the batch."""
    off = "--config.model.resid_pdrop=0.0"
    finish(start(tmp_path / "one", off, devices=2))
    outputs = in_two_processes(start, tmp_path / "two", off)
    for actual, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert actual == pytest.approx(expected, rel=1e-3)
    assert "bits per byte" in outputs[0] and "bits per byte" not in outputs[1], "only the first process reports"
    (tmp_path / "two" / "result.json").unlink()
    last, before = sorted((tmp_path / "two" / "checkpoints").iterdir(), key=lambda step: -int(step.name))
    shutil.rmtree(last)
    output = finish(start(tmp_path / "two", off))
    assert f"resuming from the checkpoint of step {before.name}" in output, "in one process, on one device"
    for actual, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert actual == pytest.approx(expected, rel=1e-3)


def test_another_config_in_the_same_folder_is_rejected(start, uninterrupted):
    output = refused(start(uninterrupted[0], "--config.batch_size=2"))
    assert "contains a run with another config: batch_size was 4 and is 2" in output


@pytest.mark.parametrize("module", [gpt2_demo, gpt2_smoke, gpt2_xl_pod])
def test_configs_have_the_same_keys(module):
    whole = ("changes", "mesh")
    assert keys(module.get_config(), whole) == keys(gpt2_demo.get_config(), whole)


def test_the_pod_config_fits_gpt2_xl_on_256_chips():
    config = gpt2_xl_pod.get_config()
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**config.model))
    mesh = AbstractMesh((4, 64), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rules = {**getattr(jm.sharding, config.sharding.table), **config.sharding.changes}
    places = jm.sharding.shardings(model, mesh, rules)
    shapes = jm.parameters.abstract(model)
    sizes = jax.tree.map(lambda s, p: (np.prod(s.shape), np.prod(p.shard_shape(s.shape))), shapes, places)
    whole, shard = (
        sum(pair[i] for pair in jax.tree.leaves(sizes, is_leaf=lambda x: isinstance(x, tuple))) for i in (0, 1)
    )
    assert whole == 1_557_611_200
    assert shard < whole / 60
    assert config.batch_size % 256 == 0
