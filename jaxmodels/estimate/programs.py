"""Estimates of a training step, a forward pass and a call of `generate`, compiled for a TPU slice."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike

from jaxmodels import sharding
from jaxmodels.estimate.analysis import collectives, decoding_loop, product_flops
from jaxmodels.estimate.result import Estimate, Generation
from jaxmodels.generation.api import CallArguments, check_model, prepare_call
from jaxmodels.generation.options import GenerateOptions
from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules
from jaxmodels.training import abstract_state, make_step
from jaxmodels.training.batches import check_batch_size

Shapes = Mapping[str, tuple[int, ...] | jax.ShapeDtypeStruct]


def topology_mesh(topology: str, axes: Mapping[str, int], slices: int = 1) -> Mesh:
    """Returns a mesh over the devices of a TPU slice for ahead-of-time compilation; no TPU is needed.

    The devices are arranged as on a pod, by `jaxmodels.sharding.make_mesh`.

    Args:
      topology: type and shape of a slice, such as "v5e:16x16"; a single chip is "v5e:1x1".
      axes: names and sizes of the mesh axes, such as {"data": 256}; one size may be -1.
      slices: number of slices; the first axes span them.

    Raises:
      ValueError: the sizes do not match the slices.
    """
    return sharding.make_mesh(axes, topology_devices(topology, slices))


def topology_devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """Returns the devices of TPU slices, to compile for; see `topology_mesh`."""
    device_type, _, shape = topology.partition(":")
    # A host of most types has several chips, and a slice consists of whole hosts unless they are declared smaller.
    options: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if set(shape.split("x")) == {"1"} else {}
    if device_type == "v4":
        # Both cores of a chip are one device, as on real machines; of a v5p they are by default.
        options["chip_config_name"] = "megacore"
    if slices > 1:
        options["num_slices"] = slices
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    slices: int = 1,
    batch: int,
    length: int,
    microbatches: int = 1,
    further: Shapes | None = None,
    prng: str | None = None,
) -> Estimate:
    """Compiles the training step of a language model for a TPU slice.

    Args:
      model: model with a language modelling loss.
      optimizer: Optax optimizer.
      topology: see `topology_mesh`.
      axes: see `topology_mesh`.
      rules: sharding rules.
      slices: see `topology_mesh`.
      batch: global batch size.
      length: sequence length of input_ids and labels, int32 [batch, length].
      microbatches: see `jaxmodels.training.make_step`.
      further: shapes of other int32 inputs, or of labels with another length.
      prng: implementation of the dropout key, as in `jax.random.key(0, impl=prng)`. None is that of a run. "rbg", the
        TPU's hardware generator, compiles several times faster, but is not split over devices: every device makes the
        bits of the global batch.
    """
    mesh = topology_mesh(topology, axes, slices)
    state = abstract_state(model, optimizer, mesh=mesh, rules=rules)
    inputs = _placed(input_shapes(batch, length, further), mesh, rules)
    key = jax.eval_shape(lambda: jax.random.key(0, impl=prng))
    traced = make_step(model, optimizer, mesh=mesh, rules=rules, microbatches=microbatches).trace(state, inputs, key)
    return Estimate(topology=topology, **_attributes(traced, _compile(traced, mesh, rules), mesh, rules))


def forward(
    model: nn.Module,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    slices: int = 1,
    batch: int,
    length: int,
    further: Shapes | None = None,
) -> Estimate:
    """Compiles a forward pass, without dropout and cache, for a TPU slice.

    Args:
      model: any model.
      topology: see `topology_mesh`.
      axes: see `topology_mesh`.
      rules: sharding rules.
      slices: see `topology_mesh`.
      batch: global batch size.
      length: sequence length of input_ids, int32 [batch, length].
      further: shapes of other inputs, or of input_ids with another shape; int32 unless given as
        `jax.ShapeDtypeStruct`.
    """
    mesh = topology_mesh(topology, axes, slices)
    inputs = _placed(_abstract({"input_ids": (batch, length), **(further or {})}), mesh, rules)
    params = _parameters(model, mesh, rules)
    with sharding.use(mesh, rules):
        traced = jax.jit(lambda params, inputs: model.apply({"params": params}, **inputs)).trace(params, inputs)
    return Estimate(topology=topology, **_attributes(traced, _compile(traced, mesh, rules), mesh, rules))


def generate(
    model: nn.Module,
    *,
    topology: str,
    axes: Mapping[str, int],
    rules: Rules,
    slices: int = 1,
    batch: int,
    length: int,
    new_tokens: int,
    key: jax.Array | None = None,
    cache_dtype: DTypeLike | None = None,
    **options: Unpack[GenerateOptions],
) -> Generation:
    """Compiles the program of `jaxmodels.generate`, from prefill to the last token, for a TPU slice.

    Args:
      model: model with `generate`.
      topology: see `topology_mesh`.
      axes: see `topology_mesh`.
      rules: sharding rules.
      slices: see `topology_mesh`.
      batch: number of prompts, or of inputs of an encoder-decoder.
      length: their length, without padding. Like `batch` and `new_tokens` it is rounded up to a bucket, as in
        `generate`.
      new_tokens: tokens to generate; no sequence is assumed to end early.
      key: PRNG key, for sampling.
      cache_dtype: dtype of the KV cache; see `jaxmodels.generate`.
      **options: of `jaxmodels.generate`. For RagTokenForGeneration, the shapes of context_input_ids,
        context_attention_mask and doc_scores (zeros suffice) set the number and length of documents.

    Raises:
      ValueError: a RagSequenceForGeneration, which runs several programs; a batch that is not divisible among the
        devices; and see `generate`.
    """
    mesh = topology_mesh(topology, axes, slices)
    params = _parameters(model, mesh, rules)
    generative = check_model(model, params)
    if generative.generation_mode == "rag_sequence":
        raise ValueError(
            f"{type(model).__name__} runs several programs; estimate a RagTokenForGeneration, or its generator"
        )
    ids = np.zeros((batch, length), np.int32)
    arguments = CallArguments(key=key, cache_dtype=cache_dtype)
    all_options: dict[str, Any] = {"max_new_tokens": new_tokens, **options}
    prepared = prepare_call(generative, params, ids, np.ones_like(ids), all_options, arguments)
    with sharding.use(mesh, rules):
        # The placement that `sharding.use` gives to inputs from the host.
        traced = prepared.program.trace(NamedSharding(mesh, PartitionSpec()))
    prefix = prepared.program.prompts.prefix
    check_batch_size({"prefix": prefix}, 1, mesh, rules)
    compiled = _compile(traced, mesh, rules)
    body, read = decoding_loop(traced.jaxpr.jaxpr)
    leaves = jax.tree.leaves(params)
    sizes = [_shard_bytes(leaf, leaf.sharding) for leaf in leaves]
    state = jax.tree.map(_shard_bytes, traced.out_info.model, compiled.output_shardings.model)
    return Generation(
        topology=topology,
        **_attributes(traced, compiled, mesh, rules, turns=prepared.max_new_tokens - 1),
        rows=len(prefix),
        new_tokens=prepared.max_new_tokens,
        weights=sum(size for size, whole in zip(sizes, read[: len(sizes)], strict=True) if whole),
        cache=sum(jax.tree.leaves(state)),
        token_flops=product_flops(body, whole=True) / _num_parts(mesh, rules),
    )


def input_shapes(batch: int, length: int, further: Shapes | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the inputs of a training step; see `train_step`."""
    return _abstract({"input_ids": (batch, length), "labels": (batch, length), **(further or {})})


