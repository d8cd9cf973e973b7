"""Stops that only the host can see, between stretches of the compiled loop: the clock, and strings in the text."""

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.loop import Carry
from jaxmodels.generation.search import Terms

STRETCH = 32  # tokens between two looks at the text, unless it is streamed
FIRST = 4  # tokens after which the first look at the clock says how fast the loop is


class Decodes(Protocol):
    """A tokenizer; if its `decode` has an option `clean_up_tokenization_spaces`, that is False."""

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
    """Ends rows as soon as their text holds one of the strings, of which a part may stand in the prompt.

    Reference: transformers/generation/stopping_criteria.py (4.57), `StopStringCriteria`.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Decodes, terms: Terms):
        self.strings = strings
        self.decode = _decoding(tokenizer)
        self.pad, self.eos = int(terms.pad), np.asarray(terms.eos)
        self.ends: dict[int, int] = {}
        self.before = max(len(string.encode()) for string in strings)  # tokens of the prompt; one has a byte at least

    def apply(self, carry: Carry, looked_at: int) -> Carry:
        """The carry with the rows ended that hold a string, and nothing after it; the first columns are known."""
        text = carry.progress.text
        ids, done = np.array(text.ids), np.array(carry.progress.done)
        end = int(text.end)
        for row in np.flatnonzero(~done | (ids[:, text.prompt + looked_at : end] != self.pad).any(axis=1)):
            first = max(int(text.start), text.prompt - self.before)
            whole = ids[row, first:end]
            if row not in self.ends and (last := self._end(whole, text.prompt - first, looked_at)) is not None:
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

    def _end(self, ids: np.ndarray, given: int, looked_at: int) -> int | None:
        """How many tokens behind the first `given` there are when one of the strings is complete; None if none is."""
        before = self.decode(ids[:given]) if given else ""
        if not self._holds(ids, before):
            return None
        low, high = looked_at, len(ids) - given  # it is in the first `high`, and not in the first `low`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(ids[: given + middle], before) else (middle, high)
        return high

    def _holds(self, ids: np.ndarray, before: str) -> bool:
        """Whether a string ends in what the text has beyond `before`; a character may be complete only with its last
        token, and then the text differs where that begins."""
        text = self.decode(ids)
        old = len(os.path.commonprefix([before, text]))
        return any(text.find(string, max(0, old - len(string) + 1)) >= 0 for string in self.strings)


def _decoding(tokenizer: Any) -> Callable[[np.ndarray], str]:
    """ids -> the text as generated: a clean-up takes spaces away that were generated."""
    with contextlib.suppress(TypeError, ValueError):  # no signature to be had
        if "clean_up_tokenization_spaces" in inspect.signature(tokenizer.decode).parameters:
            return partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    return tokenizer.decode


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
