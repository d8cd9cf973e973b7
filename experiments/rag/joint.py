"""RAG's training step: documents are found, then all three models learn from how well these explain the answer.

The search has no gradient. It is done before the step, in an index that the context encoder filled some steps ago; the
scores of what was found are computed anew inside the step, by both encoders as they are, so that both are trained (the
reference's `set_context_encoder_for_training`; Lewis et al., 2020, section 2.4, trains the question encoder only).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jaxmodels as jm
from experiments.rag.tables import Asked
from jaxmodels.architectures.rag.model import RagPreTrainedModel, Retrieved
from jaxmodels.sharding import Rules, batch_sharding
from jaxmodels.training import TrainState, place
from jaxmodels.training.step import compile_step

BUCKET = 32  # tokens of passages are rounded up to multiples of this, and each length is compiled once
OF_ALL = ("context_input_ids", "context_attention_mask", "document_ids", "document_mask")


@dataclasses.dataclass(frozen=True)
class Found:
    """A retriever whose search is over: the fields of `Retrieved`, each as [B,n,...], of the questions of one call."""

    fields: Mapping[str, jax.Array]

    def find(self, question_ids, questions, n_docs: int, *, tokenized: bool = False) -> Retrieved:
        """What was found."""
        return Retrieved(**{n: a.reshape(-1, a.shape[-1]) if n in OF_ALL else a for n, a in self.fields.items()})


class Joint:
    """Training step and search of one RAG; called like the step of `make_step`, with batches of `tables.Asked`.

    Attributes:
      retriever: with the index of the last refresh.
    """

    def __init__(
        self,
        model: RagPreTrainedModel,
        optimizer: optax.GradientTransformation,
        retriever: jm.DeviceRetriever,
        *,
        every: int,
        rows: int,
        mesh: Mesh,
        rules: Rules,
    ):
        """Takes the retriever's passages; its index is filled by `refresh`.

        Args:
          every: steps between two refreshes. rows: passages that are encoded at a time.
        """
        self.retriever, self._model, self._every, self._rows = retriever, model, every, rows
        self._here, self._steps = {"mesh": mesh, "rules": rules}, None
        self._documents = np.asarray(retriever.documents)
        gradient = jax.value_and_grad(self._loss)

        def update(params, batch, key):
            loss, gradients = gradient(params, batch, key)
            return {"loss": loss}, gradients, jax.numpy.float32(1)

        self._update = compile_step(update, model, optimizer, microbatches=1, **self._here)
        self._search = jax.jit(self._found, out_shardings=batch_sharding(mesh, rules))
        self._evaluate, self._encode = jax.jit(self._loss), jax.jit(self._vectors)

    def __call__(self, state: TrainState, batch: Mapping, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; before it, every so many steps of the whole run, the index is filled anew."""
        if self._steps is None:
            self._steps = int(state.step)
            self.refresh(state.params)
        elif self._steps % self._every == 0:
            self.refresh(state.params)
        self._steps += 1
        return self._update(state, self._with_documents(state.params, batch), key)

    def refresh(self, params: dict) -> None:
        """Encodes all passages by the context encoder as it is, into the place of the old vectors."""
        index, known = self.retriever.index, self._documents >= 0
        pad = self.retriever.host.ctx_encoder_tokenizer.pad_token_id
        ids, mask = np.where(known, self._documents, pad), known.astype(np.int32)
        for places, width in jm.length_batches(mask.sum(axis=1), self._rows, multiple=BUCKET):
            full = np.resize(places, self._rows)  # the last batch is filled up with its own rows
            batch = place({"ids": ids[full, :width], "mask": mask[full, :width]}, **self._here)
            with jm.sharding.use(**self._here):
                vectors = self._encode(params, **batch)
            index = index.update_rows(places, np.asarray(vectors)[: len(places)])
        self.retriever = self.retriever.with_index(index)

    def loss(self, params: dict, table: Asked, rows: int) -> float:
        """Mean negative log-likelihood of the answers, in nats, without dropout; of whole batches."""
        losses = []
        for first in range(0, len(table.labels) - rows + 1, rows):
            batch = place(table.rows(np.arange(first, first + rows)), **self._here)
            with jm.sharding.use(**self._here):
                losses.append(float(self._evaluate(params, self._with_documents(params, batch))))
        return float(np.mean(losses))

    def _with_documents(self, params: dict, batch: Mapping) -> dict:
        with jm.sharding.use(**self._here):
            return {**batch, **self._search(params, self.retriever, batch)}

    def _found(self, params: dict, retriever: jm.DeviceRetriever, batch: Mapping) -> dict[str, jax.Array]:
        """The fields of `Retrieved` as [B,n,...]."""
        questions = question_vectors(self._model, params, batch)
        own, n = dataclasses.replace(retriever, questions=batch["questions"]), self._model.config.n_docs
        found = own.find(batch["input_ids"], questions, n, tokenized=True)._asdict()
        return {name: a.reshape(-1, n, a.shape[-1]) if name in OF_ALL else a for name, a in found.items()}

    def _loss(self, params: dict, batch: Mapping, key: jax.Array | None = None) -> jax.Array:
        found = Found({name: batch[name] for name in Retrieved._fields})
        out = self._model.apply(
            {"params": params},
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            retriever=found,
            labels=batch["labels"],
            rngs={} if key is None else {"dropout": key},
        )
        return out.loss.mean()

    def _vectors(self, params: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
        encoder = jm.DPRContextEncoder(self._model.config.question_encoder, parent=None, **self._model.choices)
        own = self._model.parts(params)["ctx_encoder"]
        return encoder.apply({"params": own}, ids, attention_mask=mask).pooler_output.astype(jnp.float32)


def question_vectors(model: RagPreTrainedModel, params: dict, batch: Mapping) -> jax.Array:
    """float32 [B,D]."""
    own = {"params": model.parts(params)["question_encoder"]}
    out = model.question_encoder_model.apply(own, batch["input_ids"], attention_mask=batch["attention_mask"])
    return out.pooler_output.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _question_vectors(model: RagPreTrainedModel, params: dict, batch: Mapping) -> jax.Array:
    return question_vectors(model, params, batch)


def passages_of(
    model: RagPreTrainedModel, params: dict, retriever: jm.DeviceRetriever, table: Asked, k: int, rows: int = 64
) -> np.ndarray:
    """Places of the k best passages for each question, best first, int [N,k]; of all if they are fewer."""
    k, found = min(k, retriever.index.size), []
    for first in range(0, len(table.labels), rows):
        places = np.resize(np.arange(first, min(first + rows, len(table.labels))), rows)
        batch = {name: table.rows(places)[name] for name in ("input_ids", "attention_mask")}
        found.append(np.asarray(retriever.index.search(_question_vectors(model, params, batch), k)[1]))
    return np.concatenate(found)[: len(table.labels)]
