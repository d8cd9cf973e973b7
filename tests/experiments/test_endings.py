"""How a run ends early: steps that change nothing, a full disk, a damaged checkpoint; one line each."""

import errno
import os

import numpy as np
import optax
import pytest

from experiments import endings
from experiments.files import Appended, whole_file, whole_folder
from experiments.metrics import MetricsLog, read
from experiments.progress import Progress, TooManySkipped
from jaxmodels.training.checkpoints import DamagedCheckpoint


def metrics(skipped, loss=1.0):
    return {name: np.float32(value) for name, value in (("loss", loss), ("grad_norm", 0 * loss), ("skipped", skipped))}


def progress(folder, limit):
    return Progress(
        MetricsLog(folder), optax.constant_schedule(0.1), start=0, steps=99, work=(1, "x"), max_skipped=limit
    )


def test_so_many_steps_on_end_may_change_nothing_and_no_more(tmp_path):
    with (
        pytest.raises(TooManySkipped, match="step 7 is number 3 .*loss is nan"),
        progress(tmp_path, 2) as bar,
    ):
        for step, skipped in enumerate((1, 1, 0, 0, 1, 1, 1), start=1):
            bar.add(step, metrics(skipped, np.nan if skipped else 2.0))
            bar.flush()
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7] and rows[0]["skipped"] == 1
    assert [row.get("loss") for row in rows[:3]] == [None, None, 2.0], "JSON has no NaN"


def test_steps_without_labels_are_said_to_be_that(tmp_path):
    with pytest.raises(TooManySkipped, match="step 1 .*it has no labels"), progress(tmp_path, 0) as bar:
        bar.add(1, metrics(1, 0.0))
        bar.flush()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rows_that_the_disk_does_not_take_leave_no_part(tmp_path, monkeypatch):
    file = Appended(tmp_path / "rows")
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


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_an_error_leaves_the_earlier_one_and_no_draft(tmp_path, whole):
    with whole(tmp_path / "x") as draft:
        draft.write_text("old") if whole is whole_file else (draft / "y").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space"), whole(tmp_path / "x") as draft:
        draft.write_text("half") if whole is whole_file else (draft / "y").write_text("half")
        full()
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "x" if whole is whole_file else tmp_path / "x" / "y").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (KeyboardInterrupt(), "goes on from the last checkpoint"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "^the disk is full: .*make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "^the disk is full"),
        (DamagedCheckpoint("step 6 is damaged", 6, 3), "--config.skip_damaged=True"),
        (DamagedCheckpoint("step 6 is damaged", 6, None), "--fresh"),
        (TooManySkipped("step 7"), "--config.max_skipped"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, advice):
    with pytest.raises(SystemExit, match=advice) as ended, endings.in_words():
        raise error
    assert len(str(ended.value).strip().splitlines()) == 1 and len(str(ended.value)) < 500


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), endings.in_words():
        _ = 1 / 0
