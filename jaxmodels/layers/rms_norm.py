"""Root mean square norm: scales and does not shift (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

import flax.linen as nn
import jax.numpy as jnp

# As `layer_norm`.
_RMSNorm = nn.remat(nn.RMSNorm, prevent_cse=False)


def rms_norm(
    epsilon: float, dtype=jnp.float32, param_dtype=jnp.float32, first: float = 1.0, name: str | None = None
) -> nn.RMSNorm:
    """RMSNorm over the model width with float32 statistics; `first` is the scale that training starts from."""
    return _RMSNorm(
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=param_dtype,
        scale_init=nn.with_logical_partitioning(nn.initializers.constant(first), ("embed",)),
        name=name,
    )
