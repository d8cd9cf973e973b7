"""Finds the sides of the TPU kernels' tiles: compiles every candidate and counts its bundles. No TPU is needed.

    python -m benchmarks.tile_sides --chip v6e --case short_causal_1024

The best go into `pallas_kernels/tpu/blocks.py` by hand: a table that changes by itself would change results.
"""

import argparse
from collections.abc import Iterator
from itertools import product

from benchmarks.bundles import CASES, CHIPS, Compiler, Count
from pallas_kernels.tpu import blocks

SIDES = (128, 256, 512, 1024)


def candidates(width: int) -> Iterator[tuple[tuple, object]]:
    """(what is tried, the table's entry)."""
    for queries, keys in product(SIDES, SIDES):
        sides = (queries, keys)
        yield sides, blocks.ShortBlocks(sides, sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=CHIPS, default="v6e")
    parser.add_argument("--case", choices=[name for name in CASES if name.startswith("short")], required=True)
    options = parser.parse_args()
    compiler = Compiler(options.chip)
    function, shapes = CASES[options.case]()
    width = 64 if shapes[0][0][-1] <= 64 else 128
    found: dict[str, list[tuple[int, tuple]]] = {}
    for sides, entry in candidates(width):
        blocks.SHORT[options.chip, width] = entry
        try:
            _, counts = compiler.compile(lambda *arguments: function(*arguments), *shapes)
        except Exception as error:  # a candidate that does not fit is none
            print(f"{sides}: {str(error).splitlines()[0][:100]}")
            continue
        for count in counts:
            _note(found, sides, count)
    for kernel, results in found.items():
        print(kernel)
        for bundles, sides in sorted(results)[:6]:
            print(f"    {sides}: {bundles} bundles")


def _note(found: dict[str, list[tuple[int, tuple]]], sides: tuple, count: Count) -> None:
    found.setdefault(count.kernel, []).append((count.bundles, sides))


if __name__ == "__main__":
    main()
