"""The mesh in context: the platform of a trace, and kernels on every shard.

XLA partitions its own operations, but not a kernel, which therefore runs under `jax.shard_map`.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from pallas_kernels.bias import Bias, Biases, DenseBias, ToeplitzBias
from pallas_kernels.kv_cache import PackedKV
from pallas_kernels.mask import Mask

# Names of mesh axes over which an array axis is split; None where it is not.
Axes = str | tuple[str, ...] | None


class PartitionAxes(NamedTuple):
    """The axes of the mesh in context over which the arrays of a call are split; None where they are not.

    A kernel reads the key heads of its shard's query heads: the key heads are split over the same axes, wherever they
    come from.

    Attributes:
      batch: Of the examples.
      heads: Of the heads.
      length: Of the keys' length and, under a window, of the queries' (see `sequence_parallel`). None leaves a split
        length to the compiler.

    Examples:
      >>> q = k = v = jnp.ones((8, 16, 4, 8))
      >>> with jax.set_mesh(jm.sharding.make_mesh({"data": -1})):
      ...     out = pallas_kernels.attention(q, k, v, split=pallas_kernels.PartitionAxes(batch="data", heads=None))
    """

    batch: Axes
    heads: Axes
    length: Axes = None


def platform() -> str:
    """The target platform of the current trace, "cpu", "gpu" or "tpu".

    It is that of the mesh in context, which may consist of devices that this process does not have, or else that of
    the process's default backend.

    Examples:
      >>> with pallas_kernels.target_platform("tpu"):
      ...     pallas_kernels.platform()
      'tpu'
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


# What a program for a platform is compiled for where the caller does not say.
DEVICE_KINDS = {"cpu": "cpu", "gpu": "NVIDIA H200", "tpu": "TPU v5 lite"}


def target_platform(name: str, device_kind: str | None = None) -> AbstractContextManager:
    """A context in which programs are traced for a platform that this process need not have.

    A trace does not know for which platform it will be lowered, and the forms of some operations and the choice of
    kernels depend on it.

    Args:
      name: "cpu", "gpu" or "tpu".
      device_kind: The `device_kind` of the devices, which tile sizes depend on; None for a TPU v5e or an H200.

    Returns:
      The context. The axes of a mesh in context stay.

    Raises:
      ValueError: Another name.

    Examples:
      >>> q = k = v = jnp.ones((1, 16, 2, 8))
      >>> with jm.target_platform("tpu"):
      ...     exported = jax.export.export(jax.jit(pallas_kernels.attention), platforms=["tpu"])(q, k, v)
      >>> exported.platforms
      ('tpu',)
    """
    if name not in DEVICE_KINDS:
        raise ValueError(f"the platform must be one of {', '.join(DEVICE_KINDS)}; got {name!r}")
    mesh = jax.sharding.get_abstract_mesh()
    device = AbstractDevice(device_kind or DEVICE_KINDS[name], 1, name)
    return use_abstract_mesh(AbstractMesh(mesh.axis_sizes, mesh.axis_names, mesh.axis_types, abstract_device=device))


