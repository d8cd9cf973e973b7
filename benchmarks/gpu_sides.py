"""Finds the sides of the GPU kernels' tiles: compiles candidates for an H200 and lists those that do not spill.

    make test-cuda-aot    # once: it makes the environment that this needs
    JAX_PLATFORMS=cpu .venv/cuda-aot/bin/python -m benchmarks.gpu_sides --width 64 --dtype bfloat16

For every kernel, the largest tiles first: the larger, the less often operands are read. Candidates have the heaviest
shapes of the models, with dropout. What is best goes into `pallas_kernels/gpu/tiles.py` by hand; which of them is the
fastest only a GPU can say.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.cuda_code import BACKWARD, BIAS, FORWARD, MODELS, arguments, lowered, machine_code, placed
from pallas_kernels.api import attention_with_kernel
from pallas_kernels.gpu import flash
from pallas_kernels.gpu.tiles import FlashTilings, GpuTiling

SIDES, WARPS, STAGES = (32, 64, 128), (4, 8), (2, 3)
# By field of `FlashTilings`: the kernel, and the models that are compiled for it.
HEAVIEST = {
    "forward": (FORWARD, ("led", "gpt2")),
    "forward_biased": (FORWARD, ("t5", "dense")),
    "dkv": (BACKWARD[0], ("led", "t5", "dense")),
    "dq": (BACKWARD[1], ("led", "t5", "dense")),
    "dbias": (BIAS, ("t5", "dense")),
}


class Search:
    """What the assembler says of the kernels, by sides and model. compiled: that, of one of each; raises where they
    do not fit."""

    def __init__(self, compiled: Callable[[GpuTiling, str], dict[str, dict]]):
        self._compiled = compiled
        self.found: dict[GpuTiling, dict[str, dict]] = defaultdict(dict)

    def run(self) -> None:
        models = sorted({model for _, names in HEAVIEST.values() for model in names})
        for *values, model in product(SIDES, SIDES, WARPS, STAGES, models):
            sides = GpuTiling(*values)
            try:
                self.found[sides][model] = self._compiled(sides, model)
            except Exception as error:  # a candidate that does not fit is none
                print(f"{tuple(sides)}, {model}: {str(error).splitlines()[0][:100]}", flush=True)

    def without_spills(self, field: str) -> list[tuple[GpuTiling, int]]:
        """(sides, most registers), the largest first."""
        kernel, models = HEAVIEST[field]
        fitting = []
        for sides, compiled in self.found.items():
            counts = [compiled[model][kernel] for model in models if kernel in compiled.get(model, {})]
            square = field != "dbias" or sides.queries == sides.keys
            if square and len(counts) == len(models) and not any(count["spilled"] for count in counts):
                fitting.append((sides, max(count["registers"] for count in counts)))
        return sorted(fitting, key=lambda pair: (-pair[0].queries * pair[0].keys, pair[0].warps, -pair[0].stages))


def compiler(width: int, dtype: str) -> Callable[[GpuTiling, str], dict[str, dict]]:
    """Compiles a model's kernels, all with the same sides."""

    def compiled(sides: GpuTiling, model: str) -> dict[str, dict]:
        options, rate = MODELS[model]
        given = placed(arguments(**options, K=width, dtype=dtype))
        kernel = partial(flash.attend, tilings=FlashTilings(*[sides] * len(FlashTilings._fields)))
        with tempfile.TemporaryDirectory() as folder:
            return machine_code(lowered(given, rate, partial(attention_with_kernel, kernel)), Path(folder))

    return compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, choices=(64, 128), default=64)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    options = parser.parse_args()
    search = Search(compiler(options.width, options.dtype))
    search.run()
    for field in FlashTilings._fields:
        print(f"{field}: (queries, keys, warps, stages)")
        for sides, registers in search.without_spills(field)[:6]:
            print(f"    {tuple(sides)}: {registers} registers")


if __name__ == "__main__":
    main()
