"""Decoding with RAG (arXiv:2005.11401, section 2.4; docs/parity.md, A11, A12).

RAG-token: every token is selected from the probabilities summed over all documents of a question. The documents are
examples in the generator's batch. Sampling and beam groups, which the reference ignores here, work as everywhere.

RAG-sequence: beam search generates candidates from each document, which are then scored over all documents ("thorough
decoding"). The reference loops over questions and retrieves again for every candidate; here questions and documents are
one batch, and documents are retrieved and encoded once.

Reference: transformers/models/rag/modeling_rag.py, `RagTokenForGeneration` and `RagSequenceForGeneration`, `generate`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import check_mask, check_numbers
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.encoder_decoder import EncoderDecoderModel, EncoderDecoderPrompts, decoder_prefix
from jaxmodels.generation.loop import OUTPUT_OPTIONS, StepOutput
from jaxmodels.generation.merging import GENERATION_CONFIG, collect_settings
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.prompts import Generative, PreparedPrompts, pad_batch, token_ids
from jaxmodels.generation.search import NO_TOKEN, SearchState, bucket
from jaxmodels.messages import brief

# Extra inputs accepted by `generate`.
INPUTS = ("context_input_ids", "context_attention_mask", "doc_scores", "retriever", "n_docs")
# Options that RAG-sequence interprets; it passes the other ones to the generator.
SEQUENCE_OPTIONS = ("do_deduplication", "num_return_sequences", "num_beams")


class RagGenerative(Generative, Protocol):
    """A RAG model with a generator, and a method `retrieve` for `apply`."""

    @property
    def config(self) -> Any: ...  # a RagConfig, whose parts are optional in its annotations only

    @property
    def generator_model(self) -> EncoderDecoderModel: ...

    def parts(self, params: dict) -> dict:
        """The parameters of "generator" and the other parts."""


class RagSequenceGenerative(RagGenerative, Protocol):
    """A RAG model whose documents are marginalized over whole sequences."""

    def begins_with_bos(self, decoder_ids: Any) -> jax.Array | bool:
        """Whether the first target of every sequence [B,T] is bos."""

    def nll(
        self, logits: jax.Array, doc_scores: jax.Array, targets: jax.Array, *, without_first: jax.Array
    ) -> jax.Array:
        """Negative log-likelihoods [B]."""


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

    def padded(self, copies: int = 1) -> Self:
        """On the device, with the batch of questions padded to a bucket, and every question `copies` times."""

        def pad(array: np.ndarray, per_question: int) -> jax.Array:
            padded = pad_batch(array.reshape(-1, per_question * array.shape[1]))
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

    def padded(self, copies: int = 1) -> Self:
        """On the device, with the batch padded to a bucket."""
        ids, mask = (jnp.asarray(pad_batch(array)) for array in (self.ids, self.mask))
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


_compiled_retrieve = jax.jit(retrieve, static_argnames=("model", "n_docs"))


def read_contexts(
    model: RagGenerative, params: dict, input_ids: Any, attention_mask: Any, inputs: Mapping[str, Any]
) -> tuple[Contexts | Questions, int, int]:
    """Checks the documents of a call and pads their length to a bucket; a host retriever is called here.

    Returns:
      Documents, or questions if the retriever searches on the device; documents per question; number of questions.

    Raises:
      ValueError: neither documents nor a retriever, or shapes that do not match.
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
        questions = _read_questions(model.config, input_ids, attention_mask, retriever)
        if not jax.tree_util.all_leaves([retriever]):  # a pytree, which searches on the device
            return questions, n_docs, len(questions.ids)
        on_device = dataclasses.replace(questions, ids=jnp.asarray(questions.ids), mask=jnp.asarray(questions.mask))
        contexts = retrieve(params, on_device, model=model, n_docs=n_docs)
        ids, mask, scores = contexts.ids, contexts.mask, contexts.doc_scores
    if mask is None or scores is None:
        missing = "context_attention_mask" if mask is None else "doc_scores"
        raise ValueError(f"context_input_ids need context_attention_mask and doc_scores; {missing} is missing")
    check_numbers("doc_scores", scores)
    check_mask("context_attention_mask", mask)
    scores = np.asarray(scores, np.float32)
    ids = token_ids("context_input_ids", ids, model.config.vocab_size)
    mask = np.asarray(mask).astype(np.int32)
    if scores.ndim != 2 or scores.shape[1] != n_docs:
        raise ValueError(f"doc_scores must have shape [B,n_docs] with n_docs={n_docs}, got {scores.shape}")
    if ids.shape[0] != scores.size or mask.shape != ids.shape:
        raise ValueError(
            f"context_input_ids and context_attention_mask must have one sequence per document ({n_docs} documents of "
            f"{scores.shape[0]} questions, {scores.size} in all); got {ids.shape} and {mask.shape}"
        )
    pad = model.config.generator.pad_token_id
    # Drop columns that are padding everywhere: a retriever pads to its maximum, and the encoder reads every column.
    used = np.flatnonzero(((mask != 0) | (ids != pad)).any(axis=0))
    length = int(used[-1]) + 1 if len(used) else 1
    ids, mask = ids[:, :length], mask[:, :length]
    longest = min(max(length, model.config.max_combined_length), model.generator_model.max_source_tokens)
    # Smaller steps than for prompts, since the encoder reads every column of every document.
    padding = ((0, 0), (0, max(0, min(bucket(length, steps=4), longest) - length)))
    contexts = Contexts(np.pad(ids, padding, constant_values=pad), np.pad(mask, padding), scores)
    return contexts, n_docs, len(scores)


