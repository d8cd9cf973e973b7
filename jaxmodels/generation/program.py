"""The compiled loop of a call, run whole or in stretches."""

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation import recompiles
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import Carry, Prompts, go_on, start
from jaxmodels.generation.search import Search
from jaxmodels.generation.stopping import STRETCH, Clock, StopStrings, in_stretches
from jaxmodels.layers.unstack import views_of_layers


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled loop of a call, with its arguments."""

    params: dict
    prompts: Prompts
    search: Search
    stream: Any
    room: int
    asked: tuple[str, ...]

    @cached_property
    def _layers(self) -> dict | None:
        return views_of_layers(self.prompts.of_decoder(self.params))

    def of_start(self, until: int) -> tuple[tuple, dict]:
        """The arguments of `loop.start`: the traced ones, and the static ones by name."""
        arguments = (self.params, self._layers, self.prompts, self.search, self.stream, jnp.int32(until))
        return arguments, {"room": self.room, "asked": self.asked}

    def of_go_on(self, carry: Carry, until: int) -> tuple[tuple, dict]:
        """The same of `loop.go_on`."""
        arguments = (self.params, self._layers, self.prompts, self.search, self.stream, carry, jnp.int32(until))
        return arguments, {"asked": self.asked}

    def begin(self, until: int) -> Carry:
        arguments, options = self.of_start(until)
        return start(*arguments, **options)

    def more(self, carry: Carry, until: int) -> Carry:
        arguments, options = self.of_go_on(carry, until)
        return go_on(*arguments, **options)

    def trace(self, place: jax.sharding.Sharding) -> jax.stages.Traced:
        """What `begin` runs, only traced, for devices that need not be here.

        The parameters may be `jax.ShapeDtypeStruct`s; place: where all else is.
        """
        host = (self.prompts, self.search, self.stream, np.int32(0))
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place), host)
        return start.trace(self.params, None, *shapes, room=self.room, asked=self.asked)

    def run(
        self,
        config: GenerationConfig,
        new: int,
        tokenizer,
        *,
        warming: bool,
        stretch: int = STRETCH,
        ticking: Callable[[], float] = time.monotonic,
    ) -> tuple[Carry, int]:
        """What the loop carried in the end, and how many columns it generated.

        stretch: tokens between two looks at the text. ticking: the clock of max_time.
        """
        before = recompiles.counts()
        clock = None if config.max_time is None else Clock(config.max_time, ticking)
        strings = StopStrings(config.stop_strings, tokenizer, self.search.terms) if config.stop_strings else None
        if clock is None and strings is None:
            carry = self.begin(1 if warming else new)
        elif warming:
            carry = self.more(self.begin(1), 2)
        else:
            # What was streamed cannot be taken back: look at the text after every token then.
            stretch = stretch if self.stream is None else 1
            carry = in_stretches(self.begin, self.more, new, clock, strings, stretch)
        recompiles.note(before, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        generated = int(jax.block_until_ready(carry).progress.text.generated)
        return carry, generated if strings is None else strings.columns(carry, int(self.prompts.real))
