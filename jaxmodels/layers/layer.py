"""One transformer layer: attention, optional cross attention, feed-forward, each with a norm and a residual."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.activations import activation
from jaxmodels.layers.cache import LayerCache
from jaxmodels.layers.linear import Initializer, Linear, dropout
from pallas_kernels import Mask, platform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerOutput:
    """What a layer yields beside its hidden states; None where it was not asked for.

    attentions is what its attention calls its weights: [B,H,T,S], or a tuple of arrays (LED).
    """

    attentions: jax.Array | tuple[jax.Array, ...] | None = None
    cross_attentions: jax.Array | None = None
    cache: LayerCache | None = None


# Of LED-base's encoder at 16,384 tokens, parts of 8,192 leave 409 MiB of temporary memory in place of 633; smaller ones
# leave no less.
LONG = 8192
# Tokens of all rows that go through at a time on a CPU: what is between stays in the processor's cache. 8,192 tokens of
# BERT-base's sizes took 0.44 s in place of 0.51, with the gradient 0.78 in place of 0.80.
NEAR = 2048


class FeedForward(nn.Module):
    """D -> F -> D with an activation between.

    chunk: tokens that go through at a time, so that the [B,T,F] between is never whole (docs/parity.md, C5);
      0: `long`, `near`.
    dropout: rate after the activation.
    long: tokens of a row that go through at a time where chunk is 0. near: of all rows, on a CPU.
    """

    features: int
    activation: str
    kernel_init: Initializer
    out_init: Initializer
    use_bias: bool = True
    chunk: int = 0
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    long: int = LONG
    near: int = NEAR

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        common = (self.use_bias, self.dtype, self.param_dtype)
        up = Linear((self.features,), ("embed", "mlp"), self.kernel_init, *common, name="up")
        down = Linear((x.shape[-1],), ("mlp", "embed"), self.out_init, *common, name="down")
        length = x.shape[1]
        if self.chunk and length % self.chunk:
            raise ValueError(
                f"chunk_size_feed_forward={self.chunk} does not divide the {length} tokens; pad them, or 0"
            )

        def through(part):
            return down(dropout(self, activation(self.activation)(up(part)), self.dropout))

        shape, chunk = x.shape, self.chunk or self.long
        batch_split, length_split = (axis is not None for axis in nn.logical_to_mesh_axes(("batch", "length")))
        if not self.chunk and length_split:  # its parts lie on different devices already
            chunk = length
        elif not self.chunk and not batch_split and platform() == "cpu" and shape[0] * length > self.near:
            x, chunk = x.reshape(1, -1, shape[2]), self.near
        parts = jnp.split(x, list(range(chunk, x.shape[1], chunk)), axis=1)
        return jnp.concatenate([through(part) for part in parts], axis=1).reshape(shape)


class Layer(nn.Module):
    """Arranges parts that the architecture passes in; it knows none of them.

    Attributes:
      attention, cross_attention, feed_forward, norm: called with `name=`, each makes the module of that name.
        cross_attention None: the architecture has none.
      pre_norm: the norm comes before each part (GPT-2, T5, RoBERTa-PreLayerNorm) or after its residual (BERT, BART).
      dropout: rate on what each part adds to the residual stream.
      clamped: float16 states that overflow are cut to what it holds, as the encoder-decoders of the reference do.
    """

    attention: Callable[..., nn.Module]
    feed_forward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    cross_attention: Callable[..., nn.Module] | None = None
    pre_norm: bool = True
    dropout: float = 0.0
    clamped: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: Mask,
        cross_mask: Mask | None = None,
        source: jax.Array | None = None,
        cache: LayerCache | None = None,
        start: jax.Array | None = None,
        distances: jax.Array | None = None,
        scale: float | jax.Array | None = None,
        bias=None,
        cross_bias=None,
        head_mask: jax.Array | None = None,
        cross_head_mask: jax.Array | None = None,
        output_attentions: bool = False,
    ) -> tuple[jax.Array, LayerOutput]:
        """x [B,T,D] -> [B,T,D] and what was captured; attends to a source if there is one, here or in the cache."""
        past, kept = (cache.past, cache.cross) if cache is not None else (None, None)

        def attend(h):
            sides = {"mask": mask, "bias": bias, "head_mask": head_mask, "output_weights": output_attentions}
            return self.attention(name="attention")(
                h, scale=scale, kept=past, start=start, distances=distances, **sides
            )

        x, weights, past = self._residual(x, attend, "attention_norm")
        cross_weights = None
        if self.cross_attention is not None and (source is not None or kept is not None):

            def attend_source(h):
                sides = {"mask": cross_mask, "bias": cross_bias, "head_mask": cross_head_mask}
                sides["output_weights"] = output_attentions
                return self.cross_attention(name="cross_attention")(
                    h, scale=scale, source=source, kept=kept, like=past, **sides
                )

            x, cross_weights, kept = self._residual(x, attend_source, "cross_attention_norm")
        x, *_ = self._residual(x, lambda h: (self.feed_forward(name="feed_forward")(h),), "feed_forward_norm")
        keep = None if cache is None else LayerCache(past, kept)
        return x, LayerOutput(weights, cross_weights, keep)

    def _residual(self, x, part, norm):
        norm = self.norm(name=norm)
        y, *rest = part(norm(x) if self.pre_norm else x)
        x = x + dropout(self, y, self.dropout)
        x = x if self.pre_norm else norm(x)
        return (_within_float16(x) if self.clamped else x, *rest)


def _within_float16(x: jax.Array) -> jax.Array:
    """Reference: modeling_led.py, end of `LEDEncoderLayer`; a state that overflowed would make all that follows NaN."""
    if x.dtype != jnp.float16:
        return x
    limit = float(jnp.finfo(jnp.float16).max) - 1000
    return jnp.where(jnp.isfinite(x).all(), x, jnp.clip(x, -limit, limit))
