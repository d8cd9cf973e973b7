"""Run as a program: builds or loads an index and prints the peak of the memory it took over the baseline, in bytes."""

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


def made(way: str, folder: Path, rows: int) -> DenseIndex:
    if way == "load":
        return DenseIndex.load(folder / str(rows))
    return DenseIndex.from_batches(batches(rows), rows=rows if way == "known" else None)


def main(way: str, folder: Path) -> None:
    if way == "load":
        for rows in (BATCH, ROWS):
            made("known", folder, rows).save(folder / str(rows))
    made(way, folder, BATCH)  # what importing and compiling take is the baseline
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    baseline = status("VmRSS")
    index = made(way, folder, ROWS)
    jax.block_until_ready(index.values)
    assert int(index.vectors([ROWS - 1])[0, 0]) == ROWS - BATCH
    print(status("VmHWM") - baseline)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
