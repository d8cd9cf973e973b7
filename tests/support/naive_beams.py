"""A slow beam search by the rules of 4.37.2: one example, Python lists, every sequence recomputed for every token.

Hypotheses end with the generated eos id, as in 4.57; 4.37.2 stores the first of the list. Later versions have no beam
groups, and another stopping rule for early_stopping=False. Checked against 4.37.2, see `test_beams_naive.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Ended:
    """A hypothesis: its score, its ids with the final eos id, and the beam that each was selected from."""

    score: float
    ids: list[int]
    path: list[int]


def search(
    logits: Callable[[list[list[int]]], torch.Tensor],
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
    """Returns the hypotheses of all groups, best first.

    Args:
      logits: sequences of ids -> logits [N,V] of the next token.
      process: processors of the reference, applied after the diversity penalty.
    """
    size = beams // groups
    sequences, paths = [list(prompt)] * beams, [[] for _ in range(beams)]
    sums = np.float32([0.0 if beam % size == 0 else -1e9 for beam in range(beams)])
    finished: list[list[Ended]] = [[] for _ in range(groups)]
    done = [False] * groups

    def penalized(total: float, length: int) -> float:
        return float(total) / length**length_penalty

    def add(group: int, ended: Ended) -> None:
        """Of equal scores the older hypotheses are kept."""
        finished[group] = sorted([*finished[group], ended], key=lambda e: -e.score)[:size]

    def is_done(group: int, best: float, length: int) -> bool:
        if len(finished[group]) < size:
            return False
        if early_stopping is True:
            return True
        length = new if early_stopping == "never" and length_penalty > 0 else length
        return finished[group][-1].score >= penalized(best, length)

    for step in range(new):
        logs = torch.log_softmax(logits(sequences), dim=-1)
        following: list[tuple[float, int, int]] = []  # (sum, beam, token) of every beam
        for group in range(groups):
            members = range(group * size, (group + 1) * size)
            scores = logs[members.start : members.stop].clone()
            for _, _, token in following:
                scores[:, token] -= diversity
            for processor in process:
                scores = processor(torch.tensor([sequences[beam] for beam in members]), scores)
            total = scores.numpy() + sums[members.start : members.stop, None]
            order = np.argsort(-total, axis=None, kind="stable")[: max(2, 1 + len(eos)) * size]
            ranked = [(total.flat[i], members.start + i // total.shape[1], int(i % total.shape[1])) for i in order]
            if done[group]:
                following += [(0.0, members.start, pad)] * size
                continue
            for value, beam, token in [r for r in ranked[:size] if r[2] in eos]:
                ids = [*sequences[beam][len(prompt) :], token]
                add(group, Ended(penalized(value, step + 1), ids, [*paths[beam], beam]))
            following += [r for r in ranked if r[2] not in eos][:size]
            done[group] = is_done(group, ranked[0][0], step + 1)
        sequences = [[*sequences[beam], token] for _, beam, token in following]
        paths = [[*paths[beam], beam] for _, beam, _ in following]
        sums = np.float32([value for value, _, _ in following])
        if all(done):
            break
    for group in range(groups):
        for beam in range(group * size, (group + 1) * size) if not done[group] else ():
            ids = sequences[beam][len(prompt) :]
            add(group, Ended(penalized(sums[beam], len(ids)), ids, paths[beam]))
    return sorted([ended for group in reversed(finished) for ended in reversed(group)], key=lambda e: -e.score)


def as_output(found: list[list[Ended]], prefix: np.ndarray, *, num_return: int, width: int, pad: int):
    """Sequences, sequences_scores and beam_indices as `generate` returns them, `num_return` per example."""
    selected = [(example, ended) for example, each in enumerate(found) for ended in each[:num_return]]
    prompt = prefix.shape[1]
    longest = prompt + max(len(ended.ids) for _, ended in selected)
    sequences = np.full((len(selected), longest), pad)
    indices = np.full((len(selected), longest), -1)
    for index, (example, ended) in enumerate(selected):
        ids = [*prefix[example], *ended.ids]
        sequences[index, : len(ids)] = ids
        indices[index, : len(ended.path)] = np.array(ended.path) + example * width
    return sequences, np.array([ended.score for _, ended in selected]), indices
