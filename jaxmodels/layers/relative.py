"""Position by distance: the learned embeddings that BERT's family adds to the attention scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.linear import Initializer
from pallas_kernels import RelativeKeyBias

KINDS = ("relative_key", "relative_key_query")


class RelativeKeys(nn.Module):
    """One table of distance embeddings [2P-1, K], shared by the heads of an attention.

    Attributes:
      positions: P, distances run from 1-P to P-1.
      head_dim: K.
      key_term: keys meet the embeddings too ("relative_key_query", Huang et al., arXiv:2009.13658), not only queries
        ("relative_key", Shaw et al., arXiv:1803.02155).
    """

    positions: int
    head_dim: int
    key_term: bool
    kernel_init: Initializer
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, distances: jax.Array | None = None) -> RelativeKeyBias:
        """The bias; see `RelativeKeyBias` for the distances."""
        init = nn.with_logical_partitioning(self.kernel_init, ("length", "head_dim"))
        shape = (2 * self.positions - 1, self.head_dim)
        return RelativeKeyBias(self.param("embedding", init, shape, self.param_dtype), self.key_term, distances)
