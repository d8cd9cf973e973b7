"""Stops that only the host can see, between stretches of the compiled loop: the clock, and strings in the text."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.loop import Carry
from jaxmodels.generation.search import Terms

STRETCH = 32  # tokens between two looks at the text, unless it is streamed
FIRST = 4  # tokens after which the first look at the clock says how fast the loop is


class Decodes(Protocol):
    def decode(self, ids, *, skip_special_tokens: bool = False) -> str: ...


class Clock:
    """Says how far the loop may go before the time is up, from how fast it went.

    The first stretch counts what had to be compiled, too; a stretch that has begun is not broken off.
    """

    def __init__(self, seconds: float, ticking: Callable[[], float] = time.monotonic):
        """ticking: says how many seconds it is, from some moment on."""
        self.ticking = ticking
        self.began, self.done = ticking(), 0
        self.end = self.began + seconds

    def next(self, done: int) -> int:
        """Up to how many tokens to go, with `done` ones there; `done` where the time is up."""
        now = self.ticking()
        if now >= self.end:
            return done
        if done == 0:
            return FIRST
        pace = (now - self.began) / (done - self.done)
        self.began, self.done = now, done
        return done + int(np.clip((self.end - now) / pace / 2, 1, 1 << 20))


class StopStrings:
    """Ends rows as soon as their text holds one of the strings."""

    def __init__(self, strings: Sequence[str], tokenizer: Decodes, terms: Terms):
        self.strings, self.tokenizer = strings, tokenizer
        self.pad, self.eos = int(terms.pad), np.asarray(terms.eos)
        self.ends: dict[int, int] = {}

    def apply(self, carry: Carry, looked_at: int) -> Carry:
        """The carry with the rows ended that hold a string, and nothing after it; the first columns are known."""
        text = carry.progress.text
        ids, done = np.array(text.ids), np.array(carry.progress.done)
        end = int(text.end)
        for row in np.flatnonzero(~done | (ids[:, text.prompt + looked_at : end] != self.pad).any(axis=1)):
            if row not in self.ends and (last := self._end(ids[row, text.prompt : end], looked_at)) is not None:
                done[row], self.ends[int(row)] = True, last
                ids[row, text.prompt + last : end] = self.pad
        progress = replace(carry.progress, text=replace(text, ids=jnp.asarray(ids)), done=jnp.asarray(done))
        return replace(carry, progress=progress)

    def columns(self, carry: Carry, rows: int) -> int:
        """Generated columns up to the end of the last of so many rows; the others fill a bucket."""
        text = carry.progress.text
        ids = np.asarray(text.ids)[:rows, text.prompt : int(text.end)]
        ended = np.isin(ids, self.eos)
        ends = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, ids.shape[1])
        for row, end in self.ends.items():
            ends[row] = end
        return int(ends.max())

    def _end(self, ids: np.ndarray, looked_at: int) -> int | None:
        """How many of the generated tokens there are when one of the strings is complete; None if none is."""
        if not self._holds(ids):
            return None
        low, high = looked_at, len(ids)  # it is in the first `high`, and not in the first `low`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(ids[:middle]) else (middle, high)
        return high

    def _holds(self, ids: np.ndarray) -> bool:
        text = self.tokenizer.decode(ids)
        return any(string in text for string in self.strings)


def in_stretches(
    begin: Callable[[int], Carry],
    go_on: Callable[[Carry, int], Carry],
    limit: int,
    clock: Clock | None,
    strings: StopStrings | None,
    stretch: int,
) -> Carry:
    """Runs the loop up to `limit` tokens, a stretch at a time.

    Args:
      begin, go_on: up to how many tokens. stretch: tokens between two looks at the text.
    """

    def until(done: int) -> int:
        return min(limit, done + stretch if strings else limit, clock.next(done) if clock else limit)

    carry, done = begin(max(1, until(0))), 0
    while True:
        if strings is not None:
            carry = strings.apply(carry, done)
        done = int(carry.progress.text.generated)
        if done >= limit or bool(carry.progress.over) or (goal := until(done)) <= done:
            return carry
        carry = go_on(carry, goal)
