"""The tables, with invented results."""

from benchmarks.case import Case, Rate
from benchmarks.coordinator import Row
from benchmarks.lane import Participant
from benchmarks.table import remarks, table


def made_up(**changes) -> tuple[Case, list[Row]]:
    case = Case(
        "toy",
        "Toy",
        tuple(Participant(name, name, "", "", {}) for name in ("ours", "hf-flax", "absent")),
        rate=Rate(128, "tok", "bandwidth", cost=60.0),
        goals={"hf-flax": 2.9, "absent": 1.0},
        **changes,
    )
    figures = {"rate": 32.0, "limit": 20.0, "reached": 15.0, "share": 0.75, "peak_mib": 1000.4, "rise_mib": 650.0}
    ours = Row("ours", "ours", (4.0, 3.0, 5.0), 8.5, {"ours": 1.0, "hf-flax": 2.5}, output="reference", **figures)
    flax = Row("hf-flax", "hf-flax", (10.0, 9.0, 11.0), 13.0, {"ours": 0.4, "hf-flax": 1.0}, **figures)
    return case, [ours, flax, Row("absent", "absent", problem="skipped: not here", agrees=False)]


def cells(case: Case, rows: list[Row]) -> list[dict[str, str]]:
    head, rule, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table(case, rows).split("\n")
    ]
    assert all(set(cell) == {"-"} for cell in rule)
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_table():
    ours, flax, absent = cells(*made_up())
    assert ours == {
        "participant": "ours",
        "median s": "4",
        "min..max": "3..5",
        "n": "3",
        "vs ours": "1.00x",
        "vs hf-flax": "2.50x",
        "rate": "32.0 tok/s",
        "share of limit": "15.0 GB/s = 75%",
        "first call s": "8.50",
        "first - median s": "4.50",
        "peak RSS MiB": "1000",
        "output": "reference",
    }
    assert flax["vs ours"] == "0.40x" and flax["output"] == ""
    assert {name: cell for name, cell in absent.items() if cell} == {
        "participant": "absent",
        "output": "skipped: not here",
    }


def test_memory_over_the_parameters_is_counted_in_largest_tensors():
    ours, *_ = cells(*made_up(fresh=True, rise_over=(500.0, 125.0)))
    assert ours["rise in the call MiB"] == "650"
    assert ours["rise"] == "parameters + 1.20 x largest tensor"
    # In a fresh process every call is the first.
    assert "first call s" not in ours


def test_remarks_name_the_limit_and_the_goals():
    assert remarks(*made_up()) == [
        "machine: 20.0 GB/s (memory bandwidth, median of the same rounds)",
        "goal 2.90x hf-flax: MISSED with 2.50x",
    ]
