"""Program that builds or loads an index and prints its peak memory above the baseline, in bytes."""

import sys
from pathlib import Path

import jax
import numpy as np
from support.process_status import status

from jaxmodels.retrieval import DenseIndex

ROWS, WIDTH, BATCH = 2**18, 256, 2**13


def batches(rows: int):
    for start in range(0, rows, BATCH):
        yield np.full((BATCH, WIDTH), start, np.float32)


def make_index(mode: str, folder: Path, rows: int) -> DenseIndex:
    if mode == "load":
        return DenseIndex.load(folder / str(rows))
    return DenseIndex.from_batches(batches(rows), rows=rows if mode == "known" else None)


def main(mode: str, folder: Path) -> None:
    if mode == "load":
        for rows in (BATCH, ROWS):
            make_index("known", folder, rows).save(folder / str(rows))
    make_index(mode, folder, BATCH)  # the baseline includes imports and compilation
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    baseline = status("VmRSS")
    index = make_index(mode, folder, ROWS)
    jax.block_until_ready(index.values)
    assert int(index.vectors([ROWS - 1])[0, 0]) == ROWS - BATCH
    print(status("VmHWM") - baseline)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
