"""How a run ends early: skipped steps, a full disk, a damaged checkpoint; one-line messages."""

import errno
import os

import numpy as np
import optax
import pytest

from experiments import failures
from experiments.files import AtomicAppender, atomic_file, atomic_folder
from experiments.metrics import MetricsLog, read
from experiments.progress import TooManySkipped, TrainingProgress
from experiments.workdir import UnusableFolder
from jaxmodels.training.checkpoints import DamagedCheckpoint


def metrics(skipped, loss=1.0):
    return {name: np.float32(value) for name, value in (("loss", loss), ("grad_norm", 0 * loss), ("skipped", skipped))}


def progress(folder, limit):
    return TrainingProgress(
        MetricsLog(folder), optax.constant_schedule(0.1), start=0, steps=99, items_per_step=(1, "x"), max_skipped=limit
    )


def test_limit_of_consecutive_skipped_steps(tmp_path):
    with (
        pytest.raises(TooManySkipped, match="step 7 was skipped, the last of 3 .*loss is nan"),
        progress(tmp_path, 2) as bar,
    ):
        for step, skipped in enumerate((1, 1, 0, 0, 1, 1, 1), start=1):
            bar.add(step, metrics(skipped, np.nan if skipped else 2.0))
            bar.flush()
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7] and rows[0]["skipped"] == 1
    assert [row.get("loss") for row in rows[:3]] == [None, None, 2.0], "JSON has no NaN"


def test_skipped_step_without_labels_is_reported_as_such(tmp_path):
    with pytest.raises(TooManySkipped, match="step 1 .*it has no labels"), progress(tmp_path, 0) as bar:
        bar.add(1, metrics(1, 0.0))
        bar.flush()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_no_partial_rows(tmp_path, monkeypatch):
    file = AtomicAppender(tmp_path / "rows")
    file.add(b"one\n")
    file.flush()
    file.add(b"two\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            file.flush()
    assert (tmp_path / "rows").read_bytes() == b"one\n"
    file.flush()
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
def test_failed_write_keeps_the_old_content_and_no_draft(tmp_path, whole):
    with whole(tmp_path / "x") as draft:
        draft.write_text("old") if whole is atomic_file else (draft / "y").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space"), whole(tmp_path / "x") as draft:
        draft.write_text("half") if whole is atomic_file else (draft / "y").write_text("half")
        full()
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "x" if whole is atomic_file else tmp_path / "x" / "y").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (UnusableFolder("another process is using runs/a"), "^another process is using runs/a$"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "^the disk is full: .*free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "^the disk is full"),
        (DamagedCheckpoint("step 6 is damaged", 6, 3), "--config.skip_damaged=True"),
        (DamagedCheckpoint("step 6 is damaged", 6, None), "--fresh"),
        (TooManySkipped("step 7"), "--config.max_skipped"),
    ],
)
def test_errors_that_users_can_fix_are_one_line(error, advice):
    with pytest.raises(SystemExit, match=advice) as ended, failures.one_line_errors():
        raise error
    assert len(str(ended.value).strip().splitlines()) == 1 and len(str(ended.value)) < 500


def test_an_interrupted_run_says_how_to_resume():
    with pytest.raises(KeyboardInterrupt, match="stopped; run the same command again"), failures.one_line_errors():
        raise KeyboardInterrupt


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), failures.one_line_errors():
        _ = 1 / 0
