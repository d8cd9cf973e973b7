"""`python -m benchmarks.decode_bytes`: what one decoding step of GPT-2 small reads and writes on a TPU.

The step is compiled for one chip that is not here (only `libtpu` is needed) and its bytes are counted by the compiler
(those of the decode kernel are every key and value once, also where it skips what no query sees).
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
from jaxmodels.generation.prompts import DecoderOnlyPrompts
from jaxmodels.generation.sampling import GreedyOrSample
from jaxmodels.generation.search import Search, SearchConfig
from jaxmodels.layers.stack import unstack_layers
from jaxmodels.parameters import abstract

CHIPS = ("v5e:1x1", "v6e:1x1")
NO_COPIES = {"xla_msa_enable": "false"}  # MSA: memory space assignment
BEAMS = 4
TEXTS = 32


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to lay things out.

    Attributes:
      stacked: the weights of all layers in one array each, as they are stored, instead of one for each layer.
      automatic: the compiler chooses the order in which weights and cache lie in memory, instead of row by row.
      cache_dtype: None is that of the weights.
      copied: beams that are rows with a cache each, moved to where their continuations are, instead of branches that
        share their slots.
      attention: of the model; "xla" keeps a cache head by head, "auto" as the kernel reads it.
    """

    name: str
    stacked: bool = False
    automatic: bool = False
    cache_dtype: Any = None
    copied: bool = False
    attention: str = "auto"


OURS = Way("as `generate` has it")
INT8 = Way("cache in int8", cache_dtype=jnp.int8)
XLA = Way("attention by XLA", attention="xla")
OTHERS = (
    INT8,
    XLA,
    Way("weights of all layers in one array", stacked=True),
    Way("attention by XLA, layouts chosen by the compiler", automatic=True, attention="xla"),
    Way("attention by XLA, cache in int8", attention="xla", cache_dtype=jnp.int8),
    Way("attention by XLA, a cache for each beam, moved", copied=True, attention="xla"),
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


def measure(scale: Scale, chip: str, texts: int, beams: int, dtype: str, way: Way) -> Bytes:
    """Compiles the step twice, with and without copies."""
    config, kind = jm.GPT2Config(**scale.model), jnp.dtype(dtype)
    model = jm.GPT2LMHeadModel(config, dtype=kind, param_dtype=kind, attention=way.attention)
    params, rows = abstract(model), texts * (beams if way.copied else 1)
    ids = jnp.zeros((rows, scale.prompt), jnp.int32)
    real = jnp.int32(rows)
    prompts = DecoderOnlyPrompts(ids, jnp.ones_like(ids), jnp.int32(scale.prompt), real, None, model, way.cache_dtype)
    search_config = SearchConfig(jnp.zeros((0,), jnp.int32), jnp.int32(0), jnp.int32(scale.new))
    search: Search = GreedyOrSample(search_config)
    if beams > 1 and not way.copied:
        search = BeamSearch(search_config, jnp.float32(1.0), num_beams=beams)

    def begin(params):
        return loop.start(params, None, prompts, search, None, jnp.int32(scale.new), capacity=scale.new, requested=())

    step = _moved(prompts, search) if way.copied else _step(prompts, search)
    mesh = topology_mesh(chip, {"chip": 1})
    place = NamedSharding(mesh, PartitionSpec())
    where = Format(Layout.AUTO, place) if way.automatic else place
    with jax.set_mesh(mesh):
        carry = jax.eval_shape(begin, params)
        weights = params if way.stacked else jax.eval_shape(unstack_layers, params)
        lowered = jax.jit(step, donate_argnums=1, in_shardings=where, out_shardings=where).lower(weights, carry)
    counts = [
        lowered.compile(compiler_options=options).cost_analysis()["bytes accessed"] for options in (NO_COPIES, None)
    ]
    positions = _size(weights["transformer"]["wpe"])
    return Bytes(_size(weights) - positions, _size(carry.model.cache.layers), *counts)


def _step(prompts: DecoderOnlyPrompts, search: Search) -> Callable:
    """The body of the decoding loop: (weights, carry) -> carry."""

    def step(weights, carry):
        tokens = carry.search.tokens.reshape(-1, search.num_beams)
        out = prompts.decode(weights, tokens, carry.model, carry.search, requested=())
        state, _ = search.advance(carry.search, out.logits)
        return loop.LoopState(state, out.state, carry.prefill, carry.records)

    return step


def _moved(prompts: DecoderOnlyPrompts, search: Search) -> Callable:
    """The same after the rows of the cache have followed some order of the beams."""
    step = _step(prompts, search)

    def moved(weights, carry):
        order = carry.search.tokens % carry.search.tokens.shape[0]
        layers = jax.tree.map(lambda a: jnp.take(a, order, axis=0), carry.model.cache.layers)
        cache = dataclasses.replace(carry.model.cache, layers=layers)
        return step(weights, dataclasses.replace(carry, model=carry.model._replace(cache=cache)))

    return moved


def _size(tree) -> int:
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_bytes", description="Bytes of a decoding step.")
    parser.add_argument("--chips", nargs="+", default=CHIPS, metavar="CHIP")
    parser.add_argument("--quick", action="store_true", help="a tiny model: tries everything out, means nothing")
    arguments = parser.parse_args()
    scale = TINY if arguments.quick else BASE
    full = dataclasses.replace(scale, prompt=scale.model["n_positions"] - scale.new)
    print("| chip | texts | slots | beams | dtype | way | floor: weights + cache MB | counted | ratio | with copies |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for chip in arguments.chips:
        for texts, beams, of in ((1, 1, scale), (1, BEAMS, scale), (TEXTS, 1, full)):
            ways = [("bfloat16", OURS), ("float32", OURS)]
            ways += [("bfloat16", way) for way in OTHERS if beams > 1 or not way.copied]
            for dtype, way in ways:
                found = measure(of, chip, texts, beams, dtype, way)
                floor = f"{found.weights / 1e6:.1f} + {found.cache / 1e6:.1f}"
                counted = f"{found.counted / 1e6:.1f} | {found.ratio:.2f}x | {found.with_copies / 1e6:.1f}"
                row = f"{chip} | {texts} | {of.prompt + of.new} | {beams} | {dtype} | {way.name} | {floor} | {counted}"
                print(f"| {row} |", flush=True)


if __name__ == "__main__":
    # The TPU compiler takes a lock for the one process that drives a TPU; here it only compiles.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    sys.exit(main())
