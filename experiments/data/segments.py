"""Several texts in a row of full length, each a segment of its own, instead of one text and padding."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .batches import IGNORE
from .buckets import LabelledTexts


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Divide texts into rows: each into the fullest one that has room, the longest first.

    That is best-fit decreasing, as in Ding et al. (2024, arXiv:2404.10830).

    Args:
      lengths: Tokens of each text, at most `capacity`.
      capacity: Tokens of a row.

    Returns:
      The indices of the texts of each row.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = defaultdict(list)  # the rows by the room that is left in them
    rooms: list[int] = []  # the keys of `open_rows` that have a row, in ascending order
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        at = bisect_left(rooms, lengths[index])
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del rooms[at]
        rows[row].append(index)
        room -= lengths[index]
        if room and not open_rows[room]:
            insort(rooms, room)
        open_rows[room].append(row)
    return rows


def packed(texts: Sequence[Sequence[int]], capacity: int, pad: int) -> LabelledTexts:
    """Return rows of several texts as examples for next-token prediction.

    The fields are those of `LabelledTexts`, and segment_ids, int32 [B, length]: 1 for the first text of a row, 0 for
    padding. The first token of a text is no label, since no other text may predict it.

    Args:
      texts: Token ids of each text, at most `capacity`.
      capacity: Maximum number of tokens of a row.
      pad: Id of the padding token.
    """
    rows = [[texts[index] for index in row] for row in pack([len(text) for text in texts], capacity)]
    fields = {
        "input_ids": [np.concatenate(row) for row in rows],
        "labels": [np.concatenate([[IGNORE, *text[1:]] for text in row]) for row in rows],
        "segment_ids": [np.repeat(np.arange(1, len(row) + 1), [len(text) for text in row]) for row in rows],
    }
    return LabelledTexts(fields, pad)
