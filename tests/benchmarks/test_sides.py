"""The searches for the sides of tiles: what is compiled for a candidate, and which candidates are named."""

from collections import Counter

import pytest

from benchmarks import gpu_sides, tile_sides
from benchmarks.bundles import CASES, Count
from benchmarks.cuda_code import BACKWARD, FORWARD
from pallas_kernels.gpu import flash
from pallas_kernels.gpu.tiles import Sides
from pallas_kernels.tpu import blocks
from pallas_kernels.tpu.blocks import BandBlocks, ShortBlocks


@pytest.fixture(autouse=True)
def other_tests_keep_their_programs(monkeypatch):
    monkeypatch.setattr("jax.clear_caches", lambda: None)


class Compiler:
    """Costs as many bundles as the table's tiling for v6e has queries and keys, less what is begun ahead."""

    def __init__(self, chip):
        pass

    def compile(self, function, *shapes):
        row = blocks.BAND["v6e", 64] if self.band else blocks.SHORT["v6e", 64]
        tiling = row.backward if self.band else row.whole
        if tiling.queries == 1024:
            raise ValueError("does not fit")
        return None, [Count("forward", tiling.queries + tiling.keys - tiling.ahead, 0, 0)]


@pytest.mark.parametrize(("case", "kind"), [("short_padded_512", ShortBlocks), ("band_16384", BandBlocks)])
def test_tile_sides_tries_all_sides_and_then_what_is_begun_ahead(case, kind, monkeypatch, capsys):
    table = "BAND" if kind is BandBlocks else "SHORT"
    monkeypatch.setattr(blocks, table, dict(getattr(blocks, table)))
    monkeypatch.setattr(tile_sides, "Compiler", type("", (Compiler,), {"band": kind is BandBlocks}))
    monkeypatch.setattr("sys.argv", ["tile_sides", "--chip", "v6e", "--case", case])
    tile_sides.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum("does not fit" in line for line in lines) == len(tile_sides.SIDES)
    best = lines[lines.index(f"v6e {case} forward: (queries, keys, ahead)") + 1 :]
    assert best[0] == "    (128, 128, 4): 252 bundles" and len(best) == 6
    assert isinstance(getattr(blocks, table)["v6e", 64], kind) and case in CASES


def test_gpu_sides_names_what_no_model_makes_spill(monkeypatch):
    compiled = []

    def machine_code(program, folder):
        sides = flash.flash_blocks(64, 2).keys
        compiled.append(sides)
        if sides.queries * sides.keys * sides.stages > 128 * 64 * 4:
            raise ValueError("shared memory")
        heavy = program == "dense" and sides.warps == 4 and sides.queries > 32
        count = {"registers": sides.queries, "spilled": 8 if heavy else 0}
        return dict.fromkeys([FORWARD, *BACKWARD], count)

    monkeypatch.setattr(flash, "flash_blocks", flash.flash_blocks)
    monkeypatch.setattr(gpu_sides, "placed", lambda given: given)
    monkeypatch.setattr(gpu_sides, "arguments", lambda K, dtype, **options: options)
    monkeypatch.setattr(
        gpu_sides, "lowered", lambda options, rate: "dense" if options.get("bias") == "dense" else "other"
    )
    monkeypatch.setattr(gpu_sides, "machine_code", machine_code)
    search = gpu_sides.Search(64, "bfloat16")
    search.run()
    # The largest first, of those the one of fewer warps, of those the one with more loads in flight.
    assert search.without_spills("forward")[:2] == [(Sides(128, 128, 4, 2), 128), (Sides(128, 128, 8, 2), 128)]
    assert search.without_spills("forward")[2] == (Sides(64, 128, 4, 3), 64)
    # Models with a bias count there, and one of them spills with four warps.
    assert search.without_spills("keys")[0] == (Sides(128, 128, 8, 2), 128)
    assert search.without_spills("bias") == []  # no such kernel was in the program
    assert Counter(compiled) == dict.fromkeys(compiled, 4)
