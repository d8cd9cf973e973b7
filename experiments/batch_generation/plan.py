"""Which prompts are generated together: decided by the input alone, so that a restart finds the same batches."""

from collections.abc import Sequence

import numpy as np


def batches(lengths: Sequence[int], rows: int, *, one_length: bool) -> list[np.ndarray]:
    """Places of the prompts in batches of at most `rows` neighbours in length, the longest first: if they find too
    little memory, they do so at once.

    `generate` rounds the longest length of a batch up to a bucket, for each of which it compiles a program.

    Args:
      lengths: tokens of each prompt.
      one_length: prompts of different lengths are never in one batch.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if one_length else [order]
    return [part for group in groups for part in np.split(group, range(rows, len(group), rows))]
