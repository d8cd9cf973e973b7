"""One vector per sequence, by the config's `summary_*` (reference: modeling_utils.py, `SequenceSummary`)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.gpt2.config import GPT2Config
from jaxmodels.architectures.inputs import check_ids
from jaxmodels.layers.feed_forward import activation
from jaxmodels.layers.linear import Linear, dropout, scaled_normal


class SequenceSummary(nn.Module):
    """Pick -> dropout -> projection -> activation -> dropout, each as configured."""

    config: GPT2Config
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: jax.Array, cls_index: jax.Array | None = None) -> jax.Array:
        """states [...,T,D], cls_index int [...] -> [...,num_labels or D] in float32."""
        c = self.config
        x = dropout(self, self._pick(states, cls_index), c.summary_first_dropout)
        if c.summary_use_proj:
            labels = c.num_labels or 0
            features = labels if c.summary_proj_to_labels and labels > 0 else c.n_embd
            # torch's Linear, not GPT-2's Conv1D; the initialisation is the same.
            init = scaled_normal(c.initializer_range)
            x = Linear((features,), ("embed", None), init, True, self.dtype, self.param_dtype, name="summary")(x)
        x = x.astype(jnp.float32)
        if c.summary_activation:
            x = activation(c.summary_activation)(x)
        return dropout(self, x, c.summary_last_dropout)

    def _pick(self, states, cls_index):
        # The first three act on axis 1, which for [B,choices,T,D] is the choices: the reference does so.
        kind = self.config.summary_type
        if kind == "last":
            return states[:, -1]
        if kind == "first":
            return states[:, 0]
        if kind == "mean":
            return states.mean(axis=1)
        if cls_index is None:
            return states[..., -1, :]
        length = states.shape[-2]
        cls_index = check_ids("mc_token_ids", cls_index, length, "each text", ranks=(states.ndim - 2,))
        if cls_index.shape != states.shape[:-2]:
            raise ValueError(f"mc_token_ids has shape {states.shape[:-2]}, got {cls_index.shape}")
        cls_index = jnp.where(cls_index < 0, length, cls_index)  # outside is NaN under jit; -1 would be the last
        return jnp.take_along_axis(states, cls_index[..., None, None], axis=-2)[..., 0, :]
