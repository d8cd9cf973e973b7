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
from collections.abc import Callable, Mapping
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
NO_COPIES: dict[str, str | bool] = {"xla_msa_enable": "false"}  # MSA: memory space assignment
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


def measure(scale: Scale, chip: str, batch_size: int, beams: int, dtype: str, variant: Variant) -> Bytes:
    """Compile the step with and without copies."""
    hyperparameters: Mapping[str, Any] = scale.model
    config, float_type = jm.GPT2Config(**hyperparameters), jnp.dtype(dtype)
    model = jm.GPT2LMHeadModel(config, dtype=float_type, param_dtype=float_type, attention=variant.attention)
    params, rows = abstract(model), batch_size * (beams if variant.copied else 1)
    ids = jnp.zeros((rows, scale.prompt), jnp.int32)
    real = jnp.int32(rows)
    prompts = DecoderOnlyPrompts(
        ids, jnp.ones_like(ids), jnp.int32(scale.prompt), real, None, model, variant.cache_dtype
    )
    search_config = SearchConfig(jnp.zeros((0,), jnp.int32), jnp.int32(0), jnp.int32(scale.new))
    search: Search = GreedyOrSample(search_config)
    if beams > 1 and not variant.copied:
        search = BeamSearch(search_config, jnp.float32(1.0), num_beams=beams)

    def begin(params: Any) -> Any:
        return loop.start(params, None, prompts, search, None, jnp.int32(scale.new), capacity=scale.new, requested=())

    step = _reordered(prompts, search) if variant.copied else _step(prompts, search)
    mesh = topology_mesh(chip, {"chip": 1})
    replicated = NamedSharding(mesh, PartitionSpec())
    sharding = Format(Layout.AUTO, replicated) if variant.automatic else replicated
    with jax.set_mesh(mesh):
        carry = jax.eval_shape(begin, params)
        weights = params if variant.stacked else jax.eval_shape(unstack_layers, params)
        lowered = jax.jit(step, donate_argnums=1, in_shardings=sharding, out_shardings=sharding).lower(weights, carry)
    analyses = [lowered.compile(compiler_options=options).cost_analysis() for options in (NO_COPIES, None)]
    counts = [analysis["bytes accessed"] for analysis in analyses if analysis is not None]
    positions = _size(weights["transformer"]["wpe"])
    return Bytes(_size(weights) - positions, _size(carry.model.cache.layers), *counts)


def _step(prompts: DecoderOnlyPrompts, search: Search) -> Callable:
    """Return the body of the decoding loop: (weights, carry) -> carry."""

    def step(weights: Any, carry: Any) -> Any:
        tokens = carry.search.tokens.reshape(-1, search.num_beams)
        out = prompts.decode(weights, tokens, carry.model, carry.search, requested=())
        state, _ = search.advance(carry.search, out.logits)
        return loop.LoopState(state, out.state, carry.prefill, carry.records)

    return step


def _reordered(prompts: DecoderOnlyPrompts, search: Search) -> Callable:
    """Return the loop body, preceded by a reordering of the KV caches of the beams."""
    step = _step(prompts, search)

    def reordered(weights: Any, carry: Any) -> Any:
        order = carry.search.tokens % carry.search.tokens.shape[0]
        layers = jax.tree.map(lambda a: jnp.take(a, order, axis=0), carry.model.cache.layers)
        cache = dataclasses.replace(carry.model.cache, layers=layers)
        return step(weights, dataclasses.replace(carry, model=carry.model._replace(cache=cache)))

    return reordered


def _size(tree: Any) -> int:
    """Return the number of bytes of all arrays."""
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def main() -> None:
    """Print a table of all variants."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_bytes", description="Bytes of a decode step.")
    parser.add_argument("--chips", nargs="+", default=CHIPS, metavar="CHIP")
    parser.add_argument("--quick", action="store_true", help="use a tiny model, to test this script")
    arguments = parser.parse_args()
    scale = TINY if arguments.quick else BASE
    full = dataclasses.replace(scale, prompt=int(scale.model["n_positions"]) - scale.new)
    print(
        "| chip | batch | slots | beams | dtype | variant | floor: weights + cache MB | counted | ratio | with copies |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for chip in arguments.chips:
        for batch_size, beams, sizes in ((1, 1, scale), (1, BEAMS, scale), (BATCH_SIZE, 1, full)):
            variants = [("bfloat16", OURS), ("float32", OURS)]
            variants += [("bfloat16", variant) for variant in OTHERS if beams > 1 or not variant.copied]
            for dtype, variant in variants:
                found = measure(sizes, chip, batch_size, beams, dtype, variant)
                floor = f"{found.weights / 1e6:.1f} + {found.cache / 1e6:.1f}"
                counted = f"{found.counted / 1e6:.1f} | {found.ratio:.2f}x | {found.with_copies / 1e6:.1f}"
                slots = sizes.prompt + sizes.new
                row = f"{chip} | {batch_size} | {slots} | {beams} | {dtype} | {variant.name} | {floor} | {counted}"
                print(f"| {row} |", flush=True)


if __name__ == "__main__":
    # The TPU compiler takes a lock for the process that uses the TPU; here it only compiles.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    main()
