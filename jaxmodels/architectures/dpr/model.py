"""Dense Passage Retrieval (Karpukhin et al., 2020, arXiv:2004.04906; reference: .../dpr/modeling_dpr.py).

Two encoders give questions and passages vectors whose inner product ranks the passages; a reader marks the answer.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model, OutputT, RunOptions
from jaxmodels.architectures.dpr import weights
from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.heads import classifier_layer, span_logits
from jaxmodels.arrays import Hidden, PaddingMask, TokenIds
from jaxmodels.outputs import BaseModelOutputWithPoolingAndCrossAttentions, Output


class DPRQuestionEncoderOutput(Output):
    """pooler_output [B,D] or [B,projection_dim]; hidden_states [L+1,B,T,D]; attentions [L,B,H,T,T]."""

    pooler_output: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class DPRContextEncoderOutput(DPRQuestionEncoderOutput):
    """pooler_output [B,D] or [B,projection_dim]; hidden_states [L+1,B,T,D]; attentions [L,B,H,T,T]."""


class DPRReaderOutput(Output):
    """start_logits, end_logits [n_passages,T], relevance_logits [n_passages], float32; hidden_states, attentions."""

    start_logits: jax.Array
    end_logits: jax.Array
    relevance_logits: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class DPRTransformer(EncoderModel):
    """BERT, with DPR's config."""

    config_class = DPRConfig
    warns_of_padding = False

    config: DPRConfig


class DPREncoder(nn.Module):
    """BERT, and one vector per sequence: the first token's state, projected if the config has a projection_dim."""

    config: DPRConfig
    options: RunOptions

    def setup(self):
        self.bert_model = DPRTransformer(self.config, add_pooling_layer=False, **self.options.keywords)
        if self.config.projection_dim:
            self.encode_proj = classifier_layer(self.config, self.config.projection_dim, self.options)

    def __call__(self, input_ids, **inputs) -> tuple[jax.Array, BaseModelOutputWithPoolingAndCrossAttentions]:
        """-> vectors [B,D] or [B,projection_dim], and the output of BERT; the arguments are BERT's."""
        out = self.bert_model(input_ids, return_dict=True, **inputs)
        pooled = out.last_hidden_state[:, 0]
        return (self.encode_proj(pooled) if self.config.projection_dim else pooled), out


class _DPRRetriever(Model[OutputT]):
    config_class = DPRConfig
    output_class: ClassVar[type[DPRQuestionEncoderOutput]]

    config: DPRConfig

    @property
    def encoder(self) -> DPREncoder:
        """The encoder, under the name that it has in checkpoints."""
        raise NotImplementedError

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        token_type_ids: TokenIds | None = None,
        inputs_embeds: Hidden | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> OutputT:
        """See `DPRQuestionEncoder`."""
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = jnp.asarray(input_ids) != self.config.pad_token_id
        pooled, out = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        output: Any = self.output_class
        return self.make_output(
            output,
            return_dict,
            pooler_output=pooled,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class DPRQuestionEncoder(_DPRRetriever[DPRQuestionEncoderOutput]):
    """Questions -> vectors.

    Args of a call:
      input_ids: int [B,T]. attention_mask: [B,T], 1 for real tokens, or [B,T,T]; default: ids other than pad_token_id.
      token_type_ids: int [B,T] or [1,T], default 0. inputs_embeds: [B,T,D] instead of input_ids.
      output_attentions, output_hidden_states, return_dict: default to the config's.

    Raises:
      ValueError, TypeError: an argument of the wrong shape or type, outside its table, or too many tokens.
    """

    table = weights.QUESTION
    auto_classes = ("AutoModel",)
    output_class = DPRQuestionEncoderOutput

    def setup(self):
        self.question_encoder = DPREncoder(self.config, self.options)

    @property
    def encoder(self) -> DPREncoder:
        return self.question_encoder


class DPRContextEncoder(_DPRRetriever[DPRContextEncoderOutput]):
    """Passages -> vectors. Called like `DPRQuestionEncoder`, usually with pairs (title, text)."""

    table = weights.CONTEXT
    output_class = DPRContextEncoderOutput

    def setup(self):
        self.ctx_encoder = DPREncoder(self.config, self.options)

    @property
    def encoder(self) -> DPREncoder:
        return self.ctx_encoder


class _SpanPredictor(nn.Module):
    config: DPRConfig
    options: RunOptions

    def setup(self):
        self.encoder = DPREncoder(self.config, self.options)
        self.qa_outputs = classifier_layer(self.config, 2, self.options)
        self.qa_classifier = classifier_layer(self.config, 1, self.options)

    def __call__(self, input_ids, **inputs):
        _, out = self.encoder(input_ids, **inputs)
        states = out.last_hidden_state
        start, end = span_logits(self.qa_outputs, states)
        return start, end, self.qa_classifier(states[:, 0]).astype(jnp.float32)[:, 0], out


class DPRReader(Model[DPRReaderOutput]):
    """Scores every passage, and every token of it as the start and as the end of the answer.

    Args of a call:
      input_ids: int [n_passages,T], `[CLS] question [SEP] title [SEP] text`, as `DPRReaderTokenizer` makes them.
      attention_mask: [n_passages,T]; default: all ones, padding included (the reference's quirk, docs/parity.md, D3).
      inputs_embeds: [n_passages,T,D] instead of input_ids.
      output_attentions, output_hidden_states, return_dict: default to the config's.
    """

    config_class = DPRConfig
    table = weights.READER

    config: DPRConfig

    def __post_init__(self):
        super().__post_init__()
        c = self.config
        if c.projection_dim not in (0, c.hidden_size):
            raise ValueError(
                f"DPRReader: projection_dim is 0 or hidden_size={c.hidden_size}, since its heads read the hidden "
                f"states; got {c.projection_dim}"
            )

    def setup(self):
        self.span_predictor = _SpanPredictor(self.config, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        inputs_embeds: Hidden | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DPRReaderOutput:
        start, end, relevance, out = self.span_predictor(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        return self.make_output(
            DPRReaderOutput,
            return_dict,
            start_logits=start,
            end_logits=end,
            relevance_logits=relevance,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
