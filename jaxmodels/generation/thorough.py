"""RAG-sequence's thorough decoding: answers from every document, each then scored over all of them.

Reference: transformers/models/rag/modeling_rag.py, `RagSequenceForGeneration.generate` (docs/parity.md, A11), which
loops over questions and retrieves again for every candidate; here questions and documents are one batch, and documents
are found and encoded once.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.arguments import Extras
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.call import ASKED, Ready, call
from jaxmodels.generation.contexts import INPUTS, Contexts, contexts_of
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.sources import GIVEN, Sources, asked, option
from jaxmodels.messages import brief

# Options of this method's own; the others are those of the generator.
OWN = ("do_deduplication", "num_return_sequences", "num_beams")


def generate(
    model: Any, params: dict, input_ids, attention_mask, options: Mapping[str, Any], extras: Extras
) -> GenerateOutput:
    """The likeliest answers to each question; see `generate` for the arguments.

    Raises:
      ValueError: fewer different candidates than num_return_sequences; and what `contexts_of` and `call` raise.
    """
    if extras.streamer is not None:
        raise ValueError("RAG-sequence cannot stream: an answer is chosen when all candidates are there")
    c = model.config
    further = {name: options[name] for name in INPUTS if name in options}
    rest = {name: value for name, value in options.items() if name not in (*INPUTS, *OWN)}
    said = asked(c, extras.generation_config, {name: options[name] for name in OWN[1:] if name in options})
    beams, returned = option(said, "num_beams"), option(said, "num_return_sequences")
    _refuse_steps(rest, said)
    deduplicate = options.get("do_deduplication")
    deduplicate = c.do_deduplication if deduplicate is None else deduplicate
    if not isinstance(deduplicate, bool):
        raise ValueError(f"do_deduplication is True or False, got {brief(deduplicate)}")
    contexts, n_docs, questions = contexts_of(model, params, input_ids, attention_mask, further)
    if contexts.question is not None:
        ids, mask, scores = map(np.asarray, _retrieved(model, params, contexts, n_docs))
        contexts = Contexts(ids, mask, scores)
    generator, generator_params = model.generator_model, model.parts(params)["generator"]
    pad = c.generator.pad_token_id
    # The reference lets the generator infer its mask from padding, and scores with the mask that it was given.
    inferred = np.asarray(contexts.ids != pad, np.int32)
    inferred[~inferred.any(axis=1), 0] = 1
    own: dict[str, Any] = {"num_beams": beams, "num_return_sequences": beams}
    filled = contexts.filled()
    states = _encoded(params, filled, model=model)
    if np.array_equal(inferred, contexts.mask):
        own["encoder_outputs"] = (states[: len(contexts.ids)],)
    found = call(generator, generator_params, contexts.ids, inferred, {**rest, **own}, extras, Ready.run)
    candidates = np.asarray(found.sequences).reshape(questions, n_docs * beams, -1)
    kept = [_different(rows) if deduplicate else rows for rows in candidates]
    if min(map(len, kept)) < returned:
        raise ValueError(
            f"num_return_sequences={returned}, but a question has only {min(map(len, kept))} different candidates from "
            f"{n_docs} documents with {beams} beams; ask for fewer, or for more beams"
        )
    losses = _scored(model, params, filled, states, kept, n_docs * beams, pad, n_docs)
    chosen = []
    for rows, loss in zip(kept, losses, strict=True):
        chosen.append(rows[np.argsort(loss[: len(rows)], kind="stable")[:returned]])
    scores = np.concatenate([-np.sort(loss[: len(rows)])[:returned] for rows, loss in zip(kept, losses, strict=True)])
    return GenerateOutput(sequences=jnp.asarray(np.concatenate(chosen)), sequences_scores=jnp.asarray(scores))


def _refuse_steps(options: Mapping[str, Any], said: Sources) -> None:
    """Raises ValueError where the call wants to see the steps."""
    for name in ASKED:
        if options.get(name) or (said.where.get(name) == GIVEN and said.values[name]):
            raise ValueError(
                f"{name}: RAG-sequence has no scores or states of steps; its answers are scored as a whole"
            )


def _different(rows: np.ndarray) -> np.ndarray:
    """Every row once, in the order of first appearance."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


@partial(jax.jit, static_argnames=("model", "n_docs"))
def _retrieve(params, contexts: Contexts, *, model, n_docs: int):
    found = contexts.found(model, params, n_docs)
    return found.ids, found.mask, found.doc_scores


def _retrieved(model, params, contexts: Contexts, n_docs: int):
    ids, mask, scores = _retrieve(params, contexts.filled(), model=model, n_docs=n_docs)
    real = len(contexts.question)
    return ids[: real * n_docs], mask[: real * n_docs], scores[:real]


def _scored(
    model, params, contexts: Contexts, states, candidates: list[np.ndarray], given: int, pad: int, n_docs: int
) -> np.ndarray:
    """Negative log-likelihoods [B,C]; rows of fewer candidates repeat the last one, and none has more than `given`."""
    most = min(bucket(max(map(len, candidates)), smallest=1), given)
    length, rows = candidates[0].shape[1], contexts.doc_scores.shape[0]
    width = _width(length - 1, model.max_tokens)  # the last token is only predicted
    filled = np.full((rows, most, width + 1), pad, np.int32)
    bos = np.zeros(rows, bool)
    for question in range(rows):
        own = candidates[min(question, len(candidates) - 1)]
        filled[question, :, :length] = own[np.minimum(np.arange(most), len(own) - 1)]
        bos[question] = bool(model.begins_with_bos(own))
    return np.asarray(_score(params, contexts, states, jnp.asarray(filled), bos, model=model, n_docs=n_docs)).T


def _width(length: int, most: int) -> int:
    """What candidates are padded to: of their whole length all words' logits are computed, so finer than a bucket."""
    return max(length, min(max(16, -(-length // 4) * 4) if length <= 32 else bucket(length), most))


@partial(jax.jit, static_argnames="model")
def _encoded(params, contexts: Contexts, *, model) -> jax.Array:
    own = {"params": model.parts(params)["generator"]}
    encoded = model.generator_model.apply(
        own, contexts.ids, attention_mask=contexts.mask, return_dict=True, method="encode"
    )
    return encoded.last_hidden_state


@partial(jax.jit, static_argnames=("model", "n_docs"))
def _score(params, contexts: Contexts, states, candidates, bos, *, model, n_docs: int):
    """float32 [C,B] for candidates int32 [B,C,T]; bos: bool [B], the first target says nothing."""
    generator, own = model.generator_model, {"params": model.parts(params)["generator"]}
    decode = partial(generator.apply, own, encoder_attention_mask=contexts.mask, return_dict=True, method="decode")
    # One token is read, to have the documents' keys and values, which all candidates share.
    empty = generator.init_cache(states.shape[0], candidates.shape[2] - 1)
    read = decode(jnp.zeros((states.shape[0], 1), jnp.int32), encoder_hidden_states=states, cache=empty).cache
    shared = empty.with_source_of(read)

    def score(ids):
        logits = decode(jnp.repeat(ids[:, :-1], n_docs, axis=0), cache=shared).logits
        return model.nll(logits, contexts.doc_scores, ids[:, 1:], without_first=bos)

    return jax.lax.map(score, candidates.swapaxes(0, 1))
