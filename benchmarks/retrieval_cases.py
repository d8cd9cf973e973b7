"""Retrieval cases."""

from pathlib import Path

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers
from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale

DEVICES = 8


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


def merge(scale: Scale, folder: Path) -> Case:
    """Cost of merging the search results of all devices, without peers."""
    (rows, width), (queries, k) = scale.index, scale.searches
    shared = {"folder": "", "rows": rows, "width": width, "queries": queries, "k": k}
    many = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}

    def participant(label: str, job: str, environment: dict, **arguments) -> Participant:
        return Participant(label, "ours", MODULES["ours"], job, {**shared, **arguments}, environment)

    return Case(
        "mips_merge",
        f"The same search over {DEVICES} devices simulated on this processor, with the merge of their results ('ours') "
        "and without; and over one device",
        (
            participant("ours", "search_shards", many, merged=True),
            participant("no-merge", "search_shards", many, merged=False),
            participant("one-device", "search", {}),
        ),
        rounds=9,
        goals={"no-merge": 1 / 1.05},
    )


CASES: dict[str, CaseMaker] = {"mips": search, "mips_merge": merge}
