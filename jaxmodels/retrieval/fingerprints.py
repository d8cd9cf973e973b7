"""A short name for an encoder, to tell whether an index was built by it."""

import hashlib
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.parameters import flatten


def fingerprint(model: nn.Module, params: dict) -> str:
    """32 hexadecimal digits of a model's class, its config and every parameter.

    Parameters count as bfloat16, so that a checkpoint has the same fingerprint in float32 and in bfloat16, and on any
    mesh. Choices of the run (compute type, attention kernel, what is returned) do not count.
    """
    config = model.config.replace(
        architectures=None,
        torch_dtype=None,
        output_hidden_states=False,
        output_attentions=False,
        return_dict=True,
        generation={},
        extra={},
    )
    leaves = flatten(params)
    sums = {path: [*leaves[path].shape, int(value)] for path, value in sorted(_checksums(leaves).items())}
    facts = json.dumps([type(model).__name__, config.to_dict(), sums], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


@jax.jit
def _checksums(leaves: dict) -> dict:
    return {path: _checksum(leaf) for path, leaf in leaves.items()}


def _checksum(leaf) -> jax.Array:
    """Modulo 2**32: the order of summation makes no difference, so neither do shards."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    weights = jnp.ones(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        step = math.prod(leaf.shape[axis + 1 :]) * 2654435761 % 2**32
        weights += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(step)
    return (bits * weights).sum(dtype=jnp.uint32)
