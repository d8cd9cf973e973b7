"""Finds the sides of the TPU kernels' tiles: compiles candidates and counts their bundles. No TPU is needed.

    python -m benchmarks.tile_sides --chip v6e --case short_causal_1024

All sides with the next tile begun ahead, then other numbers of tiles ahead with the best sides. The best go into
`pallas_kernels/tpu/tiles.py` by hand: a table that changes by itself would change results.
"""

import argparse
import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import jax

from benchmarks.bundles import CASES, CHIPS, Compiler, Count
from pallas_kernels.api import attention_with_kernel
from pallas_kernels.tpu import full_row, sliding_window
from pallas_kernels.tpu.tiles import SLIDING_WINDOW_TILINGS, FullRowTilings, TpuTiling

SIDES = (128, 256, 512, 1024)
AHEAD = (0, 2, 3, 4)
# So many of the best sides are tried with other numbers of tiles ahead.
BEST = 3


class Search:
    """Counts of one case on one chip, by kernel and tiling. count: those of a tiling; raises where it does not fit."""

    def __init__(self, count: Callable[[TpuTiling], list[Count]]):
        self._count_of = count
        self.found: dict[str, dict[TpuTiling, int]] = defaultdict(dict)

    def run(self) -> None:
        for sides in product(SIDES, SIDES):
            self._count(TpuTiling(*sides, 1))
        best = {tiling for counts in self.found.values() for tiling in sorted(counts, key=counts.__getitem__)[:BEST]}
        for tiling, ahead in product(sorted(best), AHEAD):
            self._count(tiling._replace(lookahead=ahead))

    def lines(self) -> Iterator[str]:
        """The best of each kernel."""
        for kernel, counts in self.found.items():
            yield f"{kernel}: (queries, keys, ahead)"
            for tiling in sorted(counts, key=counts.__getitem__)[:6]:
                yield f"    {tuple(tiling)}: {counts[tiling]} bundles"

    def _count(self, tiling: TpuTiling) -> None:
        try:
            counts = self._count_of(tiling)
        except Exception as error:  # a candidate that does not fit is none
            print(f"{tuple(tiling)}: {str(error).splitlines()[0][:100]}", flush=True)
            return
        for count in counts:
            self.found[count.kernel][tiling] = count.bundles


def kernel_with(chip: str, case: str, width: int, tiling: TpuTiling) -> Callable:
    """The `attend` that the case takes, with this tiling in all passes."""
    if case.startswith("band"):
        row = SLIDING_WINDOW_TILINGS[chip, 64 if width <= 64 else 128]
        return partial(sliding_window.attend, tilings=row._replace(forward=tiling, backward=tiling))
    return partial(full_row.attend, tilings=FullRowTilings(tiling, tiling, tiling))


def counter(chip: str, case: str) -> Callable[[TpuTiling], list[Count]]:
    """Compiles the case with a tiling, and counts."""
    compiler = Compiler(chip)

    def count(tiling: TpuTiling) -> list[Count]:
        def run(q, k, v, **options):
            return attention_with_kernel(kernel_with(chip, case, q.shape[-1], tiling), q, k, v, **options)

        function, shapes = CASES[case](run=run)
        try:
            return compiler.compile(function, *shapes)[1]
        finally:
            jax.clear_caches()
            gc.collect()

    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=CHIPS, default="v6e")
    kinds = ("short", "band")
    parser.add_argument("--case", choices=[name for name in CASES if name.startswith(kinds)], required=True)
    options = parser.parse_args()
    search = Search(counter(options.chip, options.case))
    search.run()
    print(f"{options.chip} {options.case}")
    print("\n".join(search.lines()))


if __name__ == "__main__":
    main()
