"""Encoder-decoders: the input is read whole, and the text starts with the decoder's start id."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.loop import decode
from jaxmodels.generation.options import Options
from jaxmodels.generation.prompts import ids_and_mask, token_ids
from jaxmodels.layers.stack import unstack_layers

# What a call may say beside the options and the encoder's own inputs.
INPUTS = ("decoder_input_ids", "encoder_outputs")


class Reading:
    """Inputs to be read, and what the decoder starts with; the attributes are those of `Continuation`."""

    def __init__(self, model: nn.Module, settings: Options, input_ids, attention_mask, further: Mapping[str, Any]):
        self.model = model
        ids, mask = ids_and_mask(input_ids, attention_mask, settings, model.config)
        self.beginning = _beginning(further.get("decoder_input_ids"), ids.shape[0], settings, model.config.vocab_size)
        self.longest = self.beginning.shape[1]
        length = ids.shape[1]
        width = max(length, min(bucket(length), model.max_source_tokens))
        right = ((0, 0), (0, width - length))
        self.states = None
        if (encoded := further.get("encoder_outputs")) is not None:
            states = jnp.asarray(encoded[0])
            if states.ndim != 3 or states.shape[:2] != ids.shape:
                raise ValueError(f"encoder_outputs has states [B,T,D] of input_ids {ids.shape}, got {states.shape}")
            self.states = jnp.pad(states, (*right, (0, 0)))
        own = {name: value for name, value in further.items() if name not in INPUTS}
        # A family's own inputs of the encoder, padded to the same width; what is static of them is hashable.
        arrays, self.static = model.encoder_inputs(own)
        inputs = {"input_ids": ids, "attention_mask": mask, **arrays}
        self.inputs = {name: jnp.asarray(np.pad(array, right)) for name, array in inputs.items()}

    def run(self, params, ending, sampler, number, room: int):
        """Ids [B,room] and how many columns were generated; see `decode`."""
        beginning = jnp.asarray(self.beginning)
        return _run(
            params,
            self.inputs,
            self.states,
            beginning,
            ending,
            sampler,
            number,
            model=self.model,
            room=room,
            static=self.static,
        )


def _beginning(decoder_input_ids, batch: int, settings: Options, vocabulary: int) -> np.ndarray:
    """The start id, and the given ids after it; if a row starts with it already, all are left as they are.

    Reference: transformers/generation/utils.py, `_prepare_decoder_input_ids_for_generation`.
    """
    start = settings.decoder_start_token_id
    if start is None:
        start = settings.bos_token_id
    if start is None:
        raise ValueError(
            "the decoder needs a first id: decoder_start_token_id or bos_token_id, in the config or the call"
        )
    first = token_ids("decoder_start_token_id", np.full((batch, 1), start, np.int32), vocabulary)
    if decoder_input_ids is None:
        return first
    ids = token_ids("decoder_input_ids", decoder_input_ids, vocabulary)
    if ids.shape[0] != batch:
        raise ValueError(f"decoder_input_ids has a row for each of the {batch} inputs, got {ids.shape[0]}")
    return ids if (ids[:, 0] == start).any() else np.concatenate([first, ids], axis=1)


@partial(jax.jit, static_argnames=("model", "room", "static"))
def _run(params, inputs, states, beginning, ending, sampler, number, *, model, room, static):
    if states is None:
        encoded = model.apply({"params": params}, **inputs, **dict(static), return_dict=True, method="encode")
        states = encoded.last_hidden_state
    # The loop runs over layers cut out here, once: see `unstack_layers`.
    params, mask = unstack_layers(params), inputs["attention_mask"]

    def apply(ids, cache, states=None):
        out = model.apply(
            {"params": params},
            ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            cache=cache,
            logits_to_keep=1,
            return_dict=True,
            method="decode",
        )
        return out.logits[:, -1], out.cache

    def step(token, cache):
        return apply(token[:, None], cache)

    cache = model.init_cache(beginning.shape[0], beginning.shape[1] + room)
    logits, cache = apply(beginning, cache, states)
    return decode(step, logits, cache, choose=sampler, ending=ending, room=room, stream=number)
