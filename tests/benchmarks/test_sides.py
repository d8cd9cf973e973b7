"""The searches for the sides of tiles: what is compiled for a candidate, and which candidates are named."""

from collections import Counter
from functools import partial

import jax
import pytest

from benchmarks import gpu_sides, tile_sides
from benchmarks.bundles import CASES, Count
from benchmarks.cuda_code import BACKWARD, FORWARD, arguments, both
from pallas_kernels.gpu.tiles import GpuTiling
from pallas_kernels.tpu import full_row, sliding_window
from pallas_kernels.tpu.tiles import SLIDING_WINDOW_TILINGS, FullRowTilings, SlidingWindowTilings, TpuTiling

SEARCHED = [case for case in CASES if case.startswith(("short", "band"))]


def test_tile_sides_tries_all_sides_and_then_what_is_begun_ahead(capsys):
    """As many bundles as the tiling has queries and keys, less what is begun ahead."""

    def count(tiling):
        if tiling.queries == 1024:
            raise ValueError("does not fit")
        return [Count("forward", tiling.queries + tiling.keys - tiling.lookahead, 0, 0)]

    search = tile_sides.Search(count)
    search.run()
    assert capsys.readouterr().out.count("does not fit") == len(tile_sides.SIDES)
    title, *best = search.lines()
    assert title == "forward: (queries, keys, ahead)"
    assert best[0] == "    (128, 128, 4): 252 bundles" and len(best) == 6


def noting(asked: list):
    """In the place of `attention`."""

    def run(q, k, v, **options):
        asked.append(options)
        return q * k.sum() + v.sum()

    return run


@pytest.mark.parametrize("case", SEARCHED)
def test_tile_sides_compiles_the_case_with_the_tiling_in_all_passes(case):
    asked, tiling = [], TpuTiling(512, 128, 3)
    function, shapes = CASES[case](run=noting(asked))
    jax.eval_shape(function, *(jax.ShapeDtypeStruct(*each) for each in shapes))
    assert len(asked) == 1
    width = shapes[0][0][-1]
    kernel = tile_sides.kernel_with("v6e", case, width, tiling)
    if case.startswith("band"):
        assert kernel.func is sliding_window.attend
        assert kernel.keywords["tilings"] == SlidingWindowTilings(
            SLIDING_WINDOW_TILINGS["v6e", width].block, tiling, tiling
        )
    else:
        assert kernel.func is full_row.attend and kernel.keywords["tilings"] == FullRowTilings(tiling, tiling, tiling)


def test_gpu_sides_compiles_a_model_with_the_kernel_it_is_given():
    asked = []
    jax.eval_shape(partial(both, rate=0.1, run=noting(asked)), *arguments(B=1, T=16, bias="dense"))
    assert len(asked) == 1 and asked[0].keys() == {"mask", "bias", "dropout"}


def test_gpu_sides_names_what_no_model_makes_spill():
    compiled = []

    def machine_code(sides, model):
        compiled.append(sides)
        if sides.queries * sides.keys * sides.stages > 128 * 64 * 4:
            raise ValueError("shared memory")
        heavy = model == "dense" and sides.warps == 4 and sides.queries > 32
        count = {"registers": sides.queries, "spilled": 8 if heavy else 0}
        return dict.fromkeys([FORWARD, *BACKWARD], count)

    search = gpu_sides.Search(machine_code)
    search.run()
    # The largest first, of those the one of fewer warps, of those the one with more loads in flight.
    assert search.without_spills("forward")[:2] == [(GpuTiling(128, 128, 4, 2), 128), (GpuTiling(128, 128, 8, 2), 128)]
    assert search.without_spills("forward")[2] == (GpuTiling(64, 128, 4, 3), 64)
    # Models with a bias count there, and one of them spills with four warps.
    assert search.without_spills("dkv")[0] == (GpuTiling(128, 128, 8, 2), 128)
    assert search.without_spills("dbias") == []  # no such kernel was in the program
    assert Counter(compiled) == dict.fromkeys(compiled, 4)
