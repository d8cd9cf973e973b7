"""T5 (Raffel et al., 2019, arXiv:1910.10683; reference: transformers/models/t5/modeling_t5.py).

tokens -> shared token embeddings -> pre-norm layers with relative positions -> final norm, in the encoder and in the
decoder. Attention scores are not scaled, no projection has a bias.
"""

import dataclasses
import math
import warnings
from functools import partial
from typing import Any, ClassVar, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import RunOptions
from jaxmodels.architectures.inputs import layer_head_mask
from jaxmodels.architectures.seq2seq import Seq2SeqInputs, Seq2SeqLM, Seq2SeqModel, source_inputs
from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.architectures.t5.weights import TABLE
from jaxmodels.arrays import TokenIds
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.feed_forward import FeedForward, GatedFeedForward
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs, reserve, self_attention
from jaxmodels.layers.linear import Embedding, Initializer, dropout, rms_norm, scaled_normal
from jaxmodels.layers.stack import Layer, Stack
from jaxmodels.outputs import BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput, Seq2SeqModelOutput
from pallas_kernels import DenseBias, ToeplitzBias


def relative_buckets(relative: np.ndarray, *, bidirectional: bool, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each relative position (key minus query): int32, in [0, buckets).

    Half of the buckets of a side hold one distance each, the rest grow logarithmically up to `max_distance`; larger
    distances share the last one. Each side has its own buckets if `bidirectional`, else all later keys have bucket 0.
    Reference: modeling_t5.py, `_relative_position_bucket`.

    Computed on the host: the rounding of the logarithm decides on which side of an edge a distance falls, and
    accelerators round differently. Here it is the correctly rounded float32 logarithm.
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
    """A learned number per head and bucket of distances [buckets, H], shared by the layers of a stack (Raffel et al.,
    2019, section 2.1).

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
        table: Any = self.param("embedding", init, (self.buckets, self.heads), self.param_dtype)
        most = self.max_distance
        near = relative_buckets(
            np.arange(-most, most + 1), bidirectional=self.bidirectional, buckets=self.buckets, max_distance=most
        )
        return table[jnp.asarray(near)[jnp.clip(relative, -most, most) + most]].T


class T5Stack(nn.Module):
    """The encoder or the decoder.

    In float16 the residual stream and the feed-forward layers are float32, because trained T5s overflow there; the
    reference keeps each `wo` in float32, which has the same effect (`_keep_in_fp32_modules`).

    Attributes:
      embed_tokens: the table of the embeddings that it gets.
      is_decoder: causal, and with cross attention.
    """

    config: T5Config
    options: RunOptions
    embed_tokens: Embedding | None = None
    is_decoder: bool = False

    def setup(self):
        c, options = self.config, self.options
        self.relative_attention_bias = RelativePositions(
            c.num_heads,
            c.relative_attention_num_buckets,
            c.relative_attention_max_distance,
            not self.is_decoder,
            scaled_normal(c.initializer_factor * c.d_model**-0.5),
            options.param_dtype,
        )
        self.block = Stack(self._layer, self.num_layers, options.remat, options.unroll)
        self.final_layer_norm = rms_norm(**self._norm)

    @property
    def num_layers(self) -> int:
        layers = self.config.num_decoder_layers if self.is_decoder else self.config.num_layers
        assert layers is not None  # the config saw to it
        return layers

    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask,
        head_mask,
        output_attentions: bool,
        output_hidden_states: bool,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        cross_attn_head_mask=None,
        cache: Cache | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Token embeddings [B,T,D] -> states [B,T,D]; the arguments are those of `Seq2SeqModel.encode` and `decode`."""
        c = self.config
        batch, length, _ = x.shape
        name, sizes = "decoder_head_mask" if self.is_decoder else "head_mask", (self.num_layers, c.num_heads)
        base, cross = AttentionInputs(scale=1.0, return_weights=output_attentions), None
        if self.is_decoder:
            heads = layer_head_mask("cross_attn_head_mask", cross_attn_head_mask, *sizes, shared=True)
            cross_base = dataclasses.replace(base, head_mask=heads)
            cross = source_inputs(x, encoder_hidden_states, encoder_attention_mask, cache, cross_base)
        mask = None if attention_mask is None else jnp.asarray(attention_mask)
        cache = reserve(cache, mask, batch, length)
        base = dataclasses.replace(
            base,
            bias=(self._distances(length, cache),),
            head_mask=layer_head_mask(name, head_mask, *sizes, shared=True),
        )
        visible = self_attention(mask, cache, batch, length, causal=self.is_decoder, base=base)
        x = dropout(self, x.astype(self._stream_dtype), c.dropout_rate)
        out = self.block(x, LayerInputs(visible, cross), cache, output_hidden_states)
        states = dropout(self, self.final_layer_norm(out.last), c.dropout_rate)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states,
            cache=out.cache,
            # The reference puts the states after the final norm and dropout last, not those of the last layer.
            hidden_states=jnp.concatenate([out.hidden_states, states[None]]) if output_hidden_states else None,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )

    def _distances(self, length: int, cache: Cache | None) -> ToeplitzBias | DenseBias:
        """The bias of the new tokens over all keys."""
        if cache is not None and cache.beams is not None:  # all tokens have one position
            positions = cache.beams.positions(jnp.arange(cache.capacity))
            return DenseBias(self.relative_attention_bias(positions - cache.positions(1))[:, None])
        keys, start = (length, None) if cache is None else (cache.capacity, cache.length)
        relative = ToeplitzBias.relative_positions(length, keys, start)  # type: ignore[arg-type]  # the start may be traced
        return ToeplitzBias(self.relative_attention_bias(relative))

    @property
    def _stream_dtype(self) -> jnp.dtype:
        """The dtype of the residual stream."""
        dtype = jnp.dtype(self.options.dtype)
        return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype

    @property
    def _norm(self) -> dict[str, Any]:
        c = self.config
        return {"epsilon": c.layer_norm_epsilon, "initial_scale": c.initializer_factor, **self.options.dtypes}

    def _layer(self) -> Layer:
        c, factor = self.config, self.config.initializer_factor
        attention = partial(
            Attention,
            c.num_heads,
            c.d_kv,
            kernel_init=_projections(factor * (c.d_model * c.d_kv) ** -0.5, factor * c.d_model**-0.5),
            out_init=scaled_normal(factor * (c.num_heads * c.d_kv) ** -0.5),
            use_bias=False,
            dropout=c.dropout_rate,
            implementation=self.options.attention,
            **self.options.dtypes,
        )
        feed_forward = partial(
            GatedFeedForward if c.is_gated_act else FeedForward,
            c.d_ff,
            c.dense_act_fn,
            kernel_init=scaled_normal(factor * c.d_model**-0.5),
            out_init=scaled_normal(factor * c.d_ff**-0.5),
            use_bias=False,
            dropout=c.dropout_rate,
            dtype=self._stream_dtype,
            param_dtype=self.options.param_dtype,
        )
        return Layer(
            attention=attention,
            cross_attention=partial(attention, cross=True) if self.is_decoder else None,
            feed_forward=feed_forward,
            norm=partial(rms_norm, **self._norm),
            dropout=c.dropout_rate,
            parent=None,
        )


