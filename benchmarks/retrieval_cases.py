"""Retrieval's cases."""

from pathlib import Path

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers
from benchmarks.scales import Scale


def search(scale: Scale, folder: Path) -> Case:
    (rows, width), (queries, k) = scale.index, scale.searches
    rate = Rate(queries, "query", "gemm", work.search_gigaflops(rows, width, queries))
    return Case(
        "mips",
        f"Exact search: the {k} largest of {rows} x {width} inner products, {queries} queries at once",
        peers(["ours", "torch", "numpy", "faiss-flat"], "search", folder, rows=rows, width=width, queries=queries, k=k),
        rate=rate,
        machine=machine(rate, scale),
        goals={"faiss-flat": 5.0, "torch": 1.8},
    )


CASES: dict[str, CaseMaker] = {"mips": search}
