"""Documents for RAG without leaving the device: search, and a gather of passages that were tokenized beforehand."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.rag.model import Retrieved
from jaxmodels.retrieval.retriever import RagRetriever
from jaxmodels.tokenization.encoding import BatchEncoding

# Questions are padded to multiples of this many tokens, so that others compile nothing.
QUESTION_BUCKET = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceRetriever:
    """A retriever that is a pytree of arrays, so that all of RAG is one compiled program.

    The same contexts as `RagRetriever`'s: a context is cut at a space, before the question, where no tokenizer of these
    families joins anything, so the tokens of both sides side by side are those of the whole.

    Attributes:
      index: a `DenseIndex`.
      passages: int32 [N,P], the generator's ids of prefix, title and text, without special tokens; -1 after the end.
      questions: int32 [B,Q], the generator's ids of the questions; -1 after the end; None until `ask`.
      documents: int32 [N,T], the context encoder's ids of title and text; -1 after the end; None unless the host's
        retriever had a tokenizer for it (`set_ctx_encoder_tokenizer`).
      head, tail: static, the special tokens around a context. pad: static, its padding. length: static, of a context.
      host: static, the retriever that this was made of.
    """

    index: Any
    passages: jax.Array
    questions: jax.Array | None
    documents: jax.Array | None
    head: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    tail: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    pad: int = dataclasses.field(metadata={"static": True})
    length: int = dataclasses.field(metadata={"static": True})
    host: RagRetriever = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, retriever: RagRetriever, *, sharding=None, batch: int = 4096) -> Self:
        """Tokenizes every passage of a retriever, `batch` at a time.

        Args:
          sharding: of the passages' rows; None leaves them where arrays are put by default.

        Raises:
          ValueError: a doc_sep that does not end with a space, where a tokenizer might join text and question; a
            max_combined_length without room for a token beside the special ones; a batch below 1.
        """
        config, tokenizer = retriever.config, retriever.generator_tokenizer
        if not config.doc_sep.endswith(" "):
            raise ValueError(f"doc_sep={config.doc_sep!r} has to end with a space to put ids together on the device")
        bare, whole = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        head, tail = whole[:start], whole[start + len(bare) :]
        most = config.max_combined_length - len(head) - len(tail)
        if most < 1 or batch < 1:
            raise ValueError(
                f"a context has max_combined_length tokens, more than its {len(head) + len(tail)} special ones, and a "
                f"batch at least one text, got max_combined_length={config.max_combined_length} and batch={batch}"
            )
        rows, documents = [], []
        for first in range(0, len(retriever.passages), batch):
            some = [retriever.document(i) for i in range(first, min(first + batch, len(retriever.passages)))]
            texts = [retriever.passage_text(document, None).rstrip(" ") for document in some]
            rows += [np.asarray(ids, np.int32)[:most] for ids in _ids(tokenizer, texts)]
            if retriever.ctx_encoder_tokenizer is not None:
                encoded = retriever.tokenize_documents(some)
                lengths = encoded["attention_mask"].sum(axis=1)
                documents += [ids[:n] for ids, n in zip(encoded["input_ids"], lengths, strict=True)]

        def placed(rows: list[np.ndarray]) -> jax.Array:
            return jnp.asarray(_padded(rows)) if sharding is None else jax.device_put(_padded(rows), sharding)

        return cls(
            index=retriever.index,
            passages=placed(rows),
            questions=None,
            documents=None if retriever.ctx_encoder_tokenizer is None else placed(documents),
            head=tuple(map(int, head)),
            tail=tuple(map(int, tail)),
            pad=int(tokenizer.pad_token_id),
            length=config.max_combined_length,
            host=retriever,
        )

    def ask(self, questions: Sequence[str], **options) -> tuple[BatchEncoding, Self]:
        """What the question encoder reads, and this retriever with the questions as the generator reads them.

        Args:
          options: of the question encoder's tokenizer; padding=True if nothing is said.

        Raises:
          ValueError: no questions.
        """
        if not len(questions):
            raise ValueError("there are no questions: give at least one")
        host = self.host
        encoded = host.question_encoder_tokenizer(list(questions), **{"padding": True, **options})
        # What a retriever on the host sees of a question is what the ids say, lower-cased perhaps.
        texts = host.question_encoder_tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)
        rows = [
            np.asarray(ids) for ids in _ids(host.generator_tokenizer, [(" " + t).replace("  ", " ") for t in texts])
        ]
        read = BatchEncoding({name: encoded[name] for name in ("input_ids", "attention_mask")})
        return read, dataclasses.replace(self, questions=jnp.asarray(_padded(rows, QUESTION_BUCKET)))

    def with_index(self, index: Any) -> Self:
        """The same passages with new vectors, say of a context encoder that was trained on."""
        return dataclasses.replace(self, index=index)

    def find(self, question_ids, questions, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """For a model's call; pure."""
        if tokenized and self.documents is None:
            raise ValueError(
                "training the context encoder needs its tokens: set_ctx_encoder_tokenizer(...) on the host's retriever "
                "before DeviceRetriever.of(...)"
            )
        if self.questions is None:
            raise ValueError("the questions are needed as the generator reads them: retriever.ask(texts) gives both")
        _, ids = self.index.search(questions, n_docs)
        batch, rows = len(ids), jnp.maximum(ids.reshape(-1), 0)
        passages = jnp.where((ids >= 0).reshape(-1, 1), self.passages[rows], -1)
        # Rows that only fill a batch have the last question again.
        own = self.questions[jnp.minimum(jnp.arange(batch), len(self.questions) - 1)]
        context = self._together(passages, jnp.repeat(own, n_docs, axis=0))
        mask = (jnp.arange(self.length) < context[1][:, None]).astype(jnp.int32)
        found = Retrieved(context[0], mask, self.index.vectors(ids), ids)
        if not tokenized:
            return found
        documents, pad = self.documents[rows], self.host.ctx_encoder_tokenizer.pad_token_id
        return found._replace(
            document_ids=jnp.where(documents < 0, pad, documents), document_mask=(documents >= 0).astype(jnp.int32)
        )

    def _together(self, passages: jax.Array, questions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Contexts int32 [N,length] and their lengths [N]: head, passage, question cut to what is left, tail."""
        first, last = len(self.head), len(self.tail)
        most = self.length - first - last
        passage, question = ((ids >= 0).sum(axis=1, keepdims=True) for ids in (passages, questions))
        body = jnp.minimum(passage + question, most)
        column = jnp.arange(self.length)[None] - first

        def pick(ids, at):
            return jnp.take_along_axis(ids, jnp.clip(at, 0, ids.shape[1] - 1), axis=1)

        inside = jnp.where(column < passage, pick(passages, column), pick(questions, column - passage))
        tail = jnp.asarray((*self.tail, self.pad), jnp.int32)
        after = tail[jnp.clip(column - body, 0, last)]
        ids = jnp.where(column < body, inside, after)
        for place, token in enumerate(self.head):
            ids = ids.at[:, place].set(token)
        return ids.astype(jnp.int32), (body + first + last)[:, 0]


def _ids(tokenizer, texts: list[str]) -> list:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _padded(rows: list[np.ndarray], multiple: int = 1) -> np.ndarray:
    """int32 [N, longest], -1 after the end; the width rounded up to a multiple."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    array = np.full((len(rows), width), -1, np.int32)
    for row, ids in zip(array, rows, strict=True):
        row[: len(ids)] = ids
    return array
