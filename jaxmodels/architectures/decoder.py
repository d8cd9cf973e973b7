"""Decoder-only language models: embeddings -> causal pre-norm layers -> final norm (-> a head).

A family says what differs: a config, a weight table, a layer. Parameter paths are GPT-2's:
`wte/embedding` (tokens), `wpe/embedding` (learned positions), `h/layers/...` (the stack), `ln_f/...`, and what the
heads add.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.heads import classifier_layer
from jaxmodels.architectures.inputs import (
    TransformerInputs,
    as_batch,
    check_ids,
    check_segments,
    default_positions,
    embed_inputs,
    head_masks,
    optional_encoder_inputs,
    positions_in_segments,
    remove_pruned_heads,
    warn_of_unmasked_padding,
)
from jaxmodels.arrays import HeadMask, Hidden, PaddingMask, TokenIds
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs, reserve, self_attention
from jaxmodels.layers.linear import Embedding, dropout, scaled_normal
from jaxmodels.layers.losses import classification_loss
from jaxmodels.layers.stack import Layer, Stack
from jaxmodels.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    SequenceClassifierOutputWithPast,
)


class DecoderModel(Model[BaseModelOutputWithPastAndCrossAttentions]):
    """The transformer without a head.

    A family overrides `layer`, whose norm the final one is like, and of what follows what differs.
    """

    auto_classes = ("AutoModel",)
    learned_positions: ClassVar[bool] = True
    # Whether token_type_ids are looked up in the table of the tokens, as in the reference's GPT-2.
    token_types: ClassVar[bool] = True

    def layer(self) -> Layer:
        """One layer, with `parent=None`."""
        raise NotImplementedError

    def attention_inputs(self, positions: TokenIds) -> AttentionInputs:
        """What the attention of every layer is given beside masks: a scale, say, or what follows from the positions
        int [B,T] or [1,T]."""
        return AttentionInputs()

    def windows(self) -> Sequence[int | None]:
        """Of every layer, how many tokens a query sees, its own included; None: all."""
        return (None,) * self.config.num_hidden_layers

    @property
    def token_embeddings(self) -> Embedding:
        """The table that tied heads read."""
        return self.wte

    @property
    def embedding_dropout(self) -> float:
        return 0.0

    @property
    def padding_embedding(self) -> int | None:
        """A token whose embedding gets no gradient from lookups (torch's padding_idx)."""
        return None

    def setup(self):
        c, init = self.config, scaled_normal(self.config.initializer_range)
        padding = self.padding_embedding
        self.wte = Embedding(c.vocab_size, c.hidden_size, init, "vocab", **self.options.dtypes, padding=padding)
        if self.learned_positions:
            self.wpe = Embedding(c.max_tokens, c.hidden_size, init, "positions", **self.options.dtypes)
        self.h = Stack(self.layer, c.num_hidden_layers, self.remat, self.unroll)
        self.ln_f = self.layer().norm()

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        token_type_ids: TokenIds | None = None,
        position_ids: TokenIds | None = None,
        segment_ids: TokenIds | None = None,
        head_mask: HeadMask | None = None,
        inputs_embeds: Hidden | None = None,
        encoder_hidden_states: Hidden | None = None,
        encoder_attention_mask: PaddingMask | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Runs the transformer.

        Args:
          input_ids: int [B,T], or [B,choices,T] (each choice is a sequence).
          attention_mask: [B,T], 1 for real tokens; with a cache see `Cache.reserve`.
          token_type_ids: int [B,T], looked up in the table of the *tokens*, as in the reference, if `token_types`.
          position_ids: int [B,T]; default: counted from the start of the cache. Never derived from the mask.
          segment_ids: int [B,T], of rows into which several sequences are packed: each token sees the tokens of its own
            id, which follow each other, and default positions count in each segment. Without a cache.
          head_mask: [H] or [L,H], multiplies the heads' attention probabilities.
          inputs_embeds: [B,T,D] instead of input_ids.
          encoder_hidden_states: [B,S,D] for the cross attention of a config with `add_cross_attention`.
          encoder_attention_mask: [B,S] or [B,T,S].
          cache: from `init_cache` or an earlier output.
          output_attentions, output_hidden_states, return_dict: default to the config's.

        Raises:
          ValueError, TypeError: an argument of the wrong shape or type, outside its table, or unknown to the family.
        """
        c = self.config
        x, lead = embed_inputs(self.wte, c, input_ids, inputs_embeds, ranks=(2, 3))
        x = x.astype(self.dtype)
        batch, length, _ = x.shape
        segments = check_segments(segment_ids, batch, length)
        if position_ids is not None:
            ids = check_ids("position_ids", position_ids, c.max_tokens, "the position table", ranks=(1, 2, 3))
            positions = as_batch("position_ids", ids, batch, length)
        elif segments is not None:
            positions = positions_in_segments(segments)
        else:
            positions = default_positions(length, cache, c.max_tokens, "max_position_embeddings")[None]
        if self.learned_positions:
            x = x + self.wpe(positions)
        if token_type_ids is not None:
            if not self.token_types:
                raise ValueError(f"{type(self).__name__} has no token types; leave token_type_ids out")
            types = check_ids("token_type_ids", token_type_ids, c.vocab_size, "the vocabulary", ranks=(1, 2, 3))
            x = x + self.wte(as_batch("token_type_ids", types, batch, length))
        x = dropout(self, x, self.embedding_dropout)

        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        if attention_mask is not None:  # [B,choices,T] as sequences, like the ids
            attention_mask = jnp.asarray(attention_mask).reshape(-1, jnp.shape(attention_mask)[-1])
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
        self_mask, cross_mask = head_masks(c, head_mask)
        cache = reserve(cache, attention_mask, batch, length)
        base = dataclasses.replace(self.attention_inputs(positions), return_weights=attentions)
        cross_base = dataclasses.replace(base, head_mask=cross_mask)
        base = dataclasses.replace(base, head_mask=self_mask)
        source = (encoder_hidden_states, encoder_attention_mask)
        cross = optional_encoder_inputs(c, x, *source, cache, cross_base, self.is_initializing())
        visible = partial(self_attention, attention_mask, cache, batch, length, causal=True, segments=segments)
        windows = tuple(self.windows())
        inputs = {window: LayerInputs(visible(window=window, base=base), cross) for window in dict.fromkeys(windows)}
        out = self.h(x, [inputs[window] for window in windows], cache, hidden)
        x = self.ln_f(out.last)
        return self.make_output(
            BaseModelOutputWithPastAndCrossAttentions,
            return_dict,
            last_hidden_state=x.reshape(*lead, *x.shape[1:]),
            cache=out.cache,
            # The reference's last states are those after the final norm, not of the last layer (docs/parity.md, G11).
            hidden_states=jnp.concatenate([out.hidden_states, x[None]]) if hidden else None,
            attentions=remove_pruned_heads(c, out.attentions),
            cross_attentions=out.cross_attentions,
        )


class DecoderForSequenceClassification(Model[SequenceClassifierOutputWithPast]):
    """One label per sequence, read at its last token. Takes the base model's arguments, and:

    labels: [B] int (classification), or float [B] / [B,num_labels] (regression, several labels).

    Raises ValueError for more than one sequence where the config has no pad_token_id: the last token would be unknown.
    """

    auto_classes = ("AutoModelForSequenceClassification",)

    def setup_head(self):
        self.score = classifier_layer(self.config, self.config.num_labels or 0, self.options, use_bias=False)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> SequenceClassifierOutputWithPast:
        out, c = self.base(input_ids, return_dict=True, **inputs), self.config
        states = out.last_hidden_state
        if states.ndim != 3:
            raise ValueError(f"{type(self).__name__} reads input_ids [B,T], got {states.shape[:-1]}")
        last = self._last_token(input_ids, *states.shape[:2])
        # Pooling the states before scoring them gives the reference's numbers without T-1 unused scores.
        logits = self.score(jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]).astype(jnp.float32)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), c.problem_type, c.num_labels)
        return self.make_output(SequenceClassifierOutputWithPast, return_dict, out, loss=loss, logits=logits)

    def _last_token(self, input_ids, batch: int, length: int) -> jax.Array:
        """[B]: the rightmost token that is not the pad id, whatever the attention mask says (docs/parity.md, G15)."""
        pad = self.config.pad_token_id
        if pad is None and batch > 1:
            raise ValueError("classifying more than one sequence needs config.pad_token_id, to find their last tokens")
        if pad is None or input_ids is None:
            if input_ids is None and pad is not None:
                warnings.warn(
                    "inputs_embeds do not show which tokens are padding: the last position is read", stacklevel=2
                )
            return jnp.full((batch,), length - 1)
        real = jnp.asarray(input_ids) != pad
        return jnp.argmax(jnp.where(real, jnp.arange(length), 0), axis=-1)
