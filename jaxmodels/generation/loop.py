"""The decoding loop, over a step function: it knows neither the model nor how a token is chosen."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxmodels.generation import callbacks
from jaxmodels.generation.search import Progress, Search
from jaxmodels.generation.text import Text
from jaxmodels.layers.products import for_steps
from jaxmodels.layers.unstack import unstack_layers

# What a step can hand out beside its logits, by option.
CAPTURED = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
    """What one step of a model gives.

    Attributes:
      logits: float32 [B,K,V] after the newest token of each branch; [B,1,V] after a prompt.
      state: what the next step needs.
      captured: name -> array, what was asked for beside it.
    """

    logits: jax.Array
    state: Any
    captured: dict[str, jax.Array]


class Prompts(Protocol):
    """What is to be continued, and the model that does it; a pytree.

    Attributes:
      beginning: int32 [B,P], what the texts begin with; its last `given` columns are the caller's.
      real: int32 scalar, the rows that do not only fill a bucket.
    """

    beginning: jax.Array
    given: jax.Array
    real: jax.Array

    def of_decoder(self, params):
        """Those of the model that the loop runs."""

    def begin(self, params, layers, *, room: int, width: int, asked: Sequence[str]) -> Step:
        """Reads everything, and makes room for `room` more tokens in each of `width` branches.

        params: all. layers: `of_decoder`, in layers.
        """

    def step(self, layers, tokens: jax.Array, state, progress: Progress, *, asked: Sequence[str]) -> Step:
        """Reads tokens int32 [B,K]. layers: as for `begin`, perhaps with kernels turned."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """What the loop carries on, and `run` starts from again.

    Attributes:
      progress: of the search. state: of the model.
      first: what was captured while the prompt was read. record: name -> [room, ...], of every later step, and the
        scores and logits of every token.
    """

    progress: Progress
    state: Any
    first: dict[str, jax.Array]
    record: dict[str, jax.Array]


@partial(jax.jit, static_argnames=("room", "asked"))
def start(
    params, layers, prompts: Prompts, search: Search, stream, until, *, room: int, asked: tuple[str, ...]
) -> Carry:
    """Reads the prompts and generates until every row has ended, or there are `until` tokens.

    layers: the decoder's parameters in layers, where they can be had outside of a program for nothing; or None.
    """
    layers = _in_layers(prompts, params, layers)
    read = prompts.begin(params, layers, room=room, width=search.width, asked=asked)
    B, _, V = read.logits.shape
    width = search.width
    beginning = jnp.repeat(prompts.beginning, width, axis=0)
    text = Text.begin(beginning, prompts.given, room, search.terms.pad)
    logits = jnp.broadcast_to(read.logits, (B, width, V))
    progress, choice = search.advance(search.begin(text, prompts.real), logits)
    progress = _streamed(stream, progress)
    record = {}
    if "output_scores" in asked:
        record["scores"] = _recorded(jnp.zeros((room, *choice.scores.shape)), 0, choice.scores)
    if "output_logits" in asked:
        record["logits"] = _recorded(jnp.zeros((room, *choice.logits.shape)), 0, choice.logits)
    if any(name in asked for name in CAPTURED):
        shapes = jax.eval_shape(
            lambda: prompts.step(layers, progress.token.reshape(B, width), read.state, progress, asked=asked).captured
        )
        record |= {name: jnp.zeros((room, *a.shape), a.dtype) for name, a in shapes.items()}
    carry = Carry(progress, read.state, read.captured, record)
    layers = for_steps(layers, rows=progress.token.size, steps=room)
    return _loop(layers, prompts, search, stream, carry, until, asked)


@partial(jax.jit, static_argnames=("asked",), donate_argnames=("carry",))
def go_on(
    params, layers, prompts: Prompts, search: Search, stream, carry: Carry, until, *, asked: tuple[str, ...]
) -> Carry:
    """Goes on from where `start` or this left off, until there are `until` tokens; often for few steps."""
    return _loop(_in_layers(prompts, params, layers), prompts, search, stream, carry, until, asked)


def _in_layers(prompts: Prompts, params, layers):
    return unstack_layers(prompts.of_decoder(params)) if layers is None else layers


def _loop(layers, prompts, search, stream, carry, until, asked) -> Carry:
    until = jnp.minimum(until, search.terms.limit)

    def more(carry):
        return (carry.progress.text.generated < until) & ~carry.progress.over

    def body(carry):
        progress = carry.progress
        tokens = progress.token.reshape(-1, search.width)
        step = prompts.step(layers, tokens, carry.state, progress, asked=asked)
        index = progress.text.generated
        progress, choice = search.advance(progress, step.logits)
        values = {"scores": choice.scores, "logits": choice.logits, **step.captured}
        record = {name: _recorded(array, index, values[name]) for name, array in carry.record.items()}
        return Carry(_streamed(stream, progress), step.state, carry.first, record)

    return jax.lax.while_loop(more, body, carry)


def _recorded(array, index, value):
    return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), index, axis=0)


def _streamed(stream, progress: Progress) -> Progress:
    if stream is None:
        return progress
    return dataclasses.replace(progress, stop=progress.stop | ~callbacks.emit(stream, progress.token))
