"""Activations times a kernel `[*in, *out]`, and the forms in which a CPU multiplies few rows with it.

A step of decoding multiplies few rows with every weight, and takes as long as the weights take to be read. XLA's plain
product of few rows reads them slowly on a CPU. GB/s of the weights, two Xeon cores, JAX 0.10.2 (0.11.2: the same within
a fifth), the feed-forward kernels of GPT-2 small, [768,3072] / [3072,768]:

    rows            1             2             4             8            32          64         128
    plain      16.9 / 14.3   14.1 / 12.7   8.7 / 10.6    8.0 /  8.3   4.4 / 3.6   4.5 / 4.5   2.6 / 2.9
    in parts   22.8 / 20.9
    turned                   14.1 / 17.6   12.4 / 16.4   10.2 / 15.2   8.6 / 9.3   6.2 / 5.6   3.2 / 3.2
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from pallas_kernels import platform

# What a module finds in place of "kernel" where it was turned.
TURNED = "turned"
# A kernel of one row is cut into so many parts, for the cores to share.
PARTS = 4
# Of more rows the plain product is as fast. Turning GPT-2 small costs what its next 14 to 22 steps win.
MOST_ROWS, FEWEST_STEPS = 128, 32


def product(x: jax.Array, kernel: jax.Array, inputs: int) -> jax.Array:
    """x [..., *in] times kernel [*in, *out], [..., *out]; inputs: how many axes *in* are."""
    axes, features = kernel.shape[:inputs], kernel.shape[inputs:]
    width = math.prod(axes)
    if x.size == width and width % PARTS == 0 and platform() == "cpu":
        parts = jnp.einsum("rpk,pkn->prn", x.reshape(1, PARTS, -1), kernel.reshape(PARTS, width // PARTS, -1))
        return parts.sum(axis=0).reshape(*x.shape[: x.ndim - inputs], *features)
    lead = x.shape[: x.ndim - inputs]
    rows = tokens_together(x, len(lead))
    contracted = tuple(range(rows.ndim - inputs, rows.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(rows, kernel, (contracted, ((), ()))).reshape(*lead, *features)


def tokens_together(x: jax.Array, lead: int) -> jax.Array:
    """[*lead, *rest] -> [N, *rest] on a CPU: the gradient of a kernel then sums over one axis.

    Over two axes XLA's CPU compiler copies both factors first, turned: of GPT-2's logits 206 MB for 1,024 tokens. Where
    a mesh splits the length x stays as it is, because its tokens lie on different devices.
    """
    (length,) = nn.logical_to_mesh_axes(("length",))
    together = lead > 1 and length is None and platform() == "cpu"
    return x.reshape(-1, *x.shape[lead:]) if together else x


def turned_product(x: jax.Array, turned: jax.Array, inputs: int) -> jax.Array:
    """The same from the kernel turned, `kernel.T` as it lies in memory: the weights of one output side by side."""
    lead, outputs = x.ndim - inputs, turned.ndim - inputs
    rows = _ends_reversed(x, lead).reshape(-1, math.prod(turned.shape[outputs:])).astype(jnp.float32)
    weights = turned.reshape(-1, rows.shape[-1]).astype(jnp.float32)
    y = (weights * rows[:, None]).sum(axis=-1).astype(x.dtype)  # weights first: the other way is a fifth slower
    return _ends_reversed(y.reshape(*x.shape[:lead], *turned.shape[:outputs]), lead)


def for_steps(params: dict, rows: int, steps: int) -> dict:
    """The parameters for a loop of so many steps of so many rows: kernels turned, on a CPU and where that pays.

    Called outside the loop; the stacks are cut into tuples of layers already.
    """
    pays = platform() == "cpu" and 1 < rows <= MOST_ROWS and steps >= FEWEST_STEPS
    return _turned(meta.unbox(params)) if pays else params


def _turned(params):
    if isinstance(params, tuple):
        return tuple(_turned(layer) for layer in params)
    if not isinstance(params, dict):
        return params
    return {
        TURNED if name == "kernel" else name: value.T if name == "kernel" else _turned(value)
        for name, value in params.items()
    }


def _ends_reversed(x: jax.Array, lead: int) -> jax.Array:
    """The axes after the first `lead` in reverse."""
    return x.transpose(*range(lead), *reversed(range(lead, x.ndim)))
