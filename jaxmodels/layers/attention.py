"""Multi-head attention: projections around the one attention function of `pallas_kernels`."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.keys_values import KeyValue
from jaxmodels.layers.linear import Initializer, Linear
from pallas_kernels import Dropout, Mask, Split, attention, platform

_QKV_AXES = ("embed", None, "heads", "head_dim")


def split_of_activations() -> Split | None:
    """The mesh axes over which the logical rules in force split examples and heads; None where there are no rules."""
    rules = nn.get_logical_axis_rules()
    return Split(*nn.logical_to_mesh_axes(("batch", "heads"), rules)) if rules else None


class Attention(nn.Module):
    """Self attention, or cross attention over a source; one fused kernel projects what is projected together.

    Attributes:
      num_heads, head_dim: H and K.
      cross: queries come from x and keys and values from `source`.
      dropout: rate on the attention probabilities.
      relative: called with `name=`, makes a module whose call gives a bias of its own, with parameters.
      implementation: name passed to `pallas_kernels.attention`.
    """

    num_heads: int
    head_dim: int
    kernel_init: Initializer
    out_init: Initializer
    cross: bool = False
    use_bias: bool = True
    dropout: float = 0.0
    relative: Callable[..., nn.Module] | None = None
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: Mask,
        scale: float | jax.Array | None = None,
        bias=None,
        head_mask: jax.Array | None = None,
        source: jax.Array | None = None,
        kept: KeyValue | None = None,
        start: jax.Array | None = None,
        like: KeyValue | None = None,
        distances: jax.Array | None = None,
        output_weights: bool = False,
    ) -> tuple[jax.Array, jax.Array | None, KeyValue | None]:
        """Attends.

        Args:
          x: [B,T,D].
          mask: who sees whom.
          scale: factor on the scores; None means K**-0.5.
          bias: None, a bias of `pallas_kernels`, or a tuple of them.
          head_mask: [H], multiplies each head's probabilities after dropout (reference: docs/parity.md, C6).
          source: [B,S,D'] encoder states, for cross attention.
          kept: keys and values from earlier calls. Self attention writes the new ones at `start`; cross attention
            uses what is there instead of projecting the source again.
          like: what the keys and values of the source are kept as.
          distances: for `relative`, where they are not those of the places in the cache.
          output_weights: return the probabilities too; only the dense implementation has them.

        Returns:
          [B,T,D], the probabilities [B,H,T,S] or None, the keys and values to keep or None.
        """
        query, pair, kept = self._project(x, source, kept, start, like)
        if self.relative is not None:
            bias = (*_as_tuple(bias), self.relative(name="relative")(distances))
        if pair is None:
            result = kept.attend(query, mask=mask, bias=bias, scale=scale, **self._options(output_weights))
            out, weights = result if output_weights else (result, None)
        else:
            out, weights = self.attend(x, query, *pair, mask, bias, scale, output_weights)
        if head_mask is not None:
            out = out * head_mask[:, None].astype(out.dtype)
            weights = jax.tree.map(lambda w: w * head_mask[:, None, None].astype(w.dtype), weights)
        out = self._linear((x.shape[-1],), ("heads", "head_dim", "embed"), self.out_init, "out")(out)
        return out, weights, kept

    def attend(self, x, query, key, value, mask, bias, scale, output_weights: bool):
        """Mixed values [B,T,H,K] and the probabilities, or None where they were not asked for."""
        result = attention(query, key, value, mask=mask, bias=bias, scale=scale, **self._options(output_weights))
        return result if output_weights else (result, None)

    def _options(self, output_weights: bool) -> dict[str, object]:
        """Keywords of the attention function that do not come with the call."""
        return {
            "dropout": self._dropout(),
            "implementation": self.implementation,
            "return_weights": output_weights,
            "split": split_of_activations(),
        }

    def _dropout(self) -> Dropout | None:
        active = self.dropout > 0.0 and self.has_rng("dropout")
        return Dropout(self.dropout, self.make_rng("dropout")) if active else None

    def _project(self, x, source, kept, start, like):
        """Queries, keys and values [B,S,H,K], and what to keep of them. Keys and values are None where what is kept is
        to be attended to, and nothing is kept (None) where they are new and no cache asks for them."""
        shape = (self.num_heads, self.head_dim)
        if not self.cross:
            query, key, value = self._parts(3, "qkv", x, kept)
            if kept is None:
                return query, (key, value), None
            return query, None, kept.write(key, value, start)
        query = self._linear(shape, ("embed", "heads", "head_dim"), self.kernel_init, "q")(x)
        if kept is None or self.is_initializing():
            if source is None:
                raise ValueError("cross attention needs encoder_hidden_states, or a cache that has seen them")
            pair = self._parts(2, "kv", source, like)
            if like is None:
                return query, pair, None
            kept = like.another(*pair)
        return query, None, kept

    def _parts(self, count: int, name: str, x, kept: KeyValue | None):
        """What one fused kernel projects, [B,T,H,K] each: with one product, which reads the weights as they lie. Only
        where an accelerator's kernel attends to the parts themselves, with one each: slices would be copied for it."""
        linear = self._linear((count, self.num_heads, self.head_dim), _QKV_AXES, self.kernel_init, name)
        apart = kept is None and platform() != "cpu"
        return linear(x, apart=True) if apart else jnp.moveaxis(linear(x), -3, 0)

    def _linear(self, features, axes, init, name):
        return Linear(features, axes, init, self.use_bias, self.dtype, self.param_dtype, name=name)


def _as_tuple(bias) -> tuple:
    return bias if isinstance(bias, tuple) else () if bias is None else (bias,)
