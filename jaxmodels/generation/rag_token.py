"""RAG-token: every token is the likeliest over all documents of a question (arXiv:2005.11401, section 2.4).

Reference: transformers/models/rag/modeling_rag.py, `RagTokenForGeneration.generate` (docs/parity.md, A12). The
documents of a question are rows of the generator's batch; a step sums their probabilities. Sampling and beam groups,
which the reference ignores here, work as everywhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.contexts import INPUTS, Contexts, contexts_of
from jaxmodels.generation.encoder_decoder import Reading, beginning_of
from jaxmodels.generation.loop import Step
from jaxmodels.generation.prompts import NOTHING, Called
from jaxmodels.generation.search import Progress

__all__ = ["INPUTS", "Marginalised", "prepare"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marginalised:
    """Questions with their documents; see `Prompts` in `loop`.

    Attributes:
      question: ids and mask int32 [B,T] where the documents are still to be found, inside the compiled program, by
        `retriever`; then `reading` and `doc_scores` are made there.
      contexts, context_mask: int32 [B*n,S]; doc_scores: float32 [B,n].
    """

    beginning: jax.Array
    given: jax.Array
    real: jax.Array
    contexts: Contexts
    model: Any = dataclasses.field(metadata={"static": True})
    n_docs: int = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    def of_decoder(self, params):
        return self.model.parts(params)["generator"]

    def begin(self, params, layers, *, room: int, width: int, asked: Sequence[str]) -> Step:
        contexts = self.contexts.found(self.model, params, self.n_docs)
        step = self._reading(contexts).begin(self.of_decoder(params), layers, room=room, width=width, asked=())
        state = (step.state, contexts.mask, contexts.doc_scores)
        return Step(self._summed(step.logits, contexts.doc_scores), state, {})

    def step(self, layers, tokens, state, progress: Progress, *, asked: Sequence[str]) -> Step:
        cache, mask, doc_scores = state
        if progress.parents is not None:
            progress = dataclasses.replace(progress, parents=jnp.repeat(progress.parents, self.n_docs, axis=0))
        reading = self._reading(Contexts(mask=mask))
        step = reading.step(layers, jnp.repeat(tokens, self.n_docs, axis=0), cache, progress, asked=())
        return Step(self._summed(step.logits, doc_scores), (step.state, mask, doc_scores), {})

    def _reading(self, contexts: Contexts) -> Reading:
        inputs = {"attention_mask": contexts.mask}
        return Reading(
            beginning=jnp.repeat(self.beginning, self.n_docs, axis=0),
            given=self.given,
            real=self.real,
            inputs=inputs if contexts.ids is None else {"input_ids": contexts.ids, **inputs},
            states=None,
            model=self.model.generator_model,
            options=(),
            copies=1,
            cache_dtype=self.cache_dtype,
        )

    def _summed(self, logits: jax.Array, doc_scores: jax.Array) -> jax.Array:
        """Logits [B*n,K,V] of all documents -> log-probabilities [B,K,V]."""
        tokens = jax.nn.log_softmax(logits, axis=-1).reshape(*doc_scores.shape, *logits.shape[1:])
        documents = jax.nn.log_softmax(doc_scores, axis=1)[:, :, None, None]
        return jax.nn.logsumexp(tokens + documents, axis=1)


def prepare(
    model: Any,
    params: dict,
    config: GenerationConfig,
    input_ids,
    attention_mask,
    further: Mapping[str, Any],
    cache_dtype,
) -> Called:
    """Checks and fills up the questions or contexts of a call.

    Raises:
      ValueError: no documents, or of a shape that does not fit; attentions or states asked for.
    """
    if config.output_attentions or config.output_hidden_states:
        raise ValueError(
            "generate of a RAG model has no attentions or hidden states: they are one for each document; call the model"
        )
    contexts, n_docs, questions = contexts_of(model, params, input_ids, attention_mask, further)
    copies = config.num_return_sequences if config.num_beams == 1 else 1
    beginning = np.repeat(beginning_of(None, questions, config, model.config.vocab_size), copies, axis=0)
    rows = bucket(questions, smallest=1) * copies
    prompts = Marginalised(
        beginning=jnp.asarray(np.repeat(beginning[:1], rows, axis=0)),
        given=jnp.int32(1),
        real=jnp.int32(len(beginning)),
        contexts=contexts.filled(copies),
        model=model,
        n_docs=n_docs,
        cache_dtype=cache_dtype,
    )
    source, read = np.full((rows, 1), NOTHING, np.int32), 0
    if contexts.ids is not None:
        source = np.where(prompts.contexts.mask, prompts.contexts.ids, NOTHING).reshape(rows, -1)
        read = source.shape[1]
    elif config.encoder_repetition_penalty != 1.0 or config.encoder_no_repeat_ngram_size:
        raise ValueError(
            "encoder_repetition_penalty and encoder_no_repeat_ngram_size need the contexts before the program runs: "
            "pass context_input_ids, or a retriever on the host"
        )
    return Called(prompts, beginning, 1, source, questions, read)