def _projections(query: float, others: float) -> Initializer:
    """Normal kernels [D,H,K] of queries, [D,2,H,K] of keys and values, [D,3,H,K] of all three.

    Queries start smaller by sqrt(K), in place of a scale on the scores.
    """

    def init(key, shape, dtype):
        parts = shape[1] if len(shape) == 4 else 1
        stds = {1: [query], 2: [others, others], 3: [query, others, others]}[parts]
        return jax.random.normal(key, shape, dtype) * jnp.asarray(stds, dtype)[:, None, None]

    return init


class T5Model(Seq2SeqModel[Seq2SeqModelOutput]):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call; head masks may be [H] too.

    A head_mask alone holds for the decoder as well, if both stacks have the same number of layers (with a
    FutureWarning, as in the reference).
    """

    config_class = T5Config
    table = TABLE

    config: T5Config

    def setup(self):
        c = self.config
        init = scaled_normal(c.initializer_factor)
        self.shared = Embedding(c.vocab_size, c.d_model, init, "vocab", **self.options.dtypes)
        self.encoder = T5Stack(c, self.options, self.shared)
        self.decoder = T5Stack(c, self.options, self.shared, is_decoder=True)

    def __call__(  # type: ignore[override]  # the same arguments
        self, input_ids: TokenIds | None = None, *, return_dict: bool | None = None, **inputs: Unpack[Seq2SeqInputs]
    ) -> Seq2SeqModelOutput:
        c, head_mask = self.config, inputs.get("head_mask")
        if head_mask is not None and inputs.get("decoder_head_mask") is None and c.num_layers == c.num_decoder_layers:
            warnings.warn(
                "head_mask holds for the decoder too, because there is no decoder_head_mask; for the encoder alone "
                f"pass decoder_head_mask=jnp.ones(({c.num_decoder_layers}, {c.num_heads}))",
                FutureWarning,
                stacklevel=2,
            )
            inputs["decoder_head_mask"] = head_mask
        return super().__call__(input_ids, return_dict=return_dict, **inputs)


class T5ForConditionalGeneration(Seq2SeqLM[Seq2SeqLMOutput]):
    __doc__ = f"""{Seq2SeqLM.__doc__}
    Its parameters are T5Model's, at the same paths; an untied head adds `lm_head`.
    """

    body: ClassVar = T5Model
    auto_classes = (*Seq2SeqLM.auto_classes, "AutoModelForPreTraining")

    config: T5Config

    def setup(self):
        self.transformer = T5Model(self.config, **self.options.keywords)
        nn.share_scope(self, self.transformer)
        self.setup_head()

    @property
    def base(self) -> T5Model:
        return self.transformer

    @property
    def initializer_std(self) -> float:
        return self.config.initializer_factor

    def language_logits(self, states: jax.Array) -> jax.Array:
        c = self.config
        return super().language_logits(states * c.d_model**-0.5 if c.scales_outputs else states)
