"""Script that loads a large checkpoint and prints the peak memory above the baseline in bytes."""

import json
import sys
from pathlib import Path

import jax
from support.process_status import status

import jaxmodels as jm


def main(small: str, large: str, options: dict) -> None:
    jm.load(small, **options)  # the baseline includes imports and tracing
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    baseline = status("VmRSS")
    _, params = jm.load(large, **options)
    jax.block_until_ready(params)
    leaves = jax.tree.leaves(params)
    largest = max(4 * leaf.size for leaf in leaves)  # float32, as in the file
    total = sum(leaf.nbytes for leaf in leaves)
    print(json.dumps({"over": status("VmHWM") - baseline, "parameters": total, "largest": largest}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
