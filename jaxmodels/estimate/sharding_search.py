"""Search for the fastest way to shard a training step that fits a TPU slice.

Arithmetic ranks all candidates: FLOPs of the traced program, bytes of state and of what the backward pass keeps, and
the bytes that the sharding sends. The best are compiled, which corrects memory and time.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.errors import JaxRuntimeError
from jax.sharding import AbstractMesh

from jaxmodels import sharding
from jaxmodels.architectures.base import Model
from jaxmodels.chips import Device, slice_of
from jaxmodels.estimate.analysis import product_flops
from jaxmodels.estimate.programs import Shapes, input_shapes, train_step
from jaxmodels.estimate.result import Estimate
from jaxmodels.layers.remat import Remat
from jaxmodels.parameters import abstract, flatten, logical_axes
from jaxmodels.sharding import Rules
from jaxmodels.training import abstract_state, make_step
from pallas_kernels import target_platform

POLICIES: tuple[Remat, ...] = (False, "dots_and_attention", "dots", "nothing")
MICROBATCHES = (1, 2, 4, 8)
# The batch over data and fsdp, parameters over fsdp, heads and feed-forward over model.
RULES: Rules = {**sharding.FSDP_TP, "batch": ("data", "fsdp"), "embed": "fsdp"}
# Candidates whose estimated memory exceeds that of a device by more are not compiled: arithmetic knows no fusion.
SLACK = 1.3


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to shard a training step.

    Attributes:
      axes: sizes of the mesh axes.
      remat: see `Model`.
      microbatches: see `jaxmodels.training.make_step`.
      compute: seconds of the matrix products at the peak of a device.
      network: seconds of the collectives at the bandwidth of its links.
      memory: bytes per device.
      compiled: the estimate of the compiled step, from which the figures are then; None if it was not compiled.
      error: why it could not be compiled, usually for lack of memory.
    """

    axes: Mapping[str, int]
    remat: Remat
    microbatches: int
    compute: float
    network: float
    memory: float
    compiled: Estimate | None = None
    error: str | None = None

    @property
    def seconds(self) -> float:
        """Time of a step if no collective overlaps with computation."""
        return self.compute + self.network

    @property
    def bound(self) -> float:
        """Time of a step if all of them do."""
        return max(self.compute, self.network)


def search(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    topology: str,
    slices: int = 1,
    batch: int,
    length: int,
    further: Shapes | None = None,
    limit: int = 12,
    prng: str | None = None,
) -> list[Candidate]:
    """Returns ways to shard a training step over a TPU slice, those that were compiled first, the fastest first of all.

    Candidates are all meshes {"data": replicas, "fsdp": shards of parameters and batch, "model": tensor parallelism}
    under `RULES` whose sizes divide the devices, with the policies of rematerialisation `POLICIES` and with
    `MICROBATCHES`. Compiling ends when no candidate left can be faster than the best that fits.

    Args:
      model: model with a language modelling loss; its `remat` is not used.
      optimizer: Optax optimizer.
      topology, slices: see `topology_mesh`.
      batch, length, further, prng: see `train_step`.
      limit: number of candidates to compile at most.

    Raises:
      ValueError: no candidate divides batch and parameters and fits, by the arithmetic.
    """
    device, per_slice = slice_of(topology)
    shapes = input_shapes(batch, length, further)
    sizes = {remat: _sizes(model.clone(remat=remat), optimizer, shapes) for remat in POLICIES}
    found = [
        _candidate(sizes[remat], axes, remat, parts, device)
        for axes in _meshes(model, per_slice * slices)
        for remat in POLICIES
        for parts in MICROBATCHES
        if batch % (axes["data"] * axes["fsdp"] * parts) == 0
    ]
    fitting = [each for each in found if each.memory <= SLACK * device.memory * 2**30]
    if not fitting:
        least = min((each.memory for each in found), default=math.inf)
        raise ValueError(
            f"no sharding of {type(model).__name__} with a batch of {batch} fits {per_slice * slices} devices with "
            f"{device.memory} GiB: {len(found)} were considered, and the smallest takes about {least / 2**30:.1f} GiB; "
            "take more devices or a smaller batch"
        )
    ranked = sorted(fitting, key=lambda each: (each.seconds, each.memory))
    compiled: list[Candidate] = []
    best = math.inf
    while ranked and len(compiled) < limit:
        candidate = ranked.pop(0)
        too_large = any(each.error and each.memory <= candidate.memory for each in compiled)
        if candidate.bound >= best or too_large:
            continue
        where: dict[str, Any] = {"topology": topology, "slices": slices, "axes": candidate.axes, "rules": RULES}
        program: dict[str, Any] = {"batch": batch, "length": length, "further": further, "prng": prng}
        try:
            chosen = model.clone(remat=candidate.remat)
            step = train_step(chosen, optimizer, **where, **program, microbatches=candidate.microbatches)
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            compiled.append(dataclasses.replace(candidate, error=str(error).strip().splitlines()[0]))
            continue
        compiled.append(_compiled(candidate, step, device))
        best = min(best, compiled[-1].seconds)
    return sorted(compiled, key=lambda each: (each.error is not None, each.seconds)) + ranked


