"""Joint training of RAG: retrieve documents, then train all three models on the likelihood of the answer.

The search has no gradient. It happens before the step, in an index that the context encoder filled some steps ago.
Inside the step, the scores of the retrieved documents are computed again with the current encoders, so that both are
trained (as with `set_context_encoder_for_training` of the reference; Lewis et al., 2020, section 2.4, train the
question encoder only).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jaxmodels as jm
from jaxmodels.architectures.rag.model import RagPreTrainedModel, Retrieved
from jaxmodels.sharding import Rules, batch_sharding
from jaxmodels.training import TrainState, place
from jaxmodels.training.step import ValueAndGrad, compile_step

from ..loop import Sharding
from .tables import RagExamples

BUCKET = 32  # passage lengths are rounded up to multiples of this; each length is compiled once
# Fields of `Retrieved` whose first axis is questions x documents.
FLATTENED = ("context_input_ids", "context_attention_mask", "document_ids", "document_mask")


@dataclasses.dataclass(frozen=True)
class FixedRetriever:
    """A retriever that returns documents found earlier.

    Attributes:
      fields: The fields of `Retrieved`, each as [B,n,...].
    """

    fields: Mapping[str, jax.Array]

    def find(self, question_ids: jax.Array, questions: jax.Array, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """Return the documents found earlier; all arguments are ignored."""
        return Retrieved(**{n: a.reshape(-1, a.shape[-1]) if n in FLATTENED else a for n, a in self.fields.items()})


class JointTrainer:
    """Training step of RAG including search; called like the step of `make_step`, with batches of `RagExamples`.

    Attributes:
      retriever: The retriever, with the index of the last refresh.
    """

    def __init__(
        self,
        model: RagPreTrainedModel,
        optimizer: optax.GradientTransformation,
        retriever: jm.DeviceRetriever,
        *,
        every: int,
        batch_size: int,
        mesh: Mesh,
        rules: Rules,
    ):
        """Create the compiled functions; the index stays empty until `refresh`.

        Args:
          model: The RAG model.
          optimizer: The optimizer.
          retriever: Provides the passages.
          every: Number of steps between refreshes of the index.
          batch_size: Number of passages that are encoded at a time.
          mesh: Device mesh.
          rules: Sharding rules.
        """
        self.retriever, self._model, self._every, self._batch_size = retriever, model, every, batch_size
        self._sharding: Sharding = {"mesh": mesh, "rules": rules}
        self._steps: int | None = None
        self._documents = np.asarray(retriever.documents)

        def update(
            params: Any, batch: Mapping, key: jax.Array, value_and_grad: ValueAndGrad
        ) -> tuple[dict[str, jax.Array], Any, jax.Array]:
            (loss, _), gradients = value_and_grad(lambda *args: (self._loss(*args), None))(params, batch, key)
            return {"loss": loss}, gradients, jnp.float32(1)

        self._update = compile_step(update, model, optimizer, microbatches=1, **self._sharding)
        self._search = jax.jit(self._retrieve, out_shardings=batch_sharding(mesh, rules))
        self._evaluate, self._encode = jax.jit(self._loss), jax.jit(self._vectors)

    def __call__(self, state: TrainState, batch: Mapping, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """Refresh the index if it is due, then update the parameters."""
        if self._steps is None:
            self._steps = int(state.step)
            self.refresh(state.params)
        elif self._steps % self._every == 0:
            self.refresh(state.params)
        self._steps += 1
        return self._update(state, self._with_documents(state.params, batch), key)

    def refresh(self, params: dict) -> None:
        """Encode all passages with the current context encoder, replacing the vectors of the index in place."""
        index, known = self.retriever.index, self._documents >= 0
        tokenizer = self.retriever.host.ctx_encoder_tokenizer
        assert tokenizer is not None, "the retriever has no context encoder tokenizer"
        pad = tokenizer.pad_token_id or 0
        ids, mask = np.where(known, self._documents, pad), known.astype(np.int32)
        for indices, width in jm.length_batches(mask.sum(axis=1), self._batch_size, multiple=BUCKET):
            full = np.resize(indices, self._batch_size)  # pads the last batch by repeating its passages
            batch = place({"ids": ids[full, :width], "mask": mask[full, :width]}, **self._sharding)
            with jm.sharding.use(**self._sharding):
                vectors = self._encode(params, **batch)
            index = index.update_rows(indices, np.asarray(vectors)[: len(indices)])
        self.retriever = self.retriever.with_index(index)

    def loss(self, params: dict, table: RagExamples, batch_size: int) -> float:
        """Return the mean negative log-likelihood of the answers in nats, without dropout, over all full batches."""
        losses = []
        for first in range(0, len(table.labels) - batch_size + 1, batch_size):
            batch = place(table.take(np.arange(first, first + batch_size)), **self._sharding)
            with jm.sharding.use(**self._sharding):
                losses.append(float(self._evaluate(params, self._with_documents(params, batch))))
        return float(np.mean(losses))

    def _with_documents(self, params: dict, batch: Mapping) -> dict:
        with jm.sharding.use(**self._sharding):
            return {**batch, **self._search(params, self.retriever, batch)}

    def _retrieve(self, params: dict, retriever: jm.DeviceRetriever, batch: Mapping) -> dict[str, jax.Array]:
        """Search; return the fields of `Retrieved` as [B,n,...]."""
        questions = question_vectors(self._model, params, batch)
        n = self._model.config.n_docs
        with_questions = dataclasses.replace(retriever, questions=batch["questions"])
        found = with_questions.find(batch["input_ids"], questions, n, tokenized=True)._asdict()
        return {name: a.reshape(-1, n, a.shape[-1]) if name in FLATTENED else a for name, a in found.items()}

    def _loss(self, params: dict, batch: Mapping, key: jax.Array | None = None) -> jax.Array:
        found = FixedRetriever({name: batch[name] for name in Retrieved._fields})
        out: Any = self._model.apply(
            {"params": params},
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            retriever=found,
            labels=batch["labels"],
            rngs={} if key is None else {"dropout": key},
        )
        return out.loss.mean()

    def _vectors(self, params: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
        encoder = jm.DPRContextEncoder(self._model.config.question_encoder, parent=None, **self._model.options.keywords)
        out: Any = encoder.apply({"params": self._model.parts(params)["ctx_encoder"]}, ids, attention_mask=mask)
        return out.pooler_output.astype(jnp.float32)


def question_vectors(model: RagPreTrainedModel, params: dict, batch: Mapping) -> jax.Array:
    """Encode questions to float32 [B,D]."""
    variables = {"params": model.parts(params)["question_encoder"]}
    out: Any = model.question_encoder_model.apply(variables, batch["input_ids"], attention_mask=batch["attention_mask"])
    return out.pooler_output.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _question_vectors(model: RagPreTrainedModel, params: dict, batch: Mapping) -> jax.Array:
    return question_vectors(model, params, batch)


def retrieve_passages(
    model: RagPreTrainedModel,
    params: dict,
    retriever: jm.DeviceRetriever,
    table: RagExamples,
    k: int,
    batch_size: int = 64,
) -> np.ndarray:
    """Return the indices of the top k passages (or all, if fewer) for each question, best first, int [N,k]."""
    k, found = min(k, retriever.index.size), []
    for first in range(0, len(table.labels), batch_size):
        indices = np.resize(np.arange(first, min(first + batch_size, len(table.labels))), batch_size)
        batch = {name: table.take(indices)[name] for name in ("input_ids", "attention_mask")}
        found.append(np.asarray(retriever.index.search(_question_vectors(model, params, batch), k)[1]))
    return np.concatenate(found)[: len(table.labels)]
