"""Dense Passage Retrieval (Karpukhin et al., 2020, arXiv:2004.04906; reference: .../dpr/modeling_dpr.py).

Two encoders give questions and passages vectors whose inner product ranks the passages; a reader marks the answer.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Configured, Model
from jaxmodels.architectures.bert_like import linear
from jaxmodels.architectures.dpr import weights
from jaxmodels.architectures.dpr.bert import BertModel
from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.outputs import Output


class DPRQuestionEncoderOutput(Output):
    """pooler_output [B,D] or [B,projection_dim]; hidden_states [L+1,B,T,D]; attentions [L,B,H,T,T]."""

    pooler_output: jax.Array | None = None
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class DPRContextEncoderOutput(DPRQuestionEncoderOutput):
    """pooler_output [B,D] or [B,projection_dim]; hidden_states [L+1,B,T,D]; attentions [L,B,H,T,T]."""


class DPRReaderOutput(Output):
    """start_logits, end_logits [n_passages,T], relevance_logits [n_passages], float32; hidden_states, attentions."""

    start_logits: jax.Array | None = None
    end_logits: jax.Array | None = None
    relevance_logits: jax.Array | None = None
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class DPREncoder(Configured):
    """BERT, and one vector per row: the state of the first token, projected if the config has a projection_dim."""

    config: DPRConfig

    def setup(self):
        self.bert_model = BertModel(self.config, **self.choices)
        if self.config.projection_dim:
            self.encode_proj = linear(self.config, self.config.projection_dim, **self.kinds)

    def __call__(self, *args, **options):
        """-> pooled [B,D] or [B,projection_dim], and what `BertModel` returns."""
        states, *captured = self.bert_model(*args, **options)
        pooled = states[:, 0]
        return (self.encode_proj(pooled) if self.config.projection_dim else pooled), states, *captured


class DPRPreTrainedModel(Model):
    """What the three classes share."""

    config_class = DPRConfig

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens."""
        return self.config.max_position_embeddings


class _DPRRetriever(DPRPreTrainedModel):
    output_class: ClassVar[type[DPRQuestionEncoderOutput]]

    @property
    def encoder(self) -> DPREncoder:
        """The encoder, which a class names as its checkpoints do."""
        raise NotImplementedError

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DPRQuestionEncoderOutput | tuple:
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = jnp.asarray(input_ids) != self.config.pad_token_id
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        pooled, _, states, weights_ = self.encoder(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        out = self.output_class(pooler_output=pooled, hidden_states=states, attentions=weights_)
        return self.answer(out, return_dict)


class DPRQuestionEncoder(_DPRRetriever):
    """Questions -> vectors.

    Args of a call:
      input_ids: int [B,T]. attention_mask: [B,T], 1 for real tokens, or [B,T,T]; default: ids other than pad_token_id.
      token_type_ids: int [B,T] or [1,T], default 0. inputs_embeds: [B,T,D] instead of input_ids.
      output_attentions, output_hidden_states, return_dict: default to the config's.

    Raises:
      ValueError, TypeError: an argument of the wrong shape or type, outside its table, or too many tokens.
    """

    table = weights.QUESTION
    output_class = DPRQuestionEncoderOutput

    def setup(self):
        self.question_encoder = DPREncoder(self.config, **self.choices)

    @property
    def encoder(self) -> DPREncoder:
        return self.question_encoder


class DPRContextEncoder(_DPRRetriever):
    """Passages -> vectors. Called like `DPRQuestionEncoder`, usually with pairs (title, text)."""

    table = weights.CONTEXT
    output_class = DPRContextEncoderOutput

    def setup(self):
        self.ctx_encoder = DPREncoder(self.config, **self.choices)

    @property
    def encoder(self) -> DPREncoder:
        return self.ctx_encoder


class _SpanPredictor(Configured):
    config: DPRConfig

    def setup(self):
        self.encoder = DPREncoder(self.config, **self.choices)
        self.qa_outputs = linear(self.config, 2, **self.kinds)
        self.qa_classifier = linear(self.config, 1, **self.kinds)

    def __call__(self, *args, **options):
        _, states, *captured = self.encoder(*args, **options)
        start, end = jnp.moveaxis(self.qa_outputs(states).astype(jnp.float32), -1, 0)
        relevance = self.qa_classifier(states[:, 0]).astype(jnp.float32)[:, 0]
        return start, end, relevance, *captured


class DPRReader(DPRPreTrainedModel):
    """Scores every passage, and every token of it as the start and as the end of the answer.

    Args of a call:
      input_ids: int [n_passages,T], `[CLS] question [SEP] title [SEP] text`, as `DPRReaderTokenizer` makes them.
      attention_mask: [n_passages,T]; default: all ones, padding included (the reference's quirk, docs/parity.md, D3).
      inputs_embeds: [n_passages,T,D] instead of input_ids.
      output_attentions, output_hidden_states, return_dict: default to the config's.
    """

    table = weights.READER

    def __post_init__(self):
        super().__post_init__()
        c = self.config
        if c.projection_dim not in (0, c.hidden_size):
            raise ValueError(
                f"DPRReader: projection_dim is 0 or hidden_size={c.hidden_size}, since its heads read the hidden "
                f"states; got {c.projection_dim}"
            )

    def setup(self):
        self.span_predictor = _SpanPredictor(self.config, **self.choices)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        attention_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DPRReaderOutput | tuple:
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        start, end, relevance, states, weights_ = self.span_predictor(
            input_ids,
            attention_mask,
            None,
            inputs_embeds,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        result = DPRReaderOutput(
            start_logits=start,
            end_logits=end,
            relevance_logits=relevance,
            hidden_states=states,
            attentions=weights_,
        )
        return self.answer(result, return_dict)