def _abstract(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32) if isinstance(shape, tuple) else shape
        for name, shape in shapes.items()
    }


def _placed(inputs: dict[str, jax.ShapeDtypeStruct], mesh: Mesh, rules: Rules) -> dict[str, jax.ShapeDtypeStruct]:
    split = sharding.batch_sharding(mesh, rules)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for name, x in inputs.items()}


def _parameters(model: nn.Module, mesh: Mesh, rules: Rules) -> dict[str, Any]:
    def with_sharding(leaf: jax.ShapeDtypeStruct, leaf_sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)

    return jax.tree.map(with_sharding, abstract(model), sharding.shardings(model, mesh, rules))


def _compile(traced: jax.stages.Traced, mesh: Mesh, rules: Rules) -> jax.stages.Compiled:
    with sharding.use(mesh, rules):
        return traced.lower().compile()


def _attributes(
    traced: jax.stages.Traced, compiled: jax.stages.Compiled, mesh: Mesh, rules: Rules, turns: int = 1
) -> dict[str, Any]:
    """Returns the attributes of an `Estimate`; `turns` is the trip count of the decoding loop."""
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    program = traced.jaxpr.jaxpr
    counted = product_flops(program, whole=False)
    return {
        "devices": mesh.size,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "reused": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": float(cost["flops"])
        + (product_flops(program, whole=True, turns=turns) - counted) / _num_parts(mesh, rules),
        "collectives": collectives(compiled.as_text() or "", turns),
    }


def _num_parts(mesh: Mesh, rules: Rules) -> int:
    """Returns the number of devices that share the work of a layer: the product of the mesh axes that the rules use."""
    used = {axis for axes in rules.values() for axis in ((axes,) if isinstance(axes, str) else axes or ())}
    return math.prod(mesh.shape[axis] for axis in used)


def _shard_bytes(leaf: jax.ShapeDtypeStruct, leaf_sharding: Sharding) -> int:
    return math.prod(leaf_sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
