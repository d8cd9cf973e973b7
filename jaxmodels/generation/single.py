"""One text for each prompt: the likeliest token, or a draw (docs/parity.md, N1)."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxmodels.generation.search import Choice, Progress, Terms
from jaxmodels.generation.text import Text
from jaxmodels.generation.warpers import Warpers, draw


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Single:
    """Greedy decoding, or sampling where there is a key."""

    terms: Terms
    key: jax.Array | None = None
    warpers: Warpers | None = None
    width: int = dataclasses.field(default=1, metadata={"static": True})

    def begin(self, text: Text, real: jax.Array) -> Progress:
        rows = jnp.arange(text.ids.shape[0])
        return Progress(text, jnp.zeros_like(rows), rows >= real, jnp.bool_(False))

    def advance(self, progress: Progress, logits: jax.Array) -> tuple[Progress, Choice]:
        terms, text, logits = self.terms, progress.text, logits[:, 0]
        scores = terms.processed(text, logits)
        if self.key is None or self.warpers is None:
            token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        else:
            candidates = self.warpers(scores)
            token = draw(candidates, self.key, text.generated)
            scores = candidates.over_vocabulary(logits.shape[-1])
        token = jnp.where(progress.done, terms.pad, token)
        text = text.add(token)
        done = progress.done | terms.is_end(token) | terms.stopped(text, scores)
        return dataclasses.replace(progress, text=text, token=token, done=done), Choice(scores, logits)
