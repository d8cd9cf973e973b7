"""Finds the sides of the TPU kernels' tiles: compiles candidates and counts their bundles. No TPU is needed.

    python -m benchmarks.tile_sides --chip v6e --case short_causal_1024

All sides with the next tile begun ahead, then other numbers of tiles ahead with the best sides. The best go into
`pallas_kernels/tpu/blocks.py` by hand: a table that changes by itself would change results.
"""

import argparse
import gc
from collections import defaultdict
from itertools import product

import jax

from benchmarks.bundles import CASES, CHIPS, Compiler
from pallas_kernels.tpu import blocks
from pallas_kernels.tpu.blocks import Tiling

SIDES = (128, 256, 512, 1024)
AHEAD = (0, 2, 3, 4)
# So many of the best sides are tried with other numbers of tiles ahead.
BEST = 3


class Search:
    """Counts of one case on one chip, by kernel and tiling."""

    def __init__(self, chip: str, case: str):
        self._compiler = Compiler(chip)
        self._chip = chip
        self._function, self._shapes = CASES[case]()
        self._column = 64 if self._shapes[0][0][-1] <= 64 else 128
        self._band = case.startswith("band")
        self.found: dict[str, dict[Tiling, int]] = defaultdict(dict)

    def run(self) -> None:
        for sides in product(SIDES, SIDES):
            self._count(Tiling(*sides, 1))
        best = {tiling for counts in self.found.values() for tiling in sorted(counts, key=counts.get)[:BEST]}
        for tiling, ahead in product(sorted(best), AHEAD):
            self._count(tiling._replace(ahead=ahead))

    def _count(self, tiling: Tiling) -> None:
        if self._band:
            row = blocks.BAND[self._chip, self._column]
            blocks.BAND[self._chip, self._column] = row._replace(forward=tiling, backward=tiling)
        else:
            blocks.SHORT[self._chip, self._column] = blocks.ShortBlocks(tiling, tiling, tiling)
        try:
            _, counts = self._compiler.compile(lambda *arguments: self._function(*arguments), *self._shapes)
        except Exception as error:  # a candidate that does not fit is none
            print(f"{tuple(tiling)}: {str(error).splitlines()[0][:100]}", flush=True)
            return
        for count in counts:
            self.found[count.kernel][tiling] = count.bundles
        jax.clear_caches()
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=CHIPS, default="v6e")
    kinds = ("short", "band")
    parser.add_argument("--case", choices=[name for name in CASES if name.startswith(kinds)], required=True)
    options = parser.parse_args()
    search = Search(options.chip, options.case)
    search.run()
    for kernel, counts in search.found.items():
        print(f"{options.chip} {options.case} {kernel}: (queries, keys, ahead)")
        for tiling in sorted(counts, key=counts.get)[:6]:
            print(f"    {tuple(tiling)}: {counts[tiling]} bundles")


if __name__ == "__main__":
    main()