def _read_questions(config: Any, input_ids: Any, attention_mask: Any, retriever: Any) -> Questions:
    """Checks the questions, ids of the question encoder, and pads them to a bucket on the right."""
    encoder = config.question_encoder
    ids = token_ids("input_ids", input_ids, encoder.vocab_size)
    if attention_mask is not None:
        check_mask("attention_mask", attention_mask)
    mask = np.asarray((ids != encoder.pad_token_id) if attention_mask is None else attention_mask)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask must have the shape of input_ids, {ids.shape}; got {mask.shape}")
    length = ids.shape[1]
    padding = ((0, 0), (0, max(0, min(bucket(length), encoder.max_position_embeddings) - length)))
    ids = np.pad(ids, padding, constant_values=encoder.pad_token_id or 0)
    return Questions(ids, np.pad(mask.astype(np.int32), padding), retriever)


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
        contexts, n_docs, num_questions = read_contexts(model, params, input_ids, attention_mask, inputs)
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        prefix = np.repeat(decoder_prefix(None, num_questions, config, model.config.vocab_size), copies, axis=0)
        batch = bucket(num_questions, smallest=1) * copies
        padded = contexts.padded(copies)
        source, input_length = np.full((batch, 1), NO_TOKEN, np.int32), 0
        if isinstance(padded, Contexts):
            source = np.where(padded.mask, padded.ids, NO_TOKEN).reshape(batch, -1)
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


def generate_rag_sequence(
    model: RagSequenceGenerative,
    params: dict,
    input_ids: Any,
    attention_mask: Any,
    options: Mapping[str, Any],
    generation_config: Any,
    run_generator: Callable[..., GenerateOutput],
) -> GenerateOutput:
    """The most likely sequences for each question, by RAG-sequence; see `api.generate` for the arguments.

    Args:
      options: all further keywords of the call.
      run_generator: (model, params, input_ids, attention_mask, options) -> output of one search.

    Raises:
      ValueError: fewer different candidates than num_return_sequences; outputs of single steps are requested; see also
        `read_contexts` and `api.generate`.
    """
    c = model.config
    call = {name: options[name] for name in SEQUENCE_OPTIONS[1:] if name in options}
    settings = collect_settings(c, generation_config, call)
    beams, num_return_sequences = settings.option("num_beams"), settings.option("num_return_sequences")
    for name in OUTPUT_OPTIONS:
        if options.get(name) or (settings.source.get(name) == GENERATION_CONFIG and settings.values[name]):
            raise ValueError(f"{name} is not available for RAG-sequence, which scores whole sequences")
    deduplicate = options.get("do_deduplication")
    deduplicate = c.do_deduplication if deduplicate is None else deduplicate
    if not isinstance(deduplicate, bool):
        raise ValueError(f"do_deduplication must be True or False, got {brief(deduplicate)}")
    contexts, n_docs, num_questions = read_contexts(model, params, input_ids, attention_mask, options)
    if isinstance(contexts, Questions):
        found = _compiled_retrieve(params, contexts.padded(), model=model, n_docs=n_docs)
        ids, mask, scores = map(np.asarray, (found.ids, found.mask, found.doc_scores))
        contexts = Contexts(ids[: num_questions * n_docs], mask[: num_questions * n_docs], scores[:num_questions])
    pad = c.generator.pad_token_id
    # The reference lets the generator infer its mask from the padding, but scores with the mask of the documents.
    inferred = np.asarray(contexts.ids != pad, np.int32)
    inferred[~inferred.any(axis=1), 0] = 1
    padded = contexts.padded()
    states = _encode(params, padded, model=model)
    generator_options = {name: value for name, value in options.items() if name not in (*INPUTS, *SEQUENCE_OPTIONS)}
    generator_options |= {"num_beams": beams, "num_return_sequences": beams}
    if np.array_equal(inferred, contexts.mask):
        generator_options["encoder_outputs"] = (states[: len(contexts.ids)],)
    generator = model.generator_model, model.parts(params)["generator"]
    output = run_generator(*generator, contexts.ids, inferred, generator_options)
    candidates = list(np.asarray(output.sequences).reshape(num_questions, n_docs * beams, -1))
    if deduplicate:  # keep the first occurrence of each, in order
        first = (np.unique(each, axis=0, return_index=True)[1] for each in candidates)
        candidates = [each[np.sort(index)] for each, index in zip(candidates, first, strict=True)]
    if (fewest := min(map(len, candidates))) < num_return_sequences:
        raise ValueError(
            f"num_return_sequences={num_return_sequences}, but a question has only {fewest} different candidates from "
            f"{n_docs} documents with {beams} beams; request fewer sequences or more beams"
        )
    losses = _score_candidates(model, params, padded, states, candidates, n_docs * beams, n_docs)
    sequences: list[np.ndarray] = []
    sequences_scores: list[np.ndarray] = []
    for each, loss in zip(candidates, losses, strict=True):
        order = np.argsort(loss[: len(each)], kind="stable")[:num_return_sequences]
        sequences.append(each[order])
        sequences_scores.append(-loss[order])
    return GenerateOutput(
        sequences=jnp.asarray(np.concatenate(sequences)), sequences_scores=jnp.asarray(np.concatenate(sequences_scores))
    )


