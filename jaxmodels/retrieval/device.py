"""Retrieval of documents for RAG on the device: search, then a gather of passages tokenized in advance."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxmodels.architectures.rag.model import Retrieved
from jaxmodels.retrieval.retriever import RagRetriever
from jaxmodels.tokenization.arguments import EncodeKwargs
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.encoding import BatchEncoding

# Questions are padded to multiples of this many tokens, to avoid a compilation for every length.
QUESTION_BUCKET = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceRetriever:
    """A retriever that is a pytree of arrays, so that a whole RAG model is one compiled program.

    Contexts are the same as those of `RagRetriever`: a context is split at a space, before the question, where the
    supported tokenizers never merge tokens, so concatenating the tokens of both sides gives the tokens of the whole.

    Attributes:
      index: a `DenseIndex`.
      passages: int32 [N,P], the generator's ids of prefix, title and text, without special tokens; padded with -1.
      questions: int32 [B,Q], the generator's ids of the questions; padded with -1; None until `ask`.
      documents: int32 [N,T], the context encoder's ids of title and text; padded with -1; None unless the host's
        retriever had a tokenizer for it (`set_ctx_encoder_tokenizer`).
      head: static, special tokens at the start of a context.
      tail: static, special tokens at the end of a context.
      pad: static, padding id of a context.
      length: static, length of a context.
      document_pad: static, padding id of `documents`; None without them.
      host: static, the retriever that this was created from. Compiled programs do not depend on it: all that they use
        is copied into the other attributes by `of`.
    """

    index: Any
    passages: jax.Array
    questions: jax.Array | None
    documents: jax.Array | None
    head: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    tail: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    pad: int = dataclasses.field(metadata={"static": True})
    length: int = dataclasses.field(metadata={"static": True})
    document_pad: int | None = dataclasses.field(metadata={"static": True})
    host: RagRetriever = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, retriever: RagRetriever, *, sharding: Sharding | None = None, batch: int = 4096) -> Self:
        """Creates a device retriever by tokenizing every passage of a retriever.

        Args:
          retriever: retriever on the host; its later changes have no effect on the contexts of this one.
          sharding: of `passages` and `documents`; None for JAX's default placement.
          batch: passages tokenized at a time.

        Raises:
          ValueError: doc_sep does not end with a space, so that a tokenizer might merge text and question;
            max_combined_length is too small for the special tokens and one more; batch is below 1.
        """
        config, tokenizer = retriever.config, retriever.generator_tokenizer
        if not config.doc_sep.endswith(" "):
            raise ValueError(f"doc_sep must end with a space to concatenate ids on the device, got {config.doc_sep!r}")
        bare, whole = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        head, tail = whole[:start], whole[start + len(bare) :]
        max_tokens = config.max_combined_length - len(head) - len(tail)
        if max_tokens < 1 or batch < 1:
            raise ValueError(
                f"max_combined_length must be above the {len(head) + len(tail)} special tokens and batch at least 1, "
                f"got max_combined_length={config.max_combined_length} and batch={batch}"
            )
        context_tokenizer = retriever.ctx_encoder_tokenizer
        passages: list[np.ndarray] = []
        documents: list[np.ndarray] = []
        for first in range(0, len(retriever.passages), batch):
            part = [retriever.document(i) for i in range(first, min(first + batch, len(retriever.passages)))]
            texts = [retriever.passage_text(document, None).rstrip(" ") for document in part]
            passages += [np.asarray(ids, np.int32)[:max_tokens] for ids in _tokenize(tokenizer, texts)]
            if context_tokenizer is not None:
                encoded = retriever.tokenize_documents(part)
                lengths = encoded["attention_mask"].sum(axis=1)
                documents += [ids[:n] for ids, n in zip(encoded["input_ids"], lengths, strict=True)]

        def to_device(sequences: list[np.ndarray]) -> jax.Array:
            array = _pad(sequences)
            return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)

        return cls(
            index=retriever.index,
            passages=to_device(passages),
            questions=None,
            documents=None if context_tokenizer is None else to_device(documents),
            head=tuple(map(int, head)),
            tail=tuple(map(int, tail)),
            pad=_pad_id(tokenizer),
            length=config.max_combined_length,
            document_pad=None if context_tokenizer is None else _pad_id(context_tokenizer),
            host=retriever,
        )

    def ask(self, questions: Sequence[str], **options: Unpack[EncodeKwargs]) -> tuple[BatchEncoding, Self]:
        """Tokenizes questions.

        Args:
          questions: B texts.
          **options: of the question encoder's tokenizer; padding=True by default.

        Returns:
          The question encoder's inputs, and this retriever with `questions` set.

        Raises:
          ValueError: no questions.
        """
        if not len(questions):
            raise ValueError("no questions: pass at least one")
        host = self.host
        options.setdefault("padding", True)
        encoded = host.question_encoder_tokenizer(list(questions), **options)
        # A retriever on the host sees a question as decoded from its ids, possibly lower-cased.
        texts = host.question_encoder_tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)
        sequences = _tokenize(host.generator_tokenizer, [(" " + text).replace("  ", " ") for text in texts])
        padded = _pad(list(map(np.asarray, sequences)), QUESTION_BUCKET)
        inputs = BatchEncoding({name: encoded[name] for name in ("input_ids", "attention_mask")})
        return inputs, dataclasses.replace(self, questions=jnp.asarray(padded))

    def with_index(self, index: Any) -> Self:
        """Returns a retriever of the same passages with another index, for example of a retrained context encoder."""
        return dataclasses.replace(self, index=index)

    def find(self, question_ids: jax.Array, questions: jax.Array, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """Implements `Retriever.find`, called by the model; a pure function."""
        if tokenized and self.documents is None:
            raise ValueError(
                "training the context encoder requires its tokens: call set_ctx_encoder_tokenizer(...) on the host's "
                "retriever before DeviceRetriever.of(...)"
            )
        if self.questions is None:
            raise ValueError("the questions must be tokenized for the generator, too: retriever.ask(texts) does both")
        _, ids = self.index.search(questions, n_docs)
        batch, rows = len(ids), jnp.maximum(ids.reshape(-1), 0)
        passages = jnp.where((ids >= 0).reshape(-1, 1), self.passages[rows], -1)
        # Examples that only pad the batch repeat the last question.
        repeated = self.questions[jnp.minimum(jnp.arange(batch), len(self.questions) - 1)]
        context_ids, lengths = self._combine(passages, jnp.repeat(repeated, n_docs, axis=0))
        mask = (jnp.arange(self.length) < lengths[:, None]).astype(jnp.int32)
        found = Retrieved(context_ids, mask, self.index.vectors(ids), ids)
        if not tokenized or self.documents is None or self.document_pad is None:
            return found
        documents = self.documents[rows]
        return found._replace(
            document_ids=jnp.where(documents < 0, self.document_pad, documents),
            document_mask=(documents >= 0).astype(jnp.int32),
        )

    def _combine(self, passages: jax.Array, questions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns contexts int32 [N,length] and their lengths [N]: head, passage, question truncated to fit, tail."""
        num_head, num_tail = len(self.head), len(self.tail)
        max_tokens = self.length - num_head - num_tail
        passage, question = ((ids >= 0).sum(axis=1, keepdims=True) for ids in (passages, questions))
        body = jnp.minimum(passage + question, max_tokens)
        column = jnp.arange(self.length)[None] - num_head

        def pick(ids: jax.Array, at: jax.Array) -> jax.Array:
            return jnp.take_along_axis(ids, jnp.clip(at, 0, ids.shape[1] - 1), axis=1)

        inside = jnp.where(column < passage, pick(passages, column), pick(questions, column - passage))
        tail = jnp.asarray((*self.tail, self.pad), jnp.int32)
        after = tail[jnp.clip(column - body, 0, num_tail)]
        ids = jnp.where(column < body, inside, after)
        for position, token in enumerate(self.head):
            ids = ids.at[:, position].set(token)
        return ids.astype(jnp.int32), (body + num_head + num_tail)[:, 0]


def _pad_id(tokenizer: Tokenizer) -> int:
    if tokenizer.pad_token_id is None:
        raise ValueError(f"a {type(tokenizer).__name__} without a padding token cannot pad contexts; set pad_token")
    return int(tokenizer.pad_token_id)


def _tokenize(tokenizer: Tokenizer, texts: list[str]) -> list[Any]:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _pad(sequences: list[np.ndarray], multiple: int = 1) -> np.ndarray:
    """Returns int32 [N, longest], padded with -1; the width is rounded up to a multiple of `multiple`."""
    width = -(-max(map(len, sequences)) // multiple) * multiple
    array = np.full((len(sequences), width), -1, np.int32)
    for row, ids in zip(array, sequences, strict=True):
        row[: len(ids)] = ids
    return array
