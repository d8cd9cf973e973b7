"""Encoder-decoders: the input is read whole, and the text starts with the decoder's start id."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import check_numbers
from jaxmodels.generation.branches import per_row
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import CAPTURED, Step
from jaxmodels.generation.prompts import NOTHING, Called, beginning_of_text, fill_batch, ids_and_mask, token_ids
from jaxmodels.generation.search import Progress
from jaxmodels.outputs import Output

# What a call may say beside the options and the encoder's own inputs.
INPUTS = ("decoder_input_ids", "encoder_outputs")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """Inputs to be read, and what the decoder starts with; see `Prompts` in `loop`.

    Attributes:
      inputs: the encoder's, [B,S] each. states: [B,S,D], where they are known already.
      options: static keywords of the encoder. copies: texts of each input; the inputs are encoded once.
    """

    beginning: jax.Array
    given: jax.Array
    real: jax.Array
    inputs: dict[str, jax.Array]
    states: jax.Array | None
    model: Any = dataclasses.field(metadata={"static": True})
    options: tuple[tuple[str, Any], ...] = dataclasses.field(metadata={"static": True})
    copies: int = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    def of_decoder(self, params):
        return params

    def begin(self, params, layers, *, room: int, width: int, asked: Sequence[str]) -> Step:
        captured, states = {}, self.states
        if states is None:
            wanted = {name: True for name in CAPTURED if name in asked}
            encoded = self.model.apply(
                {"params": params}, **self.inputs, **dict(self.options), **wanted, return_dict=True, method="encode"
            )
            states = encoded.last_hidden_state
            captured = {f"encoder_{name}": encoded[name] for name in CAPTURED.values() if name in encoded}
        states = jnp.repeat(states, self.copies, axis=0)
        rows, columns = self.beginning.shape
        cache = self.model.init_cache(rows, columns + room * width, dtype=self.cache_dtype)
        out = self._decode(layers, self.beginning, cache, asked, encoder_hidden_states=states, logits_to_keep=1)
        cache = out.cache if width == 1 else out.cache.branch(width)
        return Step(out.logits, cache, {**captured, **_captured(out, asked)})

    def step(self, layers, tokens, state, progress: Progress, *, asked: Sequence[str]) -> Step:
        cache = state if progress.parents is None else state.follow(progress.parents)
        out = self._decode(layers, tokens, cache, asked, logits_to_keep=tokens.shape[1])
        return Step(out.logits, out.cache, per_row(_captured(out, asked), out.cache, progress.text.prompt))

    def _decode(self, layers, ids, cache, asked, **options):
        wanted = {name: True for name in CAPTURED if name in asked}
        return self.model.apply(
            {"params": layers},
            ids,
            encoder_attention_mask=jnp.repeat(self.inputs["attention_mask"], self.copies, axis=0),
            cache=cache,
            return_dict=True,
            method="decode",
            **wanted,
            **options,
        )


def _captured(out, asked) -> dict[str, jax.Array]:
    """As the model's own output names them, but for `cross_attentions`, which is the decoder's alone."""
    found = {f"decoder_{name}": out[name] for option, name in CAPTURED.items() if option in asked}
    return found | ({"cross_attentions": out["cross_attentions"]} if "output_attentions" in asked else {})


def prepare(
    model: nn.Module,
    params: dict,
    config: GenerationConfig,
    input_ids,
    attention_mask,
    further: Mapping[str, Any],
    cache_dtype,
) -> Called:
    """Checks and fills up the inputs of a call.

    Raises:
      ValueError, TypeError: see `ids_and_mask`; decoder ids or encoder outputs that do not fit the inputs.
    """
    if config.guidance_scale not in (None, 1):
        raise ValueError(
            "guidance_scale is for decoder-only models: an encoder-decoder has no unconditional text; pass None"
        )
    states = _states(further.get("encoder_outputs"))
    known = input_ids is not None or states is None  # else nobody knows what was read, but how much
    if input_ids is None:
        if states is None:
            input_ids, ones = beginning_of_text(config, attention_mask, further.get("decoder_input_ids"))
        else:
            input_ids, ones = np.zeros(states.shape[:2], np.int32), np.ones(states.shape[:2], np.int32)
        attention_mask = ones if attention_mask is None else attention_mask
    ids, mask = ids_and_mask(input_ids, attention_mask, config, model.config)
    copies = config.num_return_sequences if config.num_beams == 1 else 1
    beginning = beginning_of(further.get("decoder_input_ids"), ids.shape[0], config, model.config.vocab_size)
    beginning = np.repeat(beginning, copies, axis=0)
    length = ids.shape[1]
    if length > model.max_source_tokens:
        raise ValueError(f"{length} tokens are more than the {model.max_source_tokens} positions of this model")
    width = min(bucket(length), model.max_source_tokens)
    right = ((0, 0), (0, width - length))
    if states is not None:
        if states.shape[:2] != ids.shape:
            raise ValueError(f"encoder_outputs has states [B,T,D] of input_ids {ids.shape}, got {states.shape}")
        more = bucket(ids.shape[0], smallest=1) - ids.shape[0]
        states = jnp.pad(states, ((0, more), *right[1:], (0, 0)))
    own = {name: value for name, value in further.items() if name not in INPUTS}
    # A family's own inputs of the encoder, padded to the same width; what is static of them is hashable.
    arrays, options = model.encoder_inputs(own)
    inputs = {"input_ids": ids, "attention_mask": mask, **arrays}
    rows = bucket(ids.shape[0], smallest=1) * copies
    prompts = Reading(
        beginning=jnp.asarray(np.concatenate([beginning, np.repeat(beginning[-1:], rows - len(beginning), axis=0)])),
        given=jnp.int32(beginning.shape[1]),
        real=jnp.int32(len(beginning)),
        inputs={name: jnp.asarray(np.pad(fill_batch(array), right)) for name, array in inputs.items()},
        states=states,
        model=model,
        options=options,
        copies=copies,
        cache_dtype=cache_dtype,
    )
    source = np.pad(fill_batch(ids if known else np.full_like(ids, NOTHING)), right, constant_values=NOTHING)
    return Called(prompts, beginning, beginning.shape[1], source, *ids.shape)


def _states(encoded: Any) -> jax.Array | None:
    """Of `encoder_outputs`, the states [B,T,D]."""
    if encoded is None:
        return None
    if not isinstance(encoded, Output | tuple | list) or not len(encoded):
        raise TypeError(
            f"encoder_outputs is what `encode` returned, or a tuple with the states [B,T,D] first; got "
            f"{type(encoded).__name__}"
        )
    check_numbers("encoder_outputs", encoded[0])
    states = jnp.asarray(encoded[0])
    if states.ndim != 3:
        raise ValueError(f"encoder_outputs has states [B,T,D] first, got {states.shape}")
    return states


def beginning_of(decoder_input_ids, batch: int, config: GenerationConfig, vocabulary: int) -> np.ndarray:
    """The start id, and the given ids after it; if a row starts with it already, all are left as they are.

    Reference: transformers/generation/utils.py, `_prepare_decoder_input_ids_for_generation`.
    """
    start = config.decoder_start_token_id
    if start is None:
        start = config.bos_token_id
    if start is None:
        raise ValueError(
            "the decoder needs a first id, and the checkpoint has neither decoder_start_token_id nor bos_token_id: "
            "pass one in the call, or give it to jm.load"
        )
    first = token_ids("decoder_start_token_id", np.full((batch, 1), start, np.int32), vocabulary)
    if decoder_input_ids is None:
        return first
    ids = token_ids("decoder_input_ids", decoder_input_ids, vocabulary)
    if ids.shape[0] != batch:
        raise ValueError(f"decoder_input_ids has a row for each of the {batch} inputs, got {ids.shape[0]}")
    return ids if (ids[:, 0] == start).any() else np.concatenate([first, ids], axis=1)
