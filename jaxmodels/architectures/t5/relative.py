"""T5's relative positions (Raffel et al., 2019, section 2.1): a learned number per head and bucket of distances."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.linear import Initializer


def buckets_of(relative: np.ndarray, *, bidirectional: bool, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each relative position (key minus query): int32, in [0, buckets).

    Half of the buckets of a side hold one distance each, the rest grow with the logarithm up to `max_distance`; what
    lies further is in the last one. Both sides have their own buckets if `bidirectional`, else all later keys have
    bucket 0. Reference: modeling_t5.py, `_relative_position_bucket`.

    Counted on the host and not in the model: the rounding of the logarithm decides on which side of an edge a distance
    falls, and accelerators round differently. Here it is the correctly rounded float32 one.
    """
    side = buckets // 2 if bidirectional else buckets
    distance = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    exact = side // 2
    far = np.maximum(distance, exact).astype(np.float32) / exact
    logarithm = np.log(far.astype(np.float64)).astype(np.float32)
    grown = exact + (logarithm / math.log(max_distance / exact) * (side - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(grown, side - 1))
    return (bucket + side * ((relative > 0) & bidirectional)).astype(np.int32)


class RelativePositions(nn.Module):
    """A table [buckets, H], shared by the layers of a stack.

    Attributes:
      bidirectional: queries see later keys too.
      max_distance: tokens this far away or further are in one bucket.
    """

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool
    kernel_init: Initializer
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, relative: jax.Array) -> jax.Array:
        """Key positions minus query positions, int32 [N] -> [H,N]."""
        init = nn.with_logical_partitioning(self.kernel_init, (None, "heads"))
        table = self.param("embedding", init, (self.buckets, self.heads), self.param_dtype)
        most = self.max_distance
        near = buckets_of(
            np.arange(-most, most + 1), bidirectional=self.bidirectional, buckets=self.buckets, max_distance=most
        )
        return table[jnp.asarray(near)[jnp.clip(relative, -most, most) + most]].T
