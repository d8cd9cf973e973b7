"""`python -m benchmarks.decode_bytes`: bytes that one decode step of GPT-2 small reads and writes on a TPU.

The step is compiled ahead of time for one chip (only `libtpu` is needed), and the compiler counts the bytes. For the
decode kernel, these are all keys and values once, even if it skips masked ones. The lower bound is every weight except
the position embedding once, and the whole KV cache once. The compiled program copies most weights to on-chip memory
before using them, and each such byte is counted three times (read, written there, read there). So the lower bound is
compared with a program without these copies, in which every access goes to main memory; the other count is shown next
to it.
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
from jaxmodels.generation.search import GreedyOrSample, Search, SearchConfig
from jaxmodels.layers.stack import unstack_layers
from jaxmodels.parameters import abstract

CHIPS = ("v5e:1x1", "v6e:1x1")
NO_COPIES = {"xla_msa_enable": "false"}  # MSA: memory space assignment
BEAMS = 4
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Variant:
    """A memory layout.

    Attributes:
      name: Name of the layout.
      stacked: The weights of all layers are stacked in one array, instead of one array per layer.
      automatic: The compiler chooses the memory order of weights and cache, instead of row-major order.
      cache_dtype: Dtype of the KV cache; None for that of the weights.
      copied: Each beam has a separate KV cache, which is copied when beams are reordered, instead of shared slots.
      attention: Attention implementation: "xla" stores the KV cache by head, "auto" in the order of the kernel.
    """

    name: str
    stacked: bool = False
    automatic: bool = False
    cache_dtype: Any = None
    copied: bool = False
    attention: str = "auto"


OURS = Variant("as `generate` has it")
INT8 = Variant("cache in int8", cache_dtype=jnp.int8)
XLA = Variant("attention by XLA", attention="xla")
OTHERS = (
    INT8,
    XLA,
    Variant("weights of all layers in one array", stacked=True),
    Variant("attention by XLA, layouts chosen by the compiler", automatic=True, attention="xla"),
    Variant("attention by XLA, cache in int8", attention="xla", cache_dtype=jnp.int8),
    Variant("attention by XLA, a cache for each beam, moved", copied=True, attention="xla"),
)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Bytes of one step. counted: without copies to on-chip memory; with_copies: as compiled."""

    weights: int
    cache: int
    counted: float
    with_copies: float

    @property
    def ratio(self) -> float:
        return self.counted / (self.weights + self.cache)


def measure(scale: Scale, chip: str, texts: int, beams: int, dtype: str, variant: Variant) -> Bytes:
    """Compile the step with and without copies."""
    config, kind = jm.GPT2Config(**scale.model), jnp.dtype(dtype)
    model = jm.GPT2LMHeadModel(config, dtype=kind, param_dtype=kind, attention=variant.attention)
    params, rows = abstract(model), texts * (beams if variant.copied else 1)
    ids = jnp.zeros((rows, scale.prompt), jnp.int32)
    real = jnp.int32(rows)
    prompts = DecoderOnlyPrompts(
        ids, jnp.ones_like(ids), jnp.int32(scale.prompt), real, None, model, variant.cache_dtype
    )
    search_config = SearchConfig(jnp.zeros((0,), jnp.int32), jnp.int32(0), jnp.int32(scale.new))
    search: Search = GreedyOrSample(search_config)
    if beams > 1 and not variant.copied:
        search = BeamSearch(search_config, jnp.float32(1.0), num_beams=beams)

    def begin(params):
        return loop.start(params, None, prompts, search, None, jnp.int32(scale.new), capacity=scale.new, requested=())

    step = _moved(prompts, search) if variant.copied else _step(prompts, search)
    mesh = topology_mesh(chip, {"chip": 1})
    place = NamedSharding(mesh, PartitionSpec())
    where = Format(Layout.AUTO, place) if variant.automatic else place
    with jax.set_mesh(mesh):
        carry = jax.eval_shape(begin, params)
        weights = params if variant.stacked else jax.eval_shape(unstack_layers, params)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_bytes", description="Bytes of a decode step.")
    parser.add_argument("--chips", nargs="+", default=CHIPS, metavar="CHIP")
    parser.add_argument("--quick", action="store_true", help="a tiny model: tries everything out, means nothing")
    arguments = parser.parse_args()
    scale = TINY if arguments.quick else BASE
    full = dataclasses.replace(scale, prompt=scale.model["n_positions"] - scale.new)
    print(
        "| chip | texts | slots | beams | dtype | variant | floor: weights + cache MB | counted | ratio | with copies |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for chip in arguments.chips:
        for texts, beams, of in ((1, 1, scale), (1, BEAMS, scale), (BATCH_SIZE, 1, full)):
            ways = [("bfloat16", OURS), ("float32", OURS)]
            ways += [("bfloat16", variant) for variant in OTHERS if beams > 1 or not variant.copied]
            for dtype, variant in ways:
                found = measure(of, chip, texts, beams, dtype, variant)
                floor = f"{found.weights / 1e6:.1f} + {found.cache / 1e6:.1f}"
                counted = f"{found.counted / 1e6:.1f} | {found.ratio:.2f}x | {found.with_copies / 1e6:.1f}"
                row = f"{chip} | {texts} | {of.prompt + of.new} | {beams} | {dtype} | {variant.name} | {floor} | {counted}"
                print(f"| {row} |", flush=True)


if __name__ == "__main__":
    # The TPU compiler takes a lock for the process that uses the TPU; here it only compiles.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    sys.exit(main())
