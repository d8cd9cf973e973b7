"""The two encoders as one model, for training and search."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

import jaxmodels as jm


class BiEncoder(nn.Module):
    """DPR's context encoder and question encoder; parameters {"context": ..., "question": ...}.

    Attributes:
      question: None where the context encoder reads the questions, too; then there are no parameters of that name.
    """

    context: jm.DPRContextEncoder
    question: jm.DPRQuestionEncoder | None = None

    def __call__(self, input_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both vectors of the same texts [B,T]; for initialisation."""
        return self.contexts(input_ids), self.questions(input_ids)

    def contexts(self, input_ids: jax.Array, **options) -> jax.Array:
        """Passages [..., T] -> vectors [..., D]; so are further arrays."""
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in options.items()}
        vectors = self.context(input_ids.reshape(-1, input_ids.shape[-1]), **flat).pooler_output
        return vectors.reshape(*input_ids.shape[:-1], -1)

    def questions(self, input_ids: jax.Array, **options) -> jax.Array:
        """Questions [B,T] -> vectors [B,D]."""
        return (self.question or self.context)(input_ids, **options).pooler_output

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """The smallest inputs that reach every parameter, for initialisation."""
        return {"input_ids": jnp.zeros((1, 1), jnp.int32)}


def parts(model: BiEncoder, params: dict) -> dict[str, tuple[jm.DPRContextEncoder | jm.DPRQuestionEncoder, dict]]:
    """{"context_encoder": (model, parameters), "question_encoder": ...}, each on its own."""
    question, own = model.question, params.get("question")
    if question is None:
        c = model.context
        question = jm.DPRQuestionEncoder(c.config, **c.choices)
        own = {"question_encoder": params["context"]["ctx_encoder"]}
    return {"context_encoder": (model.context, params["context"]), "question_encoder": (question, own)}


@partial(jax.jit, static_argnums=(0, 1))
def vectors(model: BiEncoder, method: str, params: dict, batch: dict) -> jax.Array:
    """Vectors by "contexts" or "questions", without dropout, whole on every device of the mesh in use."""
    return jax.lax.with_sharding_constraint(model.apply({"params": params}, **batch, method=method), PartitionSpec())


def training_vectors(model: BiEncoder, method: str, params: dict, batch: dict, key: jax.Array) -> jax.Array:
    """The same with dropout, as `make_contrastive_step` takes it."""
    return model.apply({"params": params}, **batch, method=method, rngs={"dropout": key})
