"""What depends on the platform that a program is compiled for: the only module of `jaxmodels` that asks for it.

XLA:CPU needs other forms of some products, and other chunk sizes, than accelerators do. The measurements behind the
constants are in benchmarks/README.md, "CPU layouts". A program for devices that are not here (`jax.export` for TPUs
from a CPU host) takes its forms from the context: `with target_platform("tpu")`.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from pallas_kernels import is_certain, platform, vary_alike

CacheT = TypeVar("CacheT")

# Tokens of one example that go through a feed-forward layer at a time: bounds its memory for long inputs.
LONG_CHUNK = 8192
# Tokens of the whole batch that go through at a time on a CPU: the hidden activations stay in its cache.
CPU_CHUNK = 2048
# A product of one vector is cut into this many parts on a CPU, for the cores to share.
PARTS = 4
# Transposing kernels pays off in decode loops of at most this many rows and at least this many steps.
MAX_ROWS, MIN_STEPS = 128, 32
# The name of such a kernel among the parameters of a decode loop.
TRANSPOSED = "transposed_kernel"
# JAX's own function, see `products_replaced`.
_DOT_GENERAL = jax.lax.dot_general, jax.lax.dot_general.__code__


def mesh_axes(*names: str) -> tuple[Any, ...]:
    """The mesh axes that the logical rules in force give to these axes; None where there is none."""
    axes = nn.logical_to_mesh_axes(names)
    return (None,) * len(names) if axes is None else tuple(axes)


def products_replaced() -> bool:
    """Another function is in the place of `jax.lax.dot_general`: qwix puts its own there while a model is called.

    It finds the parameter that is a product's right side, quantises it or adds a low-rank product. So every product
    with a kernel has to be one `dot_general` with that kernel, and none of the other forms that are faster.
    """
    return (jax.lax.dot_general, getattr(jax.lax.dot_general, "__code__", None)) != _DOT_GENERAL


def project_separately(cached: bool) -> bool:
    """Queries, keys and values are computed by one product each rather than one for all.

    On accelerators a kernel attends to the three arrays themselves, and slices of one product would be copied for it.
    """
    return not cached and platform() != "cpu" and not products_replaced()


def feed_forward_chunk(shape: tuple[int, ...], long_chunk: int, cpu_chunk: int) -> tuple[tuple[int, ...], int]:
    """How a feed-forward layer over x [B,T,D] is cut where the config does not say.

    Returns:
      The shape to run in (on a CPU the whole batch is one sequence), and the tokens of a chunk along axis 1.
    """
    batch_axis, length_axis = mesh_axes("batch", "length")
    if length_axis is not None:  # the tokens lie on different devices already
        return shape, shape[1]
    if batch_axis is None and is_certain(lambda: shape[0] * shape[1] > cpu_chunk) and platform() == "cpu":
        return (1, shape[0] * shape[1], shape[2]), cpu_chunk
    return shape, long_chunk


@dataclasses.dataclass(frozen=True)
class TransposedKernel:
    """A kernel [*in, *out] as `kernel.T`, the weights of one output next to each other, see `prepare_decode_params`."""

    array: jax.Array

    def matmul(self, x: jax.Array, inputs: int) -> jax.Array:
        """x [..., *in] -> [..., *out]; inputs: how many axes *in* are."""
        lead, outputs = x.ndim - inputs, self.array.ndim - inputs
        rows = _reverse_trailing(x, lead).reshape(-1, math.prod(self.array.shape[outputs:])).astype(jnp.float32)
        weights = self.array.reshape(-1, rows.shape[-1]).astype(jnp.float32)
        y = (weights * rows[:, None]).sum(axis=-1).astype(x.dtype)  # weights first: XLA:CPU is slower the other way
        return _reverse_trailing(y.reshape(*x.shape[:lead], *self.array.shape[:outputs]), lead)


def matmul(x: jax.Array, kernel: jax.Array | TransposedKernel, inputs: int) -> jax.Array:
    """x [..., *in] times kernel [*in, *out] -> [..., *out]; inputs: how many axes *in* are."""
    replaced = products_replaced()
    if isinstance(kernel, TransposedKernel):
        if not replaced:
            return kernel.matmul(x, inputs)
        kernel = kernel.array.T
    axes, features = kernel.shape[:inputs], kernel.shape[inputs:]
    width, lead = math.prod(axes), x.shape[: x.ndim - inputs]
    if x.size == width and width % PARTS == 0 and platform() == "cpu" and not replaced:
        parts = jnp.einsum("rpk,pkn->prn", x.reshape(1, PARTS, -1), kernel.reshape(PARTS, width // PARTS, -1))
        return parts.sum(axis=0).reshape(*lead, *features)
    rows = flatten_batch(x, len(lead))
    contracted = tuple(range(rows.ndim - inputs, rows.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(rows, kernel, (contracted, ((), ()))).reshape(*lead, *features)


def flatten_batch(x: jax.Array, lead: int) -> jax.Array:
    """[*lead, *rest] -> [N, *rest] on a CPU: the gradient of a kernel then sums over one axis.

    Over two axes XLA:CPU copies both factors first, transposed. Where a mesh splits the length x stays as it is,
    because its tokens lie on different devices.
    """
    (length,) = mesh_axes("length")
    return x.reshape(-1, *x.shape[lead:]) if lead > 1 and length is None and platform() == "cpu" else x


def prepare_decode_params(params: dict, rows: int, steps: int) -> dict:
    """Parameters for a decode loop of `steps` steps with `rows` tokens each: kernels transposed, on a CPU and where the
    loop is long enough to amortise it.

    Args:
      params: with stacks unstacked into tuples of layers, see `unstack_layers`. Call it outside the loop.
    """
    pays = 1 < rows <= MAX_ROWS and steps >= MIN_STEPS and platform() == "cpu"
    return _transpose_kernels(meta.unbox(params)) if pays else params


def _transpose_kernels(params: Any) -> Any:
    if isinstance(params, tuple):
        return tuple(_transpose_kernels(layer) for layer in params)
    if not isinstance(params, dict):
        return params
    kernel = params.get("kernel")
    if isinstance(kernel, jax.Array) and params.keys() <= {"kernel", "bias"}:  # else a tool has put its own there
        return {TRANSPOSED: kernel.T} | {name: value for name, value in params.items() if name != "kernel"}
    return {name: _transpose_kernels(value) for name, value in params.items()}


def _reverse_trailing(x: jax.Array, lead: int) -> jax.Array:
    """The axes after the first `lead` in reverse order."""
    return x.transpose(*range(lead), *reversed(range(lead, x.ndim)))


def update_slots(
    write: Callable[[CacheT, CacheT, jax.Array], CacheT], old: CacheT, new: CacheT, start: jax.Array, *, isolated: bool
) -> CacheT:
    """`write(old, new, start)`; isolated: on a CPU, so that XLA cannot merge it with what reads the result.

    For a batch of one XLA:CPU computes the write twice, for the attention product and for the updated cache, and
    copies the whole cache at every token for that. It does not look into a loop: here one of a single iteration whose
    trip count it cannot know. (tests/properties/test_cache_copies.py fails when XLA no longer needs this.)
    """
    return _isolated(write, old, new, start) if isolated and platform() == "cpu" else write(old, new, start)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _isolated(write, old, new, start):
    old, new, start = vary_alike((old, new, start))
    return jax.lax.fori_loop(0, jnp.minimum(start, 0) + 1, lambda _, slots: write(slots, new, start), old)


@_isolated.defjvp
def _isolated_jvp(write, primals, tangents):
    # Such a loop has no gradient of its own.
    return _isolated(write, *primals), jax.jvp(partial(write), primals, tangents)[1]
