"""Beam search by the rules of 4.37.2, slowly: one example, Python lists, the whole text read anew for every token.

The eos id at the end is the one that came, as in 4.57; 4.37.2 writes the first of the list. Later versions have no
beam groups, and stop otherwise where early_stopping is False. Checked by hand against 4.37.2: see
`test_beams_naive.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Ended:
    """A hypothesis: its score, its ids with the eos id that ended it, and the beam that each came from."""

    score: float
    ids: list[int]
    path: list[int]


def search(
    read: Callable[[list[list[int]]], torch.Tensor],
    prompt: Sequence[int],
    *,
    beams: int,
    new: int,
    eos: Sequence[int],
    pad: int,
    groups: int = 1,
    diversity: float = 0.0,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    process: Sequence[Callable] = (),
) -> list[Ended]:
    """All hypotheses that were kept, best first.

    Args:
      read: rows of ids -> logits [rows,V] of what follows them. process: processors of the reference, behind the
        penalty for groups.
    """
    size = beams // groups
    texts, paths = [list(prompt)] * beams, [[] for _ in range(beams)]
    sums = np.float32([0.0 if beam % size == 0 else -1e9 for beam in range(beams)])
    kept: list[list[Ended]] = [[] for _ in range(groups)]
    done = [False] * groups

    def penalised(total: float, length: int) -> float:
        return float(total) / length**length_penalty

    def add(group: int, ended: Ended) -> None:
        """Of equals the older ones stay."""
        kept[group] = sorted([*kept[group], ended], key=lambda e: -e.score)[:size]

    def is_done(group: int, best: float, length: int) -> bool:
        if len(kept[group]) < size:
            return False
        if early_stopping is True:
            return True
        length = new if early_stopping == "never" and length_penalty > 0 else length
        return kept[group][-1].score >= penalised(best, length)

    for step in range(new):
        logs = torch.log_softmax(read(texts), dim=-1)
        following: list[tuple[float, int, int]] = []  # (sum, beam, token) of every beam
        for group in range(groups):
            own = range(group * size, (group + 1) * size)
            scores = logs[own.start : own.stop].clone()
            for _, _, token in following:
                scores[:, token] -= diversity
            for processor in process:
                scores = processor(torch.tensor([texts[beam] for beam in own]), scores)
            total = scores.numpy() + sums[own.start : own.stop, None]
            order = np.argsort(-total, axis=None, kind="stable")[: max(2, 1 + len(eos)) * size]
            ranked = [(total.flat[i], own.start + i // total.shape[1], int(i % total.shape[1])) for i in order]
            if done[group]:
                following += [(0.0, own.start, pad)] * size
                continue
            for value, beam, token in [r for r in ranked[:size] if r[2] in eos]:
                ids = [*texts[beam][len(prompt) :], token]
                add(group, Ended(penalised(value, step + 1), ids, [*paths[beam], beam]))
            following += [r for r in ranked if r[2] not in eos][:size]
            done[group] = is_done(group, ranked[0][0], step + 1)
        texts = [[*texts[beam], token] for _, beam, token in following]
        paths = [[*paths[beam], beam] for _, beam, _ in following]
        sums = np.float32([value for value, _, _ in following])
        if all(done):
            break
    for group in range(groups):
        for beam in range(group * size, (group + 1) * size) if not done[group] else ():
            ids = texts[beam][len(prompt) :]
            add(group, Ended(penalised(sums[beam], len(ids)), ids, paths[beam]))
    return sorted([ended for group in reversed(kept) for ended in reversed(group)], key=lambda e: -e.score)


def laid_out(found: list[list[Ended]], beginning: np.ndarray, *, give: int, width: int, pad: int):
    """sequences, sequences_scores and beam_indices as `generate` returns them, `give` for each example."""
    chosen = [(row, ended) for row, hypotheses in enumerate(found) for ended in hypotheses[:give]]
    prompt = beginning.shape[1]
    longest = prompt + max(len(ended.ids) for _, ended in chosen)
    sequences = np.full((len(chosen), longest), pad)
    indices = np.full((len(chosen), longest), -1)
    for place, (row, ended) in enumerate(chosen):
        ids = [*beginning[row], *ended.ids]
        sequences[place, : len(ids)] = ids
        indices[place, : len(ended.path)] = np.array(ended.path) + row * width
    return sequences, np.array([ended.score for _, ended in chosen]), indices
