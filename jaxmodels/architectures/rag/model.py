"""RAG: a question finds documents, and a generator answers from all of them (Lewis et al., 2020, arXiv:2005.11401).

Reference: transformers/models/rag/modeling_rag.py. Parameters hold a question encoder and a generator; documents come
as ids and scores, or from a `retriever` that is an argument of the call: an index is data, not a weight.
"""

from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypedDict, Unpack

import jax
import jax.numpy as jnp

from jaxmodels.architectures.bart.model import BartForConditionalGeneration
from jaxmodels.architectures.base import Model, OutputT
from jaxmodels.architectures.dpr.model import DPRContextEncoder, DPRQuestionEncoder
from jaxmodels.architectures.inputs import check_shape
from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.architectures.rag.losses import marginalize, sequence_loss, targets_of, token_loss
from jaxmodels.architectures.rag.outputs import RetrievAugLMMarginOutput, RetrievAugLMOutput
from jaxmodels.architectures.rag.weights import table
from jaxmodels.architectures.seq2seq import Seq2SeqLM
from jaxmodels.architectures.t5.model import T5ForConditionalGeneration
from jaxmodels.arrays import PaddingMask, TokenIds
from jaxmodels.convert import Table
from jaxmodels.layers.cache import Cache
from jaxmodels.outputs import Output

GENERATORS: dict[str, type[Seq2SeqLM]] = {
    "bart": BartForConditionalGeneration,
    "t5": T5ForConditionalGeneration,
}


class Retrieved(NamedTuple):
    """Documents for B questions.

    Attributes:
      context_input_ids, context_attention_mask: int32 [B*n,S], the generator's inputs.
      embeddings: float32 [B,n,D]; ids: int32 [B,n], -1 where there is none.
      document_ids, document_mask: int32 [B*n,T], the documents for a context encoder; None unless requested.
    """

    context_input_ids: jax.Array
    context_attention_mask: jax.Array
    embeddings: jax.Array
    ids: jax.Array
    document_ids: jax.Array | None = None
    document_mask: jax.Array | None = None


