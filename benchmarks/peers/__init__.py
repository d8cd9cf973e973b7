"""The participants: one file per library, one function per kind of job, all with the same arguments.

A function sets up (loads, converts) and returns a `Job`; what it does is not timed. The kinds of job:

decode(folder, ids, new): greedy continuation of every row of `ids` by `new` tokens; values: the sequences [B,T+new].
prefill(folder, ids): logits of the last position; values [B,V].
train(folder, ids): one step of next-token loss and AdamW(1e-4, weight_decay=0.01); value: the loss before the update.
load(folder): parameters from the file, and the sum over all of them, so that pages that were only mapped are read too.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MODULES = {
    "ours": "benchmarks.peers.ours",
    "hf-torch-sdpa": "benchmarks.peers.hf_torch",
    "hf-flax": "benchmarks.peers.hf_flax",
    "ctranslate2-f32": "benchmarks.peers.ctranslate2_f32",
}


def as_values(result: Any) -> list[float]:
    """The numbers of an array-like, flat."""
    return np.asarray(result).ravel().tolist()


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that is set up.

    Attributes:
      run: the timed call; it returns when its result is there, not when it is under way.
      values: the numbers of that result, for the comparison between peers; not timed.
      facts: other figures of that result, which become columns of the table; not timed.
    """

    run: Callable[[], Any]
    values: Callable[[Any], list[float]] = as_values
    facts: Callable[[Any], dict[str, float]] = lambda result: {}


def total(arrays: Iterable[np.ndarray]) -> float:
    """The sum over every tensor, by numpy for every peer: views of the parameters, nothing is copied or compiled."""
    return float(sum(array.sum(dtype=np.float32) for array in arrays))
