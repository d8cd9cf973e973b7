"""The documents of RAG's questions, and decoding with RAG-token (arXiv:2005.11401, section 2.4; docs/parity.md, A11).

Every token is selected from the probabilities summed over all documents of a question. The documents are examples in
the generator's batch. Sampling and beam groups, which the reference ignores here, work as everywhere.

Reference: transformers/models/rag/modeling_rag.py, `RagTokenForGeneration.generate`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import as_array, check_mask, check_numbers, is_concrete
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.encoder_decoder import EncoderDecoderModel, EncoderDecoderPrompts, decoder_prefix
from jaxmodels.generation.loop import StepOutput
from jaxmodels.generation.prompts import Array, Generative, PreparedPrompts, pad_batch, token_ids
from jaxmodels.generation.search import NO_TOKEN, SearchState
from jaxmodels.generation.traced import INSIDE, RoundUp, array_module, is_traced
from jaxmodels.messages import brief

# Extra inputs accepted by `generate`.
INPUTS = ("context_input_ids", "context_attention_mask", "doc_scores", "retriever", "n_docs")


class RagGenerative(Generative, Protocol):
    """A RAG model with a generator, and a method `retrieve` for `apply`."""

    @property
    def config(self) -> Any: ...  # a RagConfig, whose parts are optional in its annotations only

    @property
    def generator_model(self) -> EncoderDecoderModel: ...

    def parts(self, params: dict) -> dict:
        """The parameters of "generator" and the other parts."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Contexts:
    """Documents of B questions.

    Attributes:
      ids, mask: int32 [B*n,S].
      doc_scores: float32 [B,n].
    """

    ids: Any
    mask: Any
    doc_scores: Any

    def padded(self, round_up: RoundUp, copies: int = 1) -> Self:
        """On the device, with the batch of questions padded (see `pad_batch`), and every question `copies` times."""

        def pad(array: Array, per_question: int) -> jax.Array:
            padded = pad_batch(array.reshape(-1, per_question * array.shape[1]), round_up)
            return jnp.asarray(padded.reshape(-1, array.shape[1]))

        n = self.doc_scores.shape[1]
        return type(self)(pad(self.ids, n), pad(self.mask, n), pad(self.doc_scores, 1)).repeated(copies)

    def repeated(self, copies: int) -> Self:
        """With every question `copies` times."""

        def repeat(array: jax.Array, per_question: int) -> jax.Array:
            grouped = jnp.repeat(array.reshape(-1, per_question, array.shape[-1]), copies, axis=0)
            return grouped.reshape(-1, array.shape[-1])

        n = self.doc_scores.shape[1]
        return type(self)(repeat(self.ids, n), repeat(self.mask, n), repeat(self.doc_scores, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions whose documents have not been retrieved yet.

    Attributes:
      ids, mask: int32 [B,T], inputs of the question encoder.
      retriever: a pytree if it searches on the device.
      copies: static, how often every question is needed.
    """

    ids: Any
    mask: Any
    retriever: Any
    copies: int = dataclasses.field(default=1, metadata={"static": True})

    def padded(self, round_up: RoundUp, copies: int = 1) -> Self:
        """On the device, with the batch padded (see `pad_batch`)."""
        ids, mask = (jnp.asarray(pad_batch(array, round_up)) for array in (self.ids, self.mask))
        return dataclasses.replace(self, ids=ids, mask=mask, copies=copies)


def retrieve(params: dict, questions: Questions, *, model: RagGenerative, n_docs: int) -> Contexts:
    """Retrieves the documents of the questions: on the host, or inside a program if the retriever is a pytree."""
    found = model.apply(
        {"params": params},
        questions.ids,
        attention_mask=questions.mask,
        retriever=questions.retriever,
        n_docs=n_docs,
        method="retrieve",
    )
    return Contexts(*found).repeated(questions.copies)


compiled_retrieve = jax.jit(retrieve, static_argnames=("model", "n_docs"))


def read_contexts(
    model: RagGenerative,
    params: dict,
    input_ids: Any,
    attention_mask: Any,
    inputs: Mapping[str, Any],
    round_up: RoundUp,
) -> tuple[Contexts | Questions, int, int]:
    """Checks the documents of a call and pads their length; a host retriever is called here.

    Returns:
      Documents, or questions if the retriever searches on the device; documents per question; number of questions.

    Raises:
      ValueError: neither documents nor a retriever, shapes that do not match, or a host retriever inside a traced
        function.
    """
    n_docs = inputs.get("n_docs")
    if n_docs is None:
        n_docs = model.config.n_docs
    elif isinstance(n_docs, bool) or not isinstance(n_docs, int | np.integer) or n_docs < 1:
        raise ValueError(f"n_docs must be an int of at least 1, got {brief(n_docs)}")
    n_docs = int(n_docs)
    ids, mask, scores = (inputs.get(name) for name in INPUTS[:3])
    if ids is None:
        retriever = inputs.get("retriever")
        if retriever is None or input_ids is None:
            raise ValueError(
                "documents are needed: context_input_ids, context_attention_mask and doc_scores; or input_ids and a "
                "retriever that finds them"
            )
        questions = _read_questions(model.config, input_ids, attention_mask, retriever, round_up)
        if not jax.tree_util.all_leaves([retriever]):  # a pytree, which searches on the device
            return questions, n_docs, len(questions.ids)
        if is_traced(params, questions.ids, questions.mask):
            raise ValueError(
                f"generate runs {INSIDE}, where a retriever on the host cannot search; pass a "
                "DeviceRetriever, or the documents"
            )
        on_device = dataclasses.replace(questions, ids=jnp.asarray(questions.ids), mask=jnp.asarray(questions.mask))
        contexts = retrieve(params, on_device, model=model, n_docs=n_docs)
        ids, mask, scores = contexts.ids, contexts.mask, contexts.doc_scores
    if mask is None or scores is None:
        missing = "context_attention_mask" if mask is None else "doc_scores"
        raise ValueError(f"context_input_ids need context_attention_mask and doc_scores; {missing} is missing")
    check_numbers("doc_scores", scores)
    check_mask("context_attention_mask", mask)
    named = (("doc_scores", scores), ("context_attention_mask", mask))
    scores, mask = (array_module(array).asarray(as_array(name, array)) for name, array in named)
    scores, mask = scores.astype(np.float32), mask.astype(np.int32)
    ids = token_ids("context_input_ids", ids, model.config.vocab_size)
    if scores.ndim != 2 or scores.shape[1] != n_docs:
        raise ValueError(f"doc_scores must have shape [B,n_docs] with n_docs={n_docs}, got {scores.shape}")
    if ids.shape[0] != scores.size or mask.shape != ids.shape:
        raise ValueError(
            f"context_input_ids and context_attention_mask must have one sequence per document ({n_docs} documents of "
            f"{scores.shape[0]} questions, {scores.size} in all); got {ids.shape} and {mask.shape}"
        )
    pad = model.config.generator.pad_token_id
    length = ids.shape[1]
    if is_concrete(ids, mask):
        # Drop columns that are padding everywhere: a retriever pads to its maximum, and the encoder reads every column.
        used = np.flatnonzero(((mask != 0) | (ids != pad)).any(axis=0))
        length = int(used[-1]) + 1 if len(used) else 1
        ids, mask = ids[:, :length], mask[:, :length]
    longest = min(max(length, model.config.max_combined_length), model.generator_model.max_source_tokens)
    # Smaller steps than for prompts, since the encoder reads every column of every document.
    padding = ((0, 0), (0, max(0, min(round_up(length, steps=4), longest) - length)))
    ids = array_module(ids).pad(ids, padding, constant_values=pad)
    contexts = Contexts(ids, array_module(mask).pad(mask, padding), scores)
    return contexts, n_docs, len(scores)


def _read_questions(config: Any, input_ids: Any, attention_mask: Any, retriever: Any, round_up: RoundUp) -> Questions:
    """Checks the questions, ids of the question encoder, and pads them on the right."""
    encoder = config.question_encoder
    ids = token_ids("input_ids", input_ids, encoder.vocab_size)
    if attention_mask is not None:
        check_mask("attention_mask", attention_mask)
    mask = (ids != encoder.pad_token_id) if attention_mask is None else as_array("attention_mask", attention_mask)
    mask = array_module(mask).asarray(mask)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask must have the shape of input_ids, {ids.shape}; got {mask.shape}")
    length = ids.shape[1]
    padding = ((0, 0), (0, max(0, min(round_up(length), encoder.max_position_embeddings) - length)))
    ids = array_module(ids).pad(ids, padding, constant_values=encoder.pad_token_id or 0)
    return Questions(ids, array_module(mask).pad(mask.astype(np.int32), padding), retriever)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RagTokenPrompts:
    """Questions of RAG-token with their documents; see `loop.Prompts`.

    Attributes:
      contexts: documents, or questions whose documents are retrieved inside the compiled program.
      n_docs: documents per question.
    """

    INPUTS: ClassVar[tuple[str, ...]] = INPUTS

    prefix: jax.Array
    prefix_length: jax.Array
    num_real: jax.Array
    contexts: Contexts | Questions
    model: RagGenerative = dataclasses.field(metadata={"static": True})
    n_docs: int = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def prepare(
        cls,
        model: RagGenerative,
        params: dict,
        config: GenerationConfig,
        input_ids: Any,
        attention_mask: Any,
        inputs: Mapping[str, Any],
        cache_dtype: Any,
        round_up: RoundUp,
    ) -> PreparedPrompts:
        """Checks and pads the questions or documents of a call.

        Raises:
          ValueError: see `read_contexts`; attentions or hidden states are requested; a processor that needs documents
            which are retrieved inside the program.
        """
        if config.output_attentions or config.output_hidden_states:
            raise ValueError(
                "generate of a RAG model returns no attentions or hidden states, since there are some for each "
                "document; call the model instead"
            )
        contexts, n_docs, num_questions = read_contexts(model, params, input_ids, attention_mask, inputs, round_up)
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        prefix = decoder_prefix(None, num_questions, config, model.config.vocab_size).repeat(copies, axis=0)
        batch = round_up(num_questions, smallest=1) * copies
        padded = contexts.padded(round_up, copies)
        source: Array = np.full((batch, 1), NO_TOKEN, np.int32)
        input_length = 0
        if isinstance(padded, Contexts):
            module = array_module(padded.ids, padded.mask)
            source = module.where(padded.mask, padded.ids, NO_TOKEN).reshape(batch, -1)
            input_length = source.shape[1]
        elif config.encoder_repetition_penalty != 1.0 or config.encoder_no_repeat_ngram_size:
            raise ValueError(
                "encoder_repetition_penalty and encoder_no_repeat_ngram_size need the documents before the program "
                "runs; pass context_input_ids, or a retriever on the host"
            )
        prompts = cls(
            prefix=jnp.asarray(np.repeat(prefix[:1], batch, axis=0)),
            prefix_length=jnp.int32(1),
            num_real=jnp.int32(len(prefix)),
            contexts=padded,
            model=model,
            n_docs=n_docs,
            cache_dtype=cache_dtype,
        )
        return PreparedPrompts(prompts, prefix, 1, source, num_questions, input_length)

    def decoder_params(self, params: dict) -> dict:
        return self.model.parts(params)["generator"]

    def prefill(
        self, params: dict, decoder_params: dict, *, capacity: int, num_beams: int, requested: Sequence[str]
    ) -> StepOutput:
        contexts = self.contexts
        if isinstance(contexts, Questions):
            contexts = retrieve(params, contexts, model=self.model, n_docs=self.n_docs)
        prompts = self._generator_prompts({"input_ids": contexts.ids, "attention_mask": contexts.mask})
        output = prompts.prefill(
            self.decoder_params(params), decoder_params, capacity=capacity, num_beams=num_beams, requested=()
        )
        state = (output.state, contexts.mask, contexts.doc_scores)
        return StepOutput(self._marginalize(output.logits, contexts.doc_scores), state, {})

    def decode(
        self, decoder_params: dict, tokens: jax.Array, state: Any, search: SearchState, *, requested: Sequence[str]
    ) -> StepOutput:
        cache, mask, doc_scores = state
        if search.parents is not None:
            search = dataclasses.replace(search, parents=jnp.repeat(search.parents, self.n_docs, axis=0))
        tokens = jnp.repeat(tokens, self.n_docs, axis=0)
        prompts = self._generator_prompts({"attention_mask": mask})
        output = prompts.decode(decoder_params, tokens, cache, search, requested=())
        return StepOutput(self._marginalize(output.logits, doc_scores), (output.state, mask, doc_scores), {})

    def _generator_prompts(self, inputs: dict[str, jax.Array]) -> EncoderDecoderPrompts:
        """The documents as inputs of the generator."""
        return EncoderDecoderPrompts(
            prefix=jnp.repeat(self.prefix, self.n_docs, axis=0),
            prefix_length=self.prefix_length,
            num_real=self.num_real,
            inputs=inputs,
            encoder_states=None,
            model=self.model.generator_model,
            options=(),
            copies=1,
            cache_dtype=self.cache_dtype,
        )

    def _marginalize(self, logits: jax.Array, doc_scores: jax.Array) -> jax.Array:
        """Logits [B*n,K,V] of all documents -> log-probabilities [B,K,V]."""
        tokens = jax.nn.log_softmax(logits, axis=-1).reshape(*doc_scores.shape, *logits.shape[1:])
        documents = jax.nn.log_softmax(doc_scores, axis=1)[:, :, None, None]
        return jax.nn.logsumexp(tokens + documents, axis=1)
