"""Texts of random words with facts planted in them ("the key K has value V"), and a question about one of them.

    <s> K </s> word word word K V word ... word K' V' word word
    question   text

The answer to the question K is V, and nothing else in the text depends on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

BOS, PAD, EOS = 0, 1, 2
QUESTION = 3  # tokens: <s>, the key, </s>
NEAREST = 2  # tokens from the question's end to the value of the first fact that fits behind it


@dataclass(frozen=True)
class Language:
    """How many ordinary words, key words and value words there are; ids in that order after the special tokens.

    apart: tokens that two facts are at least away from each other, so that no window mixes them up.
    """

    words: int
    key_words: int
    value_words: int
    facts: int
    apart: int

    @property
    def vocabulary(self) -> int:
        return 3 + self.words + self.key_words + self.value_words

    def key(self, number):
        return 3 + self.words + number

    def value(self, number):
        return 3 + self.words + self.key_words + number

    def example(self, rng: np.random.Generator, length: int, distance: int) -> tuple[np.ndarray, int]:
        """A text of `length` tokens with its question, int32, and the id of the answer.

        Args:
          distance: tokens from the question's last token to the answer, NEAREST to length - QUESTION.
        """
        ids = rng.integers(3, 3 + self.words, length, dtype=np.int32)
        keys = rng.permutation(self.key_words)[: self.facts]
        values = rng.integers(0, self.value_words, len(keys))
        ids[:QUESTION] = BOS, self.key(keys[0]), EOS
        place = QUESTION - 1 + distance
        free = np.ones(length, bool)
        free[: QUESTION + 1] = False
        for key, value in zip(keys, values, strict=True):
            ids[place - 1 : place + 1] = self.key(key), self.value(value)
            free[max(place - self.apart, 0) : place + self.apart + 1] = False
            places = np.flatnonzero(free)
            if not len(places):
                break
            place = rng.choice(places)
        return ids, int(self.value(values[0]))

    def batch(
        self, rng: np.random.Generator, length: int, distances: Sequence[int], *, use_global: bool
    ) -> dict[str, np.ndarray]:
        """The keywords of `Reader` for a text per distance: arrays [B,length], labels [B,1].

        Args:
          use_global: whether the question's tokens are global.
        """
        ids, answers = zip(*(self.example(rng, length, distance) for distance in distances), strict=True)
        mask = np.zeros((len(ids), length), np.int32)
        mask[:, :QUESTION] = use_global
        labels = np.array(answers, np.int32)[:, None]
        return {"input_ids": np.stack(ids), "global_attention_mask": mask, "labels": labels}


class Curriculum:
    """The batches of a run as grain's random-access source; number i is a function of i and the seed.

    Every batch has about as many tokens; texts get longer from stage to stage, so that the needle is first found in
    little hay. The facts of every second text lie anywhere in it; those of the others at log-uniform distances, as many
    10 to 20 tokens away as 1,000 to 2,000.
    """

    def __init__(self, language: Language, stages: Sequence[tuple[int, int]], tokens: int, seed: int, use_global: bool):
        """Stages are (last step, length in tokens).

        Raises:
          ValueError: stages that are not in order, or too short for a fact; fewer tokens than a text has.
        """
        ends, lengths = zip(*stages, strict=True)
        if list(ends) != sorted(set(ends)) or min(lengths) < QUESTION + NEAREST or max(lengths) > tokens:
            raise ValueError(
                f"curriculum is a list of (last step, length), steps rising, lengths from {QUESTION + NEAREST} to "
                f"batch_tokens={tokens}; got {tuple(map(tuple, stages))}"
            )
        self._language, self._ends, self._lengths, self._tokens = language, ends, lengths, tokens
        self._seed, self._use_global = seed, use_global

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self._seed, int(number)])
        length = self._lengths[int(np.searchsorted(self._ends, number, side="right"))]
        farthest = length - QUESTION
        rows = self._tokens // length
        distances = rng.integers(NEAREST, farthest + 1, rows)
        distances[::2] = np.exp(rng.uniform(np.log(NEAREST), np.log(farthest + 1), len(distances[::2])))
        return self._language.batch(rng, length, distances, use_global=self._use_global)

    def iterator(self) -> grain.DatasetIterator:
        """The batches in order; the iterator's state is its position: it can be saved and set."""
        source = grain.MapDataset.source(self)
        return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def at_distance(
    language: Language, length: int, distance: int, *, rows: int, batches: int, use_global: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Batches to test with, the same in every run: texts of `length` tokens whose answer is `distance` away.

    They differ from all that is trained on, whose seeds have other lengths.
    """
    for number in range(batches):
        rng = np.random.default_rng([length, distance, number])
        yield language.batch(rng, length, [distance] * rows, use_global=use_global)
