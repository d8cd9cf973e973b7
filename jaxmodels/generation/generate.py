"""`generate`: prefill, decoding loop and stopping in one compiled call."""

import dataclasses
import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.loop import Ending, decode
from jaxmodels.generation.options import Options
from jaxmodels.generation.sampling import Sampler
from jaxmodels.generation.streaming import Callback, stream
from jaxmodels.layers.stack import unstack_layers


@dataclasses.dataclass(frozen=True)
class GenerateOutput:
    """sequences: int32 [B, prompt + generated], the prompt as given, rows filled with the pad id after their end."""

    sequences: jax.Array


def generate(
    model: nn.Module,
    params: dict,
    input_ids: jax.Array,
    *,
    attention_mask: jax.Array | None = None,
    key: jax.Array | None = None,
    streamer: Callback | None = None,
    **options,
) -> GenerateOutput:
    """Continues each prompt, greedily or by sampling.

    Prompt and output lengths are rounded up to buckets (by padding on the left), so another length in the same bucket
    compiles nothing; temperature, top_k, top_p, the ids and the limit are traced.

    Args:
      input_ids: int [B,T]; shorter prompts are padded on the left.
      attention_mask: [B,T], 0 for padding. None: the pad id marks padding, if it is no eos id, else there is none.
      key: for do_sample.
      streamer: called with the new ids of every step, numpy int32 [B], while the loop runs; what it raises ends the
        loop and is raised here.
      options: Hugging Face's names, see `Options`: max_new_tokens, max_length, do_sample, temperature, top_k, top_p,
        eos_token_id (one or several), pad_token_id. Unset ones come from the checkpoint's generation settings.

    Raises:
      ValueError: an unknown option, a value out of range, an empty prompt, or more tokens than the model has positions.
      NotImplementedError: an option of the reference that is not here yet.
    """
    config = model.config
    settings = Options.merge(config, options)
    ids, mask = _prompt(input_ids, attention_mask, settings, config)
    batch, length = ids.shape
    new = settings.new_tokens(length)
    longest = int(mask.sum(axis=1).max())
    if longest + new > model.max_tokens:
        raise ValueError(
            f"a prompt of {longest} tokens and {new} new ones are more than the {model.max_tokens} "
            f"positions of this model; cut the prompt or lower max_new_tokens"
        )
    pad = settings.fill_id()
    width = bucket(length)
    left = ((0, 0), (width - length, 0))
    ending = Ending(jnp.int32(new), jnp.array(settings.eos_token_id, jnp.int32), jnp.int32(pad))
    sampler = Sampler.make(settings, key, config.vocab_size)
    with stream(streamer) as number:
        tokens, count = _run(
            params,
            jnp.asarray(np.pad(ids, left)),
            jnp.asarray(np.pad(mask, left)),
            ending,
            sampler,
            None if number is None else jnp.int32(number),
            model=model,
            room=bucket(new),
        )
        count = int(count)
    return GenerateOutput(jnp.concatenate([jnp.asarray(ids), tokens[:, :count]], axis=1))


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


def _prompt(input_ids, attention_mask, settings: Options, config) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [B,T] and mask int32 [B,T] on the host, checked."""
    if isinstance(input_ids, jax.core.Tracer):
        raise TypeError("generate compiles its own loop and pads to buckets: call it outside jit")
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"input_ids is an int array [B,T] with at least one token, got {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValueError(f"input_ids holds ids from {ids.min()} to {ids.max()}; the vocabulary has {config.vocab_size}")
    pad = settings.pad_token_id
    marks_padding = pad is not None and pad not in settings.eos_token_id
    if attention_mask is None:
        mask = (ids != pad) if marks_padding else np.ones_like(ids)
    else:
        mask = np.asarray(attention_mask)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has the shape of input_ids, {ids.shape}; got {mask.shape}")
    mask = mask.astype(bool)
    if not mask.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(mask.any(axis=1)))} of the prompts holds padding only; give it a token")
    if not mask[:, -1].all():
        warnings.warn(
            "the prompts are padded on the right: the text would continue after the padding; "
            "pad on the left (padding_side='left')",
            stacklevel=3,
        )
    return ids.astype(np.int32), mask.astype(np.int32)
