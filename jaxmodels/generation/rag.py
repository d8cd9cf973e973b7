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

from jaxmodels.architectures.inputs import as_array, check_mask, check_numbers, is_concrete
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.encoder_decoder import EncoderDecoderModel, EncoderDecoderPrompts, decoder_prefix
from jaxmodels.generation.loop import OUTPUT_OPTIONS, StepOutput
from jaxmodels.generation.merging import GENERATION_CONFIG, collect_settings
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.prompts import Array, Generative, PreparedPrompts, pad_batch, token_ids
from jaxmodels.generation.search import NO_TOKEN, SearchState
from jaxmodels.generation.traced import INSIDE, RoundUp, array_module, is_traced
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


_compiled_retrieve = jax.jit(retrieve, static_argnames=("model", "n_docs"))


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


def generate_rag_sequence(
    model: RagSequenceGenerative,
    params: dict,
    input_ids: Any,
    attention_mask: Any,
    options: Mapping[str, Any],
    generation_config: Any,
    run_generator: Callable[..., GenerateOutput],
    round_up: RoundUp,
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
    contexts, n_docs, num_questions = read_contexts(model, params, input_ids, attention_mask, options, round_up)
    if isinstance(contexts, Questions):
        contexts = _retrieve_documents(params, contexts, model, n_docs, round_up)
    padded = contexts.padded(round_up)
    states = _encode(params, padded, model=model)
    inferred, generator_states = _as_generator_reads(params, model, contexts, states, round_up)
    generator_options = {name: value for name, value in options.items() if name not in (*INPUTS, *SEQUENCE_OPTIONS)}
    generator_options |= {"num_beams": beams, "num_return_sequences": beams}
    generator_options["encoder_outputs"] = (generator_states[: len(contexts.ids)],)
    generator = model.generator_model, model.parts(params)["generator"]
    output = run_generator(*generator, contexts.ids, inferred, generator_options)
    candidates = _Candidates.of(output, num_questions)
    if deduplicate:
        candidates = candidates.distinct()
    if (fewest := candidates.fewest) < num_return_sequences:
        raise ValueError(
            f"num_return_sequences={num_return_sequences}, but a question has only {fewest} different candidates from "
            f"{n_docs} documents with {beams} beams; request fewer sequences or more beams"
        )
    losses = _score_candidates(model, params, padded, states, candidates, n_docs, round_up)
    return candidates.best(losses, num_return_sequences)


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """C candidates for each of B questions, on the host or traced.

    Attributes:
      ids: int32 [B,C,T]; lengths: int32 [B,C], generated tokens.
      counts: int32 [B], how many of them, the first ones, count.
    """

    ids: Any
    lengths: Any
    counts: Any

    @classmethod
    def of(cls, output: GenerateOutput, num_questions: int) -> Self:
        """The candidates that the generator returned for all documents of each question."""
        module = array_module(output.sequences)
        ids = module.asarray(output.sequences).reshape(num_questions, -1, output.sequences.shape[1])
        lengths = module.asarray(output.lengths).reshape(num_questions, -1)
        return cls(ids, lengths, np.full(num_questions, ids.shape[1], np.int32))

    @property
    def fewest(self) -> int:
        """_Candidates of the question with the fewest; where that cannot be read, C."""
        return int(self.counts.min()) if is_concrete(self.counts) else self.ids.shape[1]

    def distinct(self) -> Self:
        """The first occurrences of each question's candidates before the others, which do not count."""
        module = array_module(self.ids)
        equal = (self.ids[:, :, None] == self.ids[:, None]).all(axis=-1)
        repeated = module.tril(equal, -1).any(axis=-1)
        return dataclasses.replace(self.take(module.argsort(repeated, axis=1, stable=True)), counts=(~repeated).sum(1))

    def take(self, index: Any) -> Self:
        """_Candidates by index, int [B,M]."""
        along = partial(array_module(index).take_along_axis, axis=1)
        return dataclasses.replace(self, ids=along(self.ids, index[:, :, None]), lengths=along(self.lengths, index))

    def best(self, losses: Any, count: int) -> GenerateOutput:
        """The candidates with the lowest losses float32 [B,M] of the first M; the score of one that does not count is
        -inf."""
        module = array_module(losses)
        losses = module.where(module.arange(losses.shape[1]) < self.counts[:, None], losses, np.inf)
        index = module.argsort(losses, axis=1, stable=True)[:, :count]
        best = self.take(index)
        return GenerateOutput(
            sequences=jnp.asarray(best.ids.reshape(-1, best.ids.shape[2])),
            lengths=jnp.asarray(best.lengths.reshape(-1)),
            sequences_scores=jnp.asarray(-module.take_along_axis(losses, index, axis=1).reshape(-1)),
        )


def _retrieve_documents(
    params: dict, questions: Questions, model: RagGenerative, n_docs: int, round_up: RoundUp
) -> Contexts:
    """The documents that the device finds, without those that pad the batch."""
    found = _compiled_retrieve(params, questions.padded(round_up), model=model, n_docs=n_docs)
    count = len(questions.ids)
    module = array_module(found.ids)
    return Contexts(
        module.asarray(found.ids)[: count * n_docs],
        module.asarray(found.mask)[: count * n_docs],
        module.asarray(found.doc_scores)[:count],
    )


def _as_generator_reads(
    params: dict, model: RagGenerative, contexts: Contexts, states: jax.Array, round_up: RoundUp
) -> tuple[Any, jax.Array]:
    """Mask and encoder states of the documents for the generator, whose mask the reference infers from the padding
    (but it scores with the mask of the documents).

    Args:
      states: under the mask of the documents.
    """
    inferred = contexts.ids != model.config.generator.pad_token_id
    first = np.arange(inferred.shape[1]) == 0
    inferred = inferred | (~inferred.any(axis=1, keepdims=True) & first)  # something is read of an empty document

    def encode() -> jax.Array:
        return _encode(params, dataclasses.replace(contexts, mask=inferred).padded(round_up), model=model)

    same = (inferred == (contexts.mask != 0)).all()
    if is_concrete(same):
        return inferred, states if same else encode()
    return inferred, jax.lax.cond(same, lambda: states, encode)


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
    candidates: _Candidates,
    n_docs: int,
    round_up: RoundUp,
) -> Any:
    """Negative log-likelihoods float32 [B,M] of the first M candidates of each question, those that count and more."""
    (num_questions, C, length), batch = candidates.ids.shape, contexts.doc_scores.shape[0]
    most = int(candidates.counts.max()) if is_concrete(candidates.counts) else C
    ids = candidates.ids[:, : min(round_up(most, smallest=1), C)]
    # The last token is only a target. All logits of the whole length are computed, so smaller steps than for prompts.
    width = max(length - 1, min(round_up(length - 1, smallest=16, steps=4), model.max_tokens))
    module = array_module(ids)
    ids = module.pad(ids, ((0, batch - num_questions), (0, 0), (0, 0)), mode="edge")
    padding = ((0, 0), (0, 0), (0, width + 1 - length))
    without_first = jnp.array([model.begins_with_bos(each) for each in ids])
    ids = module.pad(ids, padding, constant_values=model.config.generator.pad_token_id)
    losses = _score(params, contexts, states, jnp.asarray(ids), without_first, model=model, n_docs=n_docs)
    return module.asarray(losses).T[:num_questions]


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
