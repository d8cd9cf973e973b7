"""Results as a Markdown table, and remarks below it."""

import statistics
from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.coordinator import Row

LIMITS = {"bandwidth": ("memory bandwidth", "GB/s"), "gemm": ("float32 matrix product", "GFLOP/s")}


def table(case: Case, rows: Sequence[Row]) -> str:
    """Format one line per participant; `vs X` is the speedup over X."""
    lines = [_cells(case, row) for row in rows]
    # In the order of their first occurrence; empty columns are left out.
    columns = list(dict.fromkeys(name for line in lines for name in line))
    body = [columns, *([line.get(name, "") for name in columns] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in body]
    padded.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in padded)


def remarks(case: Case, rows: Sequence[Row]) -> list[str]:
    """Describe the limit of the machine, and compare jaxmodels with the goals."""
    done = {row.label: row for row in rows if row.problem is None}
    lines = []
    if case.rate and done:
        what, unit = LIMITS[case.rate.limit]
        lines.append(f"machine: {next(iter(done.values())).limit:.1f} {unit} ({what}, median of the same rounds)")
    for peer, goal in case.goals.items():
        if "ours" in done and peer in done:
            reached = done["ours"].ratios[peer]
            lines.append(f"goal {goal:.2f}x {peer}: {'reached' if reached >= goal else 'MISSED'} with {reached:.2f}x")
    return lines


def _cells(case: Case, row: Row) -> dict[str, str]:
    if row.problem is not None:
        return {"participant": row.label, "output": row.problem}
    median = statistics.median(row.seconds)
    cells = {
        "participant": row.label,
        "median s": f"{median:.3g}",
        "min..max": f"{min(row.seconds):.3g}..{max(row.seconds):.3g}",
        "n": str(len(row.seconds)),
    }
    # Participants of the same library with different arguments are not compared.
    peers = [p.label for p in case.participants if p.label == p.peer and p.label in row.ratios]
    cells |= {f"vs {peer}": f"{row.ratios[peer]:.2f}x" for peer in peers}
    if case.rate:
        cells["rate"] = f"{row.rate:.1f} {case.rate.unit}/s"
        cells["share of limit"] = f"{row.reached:.1f} {LIMITS[case.rate.limit][1]} = {row.share:.0%}"
    if not case.fresh and row.first is not None:
        cells["first call s"] = f"{row.first:.2f}"
        cells["first - median s"] = f"{row.first - median:.2f}"
    return cells | _memory(case, row) | {name: f"{value:.0f}" for name, value in row.facts.items()} | _output(row)


def _memory(case: Case, row: Row) -> dict[str, str]:
    if row.peak_mib is None:
        return {}
    cells = {"peak RSS MiB": f"{row.peak_mib:.0f}"}
    if case.rise_over and row.rise_mib is not None:
        parameters, largest = case.rise_over
        cells["rise in the call MiB"] = f"{row.rise_mib:.0f}"
        cells["rise"] = f"parameters + {(row.rise_mib - parameters) / largest:.2f} x largest tensor"
    return cells


def _output(row: Row) -> dict[str, str]:
    return {"output": row.output} if row.output else {}
