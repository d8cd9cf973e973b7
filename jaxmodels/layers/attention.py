"""Multi-head attention: projections around the attention function of `pallas_kernels`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.arrays import Heads, Hidden
from jaxmodels.layers.cache import KeyValue
from jaxmodels.layers.inputs import AttentionInputs, PerLayer
from jaxmodels.layers.linear import Initializer, Linear
from jaxmodels.layers.platform import mesh_axes, project_separately
from jaxmodels.layers.rotary import Rotation
from pallas_kernels import Dropout, PartitionAxes, RelativeKeyBias, attention


def activation_partitioning(length: bool = False) -> PartitionAxes | None:
    """The mesh axes over which the logical rules in force split examples and heads; None where there are no rules.

    Args:
      length: also those of the length.
    """
    rules = nn.get_logical_axis_rules()
    if not rules:
        return None
    batch, heads, tokens = mesh_axes("batch", "heads", "length")
    return PartitionAxes(batch, heads, tokens if length else None)


class Attention(nn.Module):
    """Self attention, or cross attention over encoder states; projections of the same input are one fused kernel.

    Attributes:
      num_heads, head_dim: H and K.
      cross: queries come from x and keys and values from `AttentionInputs.source`.
      kv_heads: G, of which each serves H/G consecutive heads of queries (Ainslie et al., "GQA", 2023,
        arXiv:2305.13245), with kernels of their own; None: H.
      use_bias: whether the projections of queries, keys, values and the output have biases; one bool for all.
      dropout: rate on the attention probabilities.
      relative: called with `name=`, makes a module with parameters whose call returns an attention bias.
      implementation: name passed to `pallas_kernels.attention`.
    """

    num_heads: int
    head_dim: int
    kernel_init: Initializer
    out_init: Initializer
    cross: bool = False
    kv_heads: int | None = None
    use_bias: bool | tuple[bool, bool, bool, bool] = True
    dropout: float = 0.0
    relative: Callable[..., nn.Module] | None = None
    implementation: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        inputs: AttentionInputs,
        cache: KeyValue | None = None,
        template: KeyValue | None = None,
    ) -> tuple[jax.Array, Any, KeyValue | None]:
        """Attends.

        Args:
          x: [B,T,D].
          inputs: masks, biases and encoder states.
          cache: keys and values of earlier calls. Self attention writes the new ones at `inputs.start`; cross attention
            reads it instead of projecting the encoder states again.
          template: for cross attention, a cache whose dtype and layout the projected states are stored in.

        Returns:
          [B,T,D]; the probabilities [B,H,T,S], or None where they are not requested; the updated cache, or None.
        """
        query, key_value, cache = self._project(x, inputs, cache, template)
        if self.relative is not None:
            bias = self.relative(name="relative")(inputs.distances)
            inputs = dataclasses.replace(inputs, bias=(*inputs.bias, bias))
        if key_value is None:
            assert cache is not None
            result = cache.attend(query, **self._options(inputs))
            out, weights = result if inputs.return_weights else (result, None)
        else:
            key, value = key_value
            out, weights = self.attend(x, query, key, value, inputs)
        mask = inputs.head_mask
        assert not isinstance(mask, PerLayer)  # the stack hands each layer its slice
        if mask is not None:
            out = out * mask[:, None].astype(out.dtype)
            weights = jax.tree.map(lambda w: w * mask[:, None, None].astype(w.dtype), weights)
        project = self._linear((x.shape[-1],), ("heads", "head_dim", "embed"), self.out_init, "out", self._biases[3:])
        return project(out), weights, cache

    def attend(
        self, x: Hidden, query: Heads, key: Heads, value: Heads, inputs: AttentionInputs
    ) -> tuple[jax.Array, Any]:
        """Weighted values [B,T,H,K], and the probabilities or None, from queries [B,T,H,K], keys and values of x."""
        result = attention(query, key, value, **self._options(inputs))
        return result if inputs.return_weights else (result, None)

    def _options(self, inputs: AttentionInputs) -> dict[str, Any]:
        """Keyword arguments of the attention function."""
        return {
            "mask": inputs.mask,
            "bias": inputs.bias,
            "scale": inputs.scale,
            "dropout": self._dropout(),
            "implementation": self.implementation,
            "return_weights": inputs.return_weights,
            "split": activation_partitioning(length=self._splits_length(inputs) and not self.is_initializing()),
        }

    def _splits_length(self, inputs: AttentionInputs) -> bool:
        """Whether a device attends to its own tokens and what others send, where the rules split the length.

        Encoder states stay where they are, and a window needs the neighbours' tokens only. Other self attention is left
        to the compiler.
        """
        return self.cross or (inputs.mask.window is not None and inputs.mask.query_start is None)

    def _dropout(self) -> Dropout | None:
        active = self.dropout > 0.0 and self.has_rng("dropout")
        return Dropout(self.dropout, self.make_rng("dropout")) if active else None

    def _project(self, x, inputs: AttentionInputs, cache: KeyValue | None, template: KeyValue | None):
        """Queries [B,T,H,K]; keys and values [B,S,G,K], or None where the cache is attended to; and the cache."""
        if not self.cross:
            query, key, value = self._project_qkv(x, inputs.rotation, cached=cache is not None)
            if cache is None:
                return query, (key, value), None
            assert inputs.start is not None
            return query, None, cache.write(key, value, inputs.start)
        query = self._project_query(x)
        if cache is None or self.is_initializing():
            if inputs.source is None:
                raise ValueError("cross attention needs encoder_hidden_states, or a cache that has seen them")
            key_value = self._project_kv(inputs.source, cached=template is not None)
            if template is None:
                return query, key_value, None
            cache = template.like(*key_value)
        return query, None, cache

    def _project_qkv(self, x: Hidden, rotation: Rotation | None, *, cached: bool):
        if self.kv_heads is None:
            query, key, value = self._fused("qkv", self._biases[:3], x, cached)
        else:
            query, (key, value) = self._project_query(x), self._project_kv(x, cached=cached)
        return (query, key, value) if rotation is None else (rotation(query), rotation(key), value)

    def _project_query(self, x: Hidden) -> jax.Array:
        axes = ("embed", "heads", "head_dim")
        return self._linear((self.num_heads, self.head_dim), axes, self.kernel_init, "q", self._biases[:1])(x)

    def _project_kv(self, x: Hidden, *, cached: bool):
        return self._fused("kv", self._biases[1:3], x, cached)

    def _fused(self, name: str, biases: tuple[bool, ...], x: Hidden, cached: bool):
        """As many projections as biases, by one kernel."""
        heads, axis = (self.num_heads, "heads") if self.kv_heads is None else (self.kv_heads, "kv_heads")
        features, axes = (len(biases), heads, self.head_dim), ("embed", None, axis, "head_dim")
        linear = self._linear(features, axes, self.kernel_init, name, biases)
        return linear(x, True) if project_separately(cached) else jnp.moveaxis(linear(x), -3, 0)

    @property
    def _biases(self) -> tuple[bool, ...]:
        return (self.use_bias,) * 4 if isinstance(self.use_bias, bool) else self.use_bias

    def _linear(self, features, axes, init, name: str, biases: tuple[bool, ...]) -> Linear:
        use_bias = biases if len(set(biases)) > 1 else biases[0]
        return Linear(features, axes, init, use_bias, self.dtype, self.param_dtype, name=name)


RELATIVE_KEY, RELATIVE_KEY_QUERY = "relative_key", "relative_key_query"


class RelativeKeys(nn.Module):
    """Learned embeddings of distances [2P-1, K] that BERT's family adds to the scores, shared by all heads.

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
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, distances: jax.Array | None = None) -> RelativeKeyBias:
        """The bias; see `RelativeKeyBias` for the distances."""
        init = nn.with_logical_partitioning(self.kernel_init, ("positions", "head_dim"))
        shape = (2 * self.positions - 1, self.head_dim)
        embedding: Any = self.param("embedding", init, shape, self.param_dtype)
        return RelativeKeyBias(embedding, self.key_term, distances)
