"""`python -m benchmarks.decode_bytes`: what one decoding step of GPT-2 small reads and writes on a TPU.

The step is compiled for one chip that is not here (only `libtpu` is needed) and its bytes are counted by the compiler.
The floor is every weight but the position table once, and the whole cache once. As compiled, the program copies most
weights into the chip's own memory before it uses them, and the count has such a byte three times (read, written there,
read there). So the count that is compared with the floor is of the program without these copies, whose every access
goes to the main memory; the other is shown beside it.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodels as jm
from benchmarks.scales import BASE, TINY, Scale
from jaxmodels.estimate import topology_mesh
from jaxmodels.generation import loop
from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.decoder_only import Continuation
from jaxmodels.generation.search import Search, Terms
from jaxmodels.generation.single import Single
from jaxmodels.parameters import abstract

CHIPS = ("v5e:1x1", "v6e:1x1")
NO_COPIES = {"xla_msa_enable": "false"}  # MSA: memory space assignment
BEAMS = 4


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to lay things out.

    Attributes:
      stacked: the weights of all layers in one array each, as they are stored, instead of one for each layer.
      automatic: the compiler chooses the order in which weights and cache lie in memory, instead of row by row.
      cache_dtype: None is that of the weights.
      copied: beams that are rows with a cache each, moved to where their continuations are, instead of branches that
        share their slots.
    """

    name: str
    stacked: bool = False
    automatic: bool = False
    cache_dtype: Any = None
    copied: bool = False


OURS = Way("as `generate` has it")
OTHERS = (
    Way("weights of all layers in one array", stacked=True),
    Way("layouts chosen by the compiler", automatic=True),
    Way("cache in int8", cache_dtype=jnp.int8),
    Way("a cache for each beam, moved", copied=True),
)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of one step. counted: without copies into the chip's own memory; with_copies: as compiled."""

    weights: int
    cache: int
    counted: float
    with_copies: float

    @property
    def ratio(self) -> float:
        return self.counted / (self.weights + self.cache)


def measure(scale: Scale, chip: str, beams: int, dtype: str, way: Way) -> Bytes:
    """Compiles the step twice, with and without copies."""
    config = jm.GPT2Config(**scale.model)
    model = jm.GPT2LMHeadModel(config, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    params, rows = abstract(model), beams if way.copied else 1
    ids = jnp.zeros((rows, scale.prompt), jnp.int32)
    real = jnp.int32(rows)
    prompts = Continuation(ids, jnp.ones_like(ids), jnp.int32(scale.prompt), real, None, model, way.cache_dtype)
    terms = Terms(jnp.zeros((0,), jnp.int32), jnp.int32(0), jnp.int32(scale.new))
    search = Single(terms) if beams == 1 or way.copied else BeamSearch(terms, jnp.float32(1.0), width=beams)

    def begin(params):
        return loop.start(params, prompts, search, None, jnp.int32(scale.new), room=scale.new, asked=())

    carry = jax.eval_shape(begin, params)
    weights = params if way.stacked else jax.eval_shape(prompts.prepared, params)
    step = _moved(prompts, search) if way.copied else _step(prompts, search)
    place = NamedSharding(topology_mesh(chip, {"chip": 1}), PartitionSpec())
    where = Format(Layout.AUTO, place) if way.automatic else place
    lowered = jax.jit(step, donate_argnums=1, in_shardings=where, out_shardings=where).lower(weights, carry)
    counts = [
        lowered.compile(compiler_options=options).cost_analysis()["bytes accessed"] for options in (NO_COPIES, None)
    ]
    positions = _size(weights["transformer"]["wpe"])
    return Bytes(_size(weights) - positions, _size(carry.state.cache.layers), *counts)


def _step(prompts: Continuation, search: Search) -> Callable:
    """The body of the decoding loop: (weights, carry) -> carry."""

    def step(weights, carry):
        tokens = carry.progress.token.reshape(-1, search.width)
        out = prompts.step(weights, tokens, carry.state, carry.progress, asked=())
        progress, _ = search.advance(carry.progress, out.logits)
        return loop.Carry(progress, out.state, carry.first, carry.record)

    return step


def _moved(prompts: Continuation, search: Search) -> Callable:
    """The same after the rows of the cache have followed some order of the beams."""
    step = _step(prompts, search)

    def moved(weights, carry):
        order = carry.progress.token % carry.progress.token.shape[0]
        layers = jax.tree.map(lambda a: jnp.take(a, order, axis=0), carry.state.cache.layers)
        cache = dataclasses.replace(carry.state.cache, layers=layers)
        return step(weights, dataclasses.replace(carry, state=carry.state._replace(cache=cache)))

    return moved


def _size(tree) -> int:
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_bytes", description="Bytes of a decoding step.")
    parser.add_argument("--chips", nargs="+", default=CHIPS, metavar="CHIP")
    parser.add_argument("--quick", action="store_true", help="a tiny model: tries everything out, means nothing")
    arguments = parser.parse_args()
    scale = TINY if arguments.quick else BASE
    print("| chip | beams | dtype | way | weights + cache MB | counted MB | of the floor | with on-chip copies MB |")
    print("|---|---|---|---|---|---|---|---|")
    for chip in arguments.chips:
        for beams in (1, BEAMS):
            ways = [(dtype, OURS) for dtype in ("bfloat16", "float32")]
            ways += [("bfloat16", way) for way in OTHERS if beams > 1 or not way.copied]
            for dtype, way in ways:
                found = measure(scale, chip, beams, dtype, way)
                floor = f"{found.weights / 1e6:.1f} + {found.cache / 1e6:.1f}"
                counted = f"{found.counted / 1e6:.1f} | {found.ratio:.2f}x | {found.with_copies / 1e6:.1f}"
                print(f"| {chip} | {beams} | {dtype} | {way.name} | {floor} | {counted} |", flush=True)


if __name__ == "__main__":
    # The TPU compiler takes a lock for the one process that drives a TPU; here it only compiles.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    sys.exit(main())
