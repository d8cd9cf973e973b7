"""Stopping conditions that are checked on the host, between chunks of the compiled loop: `max_time`, `stop_strings`."""

import contextlib
import dataclasses
import inspect
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.search import SearchState

CHUNK_SIZE = 32  # tokens between two checks for stop strings, unless the tokens are streamed
FIRST_CHUNK = 4  # tokens after which the speed of the loop is first measured


class Decodes(Protocol):
    """A tokenizer. If its `decode` has an option `clean_up_tokenization_spaces`, it is called with False."""

    def decode(self, ids: Any, /, *, skip_special_tokens: bool = False) -> str: ...


class TimeLimit:
    """Decides how many tokens may be generated within a time limit, from the speed so far.

    The first chunk includes compilation. A chunk that has started is not interrupted.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        """
        Args:
          seconds: the limit, counted from here.
          clock: returns the time in seconds, from any origin.
        """
        self.clock = clock
        self.chunk_start, self.generated = clock(), 0
        self.deadline = self.chunk_start + seconds

    def next_target(self, generated: int) -> int:
        """How many tokens to have generated after the next chunk; `generated`, the present number, if time is up."""
        now = self.clock()
        if now >= self.deadline:
            return generated
        if generated == 0:
            return FIRST_CHUNK
        seconds_per_token = (now - self.chunk_start) / (generated - self.generated)
        self.chunk_start, self.generated = now, generated
        return generated + int(np.clip((self.deadline - now) / seconds_per_token / 2, 1, 1 << 20))


class StopStrings:
    """Ends sequences whose decoded text contains a stop string, which may begin in the prompt.

    Reference: transformers/generation/stopping_criteria.py (4.57), `StopStringCriteria`.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Decodes, pad_id: int):
        self.strings = strings
        self.decode = _decode_function(tokenizer)
        self.pad_id = pad_id
        self.found: set[int] = set()  # sequences that contain one
        # How many tokens of the prompt a stop string can reach into: a token has at least one byte.
        self.context = max(len(string.encode()) for string in strings)

    def apply(self, state: SearchState, checked: int) -> SearchState:
        """Ends the sequences that contain a stop string and pads them after it; `checked` tokens contain none."""
        text = state.text
        ids, done, lengths = np.array(text.ids), np.array(state.done), np.array(state.lengths)
        end = int(text.end)
        for index in np.flatnonzero(~done | (ids[:, text.prompt + checked : end] != self.pad_id).any(axis=1)):
            if int(index) in self.found:
                continue
            first = max(int(text.start), text.prompt - self.context)
            length = self._find_end(ids[index, first:end], text.prompt - first, checked)
            if length is not None:
                self.found.add(int(index))
                done[index], lengths[index] = True, length
                ids[index, text.prompt + length : end] = self.pad_id
        text = dataclasses.replace(text, ids=jnp.asarray(ids))
        return dataclasses.replace(state, text=text, done=jnp.asarray(done), lengths=jnp.asarray(lengths))

    def _find_end(self, ids: np.ndarray, prompt: int, checked: int) -> int | None:
        """After how many tokens beyond the first `prompt` ones a stop string is complete; None if none is."""
        prompt_text = self.decode(ids[:prompt]) if prompt else ""
        if not self._contains(ids, prompt_text):
            return None
        low, high = checked, len(ids) - prompt  # bisection: complete within `high` tokens, not within `low`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._contains(ids[: prompt + middle], prompt_text) else (middle, high)
        return high

    def _contains(self, ids: np.ndarray, prompt_text: str) -> bool:
        """Whether a stop string ends in the text beyond the prompt.

        A character may be complete only with its last token: then the texts differ from the first byte of it.
        """
        text = self.decode(ids)
        old = len(os.path.commonprefix([prompt_text, text]))
        return any(text.find(string, max(0, old - len(string) + 1)) >= 0 for string in self.strings)


def _decode_function(tokenizer: Any) -> Callable[[np.ndarray], str]:
    """ids -> text as generated: cleaning up would remove spaces that were generated."""
    with contextlib.suppress(TypeError, ValueError):  # some callables have no signature
        if "clean_up_tokenization_spaces" in inspect.signature(tokenizer.decode).parameters:
            return partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    return tokenizer.decode
