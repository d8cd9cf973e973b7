"""Answer a question with a RAG model and an index of documents.

Prints the answer, then the documents with their share in its probability.
"""

import argparse
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.dpr import DPRContextEncoder
from jaxmodels.architectures.rag import RagConfig, RagPreTrainedModel, RagSequenceForGeneration, RagTokenForGeneration
from jaxmodels.architectures.rag.losses import by_document, targets_of
from jaxmodels.generation import generate
from jaxmodels.hub import load
from jaxmodels.retrieval import RagRetriever, load_folder
from jaxmodels.retrieval.retriever import Document
from jaxmodels.tokenization import RagTokenizer

HELP = "answer a question with a RAG model and an index of documents"
LINE_WIDTH, MAX_CHARACTERS = 100, 300  # columns, and characters of a document that are printed


class Source(NamedTuple):
    """A document: its inner product with the question, and its share in the probability of the answer."""

    document: Document
    score: float
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("question", help="question to answer")
    parser.add_argument("--model", required=True, help="folder or Hub id of a RAG model with both tokenizers")
    parser.add_argument("--index", required=True, help="folder of an index with its passages")
    parser.add_argument("--documents", type=int, help="number of documents to retrieve (default: n_docs of the model)")
    parser.add_argument("--beams", type=int, default=4, help="number of beams of beam search (default: 4)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, help="maximum number of tokens to generate (default: 32)"
    )
    parser.add_argument("--context-encoder", help="folder or Hub id of the context encoder that built the index")


def run(arguments: argparse.Namespace) -> None:
    """Prints the answer and its documents."""
    index, passages = load_folder(arguments.index)
    model, params = load(arguments.model)
    if not isinstance(model, RagTokenForGeneration | RagSequenceForGeneration):
        raise ValueError(
            f"{arguments.model} is of class {type(model).__name__}; expected RagTokenForGeneration or "
            "RagSequenceForGeneration"
        )
    encoders = model.encoders(params)
    if arguments.context_encoder is not None:
        encoders += (load(arguments.context_encoder, cls=DPRContextEncoder),)
    tokenizer = RagTokenizer.from_pretrained(arguments.model)
    config = cast(RagConfig, model.config)
    parts = tokenizer.question_encoder, tokenizer.generator
    retriever = RagRetriever(config, *parts, index=index, passages=passages, encoders=encoders)
    n_docs = config.n_docs if arguments.documents is None else arguments.documents
    if not 1 <= n_docs <= index.size:
        raise ValueError(f"--documents must be between 1 and the {index.size} passages of this index, got {n_docs}")
    text, sources = answer(
        model,
        params,
        retriever,
        arguments.question,
        n_docs=n_docs,
        num_beams=arguments.beams,
        max_new_tokens=arguments.max_new_tokens,
    )
    print("\n".join(format_answer(text, sources)))


def answer(
    model: RagPreTrainedModel,
    params: dict[str, Any],
    retriever: RagRetriever,
    question: str,
    *,
    n_docs: int,
    num_beams: int,
    max_new_tokens: int,
) -> tuple[str, list[Source]]:
    """Answers a question.

    Returns:
      The answer, and its documents in descending order of their share.

    Raises:
      ValueError: an empty question; and see the index and `generate`.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    tokenizer, encoder = retriever.question_encoder_tokenizer, model.config.question_encoder
    encoded = tokenizer([question], truncation=True, max_length=encoder.max_position_embeddings)
    inputs = {name: jnp.asarray(encoded[name]) for name in ("input_ids", "attention_mask")}
    vectors = _encode_question(model, params, inputs)
    found = retriever.find(inputs["input_ids"], vectors, n_docs)
    scores = jnp.einsum("bd,bnd->bn", vectors, found.embeddings)
    documents: dict[str, Any] = {
        "context_input_ids": found.context_input_ids,
        "context_attention_mask": found.context_attention_mask,
        "doc_scores": scores,
    }
    result = generate(model, params, **documents, n_docs=n_docs, num_beams=num_beams, max_new_tokens=max_new_tokens)
    ids = jnp.asarray(result.sequences)[:1]
    shares = np.asarray(_document_shares(model, params, documents, ids)[0])
    order = np.argsort(-shares, kind="stable")
    sources = [Source(retriever.document(int(found.ids[0, i])), float(scores[0, i]), float(shares[i])) for i in order]
    return retriever.generator_tokenizer.decode(np.asarray(ids[0]), skip_special_tokens=True).strip(), sources


@partial(jax.jit, static_argnums=0)
def _encode_question(model: RagPreTrainedModel, params: dict[str, Any], inputs: dict[str, jax.Array]) -> jax.Array:
    encoder_params = {"params": model.parts(params)["question_encoder"]}
    return model.question_encoder_model.apply(encoder_params, **inputs).pooler_output.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _document_shares(
    model: RagPreTrainedModel, params: dict[str, Any], documents: dict[str, Any], ids: jax.Array
) -> jax.Array:
    scores, config = documents["doc_scores"], model.config.generator
    out = model.apply({"params": params}, **documents, n_docs=scores.shape[1], decoder_input_ids=ids)
    ignored = (config.pad_token_id, config.bos_token_id)
    return document_shares(out.logits, scores, ids, marginal=model.marginal, ignored=ignored)


def document_shares(
    logits: jax.Array, doc_scores: jax.Array, decoder_ids: jax.Array, *, marginal: str, ignored: Sequence[int | None]
) -> jax.Array:
    """Computes the share of each document in the probability of the answer (Lewis et al., 2020, arXiv:2005.11401).

    RAG-sequence uses one document for the whole answer, and its share is p(document | question, answer). RAG-token may
    use another document for every token, and the share is the mean of p(document | question, token, previous tokens)
    over the tokens of the answer.

    Args:
      logits: float [B*n,T,V], of every document.
      doc_scores: float32 [B,n].
      decoder_ids: int [B,T], start token and answer.
      marginal: "sequence" or "token", as in the classes of RAG.
      ignored: ids that do not count: padding first, then others such as bos; None for an id that does not exist.

    Returns:
      float32 [B,n]; each row sums to 1.
    """
    tokens, documents = by_document(logits, doc_scores)
    targets = targets_of(decoder_ids, -1 if ignored[0] is None else ignored[0])
    counted = jnp.ones(targets.shape, bool)
    for token in ignored:
        counted &= targets != (-1 if token is None else token)
    found = jnp.take_along_axis(tokens, targets[:, None, :, None], axis=-1)[..., 0]
    if marginal == "sequence":
        return jax.nn.softmax(documents + jnp.where(counted[:, None], found, 0.0).sum(axis=2), axis=1)
    each = jax.nn.softmax(documents[:, :, None] + found, axis=1)
    count = counted.sum(axis=1, keepdims=True)
    mean = jnp.where(counted[:, None], each, 0.0).sum(axis=2) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.exp(documents))


def format_answer(text: str, sources: Sequence[Source]) -> list[str]:
    """Returns the printed lines: the answer, and a paragraph for each document."""
    lines = [text or "(empty answer)"]
    for rank, (document, score, share) in enumerate(sources, 1):
        lines += ["", f"{rank}. {share:6.1%} of the answer, score {score:.3f}: {document.title or '(no title)'}"]
        start = textwrap.shorten(document.text, MAX_CHARACTERS, placeholder=" ...")
        lines += textwrap.wrap(start, LINE_WIDTH, initial_indent="   ", subsequent_indent="   ")
    return lines
