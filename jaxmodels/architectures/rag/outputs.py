"""RAG's outputs (reference: transformers/models/rag/modeling_rag.py)."""

import jax

from jaxmodels.layers.cache import Cache
from jaxmodels.outputs import Output


class RetrievAugLMOutput(Output):
    """N = B * n_docs rows: the documents of the first question, then those of the second, and so on.

    Attributes:
      logits: float32 [N,T,V]. doc_scores: float32 [B,n_docs], inner products of question and document.
      cache: the generator's.
      retrieved_doc_embeds: float32 [B,n_docs,D]; retrieved_doc_ids: int32 [B,n_docs]; context_input_ids,
        context_attention_mask: int32 [N,S]; these four with output_retrieved only.
      question_encoder_last_hidden_state: [B,D], the questions' vectors; question_enc_hidden_states,
        question_enc_attentions: of the question encoder.
      generator_enc_last_hidden_state: [N,S,D']; generator_enc_hidden_states, generator_enc_attentions: of the
        generator's encoder; generator_dec_hidden_states, generator_dec_attentions, generator_cross_attentions: of
        its decoder.
    """

    logits: jax.Array
    doc_scores: jax.Array
    cache: Cache | None = None
    retrieved_doc_embeds: jax.Array | None = None
    retrieved_doc_ids: jax.Array | None = None
    context_input_ids: jax.Array | None = None
    context_attention_mask: jax.Array | None = None
    question_encoder_last_hidden_state: jax.Array | None = None
    question_enc_hidden_states: jax.Array | None = None
    question_enc_attentions: jax.Array | None = None
    generator_enc_last_hidden_state: jax.Array | None = None
    generator_enc_hidden_states: jax.Array | None = None
    generator_enc_attentions: jax.Array | None = None
    generator_dec_hidden_states: jax.Array | None = None
    generator_dec_attentions: jax.Array | None = None
    generator_cross_attentions: jax.Array | None = None


class RetrievAugLMMarginOutput(Output):
    """loss: float32 [B], or a scalar with reduce_loss; logits: [B,T,V] with do_marginalize; the rest as in
    `RetrievAugLMOutput`."""

    loss: jax.Array | None = None
    logits: jax.Array
    doc_scores: jax.Array
    cache: Cache | None = None
    retrieved_doc_embeds: jax.Array | None = None
    retrieved_doc_ids: jax.Array | None = None
    context_input_ids: jax.Array | None = None
    context_attention_mask: jax.Array | None = None
    question_encoder_last_hidden_state: jax.Array | None = None
    question_enc_hidden_states: jax.Array | None = None
    question_enc_attentions: jax.Array | None = None
    generator_enc_last_hidden_state: jax.Array | None = None
    generator_enc_hidden_states: jax.Array | None = None
    generator_enc_attentions: jax.Array | None = None
    generator_dec_hidden_states: jax.Array | None = None
    generator_dec_attentions: jax.Array | None = None
    generator_cross_attentions: jax.Array | None = None
