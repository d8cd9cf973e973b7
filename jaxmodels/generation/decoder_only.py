"""Decoder-only models: the prompt is the beginning of the text."""

import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.loop import decode
from jaxmodels.generation.options import Options
from jaxmodels.generation.prompts import ids_and_mask
from jaxmodels.layers.stack import unstack_layers


class Continuation:
    """Prompts to be continued.

    Attributes:
      beginning: int32 [B,T], what the sequences start with.
      longest: real tokens in the longest row of it.
    """

    def __init__(self, model: nn.Module, settings: Options, input_ids, attention_mask):
        self.model = model
        self.beginning, self.mask = ids_and_mask(input_ids, attention_mask, settings, model.config)
        self.longest = int(self.mask.sum(axis=1).max())
        if not self.mask[:, -1].all():
            warnings.warn(
                "the prompts are padded on the right: the text would continue after the padding; "
                "pad on the left (padding_side='left')",
                stacklevel=4,
            )

    def run(self, params, ending, sampler, number, room: int):
        """Ids [B,room] and how many columns were generated; see `decode`."""
        length = self.beginning.shape[1]
        left = ((0, 0), (bucket(length) - length, 0))
        ids, mask = (jnp.asarray(np.pad(array, left)) for array in (self.beginning, self.mask))
        return _run(params, ids, mask, ending, sampler, number, model=self.model, room=room)


@partial(jax.jit, static_argnames=("model", "room"))
def _run(params, ids, mask, ending, sampler, number, *, model, room):
    # The loop runs over layers cut out here, once: see `unstack_layers`.
    params = unstack_layers(params)
    counts = jnp.cumsum(mask, axis=1) * mask

    def apply(ids, counts, cache, mask=None):
        positions = model.count_to_position(counts)
        out = model.apply(
            {"params": params}, ids, attention_mask=mask, position_ids=positions, cache=cache, logits_to_keep=1
        )
        return out.logits[:, -1], out.cache

    def step(token, state):
        cache, counts = state
        logits, cache = apply(token[:, None], counts[:, None] + 1, cache)
        return logits, (cache, counts + 1)

    cache = model.init_cache(ids.shape[0], ids.shape[1] + room)
    logits, cache = apply(ids, counts, cache, mask)
    state = (cache, counts.max(axis=1))
    return decode(step, logits, state, choose=sampler, ending=ending, room=room, stream=number)
