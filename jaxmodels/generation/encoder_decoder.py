"""Decoding with encoder-decoders: the input is encoded once, and the output begins with the decoder's start id."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import check_numbers, is_concrete
from jaxmodels.generation.beams import split_beams
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import CAPTURES, StepOutput
from jaxmodels.generation.prompts import (
    Array,
    Generative,
    PreparedPrompts,
    bos_prompt,
    ids_and_mask,
    pad_batch,
    token_ids,
)
from jaxmodels.generation.search import NO_TOKEN, SearchState
from jaxmodels.generation.traced import RoundUp, array_module
from jaxmodels.layers.cache import Cache
from jaxmodels.outputs import Output


class EncoderDecoderModel(Generative, Protocol):
    """An encoder-decoder with a language modelling head, and methods `encode` and `decode` for `apply`."""

    @property
    def max_source_tokens(self) -> int:
        """The longest input of the encoder."""

    def encoder_inputs(self, options: Mapping[str, Any]) -> tuple[dict[str, Array], tuple[tuple[str, Any], ...]]:
        """The encoding options of a call: arrays [B,S], padded with 0, and static (name, value) pairs."""

    def encoder_attentions(
        self, attentions: jax.Array, inputs: Mapping[str, jax.Array], rows: int, length: int
    ) -> jax.Array:
        """The encoder's attentions cut to the first examples and tokens; `inputs` are the padded ones."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderDecoderPrompts:
    """Inputs of an encoder-decoder, and the first tokens of the decoder; see `loop.Prompts`.

    Attributes:
      inputs: of the encoder, [B,S] each.
      encoder_states: [B,S,D], if the caller passed them.
      options: static keywords of the encoder.
      copies: sequences per input; the inputs are encoded once.
    """

    # Extra inputs accepted by `generate`.
    INPUTS: ClassVar[tuple[str, ...]] = ("decoder_input_ids", "encoder_outputs")

    prefix: jax.Array
    prefix_length: jax.Array
    num_real: jax.Array
    inputs: dict[str, jax.Array]
    encoder_states: jax.Array | None
    model: EncoderDecoderModel = dataclasses.field(metadata={"static": True})
    options: tuple[tuple[str, Any], ...] = dataclasses.field(metadata={"static": True})
    copies: int = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def prepare(
        cls,
        model: EncoderDecoderModel,
        params: dict,
        config: GenerationConfig,
        input_ids: Any,
        attention_mask: Any,
        inputs: Mapping[str, Any],
        cache_dtype: Any,
        round_up: RoundUp,
    ) -> PreparedPrompts:
        """Checks and pads the inputs of a call.

        Raises:
          ValueError, TypeError: see `ids_and_mask`; guidance; decoder ids or encoder outputs that do not match the
            inputs; more tokens than the encoder has positions.
        """
        if config.guidance_scale not in (None, 1):
            raise ValueError(
                "guidance_scale is only for decoder-only models: an encoder-decoder has no unconditional prompt; "
                "pass None"
            )
        states = _encoder_states(inputs.get("encoder_outputs"))
        source_known = input_ids is not None or states is None  # else only the length of the source is known
        if input_ids is None:
            if states is None:
                input_ids, ones = bos_prompt(config, attention_mask, inputs.get("decoder_input_ids"))
            else:
                input_ids, ones = np.zeros(states.shape[:2], np.int32), np.ones(states.shape[:2], np.int32)
            attention_mask = ones if attention_mask is None else attention_mask
        ids, mask = ids_and_mask(input_ids, attention_mask, config, model.config)
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        prefix = decoder_prefix(inputs.get("decoder_input_ids"), ids.shape[0], config, model.config.vocab_size)
        prefix = prefix.repeat(copies, axis=0)
        length = ids.shape[1]
        if length > model.max_source_tokens:
            raise ValueError(f"{length} tokens are more than the {model.max_source_tokens} positions of this model")
        padding = (0, min(round_up(length), model.max_source_tokens) - length)
        if states is not None:
            if states.shape[:2] != ids.shape:
                raise ValueError(
                    f"encoder_outputs must have states [B,T,D] for input_ids {ids.shape}, got {states.shape}"
                )
            states = jnp.pad(states, ((0, round_up(ids.shape[0], smallest=1) - ids.shape[0]), padding, (0, 0)))
        encoding = {name: value for name, value in inputs.items() if name not in cls.INPUTS}
        arrays, options = model.encoder_inputs(encoding)
        encoder_inputs = {"input_ids": ids, "attention_mask": mask, **arrays}
        batch = round_up(ids.shape[0], smallest=1) * copies
        filled = array_module(prefix).concatenate([prefix, prefix[-1:].repeat(batch - len(prefix), axis=0)])
        prompts = cls(
            prefix=jnp.asarray(filled),
            prefix_length=jnp.int32(prefix.shape[1]),
            num_real=jnp.int32(len(prefix)),
            inputs={name: jnp.asarray(_padded(array, round_up, padding)) for name, array in encoder_inputs.items()},
            encoder_states=states,
            model=model,
            options=options,
            copies=copies,
            cache_dtype=cache_dtype,
        )
        source = ids if source_known else np.full(ids.shape, NO_TOKEN, np.int32)
        source = _padded(source, round_up, padding, NO_TOKEN)
        return PreparedPrompts(prompts, prefix, prefix.shape[1], source, *ids.shape)

    def decoder_params(self, params: dict) -> dict:
        return params

    def prefill(
        self, params: dict, decoder_params: dict, *, capacity: int, num_beams: int, requested: Sequence[str]
    ) -> StepOutput:
        captures, states = {}, self.encoder_states
        if states is None:
            flags = {option: True for option in CAPTURES if option in requested}
            encoded = self.model.apply(
                {"params": params}, **self.inputs, **dict(self.options), **flags, return_dict=True, method="encode"
            )
            states = encoded.last_hidden_state
            captures = {f"encoder_{name}": encoded[name] for name in CAPTURES.values() if name in encoded}
        states = jnp.repeat(states, self.copies, axis=0)
        batch, columns = self.prefix.shape
        cache = self.model.init_cache(batch, columns + capacity * num_beams, dtype=self.cache_dtype)
        decoded, out = self._apply(
            decoder_params, self.prefix, cache, requested, encoder_hidden_states=states, logits_to_keep=1
        )
        cache = out.cache if num_beams == 1 else out.cache.expand(num_beams)
        return StepOutput(out.logits, cache, {**captures, **decoded})

    def decode(
        self, decoder_params: dict, tokens: jax.Array, state: Any, search: SearchState, *, requested: Sequence[str]
    ) -> StepOutput:
        cache = state if search.parents is None else state.reorder(search.parents)
        captures, out = self._apply(decoder_params, tokens, cache, requested, logits_to_keep=tokens.shape[1])
        if captures:
            captures = split_beams(captures, out.cache, search.text.prompt)
        return StepOutput(out.logits, out.cache, captures)

    def _apply(
        self, params: dict, ids: jax.Array, cache: Cache, requested: Sequence[str], **inputs: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """The requested captures of the decoder, and its whole output."""
        flags = {option: True for option in CAPTURES if option in requested}
        out = self.model.apply(
            {"params": params},
            ids,
            encoder_attention_mask=jnp.repeat(self.inputs["attention_mask"], self.copies, axis=0),
            cache=cache,
            return_dict=True,
            method="decode",
            **flags,
            **inputs,
        )
        captures = {f"decoder_{CAPTURES[option]}": out[CAPTURES[option]] for option in flags}
        if "output_attentions" in flags:
            captures["cross_attentions"] = out["cross_attentions"]
        return captures, out


def _encoder_states(encoder_outputs: Any) -> jax.Array | None:
    """The states [B,T,D] in `encoder_outputs`."""
    if encoder_outputs is None:
        return None
    if not isinstance(encoder_outputs, Output | tuple | list) or not len(encoder_outputs):
        raise TypeError(
            "encoder_outputs must be the output of `encode`, or a tuple whose first item are the states [B,T,D]; got "
            f"{type(encoder_outputs).__name__}"
        )
    check_numbers("encoder_outputs", encoder_outputs[0])
    states = jnp.asarray(encoder_outputs[0])
    if states.ndim != 3:
        raise ValueError(f"the first item of encoder_outputs must be the states [B,T,D], got {states.shape}")
    return states


def _padded(array: Array, round_up: RoundUp, padding: tuple[int, int], value: int = 0) -> Array:
    """[B,S] with the batch padded (see `pad_batch`), and the sequences with `value`."""
    return array_module(array).pad(pad_batch(array, round_up), ((0, 0), padding), constant_values=value)


def decoder_prefix(decoder_input_ids: Any, batch: int, config: GenerationConfig, vocab_size: int) -> Array:
    """The start id followed by the caller's ids, int32 [B,T]; if an example has it already, the ids are unchanged.

    Traced ids are unchanged, since the length of the result must not depend on their values.

    Reference: transformers/generation/utils.py, `_prepare_decoder_input_ids_for_generation`.

    Raises:
      ValueError: no start id, or ids of another batch size.
    """
    start = config.decoder_start_token_id
    if start is None:
        start = config.bos_token_id
    if start is None:
        raise ValueError(
            "the decoder needs a start id, and the checkpoint has neither decoder_start_token_id nor bos_token_id; "
            "pass one to generate or to jm.load"
        )
    first = token_ids("decoder_start_token_id", np.full((batch, 1), start, np.int32), vocab_size)
    if decoder_input_ids is None:
        return first
    ids = token_ids("decoder_input_ids", decoder_input_ids, vocab_size)
    if ids.shape[0] != batch:
        raise ValueError(f"decoder_input_ids must have one sequence per input ({batch}), got {ids.shape[0]}")
    if not is_concrete(ids) or (ids[:, 0] == start).any():
        return ids
    return np.concatenate([first, ids], axis=1)
