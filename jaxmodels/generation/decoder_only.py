"""Decoder-only models: the prompt is the beginning of the text."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.branches import per_row
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import CAPTURED, Step
from jaxmodels.generation.prompts import NOTHING, Called, beginning_of_text, fill_batch, ids_and_mask, pad_left
from jaxmodels.generation.search import Progress
from jaxmodels.layers.cache import Cache

# What a call may say beside the options.
INPUTS = ("negative_prompt_ids", "negative_prompt_attention_mask")


class _State(NamedTuple):
    """A cache, and how many real tokens each text of it has, int32 [B]."""

    cache: Cache
    counts: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unconditional:
    """The other text of classifier-free guidance (arXiv:2306.17806): ids and mask int32 [B,U]; scale float32."""

    ids: jax.Array
    mask: jax.Array
    scale: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Continuation:
    """Prompts to be continued; see `Prompts` in `loop`.

    Attributes:
      mask: int32 [B,P]. guide: None without guidance.
    """

    beginning: jax.Array
    mask: jax.Array
    given: jax.Array
    real: jax.Array
    guide: Unconditional | None
    model: Any = dataclasses.field(metadata={"static": True})
    cache_dtype: Any = dataclasses.field(metadata={"static": True})

    def of_decoder(self, params):
        return params

    def begin(self, params, layers, *, room: int, width: int, asked: Sequence[str]) -> Step:
        step = self._read(layers, self.beginning, self.mask, room, width, asked)
        if self.guide is None:
            return step
        other = self._read(layers, self.guide.ids, self.guide.mask, room, width, ())
        return _guided(step, other, self.guide.scale)

    def step(self, layers, tokens, state, progress: Progress, *, asked: Sequence[str]) -> Step:
        if self.guide is None:
            return self._next(layers, tokens, state, progress, asked)
        mine, other = state
        step = self._next(layers, tokens, mine, progress, asked)
        return _guided(step, self._next(layers, tokens, other, progress, ()), self.guide.scale)

    def _read(self, layers, ids, mask, room: int, width: int, asked) -> Step:
        counts = jnp.cumsum(mask, axis=1) * mask
        length = ids.shape[1] + room * width
        cache = self.model.init_cache(ids.shape[0], length, dtype=self.cache_dtype)
        out = self._apply(layers, ids, counts, cache, asked, attention_mask=mask, logits_to_keep=1)
        cache = out.cache if width == 1 else out.cache.branch(width)
        return Step(out.logits, _State(cache, counts.max(axis=1)), _captured(out, asked))

    def _next(self, layers, tokens, state: _State, progress: Progress, asked) -> Step:
        cache, counts = state
        if progress.parents is not None:
            cache = cache.follow(progress.parents)
        places = jnp.broadcast_to(counts[:, None] + 1, tokens.shape)
        out = self._apply(layers, tokens, places, cache, asked, logits_to_keep=tokens.shape[1])
        captured = per_row(_captured(out, asked), out.cache, progress.text.prompt)
        return Step(out.logits, _State(out.cache, counts + 1), captured)

    def _apply(self, layers, ids, counts, cache, asked, **options):
        captured = {name: True for name in CAPTURED if name in asked}
        positions = self.model.count_to_position(counts)
        return self.model.apply(
            {"params": layers}, ids, position_ids=positions, cache=cache, return_dict=True, **captured, **options
        )


def _guided(step: Step, other: Step, scale: jax.Array) -> Step:
    mine, free = (jax.nn.log_softmax(s.logits, axis=-1) for s in (step, other))
    return Step(scale * (mine - free) + free, (step.state, other.state), step.captured)


def _captured(out, asked) -> dict[str, jax.Array]:
    return {name: out[name] for option, name in CAPTURED.items() if option in asked}


def prepare(
    model: nn.Module,
    params: dict,
    config: GenerationConfig,
    input_ids,
    attention_mask,
    further: dict[str, Any],
    cache_dtype,
) -> Called:
    """Checks and fills up the prompts of a call.

    Raises:
      ValueError, TypeError: see `ids_and_mask`; no prompt and no bos id; a negative prompt without guidance, or of
        other rows.
    """
    if input_ids is None:
        input_ids, ones = beginning_of_text(config, attention_mask)
        attention_mask = ones if attention_mask is None else attention_mask
    ids, mask = ids_and_mask(input_ids, attention_mask, config, model.config)
    if not mask[:, -1].all():
        warnings.warn(
            "the prompts are padded on the right: the text would continue after the padding; "
            "pad on the left (padding_side='left')",
            stacklevel=4,
        )
    copies = config.num_return_sequences if config.num_beams == 1 else 1
    ids, mask = np.repeat(ids, copies, axis=0), np.repeat(mask, copies, axis=0)
    width = bucket(ids.shape[1])
    filled = fill_batch(ids)
    guide = _guide(model, config, further, ids, copies)
    prompts = Continuation(
        beginning=jnp.asarray(pad_left(filled, width)),
        mask=jnp.asarray(pad_left(fill_batch(mask), width)),
        given=jnp.int32(ids.shape[1]),
        real=jnp.int32(ids.shape[0]),
        guide=guide,
        model=model,
        cache_dtype=cache_dtype,
    )
    texts = [mask] if guide is None else [mask, np.asarray(guide.mask)]
    longest = max(int(flags.sum(axis=1).max()) for flags in texts)
    return Called(prompts, ids, longest, pad_left(filled, width, NOTHING), *ids.shape)


def _guide(model, config: GenerationConfig, further, ids: np.ndarray, copies: int) -> Unconditional | None:
    negative, mask = further.get("negative_prompt_ids"), further.get("negative_prompt_attention_mask")
    scale = config.guidance_scale
    if scale is None or scale == 1:
        if negative is not None or mask is not None:
            raise ValueError("negative_prompt_ids guide nothing without guidance_scale above 1")
        return None
    if negative is None and mask is not None:
        raise ValueError("negative_prompt_attention_mask is of negative_prompt_ids, and there are none")
    if negative is None:
        other, mask = ids[:, -1:], np.ones_like(ids[:, -1:])
    else:
        other, mask = ids_and_mask(negative, mask, config, model.config, name="negative_prompt_ids")
        if other.shape[0] * copies != ids.shape[0]:
            raise ValueError(
                f"negative_prompt_ids has a row for each of the {ids.shape[0] // copies} prompts, got {other.shape[0]}"
            )
        other, mask = np.repeat(other, copies, axis=0), np.repeat(mask, copies, axis=0)
    width = bucket(other.shape[1], smallest=1)
    rows, flags = (jnp.asarray(pad_left(fill_batch(array), width)) for array in (other, mask))
    return Unconditional(rows, flags, jnp.float32(scale))