@partial(jax.jit, static_argnames="model")
def _encode(params: dict, contexts: Contexts, *, model: RagGenerative) -> jax.Array:
    """The generator's encoder states of all documents, [B*n,S,D]."""
    variables = {"params": model.parts(params)["generator"]}
    encode = partial(model.generator_model.apply, variables, return_dict=True, method="encode")
    return encode(contexts.ids, attention_mask=contexts.mask).last_hidden_state


def _score_candidates(
    model: RagSequenceGenerative,
    params: dict,
    contexts: Contexts,
    states: jax.Array,
    candidates: list[np.ndarray],
    max_candidates: int,
    n_docs: int,
) -> np.ndarray:
    """Negative log-likelihoods [B,C]; where a question has fewer candidates, the last one is repeated."""
    count = min(bucket(max(map(len, candidates)), smallest=1), max_candidates)
    length, batch = candidates[0].shape[1], contexts.doc_scores.shape[0]
    # The last token is only a target. All logits of the whole length are computed, so smaller steps than a bucket.
    width = min(max(16, -(-(length - 1) // 4) * 4) if length - 1 <= 32 else bucket(length - 1), model.max_tokens)
    width = max(length - 1, width)
    ids = np.full((batch, count, width + 1), model.config.generator.pad_token_id, np.int32)
    without_first = np.zeros(batch, bool)
    for question in range(batch):
        selected = candidates[min(question, len(candidates) - 1)]
        ids[question, :, :length] = selected[np.minimum(np.arange(count), len(selected) - 1)]
        without_first[question] = bool(model.begins_with_bos(selected))
    return np.asarray(_score(params, contexts, states, jnp.asarray(ids), without_first, model=model, n_docs=n_docs)).T


@partial(jax.jit, static_argnames=("model", "n_docs"))
def _score(
    params: dict,
    contexts: Contexts,
    states: jax.Array,
    candidates: jax.Array,
    without_first: jax.Array,
    *,
    model: RagSequenceGenerative,
    n_docs: int,
) -> jax.Array:
    """Negative log-likelihoods float32 [C,B] of candidates int32 [B,C,T], for without_first bool [B] without bos."""
    generator, variables = model.generator_model, {"params": model.parts(params)["generator"]}
    options = {"encoder_attention_mask": contexts.mask, "return_dict": True, "method": "decode"}
    decode = partial(generator.apply, variables, **options)
    # Decode one token to obtain the keys and values of the documents, which all candidates share.
    empty = generator.init_cache(states.shape[0], candidates.shape[2] - 1)
    first = decode(jnp.zeros((states.shape[0], 1), jnp.int32), encoder_hidden_states=states, cache=empty).cache
    shared = empty.with_source_of(first)

    def score(ids: jax.Array) -> jax.Array:
        logits = decode(jnp.repeat(ids[:, :-1], n_docs, axis=0), cache=shared).logits
        return model.nll(logits, contexts.doc_scores, ids[:, 1:], without_first=without_first)

    return jax.lax.map(score, candidates.swapaxes(0, 1))