class _Sizes(NamedTuple):
    """What a step takes on one device.

    Attributes:
      flops: of the matrix products.
      parameters: bytes of the parameters in the dtype of the computation.
      state: bytes of parameters, gradients and optimizer state.
      hidden: bytes that the backward pass keeps of what tensor parallelism does not split: hidden states.
      split: bytes that it keeps of other arrays.
      reduced: bytes of the hidden states that tensor parallelism sums over its devices.
    """

    flops: float
    parameters: float
    state: float
    hidden: float
    split: float
    reduced: float


def _sizes(model: Model, optimizer: optax.GradientTransformation, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> _Sizes:
    """Counts in traces: no arrays, no compiler."""
    state = abstract_state(model, optimizer)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def residuals(params: Any, inputs: Mapping[str, Any], key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            output: Any = model.apply({"params": params}, **inputs, rngs={"dropout": key})
            return output.loss

        return jax.vjp(loss, params)[1]

    with target_platform("tpu"):
        step = make_step(model, optimizer).trace(state, shapes, key)
        kept = jax.tree.leaves(jax.eval_shape(residuals, state.params, shapes, key))
    params = jax.tree.leaves(state.params)
    own = {(leaf.shape, leaf.dtype) for leaf in params}
    kept = [leaf for leaf in kept if (leaf.shape, leaf.dtype) not in own and leaf.ndim > 2]
    width, itemsize = model.config.hidden_size, jnp.dtype(model.dtype).itemsize
    hidden = sum(_bytes(leaf) for leaf in kept if leaf.shape[-1] == width)
    return _Sizes(
        flops=product_flops(step.jaxpr.jaxpr, whole=True),
        parameters=sum(leaf.size for leaf in params) * itemsize,
        state=sum(map(_bytes, jax.tree.leaves((params, state.params, state.opt_state)))),
        hidden=hidden,
        split=sum(map(_bytes, kept)) - hidden,
        reduced=2.0 * _row_parallel(model) * math.prod(shapes["input_ids"].shape) * width * itemsize,
    )


def _row_parallel(model: Model) -> int:
    """Number of products whose terms are split by tensor parallelism; the backward pass has as many of its own."""
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    count = 0
    for path, axes in names.items():
        if "embed" in axes and any(RULES[axis] == "model" for axis in axes[: axes.index("embed")] if axis):
            count += shapes[path].shape[0] if axes[0] == "layers" else 1
    return count


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def _meshes(model: Model, devices: int) -> Iterator[dict[str, int]]:
    """All meshes that divide the parameters."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    for fsdp in divisors:
        for tensor in divisors:
            if devices % (fsdp * tensor):
                continue
            axes = {"data": devices // (fsdp * tensor), "fsdp": fsdp, "model": tensor}
            mesh: Any = AbstractMesh(tuple(axes.values()), tuple(axes))
            try:
                sharding.shardings(model, mesh, RULES)
            except ValueError:
                continue
            yield axes


def _candidate(sizes: _Sizes, axes: dict[str, int], remat: Remat, microbatches: int, device: Device) -> Candidate:
    data, fsdp, tensor = axes.values()
    rows = data * fsdp
    # Parameters are gathered for the forward and the backward pass, and gradients scattered, in every microbatch; then
    # gradients are added over the replicas.
    gathered = 3 * microbatches * sizes.parameters / tensor * (1 - 1 / fsdp)
    added = 2 * sizes.parameters / (fsdp * tensor) * (1 - 1 / data)
    summed = 2 * sizes.reduced / rows * (1 - 1 / tensor)
    kept = (sizes.hidden + sizes.split / tensor) / (rows * microbatches)
    return Candidate(
        axes=axes,
        remat=remat,
        microbatches=microbatches,
        compute=sizes.flops / (rows * tensor) / device.flops,
        network=(gathered + added + summed) / device.network,
        memory=sizes.state / (fsdp * tensor) + kept,
    )


def _compiled(candidate: Candidate, step: Estimate, device: Device) -> Candidate:
    network = sum(sent.bytes for sent in step.collectives.values()) / device.network
    return dataclasses.replace(
        candidate, compute=step.floor.compute, network=network, memory=step.memory, compiled=step
    )