def unmapped_axes() -> dict[str, int]:
    """The names and sizes of the axes of the mesh in context that are not manual yet.

    Those of a caller's `shard_map` are manual: its arrays are shards already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, axis_type in axes if axis_type != AxisType.Manual}


def num_devices(names: Axes) -> int:
    """Over how many devices an array axis is split that lies over these mesh axes; manual ones do not count."""
    axes = unmapped_axes()
    return math.prod(axes[name] for name in restrict(names, axes) or ())


def tokens_per_device(length: int, names: Axes) -> int:
    """The tokens of a device where the length of a sequence is split over these mesh axes.

    Raises:
      ValueError: The devices do not divide the length.

    Examples:
      >>> with jax.set_mesh(jm.sharding.make_mesh({"model": -1})):
      ...     tokens = pallas_kernels.tokens_per_device(16 * jax.device_count(), "model")
      >>> tokens
      16
    """
    devices = num_devices(names)
    if length % devices:
        raise ValueError(
            f"the rules split the length over {devices} devices (mesh axes {_as_names(names)}), which do not divide "
            f"{length} tokens; pad to a multiple of {devices} (pad_to_multiple_of={devices} in the tokenizer's call), "
            "or choose another mesh or rules"
        )
    return length // devices


def unsupported_partitioning_reason(split: PartitionAxes | None, B: int, H: int, G: int) -> str | None:
    """Why a kernel cannot run on the shards of a call.

    Args:
      split: The mesh axes of batch and heads, or None.
      B: Number of examples.
      H: Number of query heads.
      G: Number of key heads.

    Returns:
      The reason, or None where a kernel can run.
    """
    if jax.sharding.get_abstract_mesh().empty and jax.default_backend() != "cpu" and jax.device_count() > 1:
        return (
            "there are several devices and no mesh in context, so a kernel cannot determine its shard; trace inside "
            "jaxmodels.sharding.use(mesh, rules)"
        )
    axes = unmapped_axes()
    if split is None and math.prod(axes.values()) > 1:
        return (
            f"the mesh in context has axes {axes}, but it is not specified which of them split the batch and the "
            "heads, so a kernel would gather them; trace inside jaxmodels.sharding.use(mesh, rules), or pass `split`"
        )
    batch, heads, _ = split or PartitionAxes(None, None)
    for name, names, size in (("examples", batch, B), ("heads", heads, H), ("key heads", heads, G)):
        shards = num_devices(names)
        if size % shards:
            return f"{size} {name} are not divisible by the {shards} devices of the mesh axes {names}"
    return None


def shard_mapped(function: Callable, split: PartitionAxes | None, specs: Callable[..., tuple]) -> Callable:
    """Wraps a function of shards as a function of whole arrays.

    Without a mesh, or inside a caller's `shard_map`, that is the function itself.

    Args:
      function: A function of local arrays.
      split: The mesh axes of batch and heads.
      specs: Called with the axes of batch and heads (or None) and the arguments; returns the PartitionSpecs of the
        arguments and of the result.

    Returns:
      A function of the same arguments.
    """
    axes = unmapped_axes()
    if math.prod(axes.values()) == 1:
        return function
    batch, heads, _ = (restrict(names, axes) for names in split or PartitionAxes(None, None))

    def sharded(*arguments):
        in_specs, out_specs = specs(batch, heads, *arguments)
        # The kernels' results are not marked as varying or not over the axes, which check_vma would verify.
        return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes), check_vma=False)(
            *arguments
        )

    return sharded


def vary_alike(tree: Any) -> Any:
    """The same arrays, each varying over all axes of a caller's `shard_map` that any of them varies over.

    What JAX does for its own operations, and not for a kernel or the carry of a loop. The cotangent of a replicated
    array is then summed over the axes that it did not vary over.

    Examples:
      >>> def three_sums(x):
      ...     x, zero = pallas_kernels.vary_alike((x, jnp.zeros(1)))  # the carry of a loop has to vary as its body does
      ...     return jax.lax.fori_loop(0, 3, lambda _, total: total + x.sum(), zero)
      >>> mesh = jm.sharding.make_mesh({"data": -1})
      >>> sums = jax.shard_map(three_sums, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))(jnp.ones(8))
      >>> float(sums.sum())
      24.0
    """
    varying: frozenset[str] = frozenset().union(*(_varying_axes(x) for x in jax.tree.leaves(tree)))

    def cast(x):
        if not isinstance(x, jax.Array):  # a static number
            return x
        missing = tuple(sorted(varying - _varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


def attention_specs(
    batch: Axes,
    heads: Axes,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    biases: Biases,
    scale: Any,
    random_bits: jax.Array | None,
) -> tuple:
    """PartitionSpecs of the arguments and of the result of `attend(q, k, v, mask, biases, scale, random_bits)`."""
    array = P(batch, None, heads, None)
    dropout = None if random_bits is None else P(batch, heads, None)
    return (array, array, array, *_mask_and_bias_specs(batch, heads, mask, biases), dropout), array


def decode_specs(
    batch: Axes, heads: Axes, q: jax.Array, packed: PackedKV, mask: Mask, biases: Biases, scale: Any
) -> tuple:
    """PartitionSpecs of the arguments and of the result of `attend(q, packed, mask, biases, scale)`."""
    queries, cache, scales = P(batch, None, heads, None), P(batch, None, heads), P(batch, heads, None)
    packed_spec = PackedKV._make([cache, cache, *(None if x is None else scales for x in packed[2:])])
    return (queries, packed_spec, *_mask_and_bias_specs(batch, heads, mask, biases)), queries


def _mask_and_bias_specs(batch: Axes, heads: Axes, mask: Mask, biases: Biases) -> tuple:
    """PartitionSpecs of the mask, the biases and the scale."""
    per_example = partial(jax.tree.map, lambda x: P(batch, *[None] * (jnp.ndim(x) - 1)) if jnp.ndim(x) else P())
    return per_example(mask), tuple(bias_spec(bias, batch, heads) for bias in biases), P()


def bias_spec(bias: Bias, batch: Axes, heads: Axes) -> Any:
    """A bias with PartitionSpecs in place of its arrays."""
    if isinstance(bias, ToeplitzBias):
        return jax.tree.map(lambda x: P(*[batch] * (x.ndim - 2), heads, None), bias)
    if isinstance(bias, DenseBias):
        names = (batch, heads, None, None)[4 - bias.values.ndim :]
        sizes = zip(names, bias.values.shape, strict=True)
        spec = P(*(None if size == 1 else name for name, size in sizes))
        return jax.tree.map(lambda x: spec, bias)
    return jax.tree.map(lambda x: P(), bias)


def _as_names(axes: Axes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def restrict(axes: Axes, allowed: dict[str, int]) -> tuple[str, ...] | None:
    """Those of the axes that are among the allowed ones; None where there is none."""
    return tuple(name for name in _as_names(axes) if name in allowed) or None
