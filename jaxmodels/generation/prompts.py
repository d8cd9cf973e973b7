"""Inputs of `generate`, checked and padded, and the decoding steps of decoder-only models."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import as_array, check_mask, is_concrete
from jaxmodels.config import Config
from jaxmodels.generation.beams import split_beams
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import CAPTURES, Prompts, StepOutput
from jaxmodels.generation.search import NO_TOKEN, SearchState
from jaxmodels.generation.traced import RoundUp, array_module
from jaxmodels.layers.cache import Cache

# On the host, or traced.
Array: TypeAlias = np.ndarray | jax.Array

GenerationMode = Literal["decoder_only", "encoder_decoder", "rag_token", "rag_sequence"]


class Generative(Protocol):
    """What `generate` needs of a model; `architectures.base.Model` declares it.

    Attributes:
      generation_mode: which class of prompts processes the inputs (see `api.PROMPTS`).
      encoding_options: further inputs of an encoder, accepted as keywords of `generate`.
      max_tokens: the longest sequence that the model (its decoder) can process.
    """

    @property
    def config(self) -> Config: ...

    @property
    def generation_mode(self) -> GenerationMode: ...

    @property
    def encoding_options(self) -> tuple[str, ...]: ...

    @property
    def max_tokens(self) -> int: ...

    def init_cache(self, batch: int, length: int, dtype: Any = None) -> Cache: ...

    def apply(self, variables: Mapping[str, Any], *args: Any, **inputs: Any) -> Any: ...


class DecoderOnlyModel(Generative, Protocol):
    """A decoder-only model with a language modelling head."""

    def count_to_position(self, count: jax.Array) -> jax.Array:
        """The position ids of tokens, from their number within the sequence (1 for the first; 0 for padding)."""


class PreparedPrompts(NamedTuple):
    """Inputs of a `generate` call, checked and padded: NumPy arrays, or traced ones (see `traced`).

    Attributes:
      prompts: the inputs of the loop.
      prefix: int32 [B,T], the first tokens of the sequences, without the padding of buckets.
      max_prefix_tokens: real tokens in the longest prefix; under a traced mask its columns.
      source: int32 [B',S], the padded input that processors compare with; NO_TOKEN at padding.
      num_inputs, input_length: the shape of the caller's input, for cutting encoder outputs to it.
    """

    prompts: Prompts
    prefix: Array
    max_prefix_tokens: int
    source: Array
    num_inputs: int
    input_length: int


def token_ids(name: str, ids: Any, vocab_size: int) -> Array:
    """Converts token ids to int32 [B,T].

    Raises:
      ValueError: another rank or dtype, no token, or an id outside the vocabulary.
      TypeError: not an array, such as the whole output of a tokenizer.
    """
    if isinstance(ids, Mapping):
        raise TypeError(f"{name} must be an array, got a {type(ids).__name__}; pass a batch as generate(..., **batch)")
    ids = as_array(name, ids)
    ids = array_module(ids).asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        hint = "; add a batch axis to a single sequence: ids[None]" if ids.ndim == 1 and ids.size else ""
        raise ValueError(
            f"{name} must be an int array [B,T] with at least one token, got {ids.dtype} {ids.shape}{hint}"
        )
    if is_concrete(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(f"{name} contains ids from {ids.min()} to {ids.max()}; the vocabulary has {vocab_size}")
    return ids.astype(np.int32)


def ids_and_mask(
    input_ids: Any, attention_mask: Any, settings: GenerationConfig, config: Config, name: str = "input_ids"
) -> tuple[Array, Array]:
    """Checks ids and mask of a call.

    Args:
      attention_mask: [B,T]. None: the pad id marks padding, unless it is an eos id.

    Returns:
      int32 [B,T] each.

    Raises:
      ValueError: a shape that does not match, a prompt without tokens; see also `token_ids`.
    """
    ids = token_ids(name, input_ids, config.vocab_size)
    pad = settings.pad_token_id
    if attention_mask is None:
        marked = pad is not None and pad not in settings.eos_token_id
        mask: Array = array_module(ids).not_equal(ids, pad) if marked else np.ones(ids.shape, bool)
    else:
        check_mask("attention_mask", attention_mask)
        mask = as_array("attention_mask", attention_mask)
        mask = array_module(mask).asarray(mask)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask must have the shape of {name}, {ids.shape}; got {mask.shape}")
    mask = mask.astype(bool)
    if is_concrete(mask) and not mask.any(axis=1).all():
        empty = int(np.argmin(mask.any(axis=1)))
        raise ValueError(f"prompt {empty} contains only padding; every prompt needs at least one token")
    return ids, mask.astype(np.int32)


def bos_prompt(config: GenerationConfig, *others: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [B,1] of prompts that consist of the bos id.

    Reference: transformers/generation/utils.py, `_maybe_initialize_input_ids_for_generation`.

    Args:
      others: further inputs; the first that is an array determines the batch size, else it is 1.

    Raises:
      ValueError: there is no bos id.
    """
    if config.bos_token_id is None:
        raise ValueError(
            "without input_ids the prompt is bos_token_id, which neither the checkpoint nor the call has; pass "
            "input_ids= or bos_token_id="
        )
    batch = next((np.shape(array)[0] for array in others if np.ndim(array) > 0), 1)
    ids = np.full((batch, 1), config.bos_token_id, np.int32)
    return ids, np.ones_like(ids)


def pad_batch(array: Array, round_up: RoundUp, width: int | None = None, value: int = 0) -> Any:
    """Pads the batch with copies of the last example, whose results are discarded.

    Args:
      round_up: from the size of the batch to that of the padded one.
      width: also pad the sequences with `value` to this length, on the left.
    """
    (batch, length), module = array.shape, array_module(array)
    padding = ((0, round_up(batch, smallest=1) - batch), (0, 0))
    left = ((0, 0), (0 if width is None else width - length, 0))
    return module.pad(module.pad(array, padding, mode="edge"), left, constant_values=value)


def _longest(mask: Array) -> int:
    """Real tokens of the longest sequence; all columns where the mask [B,T] cannot be read."""
    return int(np.asarray(mask).sum(axis=1).max()) if is_concrete(mask) else mask.shape[1]


class _DecoderState(NamedTuple):
    """A cache, and the number of real tokens of each sequence, int32 [B]."""

    cache: Cache
    counts: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unconditional:
    """The unconditional prompt of classifier-free guidance (arXiv:2306.17806).

    Attributes:
      ids, mask: int32 [B,U].
      scale: float32 scalar.
    """

    ids: jax.Array
    mask: jax.Array
    scale: jax.Array

    @classmethod
    def prepare(
        cls,
        model: Generative,
        config: GenerationConfig,
        inputs: Mapping[str, Any],
        ids: Array,
        copies: int,
        round_up: RoundUp,
    ) -> Self:
        """Checks and pads the negative prompts; without any, they are the last token of each prompt.

        Args:
          inputs: the extra inputs of the call.
          ids: int32 [B,T], the prompts, `copies` times each.
        """
        negative, mask = inputs.get("negative_prompt_ids"), inputs.get("negative_prompt_attention_mask")
        if negative is None and mask is not None:
            raise ValueError("negative_prompt_attention_mask needs negative_prompt_ids")
        if negative is None:
            other, mask = ids[:, -1:], np.ones((len(ids), 1), np.int32)
        else:
            other, mask = ids_and_mask(negative, mask, config, model.config, name="negative_prompt_ids")
            if other.shape[0] * copies != ids.shape[0]:
                raise ValueError(
                    f"negative_prompt_ids must have one sequence per prompt ({ids.shape[0] // copies}), got "
                    f"{other.shape[0]}"
                )
            other, mask = other.repeat(copies, axis=0), mask.repeat(copies, axis=0)
        width = round_up(other.shape[1], smallest=1)
        padded_ids, padded_mask = (jnp.asarray(pad_batch(array, round_up, width)) for array in (other, mask))
        return cls(padded_ids, padded_mask, jnp.float32(config.guidance_scale))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderOnlyPrompts:
    """Prompts of a decoder-only model; see `loop.Prompts`.

    Attributes:
      mask: int32 [B,P].
      guidance: None without guidance.
    """

    # Extra inputs accepted by `generate`.
    INPUTS: ClassVar[tuple[str, ...]] = ("negative_prompt_ids", "negative_prompt_attention_mask")

    prefix: jax.Array
    mask: jax.Array
    prefix_length: jax.Array
    num_real: jax.Array
    guidance: Unconditional | None
    model: DecoderOnlyModel = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def prepare(
        cls,
        model: DecoderOnlyModel,
        params: dict,
        config: GenerationConfig,
        input_ids: Any,
        attention_mask: Any,
        inputs: Mapping[str, Any],
        cache_dtype: Any,
        round_up: RoundUp,
    ) -> PreparedPrompts:
        """Checks and pads the prompts of a call.

        Raises:
          ValueError, TypeError: see `ids_and_mask`; no prompt and no bos id; a negative prompt without guidance or with
            another batch size.
        """
        if input_ids is None:
            input_ids, ones = bos_prompt(config, attention_mask)
            attention_mask = ones if attention_mask is None else attention_mask
        ids, mask = ids_and_mask(input_ids, attention_mask, config, model.config)
        if is_concrete(mask) and not mask[:, -1].all():
            warnings.warn(
                "prompts are padded on the right, so generation would continue after the padding; "
                "pad on the left (padding_side='left')",
                stacklevel=4,
            )
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        ids, mask = ids.repeat(copies, axis=0), mask.repeat(copies, axis=0)
        guidance = None
        if config.guidance_scale not in (None, 1):
            guidance = Unconditional.prepare(model, config, inputs, ids, copies, round_up)
        elif any(inputs.get(name) is not None for name in cls.INPUTS):
            raise ValueError("negative_prompt_ids have no effect without guidance; pass guidance_scale above 1")
        width = round_up(ids.shape[1])
        prompts = cls(
            prefix=jnp.asarray(pad_batch(ids, round_up, width)),
            mask=jnp.asarray(pad_batch(mask, round_up, width)),
            prefix_length=jnp.int32(ids.shape[1]),
            num_real=jnp.int32(ids.shape[0]),
            guidance=guidance,
            model=model,
            cache_dtype=cache_dtype,
        )
        longest = max(_longest(each) for each in ([mask] if guidance is None else [mask, guidance.mask]))
        return PreparedPrompts(prompts, ids, longest, pad_batch(ids, round_up, width, NO_TOKEN), *ids.shape)

    def decoder_params(self, params: dict) -> dict:
        return params

    def prefill(
        self, params: dict, decoder_params: dict, *, capacity: int, num_beams: int, requested: Sequence[str]
    ) -> StepOutput:
        inputs = [(self.prefix, self.mask, requested)]
        if self.guidance is not None:
            inputs.append((self.guidance.ids, self.guidance.mask, ()))
        outputs = []
        for ids, mask, flags in inputs:
            counts = jnp.cumsum(mask, axis=1) * mask
            cache = self.model.init_cache(ids.shape[0], ids.shape[1] + capacity * num_beams, dtype=self.cache_dtype)
            captures, out = self._apply(
                decoder_params, ids, counts, cache, flags, attention_mask=mask, logits_to_keep=1
            )
            cache = out.cache if num_beams == 1 else out.cache.expand(num_beams)
            outputs.append(StepOutput(out.logits, _DecoderState(cache, counts.max(axis=1)), captures))
        return outputs[0] if self.guidance is None else _guided(outputs[0], outputs[1], self.guidance.scale)

    def decode(
        self, decoder_params: dict, tokens: jax.Array, state: Any, search: SearchState, *, requested: Sequence[str]
    ) -> StepOutput:
        outputs = []
        for index, (cache, counts) in enumerate([state] if self.guidance is None else state):
            if search.parents is not None:
                cache = cache.reorder(search.parents)
            counts = counts + 1
            per_token = jnp.broadcast_to(counts[:, None], tokens.shape)
            flags = requested if index == 0 else ()
            captures, out = self._apply(decoder_params, tokens, per_token, cache, flags, logits_to_keep=tokens.shape[1])
            if captures:
                captures = split_beams(captures, out.cache, search.text.prompt)
            outputs.append(StepOutput(out.logits, _DecoderState(out.cache, counts), captures))
        return outputs[0] if self.guidance is None else _guided(outputs[0], outputs[1], self.guidance.scale)

    def _apply(
        self, params: dict, ids: jax.Array, counts: jax.Array, cache: Cache, requested: Sequence[str], **inputs: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """The requested captures, and the whole output of the model."""
        flags = {option: True for option in CAPTURES if option in requested}
        positions = self.model.count_to_position(counts)
        out = self.model.apply(
            {"params": params}, ids, position_ids=positions, cache=cache, return_dict=True, **flags, **inputs
        )
        return {CAPTURES[option]: out[CAPTURES[option]] for option in flags}, out


def _guided(conditional: StepOutput, unconditional: StepOutput, scale: jax.Array) -> StepOutput:
    """Combines two steps by classifier-free guidance."""
    with_prompt, without = (jax.nn.log_softmax(s.logits, axis=-1) for s in (conditional, unconditional))
    logits = scale * (with_prompt - without) + without
    return StepOutput(logits, (conditional.state, unconditional.state), conditional.captures)
