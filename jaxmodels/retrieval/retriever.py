"""Retrieval of documents for RAG with tokenizers on the host.

Reference: transformers/models/rag/retrieval_rag.py (docs/parity.md, A13 to A17).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.architectures.rag.model import Retrieved
from jaxmodels.config import Config, ConfigValue
from jaxmodels.download import HubOptions, HubToken, local_folder
from jaxmodels.retrieval.folders import check_encoders, check_passages, save_index
from jaxmodels.retrieval.rows import is_traced
from jaxmodels.retrieval.sources import PATHS, dataset_index, open_source, resolve_paths
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.loading import RagTokenizer


class Index(Protocol):
    """What a retriever requires of an index of N vectors of width D."""

    @property
    def size(self) -> int:
        """N."""

    def search(self, queries: jax.Array, k: int) -> tuple[ArrayLike, ArrayLike]:
        """Returns scores and ids [B,k] of the k best rows for queries [B,D]; id -1 is a missing hit."""

    def vectors(self, ids: ArrayLike) -> ArrayLike:
        """Returns rows float32 [...,D] of ids [...]; zeros for -1."""


class Document(NamedTuple):
    """A passage."""

    title: str
    text: str


class RagRetriever:
    """Retrieves documents from an index and combines each with its question into an input of the generator.

    Args:
      config: config of the RAG model.
      question_encoder_tokenizer: tokenizer of the questions.
      generator_tokenizer: tokenizer of the contexts.
      index: searched for ids.
      passages: (title, text) by id: `Passages`, or any sequence of pairs or of dicts with these keys.
      encoders: (model, params) of the question encoder and, if available, of the context encoder that built the index:
        the `encoders` of a RAG model. They are compared with the index, see `check_encoders`.

    Raises:
      ValueError: an index of other encoders or other passages (see `check_passages`).
    """

    def __init__(
        self,
        config: Config,
        question_encoder_tokenizer: Tokenizer,
        generator_tokenizer: Tokenizer,
        *,
        index: Index,
        passages: Sequence[Any],
        encoders: Sequence[tuple[nn.Module, Mapping[str, Any]]] = (),
    ):
        if not isinstance(config, RagConfig):
            raise TypeError(f"config must be that of a RAG model, model.config, got {type(config).__name__}")
        check_encoders(index, encoders)
        check_passages(index, passages)
        self.config = config
        self.question_encoder_tokenizer, self.generator_tokenizer = question_encoder_tokenizer, generator_tokenizer
        self.index, self.passages = index, passages
        self.ctx_encoder_tokenizer: Tokenizer | None = None
        self.document_length = 0
        self._index_in_config = False  # whether the config refers to index and passages

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        indexed_dataset: Any = None,
        *,
        config: RagConfig | None = None,
        encoders: Sequence[tuple[nn.Module, Mapping[str, Any]]] = (),
        subfolder: str | None = None,
        revision: str | None = None,
        token: HubToken = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool | None = None,
        force_download: bool | None = None,
        **overrides: ConfigValue | Path,
    ) -> Self:
        """Loads the retriever of a RAG folder or Hub id: config, tokenizers, and the index that the config refers to.

        Args:
          name: folder or Hub id.
          indexed_dataset: a `datasets.Dataset` with the columns title and text and a faiss index over `embeddings`;
            used instead of the config's index.
          config: used instead of the folder's.
          encoders: see the class.
          subfolder: folder inside `name`.
          revision: passed to huggingface_hub, like the following ones.
          token: see `revision`.
          cache_dir: see `revision`.
          local_files_only: see `revision`.
          force_download: see `revision`.
          **overrides: values that replace those of the config: index_name ("custom", "legacy", "exact" or
            "compressed"), passages_path, index_path, dataset, dataset_split, n_docs, ... (`sources.open_source`
            explains how they combine). Relative paths start at the folder, or else at the working directory.

        Raises:
          FileNotFoundError: no such folder or repository, or no index at the config's paths; says what to pass.
          ValueError, TypeError: an unknown field, an invalid value, or files that do not belong together.
          TensorFileError: a damaged file.
        """
        hub: HubOptions = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        values: dict[str, Any] = {
            key: str(value) if key in PATHS and isinstance(value, Path) else value for key, value in overrides.items()
        }
        if config is None:
            config = RagConfig.from_pretrained(name, subfolder=subfolder, **hub, **values)
        elif values:
            config = config.replace(**values)
        tokenizers = RagTokenizer.from_pretrained(name, subfolder=subfolder, **hub)
        passages: Sequence[Any]
        if indexed_dataset is None:
            paths = [path for key in PATHS if (path := getattr(config, key))]
            patterns = ["config.json", *(pattern for path in paths for pattern in (path, f"{path}/*"))]
            config = resolve_paths(config, local_folder(name, patterns, subfolder=subfolder, **hub))
            index, passages = open_source(config)
        else:
            index, passages = dataset_index(indexed_dataset), indexed_dataset
        retriever = cls(
            config, tokenizers.question_encoder, tokenizers.generator, index=index, passages=passages, encoders=encoders
        )
        retriever._index_in_config = indexed_dataset is None
        return retriever

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and both tokenizers, and index and passages unless the config already refers to them.

        `from_pretrained` of the folder then returns the same documents, also after the folder was moved.

        Raises:
          TypeError: the index is neither a DenseIndex nor a FaissIndex.
        """
        folder, config = Path(folder), self.config
        if not self._index_in_config:
            config = config.replace(**save_index(folder, self.index, map(self.document, range(self.index.size))))
        RagTokenizer(self.question_encoder_tokenizer, self.generator_tokenizer).save_pretrained(folder)
        config.save_pretrained(folder)

    def set_ctx_encoder_tokenizer(self, tokenizer: Tokenizer, length: int = 256) -> None:
        """Also returns documents tokenized for a context encoder from now on, padded or truncated to `length`."""
        self.ctx_encoder_tokenizer, self.document_length = tokenizer, length

    def __call__(
        self,
        question_input_ids: ArrayLike,
        question_hidden_states: ArrayLike,
        prefix: str | None = None,
        n_docs: int | None = None,
    ) -> BatchEncoding:
        """Retrieves documents for a batch of questions.

        Args:
          question_input_ids: int [B,T], of the question encoder's tokenizer.
          question_hidden_states: question vectors float [B,D].
          prefix: prepended to every context; by default the generator config's prefix.
          n_docs: documents per question; by default the config's.

        Returns:
          context_input_ids and context_attention_mask int32 [B*n_docs,S]; retrieved_doc_embeds float32 [B,n_docs,D];
          doc_ids int32 [B,n_docs]; after `set_ctx_encoder_tokenizer` also tokenized_doc_ids and
          tokenized_doc_attention_mask int32 [B*n_docs,T'].

        Raises:
          ValueError: different numbers of vectors and questions; and see the index.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        questions = np.asarray(question_input_ids)
        embeddings, ids, documents = self.retrieve(question_hidden_states, n_docs)
        if len(documents) != len(questions):
            raise ValueError(f"got {len(questions)} questions and {len(documents)} vectors; pass one vector for each")
        strings = self.question_encoder_tokenizer.batch_decode(questions, skip_special_tokens=True)
        context_ids, mask = self.postprocess_docs(documents, strings, prefix, n_docs)
        fields: dict[str, Any] = {
            "context_input_ids": context_ids,
            "context_attention_mask": mask,
            "retrieved_doc_embeds": embeddings,
            "doc_ids": ids,
        }
        if self.ctx_encoder_tokenizer is not None:
            encoded = self.tokenize_documents([document for found in documents for document in found])
            fields |= {
                "tokenized_doc_ids": encoded["input_ids"],
                "tokenized_doc_attention_mask": encoded["attention_mask"],
            }
        return BatchEncoding(fields)

    def retrieve(
        self, question_hidden_states: ArrayLike, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray, list[list[Document]]]:
        """Searches for question vectors float [B,D].

        Returns:
          Vectors float32 [B,n_docs,D], ids int32 [B,n_docs], and the documents; those of id -1 are empty.
        """
        queries = np.asarray(question_hidden_states, np.float32)
        size = self.config.retrieval_batch_size
        parts = [self._search(queries[i : i + size], n_docs) for i in range(0, len(queries), size)]
        embeddings, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return embeddings, ids, [[self.document(int(i)) for i in row] for row in ids]

    def tokenize_documents(self, documents: Sequence[Document]) -> BatchEncoding:
        """Tokenizes n documents for the context encoder: int32 [n,length]; see `set_ctx_encoder_tokenizer`."""
        if self.ctx_encoder_tokenizer is None:
            raise ValueError("there is no context encoder's tokenizer; call set_ctx_encoder_tokenizer(...)")
        titles, texts = map(list, zip(*documents, strict=True))
        return self.ctx_encoder_tokenizer(
            titles, texts, truncation=True, padding="max_length", max_length=self.document_length
        )

    def postprocess_docs(
        self, documents: Sequence[Sequence[Document]], questions: Sequence[str], prefix: str | None, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Combines documents and questions into contexts.

        Returns:
          Ids and mask int32 [B*n_docs,S], S = max_combined_length.
        """
        texts = [
            self.passage_text(document, prefix, question)
            for question, found in zip(questions, documents, strict=True)
            for document in found[:n_docs]
        ]
        encoded = self.generator_tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.config.max_combined_length
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def passage_text(self, document: Document, prefix: str | None, question: str = "") -> str:
        """Returns a context as text: prefix, title (without enclosing quotes), text, question."""
        c = self.config
        title = document.title.removeprefix('"').removesuffix('"')
        prefix = self.prefix if prefix is None else prefix
        return (prefix + title + c.title_sep + document.text + c.doc_sep + question).replace("  ", " ")

    @property
    def prefix(self) -> str:
        """Prefix of every context, from the generator's config (T5's task, for example)."""
        generator = self.config.generator
        return "" if generator is None else generator.prefix or ""

    def find(self, question_ids: jax.Array, questions: jax.Array, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """Implements `Retriever.find`, called by the model; inside a compiled program it calls back to the host."""
        if tokenized and self.ctx_encoder_tokenizer is None:
            raise ValueError("training the context encoder requires retriever.set_ctx_encoder_tokenizer(...)")
        names: tuple[str, ...] = ("context_input_ids", "context_attention_mask", "retrieved_doc_embeds", "doc_ids")
        names += ("tokenized_doc_ids", "tokenized_doc_attention_mask") if tokenized else ()
        dtypes = [np.float32 if name == "retrieved_doc_embeds" else np.int32 for name in names]

        def retrieve(ids: ArrayLike, vectors: ArrayLike) -> tuple[np.ndarray, ...]:
            found = self(ids, vectors, n_docs=n_docs)
            return tuple(np.asarray(found[name], dtype) for name, dtype in zip(names, dtypes, strict=True))

        if not is_traced(question_ids, questions):
            return Retrieved(*map(jnp.asarray, retrieve(question_ids, questions)))
        (batch, width), length = questions.shape, self.config.max_combined_length
        shapes: list[tuple[int, ...]] = [(batch * n_docs, length)] * 2 + [(batch, n_docs, width), (batch, n_docs)]
        shapes += [(batch * n_docs, self.document_length)] * 2 if tokenized else []
        results = tuple(jax.ShapeDtypeStruct(*pair) for pair in zip(shapes, dtypes, strict=True))
        return Retrieved(*jax.pure_callback(retrieve, results, question_ids, questions))

    def _search(self, queries: np.ndarray, n_docs: int) -> tuple[np.ndarray, np.ndarray]:
        _, ids = self.index.search(jnp.asarray(queries), n_docs)
        return np.asarray(self.index.vectors(ids), np.float32), np.asarray(ids, np.int32)

    def document(self, i: int) -> Document:
        """Returns the passage of an id; empty for -1."""
        if i < 0:
            return Document("", "")
        passage = self.passages[i]
        return Document(passage["title"], passage["text"]) if isinstance(passage, dict) else Document(*passage)
