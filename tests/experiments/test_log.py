"""The metrics log and the output folder of a run, also after a kill."""

import json
import subprocess
import sys

import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from tensorboardX.proto.event_pb2 import Event

from experiments.metrics import MetricsLog, read
from experiments.workdir import open_workdir


def write(folder, resume_at, steps):
    log = MetricsLog(folder, resume_at)
    for step in steps:
        log.write({"step": step, "loss": step / 8})
    log.flush()


def test_rows_after_the_checkpoint_are_deleted(tmp_path):
    write(tmp_path, 0, range(1, 8))
    write(tmp_path, 5, range(6, 10))
    assert read(tmp_path / "metrics.jsonl") == [{"step": n, "loss": n / 8} for n in range(1, 10)]


def test_incomplete_last_line_is_ignored(tmp_path):
    write(tmp_path, 0, range(1, 4))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    write(tmp_path, 3, [4])
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_losses_round_trip_bit_for_bit(tmp_path):
    loss = 0.1 + 0.2
    log = MetricsLog(tmp_path)
    log.write({"step": 1, "loss": loss})
    log.flush()
    assert read(tmp_path / "metrics.jsonl")[0]["loss"] == loss


def test_tensorboard_gets_the_same_rows_and_a_restart_event(tmp_path):
    write(tmp_path, 0, range(1, 4))
    write(tmp_path, 2, [3])
    events = [event for file in sorted((tmp_path / "tensorboard").iterdir()) for event in events_of(file)]
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(n, "loss", n / 8) for n in (1, 2, 3, 3)]
    assert [e.step for e in events if e.HasField("session_log")] == [1, 3]


def events_of(file):
    """Read the records of a TFRecord file: length (8 bytes), checksum (4), content, checksum (4)."""
    content, at, events = file.read_bytes(), 0, []
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        events.append(Event.FromString(content[at + 12 : at + 12 + size]))
        at += 16 + size
    return events


@pytest.fixture
def config():
    return ConfigDict({"steps": 10, "optimizer": {"rate": 0.1}, "sample": {"prompts": ("a", "b")}, "log_every": 5})


def opened(folder, config, fresh=False):
    """Open and close the output folder."""
    with open_workdir(folder, FrozenConfigDict(config), fresh):
        pass


def test_a_folder_belongs_to_one_config(tmp_path, config):
    folder = tmp_path / "run"
    opened(folder, config)
    opened(folder, config)
    config.optimizer.rate = 0.2
    with pytest.raises(ValueError, match=r"another config: optimizer\.rate was 0\.1 and is 0\.2\. Use .*--fresh"):
        opened(folder, config)


def test_mutable_config_keys_may_change(tmp_path, config):
    folder = tmp_path / "run"
    opened(folder, config)
    written = (folder / "config.json").read_text()
    assert set(json.loads(written)) == {"steps", "optimizer"}
    config.sample.prompts, config.log_every = ("c",), 1
    opened(folder, config)
    assert (folder / "config.json").read_text() == written


def test_fresh_deletes_only_the_earlier_run(tmp_path, config):
    folder = tmp_path / "run"
    opened(folder, config)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "weights").write_text("old")
    config.steps = 20
    opened(folder, config, fresh=True)
    assert not (folder / "checkpoint").exists()
    assert json.loads((folder / "config.json").read_text())["steps"] == 20

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").write_text("precious")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is not empty and contains no run"):
            opened(photos, config, fresh)
    assert [path.name for path in photos.iterdir()] == ["me.jpg"]


HOLD = """
import sys, time
from pathlib import Path
from ml_collections import FrozenConfigDict
from experiments.workdir import open_workdir

with open_workdir(Path(sys.argv[1]), FrozenConfigDict({"steps": 10}), fresh=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_folder_is_locked_until_its_process_ends(tmp_path):
    config = {"steps": 10}
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            for fresh in (False, True):
                with pytest.raises(ValueError, match="another process is using .*choose another --workdir"):
                    opened(tmp_path, config, fresh)
            assert json.loads((tmp_path / "config.json").read_text()) == config
        finally:
            other.kill()
    opened(tmp_path, config)
