"""Decoding with RAG-sequence (arXiv:2005.11401, section 2.4; docs/parity.md, A12).

Beam search generates candidates from each document, which are then scored over all documents ("thorough decoding"). The
reference loops over questions and retrieves again for every candidate; here questions and documents are one batch, and
documents are retrieved and encoded once.

Reference: transformers/models/rag/modeling_rag.py, `RagSequenceForGeneration.generate`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import is_concrete
from jaxmodels.generation.loop import OUTPUT_OPTIONS
from jaxmodels.generation.merging import GENERATION_CONFIG, collect_settings
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.rag import INPUTS, Contexts, Questions, RagGenerative, compiled_retrieve, read_contexts
from jaxmodels.generation.traced import RoundUp, array_module
from jaxmodels.messages import brief

# Options that RAG-sequence interprets; it passes the other ones to the generator.
SEQUENCE_OPTIONS = ("do_deduplication", "num_return_sequences", "num_beams")


class RagSequenceGenerative(RagGenerative, Protocol):
    """A RAG model whose documents are marginalized over whole sequences."""

    def begins_with_bos(self, decoder_ids: Any) -> jax.Array | bool:
        """Whether the first target of every sequence [B,T] is bos."""

    def nll(
        self, logits: jax.Array, doc_scores: jax.Array, targets: jax.Array, *, without_first: jax.Array
    ) -> jax.Array:
        """Negative log-likelihoods [B]."""


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
        """The smallest count of a question; where that cannot be read, C."""
        return int(self.counts.min()) if is_concrete(self.counts) else self.ids.shape[1]

    def distinct(self) -> Self:
        """The first occurrences of each question's candidates before the others, which do not count."""
        module = array_module(self.ids)
        equal = (self.ids[:, :, None] == self.ids[:, None]).all(axis=-1)
        repeated = module.tril(equal, -1).any(axis=-1)
        return dataclasses.replace(self.take(module.argsort(repeated, axis=1, stable=True)), counts=(~repeated).sum(1))

    def take(self, index: Any) -> Self:
        """Those at an index, int [B,M]."""
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
    found = compiled_retrieve(params, questions.padded(round_up), model=model, n_docs=n_docs)
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
