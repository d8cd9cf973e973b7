"""The coordinator and its workers, with fake libraries."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.case import Case, Rate
from benchmarks.coordinator import measure, take_rounds
from benchmarks.lane import ROOT, Lane, NoReply, Participant

SEARCH = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parents[1] / "support")])}


def participant(label: str, job: str, module: str = "toy_peer", **arguments) -> Participant:
    return Participant(label, label, module, job, arguments, SEARCH)


def recorder(log: Path, label: str, *values: float) -> Participant:
    return participant(label, "note", log=str(log), name=label, values=list(values))


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


def entries(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize("fresh", [False, True])
def test_participants_take_turns(log, fresh):
    everyone = [recorder(log, "a"), recorder(log, "b")]
    replies, problems = take_rounds(everyone, 2, fresh, report=lambda line: None)
    names, processes = zip(*entries(log), strict=True)
    assert names == ("a", "b") * 3
    assert len(set(processes)) == (6 if fresh else 2)
    assert problems == {}
    assert [len(got) for got in replies.values()] == [3, 3]
    assert all(reply.seconds > 0 and reply.facts == {"answers": 0} for got in replies.values() for reply in got)


def test_failed_participant_drops_out(log):
    everyone = [
        participant("missing", "note", module="no_such_library"),
        participant("failing", "refuse"),
        participant("crashing", "crash"),
        recorder(log, "a"),
    ]
    replies, problems = take_rounds(everyone, 1, False, report=lambda line: None)
    assert list(replies) == ["a"]
    assert problems == {
        "missing": "skipped: No module named 'no_such_library' (pip install '.[bench]')",
        "failing": "failed: ValueError: the reason",
        "crashing": "failed: the process ended with status 3",
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc")
def test_memory_is_measured_for_each_call():
    lane = Lane(participant("a", "allocate_once", mib=64))
    try:
        first, second = lane.call(), lane.call()
    finally:
        lane.close()
    # The system counts pages in batches.
    assert 60 < first.rise_mib < 80
    assert second.rise_mib < 8
    assert second.peak_mib >= first.peak_mib > 60


def test_unknown_job_raises_no_reply():
    with pytest.raises(NoReply, match="has no attribute 'no_such_job'"):
        Lane(participant("a", "no_such_job")).call()


def test_rows_compare_outputs_and_machine(log):
    case = Case(
        "toy",
        "Toy",
        (recorder(log, "ours", 5, 6), recorder(log, "hf-torch-sdpa", 5, 6), recorder(log, "hf-flax", 5, 7)),
        rate=Rate(10, "tok", "bandwidth", cost=2.0),
        machine=recorder(log, "machine", 20.0),
        token_width=2,
    )
    rows = {row.label: row for row in measure(case, 3, report=lambda line: None)}
    assert {label: row.output for label, row in rows.items()} == {
        "ours": "equal to hf-torch-sdpa",
        "hf-torch-sdpa": "reference",
        "hf-flax": "DIFFERS from hf-torch-sdpa: sequence 0 differs from token 1 on",
    }
    assert [label for label, row in rows.items() if not row.agrees] == ["hf-flax"]
    ours = rows["ours"]
    assert len(ours.seconds) == 3 and ours.limit == 20.0
    assert ours.ratios["ours"] == 1.0 and ours.ratios["hf-flax"] > 0
    middle = sorted(ours.seconds)[1]
    assert ours.rate == 10 / middle and ours.reached == 2.0 / middle
    assert ours.share == pytest.approx(0.1 / middle)
