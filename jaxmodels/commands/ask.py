"""`python -m jaxmodels ask --model FOLDER --index FOLDER "question"`: an answer, and the documents that it is from."""

import argparse
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.dpr import DPRContextEncoder
from jaxmodels.architectures.rag import RagPreTrainedModel, RagSequenceForGeneration, RagTokenForGeneration
from jaxmodels.commands.shares import shares
from jaxmodels.generation import generate
from jaxmodels.hub import load
from jaxmodels.retrieval import RagRetriever, load_folder
from jaxmodels.retrieval.retriever import Document
from jaxmodels.tokenization import RagTokenizer

HELP = "answer a question from documents with a RAG model"
WIDTH, SHOWN = 100, 300  # columns, and characters of a document that are printed


class Source(NamedTuple):
    """A document behind an answer: its inner product with the question, and its share of the answer's probability."""

    document: Document
    score: float
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question")
    parser.add_argument("--model", required=True, help="folder or Hub id of a RAG model with its two tokenizers")
    parser.add_argument("--index", required=True, help="folder of an index and its passages, as jaxmodels writes them")
    parser.add_argument("--documents", type=int, help="how many are read; default: the model's n_docs")
    parser.add_argument("--beams", type=int, default=4, help="of the search for the answer (default: 4)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of the answer (default: 32)")
    parser.add_argument("--context-encoder", help="folder or Hub id of the encoder that the index was built by")


def run(arguments: argparse.Namespace) -> None:
    """Prints the answer and its documents."""
    index, passages = load_folder(arguments.index)
    model, params = load(arguments.model)
    if not isinstance(model, RagTokenForGeneration | RagSequenceForGeneration):
        raise ValueError(
            f"{arguments.model} is of class {type(model).__name__}, and RagTokenForGeneration or "
            "RagSequenceForGeneration is needed to answer"
        )
    encoders = model.encoders(params)
    if arguments.context_encoder is not None:
        encoders += (load(arguments.context_encoder, cls=DPRContextEncoder),)
    tokenizer = RagTokenizer.from_pretrained(arguments.model)
    parts = tokenizer.question_encoder, tokenizer.generator
    retriever = RagRetriever(model.config, *parts, index=index, passages=passages, encoders=encoders)
    n_docs = model.config.n_docs if arguments.documents is None else arguments.documents
    if not 1 <= n_docs <= index.size:
        raise ValueError(f"--documents is between 1 and the {index.size} passages of this index, got {n_docs}")
    text, sources = answer(
        model,
        params,
        retriever,
        arguments.question,
        n_docs=n_docs,
        num_beams=arguments.beams,
        max_new_tokens=arguments.max_new_tokens,
    )
    print("\n".join(lines(text, sources)))


def answer(
    model: RagPreTrainedModel, params: dict, retriever: RagRetriever, question: str, *, n_docs: int, **options
) -> tuple[str, list[Source]]:
    """The answer, and its documents by their share of it, the largest first.

    Args:
      options: of `generate`.

    Raises:
      ValueError: a question without a word; and what the index and `generate` raise.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    tokenizer, encoder = retriever.question_encoder_tokenizer, model.config.question_encoder
    read = tokenizer([question], truncation=True, max_length=encoder.max_position_embeddings)
    asked = {name: jnp.asarray(read[name]) for name in ("input_ids", "attention_mask")}
    vectors = _vectors(model, params, asked)
    found = retriever.find(asked["input_ids"], vectors, n_docs)
    scores = jnp.einsum("bd,bnd->bn", vectors, found.embeddings)
    documents = {
        "context_input_ids": found.context_input_ids,
        "context_attention_mask": found.context_attention_mask,
        "doc_scores": scores,
    }
    ids = generate(model, params, **documents, n_docs=n_docs, **options).sequences[:1]
    parts = _shares(model, params, documents, ids)[0]
    order = np.argsort(-np.asarray(parts), kind="stable")
    sources = [Source(retriever.document(int(found.ids[0, i])), float(scores[0, i]), float(parts[i])) for i in order]
    return retriever.generator_tokenizer.decode(np.asarray(ids[0]), skip_special_tokens=True).strip(), sources


@partial(jax.jit, static_argnums=0)
def _vectors(model: RagPreTrainedModel, params: dict, asked: dict) -> jax.Array:
    own = {"params": model.parts(params)["question_encoder"]}
    return model.question_encoder_model.apply(own, **asked).pooler_output.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _shares(model: RagPreTrainedModel, params: dict, documents: dict, ids: jax.Array) -> jax.Array:
    scores, config = documents["doc_scores"], model.config.generator
    out = model.apply({"params": params}, **documents, n_docs=scores.shape[1], decoder_input_ids=ids)
    ignored = (config.pad_token_id, config.bos_token_id)
    return shares(out.logits, scores, ids, marginal=model.marginal, ignored=ignored)


def lines(text: str, sources: Sequence[Source]) -> list[str]:
    """What is printed: the answer, and a paragraph for each document."""
    shown = [text or "(an empty answer)"]
    for place, (document, score, share) in enumerate(sources, 1):
        shown += ["", f"{place}. {share:6.1%} of the answer, score {score:.3f}: {document.title or '(no title)'}"]
        beginning = textwrap.shorten(document.text, SHOWN, placeholder=" ...")
        shown += textwrap.wrap(beginning, WIDTH, initial_indent="   ", subsequent_indent="   ")
    return shown
