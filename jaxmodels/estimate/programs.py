"""The programs that are compiled for a slice: a training step, a forward pass, a call of `generate`."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxmodels import sharding
from jaxmodels.estimate.collectives import collectives
from jaxmodels.estimate.result import Estimate, Generation
from jaxmodels.estimate.slices import topology_mesh
from jaxmodels.estimate.traced import decoding_loop, product_flops
from jaxmodels.generation.call import Extras, Ready, call
from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules
from jaxmodels.training import abstract_state, make_step
from jaxmodels.training.batches import check_rows

Shapes = Mapping[str, tuple[int, ...] | jax.ShapeDtypeStruct]


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    batch: int,
    length: int,
    further: Shapes | None = None,
    prng: str | None = None,
) -> Estimate:
    """Compiles the training step of a language model for the slice.

    Args:
      batch, length: of the global batch, int32 [batch, length] for input_ids and labels.
      further: shapes of other int32 inputs, or of labels that are not as long as input_ids.
      prng: implementation of the dropout key, as in `jax.random.key(0, impl=prng)`; "rbg" is the TPU's own generator
        and compiles several times faster than the default.
    """
    mesh = topology_mesh(topology, axes)
    state = abstract_state(model, optimizer, mesh=mesh, rules=rules)
    inputs = _inputs({"input_ids": (batch, length), "labels": (batch, length), **(further or {})}, mesh, rules)
    key = jax.eval_shape(lambda: jax.random.key(0, impl=prng))
    traced = make_step(model, optimizer, mesh=mesh, rules=rules).trace(state, inputs, key)
    return Estimate(topology=topology, **_found(traced, _compiled(traced, mesh, rules), mesh, rules))


def forward(
    model: nn.Module,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    batch: int,
    length: int,
    further: Shapes | None = None,
) -> Estimate:
    """Compiles a call of a model, without dropout and without a cache, for the slice.

    Args:
      batch, length: of the global batch, int32 [batch, length] for input_ids.
      further: shapes of the model's other inputs, or of input_ids of another form; int32, unless a
        `jax.ShapeDtypeStruct` says otherwise.
    """
    mesh = topology_mesh(topology, axes)
    inputs = _inputs({"input_ids": (batch, length), **(further or {})}, mesh, rules)
    params = _parameters(model, mesh, rules)
    with sharding.use(mesh, rules):
        traced = jax.jit(lambda params, inputs: model.apply({"params": params}, **inputs)).trace(params, inputs)
    return Estimate(topology=topology, **_found(traced, _compiled(traced, mesh, rules), mesh, rules))


def generate(
    model: nn.Module,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    batch: int,
    length: int,
    new_tokens: int,
    **options: Any,
) -> Generation:
    """Compiles what a call of `jaxmodels.generate` runs, from reading to the last token, for the slice.

    Args:
      batch, length: int32 [batch, length] prompts, or inputs of an encoder-decoder, all real. Like new_tokens they are
        rounded up to buckets, as in the call.
      new_tokens: of each text; none is taken to end before.
      options: those of the call, `key` and `cache_dtype` among them. Of a RAG-token, context_input_ids,
        context_attention_mask and doc_scores (zeros will do) say how many documents there are, and how long they are.

    Raises:
      ValueError: a RAG-sequence, which runs several programs; rows that the devices do not divide; and what the call
        raises.
    """
    if getattr(model, "marginal", None) == "sequence":
        raise ValueError(
            f"{type(model).__name__} generates by several programs; estimate a RagTokenForGeneration, or its generator"
        )
    mesh = topology_mesh(topology, axes)
    params = _parameters(model, mesh, rules)
    extras = Extras(**{name: options.pop(name) for name in ("key", "cache_dtype") if name in options})
    ids, asked = np.zeros((batch, length), np.int32), {"max_new_tokens": new_tokens, **options}

    def trace(ready: Ready) -> tuple[Ready, jax.stages.Traced]:
        with sharding.use(mesh, rules):
            # Where `sharding.use` puts what comes from the host.
            return ready, ready.program.trace(NamedSharding(mesh, PartitionSpec()))

    ready, traced = call(model, params, ids, np.ones_like(ids), asked, extras, trace)
    beginning = ready.program.prompts.beginning
    check_rows({"beginning": beginning}, 1, mesh, rules)
    compiled = _compiled(traced, mesh, rules)
    body, read = decoding_loop(traced.jaxpr.jaxpr)
    leaves = jax.tree.leaves(params)
    sizes = [_shard_bytes(leaf, leaf.sharding) for leaf in leaves]
    state = jax.tree.map(_shard_bytes, traced.out_info.state, compiled.output_shardings.state)
    return Generation(
        topology=topology,
        **_found(traced, compiled, mesh, rules, turns=ready.new - 1),
        rows=len(beginning),
        new_tokens=ready.new,
        weights=sum(size for size, whole in zip(sizes, read[: len(sizes)], strict=True) if whole),
        cache=sum(jax.tree.leaves(state)),
        token_flops=product_flops(body, whole=True) / _shares(mesh, rules),
    )


def _inputs(shapes: Shapes, mesh: Mesh, rules: Rules) -> dict[str, jax.ShapeDtypeStruct]:
    place = sharding.batch_sharding(mesh, rules)

    def placed(shape):
        dtype = jnp.int32 if isinstance(shape, tuple) else shape.dtype
        return jax.ShapeDtypeStruct(getattr(shape, "shape", shape), dtype, sharding=place)

    return {name: placed(shape) for name, shape in shapes.items()}


def _parameters(model: nn.Module, mesh: Mesh, rules: Rules) -> dict:
    places = sharding.shardings(model, mesh, rules)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract(model), places
    )


def _compiled(traced: jax.stages.Traced, mesh: Mesh, rules: Rules) -> jax.stages.Compiled:
    with sharding.use(mesh, rules):
        return traced.lower().compile()


def _found(
    traced: jax.stages.Traced, compiled: jax.stages.Compiled, mesh: Mesh, rules: Rules, turns: int = 1
) -> dict[str, Any]:
    """The attributes of an `Estimate`; turns: of the decoding loop."""
    memory, program = compiled.memory_analysis(), traced.jaxpr.jaxpr
    counted = product_flops(program, whole=False)
    return {
        "devices": mesh.size,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "reused": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": float(compiled.cost_analysis()["flops"])
        + (product_flops(program, whole=True, turns=turns) - counted) / _shares(mesh, rules),
        "collectives": collectives(compiled.as_text(), turns),
    }


def _shares(mesh: Mesh, rules: Rules) -> int:
    """Into how many the work on a layer is cut: devices that differ along axes of the mesh that the rules use."""
    used = {axis for axes in rules.values() for axis in ((axes,) if isinstance(axes, str) else axes or ())}
    return math.prod(mesh.shape[axis] for axis in used)


def _shard_bytes(leaf: jax.ShapeDtypeStruct, place: Sharding) -> int:
    return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