class Retriever(Protocol):
    """Finds documents; `jaxmodels.retrieval` has one on the host and one on the device."""

    def find(self, question_ids: jax.Array, questions: jax.Array, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """Documents for questions int32 [B,T] with vectors float32 [B,D]."""


class RagPreTrainedModel(Model[OutputT]):
    """What the three classes share.

    Attributes:
      context_encoder_training: score documents with `ctx_encoder`, a context encoder that is part of the model, instead
        of the index, so that it is trained too (the reference's `set_context_encoder_for_training`).
    """

    config_class = RagConfig

    context_encoder_training: bool = False

    @property
    def table(self) -> Table:  # type: ignore[override]  # it depends on the generator
        generator = self.config.generator
        return table(generator.model_type, generator.tie_word_embeddings)

    @property
    def generator_model(self) -> Seq2SeqLM:
        """The generator alone, not bound to parameters; see `generator_params`."""
        kind = GENERATORS[self.config.generator.model_type]
        return kind(self.config.generator, parent=None, **self.options.keywords)

    @property
    def question_encoder_model(self) -> DPRQuestionEncoder:
        """The question encoder alone."""
        return DPRQuestionEncoder(self.config.question_encoder, parent=None, **self.options.keywords)

    @staticmethod
    def parts(params: dict) -> dict:
        """The parameters by part: question_encoder, generator, and perhaps ctx_encoder."""
        return params.get("rag", params)

    def encoders(self, params: dict) -> tuple[tuple[Model, dict], ...]:
        """Question encoder and, where it is trained here, context encoder, each with its parameters: by one of them an
        index is recognised (see `retrieval.check_encoders`)."""
        parts = self.parts(params)
        found: tuple[tuple[Model, dict], ...] = ((self.question_encoder_model, parts["question_encoder"]),)
        if self.context_encoder_training:
            context = DPRContextEncoder(self.config.question_encoder, parent=None, **self.options.keywords)
            found += ((context, parts["ctx_encoder"]),)
        return found

    def dummy_inputs(self) -> dict[str, jax.Array]:
        ids = jnp.zeros((self.config.n_docs, 1), jnp.int32)
        one = {"input_ids": ids[:1], "context_input_ids": ids, "context_attention_mask": ids + 1}
        return {**one, "doc_scores": jnp.zeros((1, len(ids))), "decoder_input_ids": ids[:1]}


class RagInputs(TypedDict, total=False):
    """Arguments of `RagModel` beside input_ids and decoder_input_ids."""

    attention_mask: PaddingMask | None
    retriever: Retriever | None
    context_input_ids: TokenIds | None
    context_attention_mask: PaddingMask | None
    doc_scores: jax.Array | None
    encoder_outputs: Output | tuple | None
    decoder_attention_mask: PaddingMask | None
    cache: Cache | None
    n_docs: int | None
    output_retrieved: bool | None
    output_attentions: bool | None
    output_hidden_states: bool | None


class RagModel(RagPreTrainedModel[RetrievAugLMOutput]):
    """Question encoder, documents, generator; logits for every document.

    Args of a call:
      input_ids: int [B,T], questions as the question encoder's tokenizer has them; attention_mask: [B,T].
      retriever: finds the documents. Without one, or instead of it:
      context_input_ids, context_attention_mask: int [B*n_docs,S]; doc_scores: float [B,n_docs].
      encoder_outputs: what the generator's `encode` gave for them; then only doc_scores and the mask are needed.
      decoder_input_ids: int [B,T'], for every document the same; decoder_attention_mask: [B,T'].
      cache: of the generator, for a batch of B*n_docs.
      n_docs: documents for each question; default: the config's.
      output_retrieved: return what was found, too. output_attentions, output_hidden_states, return_dict: as everywhere.

    Raises:
      ValueError: no documents, or not n_docs for each question.
    """

    auto_classes = ("AutoModel",)

    def setup(self):
        c = self.config
        self.question_encoder = DPRQuestionEncoder(c.question_encoder, **self.options.keywords)
        self.generator = GENERATORS[c.generator.model_type](c.generator, **self.options.keywords)
        if self.context_encoder_training:
            self.ctx_encoder = DPRContextEncoder(c.question_encoder, **self.options.keywords)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        retriever: Retriever | None = None,
        context_input_ids: TokenIds | None = None,
        context_attention_mask: PaddingMask | None = None,
        doc_scores: jax.Array | None = None,
        encoder_outputs: Output | tuple | None = None,
        decoder_input_ids: TokenIds | None = None,
        decoder_attention_mask: PaddingMask | None = None,
        cache: Cache | None = None,
        n_docs: int | None = None,
        output_retrieved: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RetrievAugLMOutput:
        n_docs = self.config.n_docs if n_docs is None else n_docs
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
        flags = {"output_attentions": attentions, "output_hidden_states": hidden, "return_dict": True}
        known = all(value is not None for value in (context_input_ids, context_attention_mask, doc_scores))
        question: Any = None
        found: dict[str, Any] = {}
        if self.is_initializing():
            self._touch(input_ids)
        if encoder_outputs is None and not known:
            question, documents, doc_scores = self._retrieve(input_ids, attention_mask, retriever, n_docs, flags)
            context_input_ids, context_attention_mask = documents.context_input_ids, documents.context_attention_mask
            if self.config.output_retrieved if output_retrieved is None else output_retrieved:
                found = {
                    "retrieved_doc_embeds": documents.embeddings,
                    "retrieved_doc_ids": documents.ids,
                    "context_input_ids": context_input_ids,
                    "context_attention_mask": context_attention_mask,
                }
        doc_scores = _scores(doc_scores, n_docs)
        if encoder_outputs is None:
            _check_contexts(context_input_ids, doc_scores)
        if decoder_input_ids is not None:
            decoder_input_ids = jnp.repeat(jnp.asarray(decoder_input_ids), n_docs, axis=0)
        if decoder_attention_mask is not None:
            decoder_attention_mask = jnp.repeat(jnp.asarray(decoder_attention_mask), n_docs, axis=0)
        out = self.generator(
            context_input_ids,
            attention_mask=context_attention_mask,
            encoder_outputs=encoder_outputs,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            cache=cache,
            **flags,
        )
        if question is not None:
            found |= {
                "question_encoder_last_hidden_state": question.pooler_output,
                "question_enc_hidden_states": question.hidden_states,
                "question_enc_attentions": question.attentions,
            }
        return self.make_output(
            RetrievAugLMOutput,
            return_dict,
            logits=out.logits,
            doc_scores=doc_scores,
            cache=out.cache,
            generator_enc_last_hidden_state=out.encoder_last_hidden_state,
            generator_enc_hidden_states=out.encoder_hidden_states,
            generator_enc_attentions=out.encoder_attentions,
            generator_dec_hidden_states=out.decoder_hidden_states,
            generator_dec_attentions=out.decoder_attentions,
            generator_cross_attentions=out.cross_attentions,
            **found,
        )

    def retrieve(
        self,
        input_ids: TokenIds,
        *,
        attention_mask: PaddingMask | None = None,
        retriever: Retriever | None = None,
        n_docs: int | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """context_input_ids, context_attention_mask [B*n_docs,S] and doc_scores [B,n_docs] for questions [B,T]."""
        n_docs = self.config.n_docs if n_docs is None else n_docs
        _, found, scores = self._retrieve(input_ids, attention_mask, retriever, n_docs, {"return_dict": True})
        return found.context_input_ids, found.context_attention_mask, scores

    def _retrieve(self, input_ids, attention_mask, retriever, n_docs: int, flags: dict):
        """The question encoder's output, the documents and their scores [B,n_docs]."""
        if retriever is None or input_ids is None:
            raise ValueError(
                "documents are needed: context_input_ids, context_attention_mask and doc_scores; or input_ids and a "
                "retriever that finds them"
            )
        question = self.question_encoder(input_ids, attention_mask=attention_mask, **flags)
        vectors = question.pooler_output.astype(jnp.float32)
        # No gradient goes through the search; it goes through the scores.
        found = retriever.find(
            jnp.asarray(input_ids), jax.lax.stop_gradient(vectors), n_docs, tokenized=self.context_encoder_training
        )
        embeddings = found.embeddings
        if self.context_encoder_training:
            encoded = self.ctx_encoder(found.document_ids, attention_mask=found.document_mask, return_dict=True)
            embeddings = encoded.pooler_output.astype(jnp.float32).reshape(*found.ids.shape, -1)
        return question, found, jnp.einsum("bd,bnd->bn", vectors, embeddings)

    def _touch(self, input_ids) -> None:
        """Every part gets its parameters, whatever route the call takes."""
        self.question_encoder(input_ids)
        if self.context_encoder_training:
            self.ctx_encoder(input_ids)


def _scores(doc_scores, n_docs: int) -> jax.Array:
    if doc_scores is None:
        raise ValueError("doc_scores [B,n_docs] are needed beside encoder_outputs, and where there is no retriever")
    return check_shape("doc_scores", doc_scores, (None, n_docs)).astype(jnp.float32)


def _check_contexts(context_input_ids, doc_scores: jax.Array) -> None:
    documents = jnp.shape(context_input_ids)[0]
    if documents != doc_scores.size:
        raise ValueError(
            f"context_input_ids has a row for each of the {doc_scores.shape[1]} documents of {doc_scores.shape[0]} "
            f"questions, {doc_scores.size} in all; got {documents}"
        )


class _RagForGeneration(RagPreTrainedModel[RetrievAugLMMarginOutput]):
    """A loss over the outputs of `RagModel`; the parameters are that model's, under `rag`."""

    body = RagModel

    # How the documents are summed over.
    marginal: ClassVar[str]

    @property
    def generation_mode(self) -> Literal["rag_token", "rag_sequence"]:
        return "rag_token" if self.marginal == "token" else "rag_sequence"

    def setup(self):
        self.rag = RagModel(
            self.config, context_encoder_training=self.context_encoder_training, **self.options.keywords
        )

    def retrieve(
        self,
        input_ids: TokenIds,
        *,
        attention_mask: PaddingMask | None = None,
        retriever: Retriever | None = None,
        n_docs: int | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `RagModel.retrieve`."""
        return self.rag.retrieve(input_ids, attention_mask=attention_mask, retriever=retriever, n_docs=n_docs)

    def _reduced(self, loss: jax.Array, reduce_loss: bool | None) -> jax.Array:
        return loss.sum() if (self.config.reduce_loss if reduce_loss is None else reduce_loss) else loss


class RagSequenceForGeneration(_RagForGeneration):
    """RAG with one document for the whole answer. Called like `RagModel`, and:

    labels: int [B,T], the answers, as the decoder reads them; without decoder_input_ids they are these too.
    exclude_bos_score: leave the score of the first target out, if it is bos everywhere.
    reduce_loss: sum over the batch.
    """

    marginal = "sequence"

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        decoder_input_ids: TokenIds | None = None,
        exclude_bos_score: bool | None = None,
        reduce_loss: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[RagInputs],
    ) -> RetrievAugLMMarginOutput:
        decoder_input_ids = labels if decoder_input_ids is None else decoder_input_ids
        out = self.rag(input_ids, decoder_input_ids=decoder_input_ids, return_dict=True, **inputs)
        loss = None
        if labels is not None:
            c = self.config
            excluded = c.exclude_bos_score if exclude_bos_score is None else exclude_bos_score
            ids = jnp.asarray(decoder_input_ids)
            excluded = excluded and self.begins_with_bos(ids)
            targets = targets_of(ids, c.generator.pad_token_id)
            loss = self._reduced(self.nll(out.logits, out.doc_scores, targets, without_first=excluded), reduce_loss)
        return self.make_output(RetrievAugLMMarginOutput, return_dict, out, loss=loss)

    def begins_with_bos(self, decoder_ids: jax.Array) -> jax.Array | bool:
        """bool scalar: the first target of every sequence [B,T] is bos; False for models without one, such as T5."""
        bos = self.config.bos_token_id or self.config.generator.bos_token_id
        return False if bos is None else (decoder_ids[:, 1] == bos).all()

    def nll(self, logits: jax.Array, doc_scores: jax.Array, targets: jax.Array, *, without_first):
        """Negative log-likelihood [B] of targets [B,T] from logits [B*n,T,V]; needs no parameters.

        without_first: bool scalar or [B], leave out the first target's score.
        """
        c = self.config
        return sequence_loss(
            logits,
            doc_scores,
            targets,
            pad=c.generator.pad_token_id,
            without_first=without_first,
            smoothing=c.label_smoothing,
        )


class RagTokenForGeneration(_RagForGeneration):
    """RAG in which every token may come from another document. Called like `RagModel`, and:

    labels: int [B,T], the answers, as the decoder reads them; without decoder_input_ids they are these too.
    do_marginalize: give log-probabilities over all documents as logits [B,T,V].
    reduce_loss: sum over the batch.
    """

    marginal = "token"

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        decoder_input_ids: TokenIds | None = None,
        do_marginalize: bool | None = None,
        reduce_loss: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[RagInputs],
    ) -> RetrievAugLMMarginOutput:
        c = self.config
        decoder_input_ids = labels if decoder_input_ids is None else decoder_input_ids
        out = self.rag(input_ids, decoder_input_ids=decoder_input_ids, return_dict=True, **inputs)
        loss, logits = None, out.logits
        if labels is not None:
            pad, smoothing = c.generator.pad_token_id, c.label_smoothing
            loss = token_loss(out.logits, out.doc_scores, jnp.asarray(labels), pad=pad, smoothing=smoothing)
            loss = self._reduced(loss, reduce_loss)
        if c.do_marginalize if do_marginalize is None else do_marginalize:
            logits = marginalize(out.logits, out.doc_scores)
        return self.make_output(RetrievAugLMMarginOutput, return_dict, out, loss=loss, logits=logits)
