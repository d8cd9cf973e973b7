"""Documents for RAG by the host's tokenizers.

Reference: transformers/models/rag/retrieval_rag.py (docs/parity.md, A13 to A17).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.architectures.rag.model import Retrieved
from jaxmodels.download import HUB_OPTIONS, local_folder
from jaxmodels.retrieval.fingerprints import check_encoders
from jaxmodels.retrieval.folders import check_passages
from jaxmodels.retrieval.keeping import keep
from jaxmodels.retrieval.sources import PATHS, of_dataset_object, open_source, resolved
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.rag import RagTokenizer


class Index(Protocol):
    """What a retriever needs of an index of N vectors of width D."""

    @property
    def size(self) -> int:
        """N."""

    def search(self, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """Scores and ids [B,k] of the nearest to queries [B,D]; an id of -1 is none."""

    def vectors(self, ids: jax.Array) -> jax.Array:
        """float32 [...,D]; zeros for -1."""


class Document(NamedTuple):
    title: str
    text: str


class RagRetriever:
    """Finds documents in an index and puts each together with its question, as the generator reads them.

    Args:
      index: finds ids. passages: (title, text) by id: `Passages`, or any sequence of pairs or of dicts with these keys.
      encoders: those that ask and that built the index, as far as they are here, with their parameters: the `encoders`
        of a RAG model. Whether the index belongs to them is checked as `check_encoders` says.

    Raises:
      ValueError: an index of other encoders than those given, or of other passages (see `check_passages`).
    """

    def __init__(
        self,
        config: RagConfig,
        question_encoder_tokenizer: Tokenizer,
        generator_tokenizer: Tokenizer,
        *,
        index: Index,
        passages: Sequence[Any],
        encoders: Sequence[tuple[nn.Module, dict]] = (),
    ):
        check_encoders(index, encoders)
        check_passages(index, passages)
        self.config = config
        self.question_encoder_tokenizer, self.generator_tokenizer = question_encoder_tokenizer, generator_tokenizer
        self.index, self.passages = index, passages
        self.ctx_encoder_tokenizer: Tokenizer | None = None
        self.document_length = 0
        self._is_kept = False  # where the config says

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        indexed_dataset: Any = None,
        *,
        config: RagConfig | None = None,
        encoders: Sequence[tuple[nn.Module, dict]] = (),
        subfolder: str | None = None,
        **options,
    ) -> Self:
        """The retriever of a RAG's folder or Hub id: its config, its tokenizers, and the index that the config names.

        Args:
          indexed_dataset: of the package `datasets`, with the columns title and text and an index of faiss over
            `embeddings`; instead of what the config names.
          config: instead of the folder's. encoders: as of the class.
          options: revision, token, cache_dir, local_files_only, force_download, for huggingface_hub; all else are
            values of the config: index_name ("custom", "legacy", "exact" or "compressed"), passages_path, index_path,
            dataset, dataset_split, n_docs, ... (`sources.open_source` says what goes with which). Relative paths start
            at the folder, or else where the process runs.

        Raises:
          FileNotFoundError: no such folder or repository; no index where the config says, with what to give.
          ValueError, TypeError: a key or a value that the config cannot have, or files that do not fit together.
          TensorFileError: a damaged file.
        """
        hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
        options |= {key: str(options[key]) for key in PATHS if isinstance(options.get(key), Path)}
        if config is None:
            config = RagConfig.from_pretrained(name, subfolder=subfolder, **hub, **options)
        elif options:
            config = config.replace(**options)
        tokenizers = RagTokenizer.from_pretrained(name, subfolder=subfolder, **hub)
        parts: dict[str, Any] = {"encoders": encoders}
        if indexed_dataset is None:
            named = [path for key in PATHS if (path := getattr(config, key))]
            patterns = ["config.json", *(pattern for path in named for pattern in (path, f"{path}/*"))]
            config = resolved(config, local_folder(name, patterns, subfolder=subfolder, **hub))
            parts["index"], parts["passages"] = open_source(config)
        else:
            parts["index"], parts["passages"] = of_dataset_object(indexed_dataset), indexed_dataset
        retriever = cls(config, tokenizers.question_encoder, tokenizers.generator, **parts)
        retriever._is_kept = indexed_dataset is None
        return retriever

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and both tokenizers; an index that the config does not name is written too, with its
        passages, so that `from_pretrained` of the folder gives the same documents, wherever it is moved.

        Raises:
          TypeError: an index that cannot be written: a DenseIndex and a FaissIndex can.
        """
        folder, config = Path(folder), self.config
        if not self._is_kept:
            config = config.replace(**keep(folder, self.index, map(self.document, range(self.index.size))))
        RagTokenizer(self.question_encoder_tokenizer, self.generator_tokenizer).save_pretrained(folder)
        config.save_pretrained(folder)

    def set_ctx_encoder_tokenizer(self, tokenizer: Tokenizer, length: int = 256) -> None:
        """From now on documents come tokenized for a context encoder, too, padded or cut to `length` tokens."""
        self.ctx_encoder_tokenizer, self.document_length = tokenizer, length

    def __call__(
        self,
        question_input_ids,
        question_hidden_states,
        prefix: str | None = None,
        n_docs: int | None = None,
    ) -> BatchEncoding:
        """Documents for questions int [B,T], in the question encoder's ids, with vectors float [B,D].

        Args:
          prefix: before every context; None: the generator's config has it. n_docs: None: the config's.

        Returns:
          context_input_ids, context_attention_mask int32 [B*n_docs,S]; retrieved_doc_embeds float32 [B,n_docs,D];
          doc_ids int32 [B,n_docs]; after `set_ctx_encoder_tokenizer`, tokenized_doc_ids and
          tokenized_doc_attention_mask int32 [B*n_docs,T'].

        Raises:
          ValueError: another number of vectors than of questions; and what the index raises.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        questions = np.asarray(question_input_ids)
        embeddings, ids, documents = self.retrieve(question_hidden_states, n_docs)
        if len(documents) != len(questions):
            raise ValueError(f"{len(questions)} questions came with {len(documents)} vectors; give one for each")
        strings = self.question_encoder_tokenizer.batch_decode(questions, skip_special_tokens=True)
        context_ids, mask = self.postprocess_docs(documents, strings, prefix, n_docs)
        fields = {
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

    def retrieve(self, question_hidden_states, n_docs: int) -> tuple[np.ndarray, np.ndarray, list[list[Document]]]:
        """Vectors float32 [B,n_docs,D], ids int32 [B,n_docs], and the documents; those with id -1 are empty."""
        queries = np.asarray(question_hidden_states, np.float32)
        size = self.config.retrieval_batch_size
        parts = [self._search(queries[i : i + size], n_docs) for i in range(0, len(queries), size)]
        embeddings, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return embeddings, ids, [[self.document(int(i)) for i in row] for row in ids]

    def tokenize_documents(self, documents: Sequence[Document]) -> BatchEncoding:
        """What the context encoder reads of n documents: int32 [n,length], as `set_ctx_encoder_tokenizer` said."""
        titles, texts = map(list, zip(*documents, strict=True))
        options = {"truncation": True, "padding": "max_length", "max_length": self.document_length}
        return self.ctx_encoder_tokenizer(titles, texts, **options)

    def postprocess_docs(
        self, documents: Sequence[Sequence[Document]], questions: Sequence[str], prefix: str | None, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask int32 [B*n_docs,S], S = max_combined_length, of documents and questions put together."""
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
        """What the generator reads: prefix, title (without a quote at either end), text, question."""
        c = self.config
        title = document.title.removeprefix('"').removesuffix('"')
        prefix = self.prefix if prefix is None else prefix
        return (prefix + title + c.title_sep + document.text + c.doc_sep + question).replace("  ", " ")

    @property
    def prefix(self) -> str:
        """What the generator's config puts before every context (T5's task, say)."""
        return self.config.generator.prefix or ""

    def find(self, question_ids, questions, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """For a model's call; inside a compiled program this asks the host."""
        if tokenized and self.ctx_encoder_tokenizer is None:
            raise ValueError("training the context encoder needs set_ctx_encoder_tokenizer(...) on the retriever")

        def ask(ids, vectors) -> tuple[np.ndarray, ...]:
            found = self(ids, vectors, n_docs=n_docs)
            names = ("context_input_ids", "context_attention_mask", "retrieved_doc_embeds", "doc_ids")
            names += ("tokenized_doc_ids", "tokenized_doc_attention_mask") if tokenized else ()
            kinds = (np.int32, np.int32, np.float32, *(np.int32,) * (len(names) - 3))
            return tuple(np.asarray(found[name], kind) for name, kind in zip(names, kinds, strict=True))

        if not any(isinstance(a, jax.core.Tracer) for a in (question_ids, questions)):
            return Retrieved(*map(jnp.asarray, ask(question_ids, questions)))
        (batch, width), length = questions.shape, self.config.max_combined_length
        shapes = [(batch * n_docs, length)] * 2 + [(batch, n_docs, width), (batch, n_docs)]
        shapes += [(batch * n_docs, self.document_length)] * 2 if tokenized else []
        kinds = [jnp.float32 if len(shape) == 3 else jnp.int32 for shape in shapes]
        results = tuple(jax.ShapeDtypeStruct(*pair) for pair in zip(shapes, kinds, strict=True))
        return Retrieved(*jax.pure_callback(ask, results, question_ids, questions))

    def _search(self, queries: np.ndarray, n_docs: int) -> tuple[np.ndarray, np.ndarray]:
        _, ids = self.index.search(jnp.asarray(queries), n_docs)
        return np.asarray(self.index.vectors(ids), np.float32), np.asarray(ids, np.int32)

    def document(self, i: int) -> Document:
        """The passage of an id; empty for -1."""
        if i < 0:
            return Document("", "")
        passage = self.passages[i]
        return Document(passage["title"], passage["text"]) if isinstance(passage, dict) else Document(*passage)
