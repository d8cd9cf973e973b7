"""Sequences of random words that contain facts ("the key K has value V"), and a question about one of them.

    <s> K </s> word word word K V word ... word K' V' word word
    question   text

The answer to the question K is V; nothing else in the text depends on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

BOS, PAD, EOS = 0, 1, 2
QUESTION = 3  # tokens: <s>, the key, </s>
NEAREST = 2  # tokens from the end of the question to the value of a fact directly behind it


@dataclass(frozen=True)
class Language:
    """An artificial language: after the special tokens, the ids are ordinary words, key words and value words.

    Attributes:
      words: Number of ordinary words.
      key_words: Number of key words.
      value_words: Number of value words.
      facts: Number of facts in a text.
      apart: Minimum distance between two facts in tokens, so that they are never in the same window.
    """

    words: int
    key_words: int
    value_words: int
    facts: int
    apart: int

    @property
    def vocabulary(self) -> int:
        """Vocabulary size."""
        return 3 + self.words + self.key_words + self.value_words

    def key(self, number: int) -> int:
        """Return the id of a key word."""
        return 3 + self.words + number

    def value(self, number: int) -> int:
        """Return the id of a value word."""
        return 3 + self.words + self.key_words + number

    def example(self, rng: np.random.Generator, length: int, distance: int) -> tuple[np.ndarray, int]:
        """Create a question with its text, int32 [length], and the id of the answer.

        Args:
          rng: Random generator.
          length: Number of tokens.
          distance: Distance from the last token of the question to the answer, NEAREST to length - QUESTION.
        """
        ids = rng.integers(3, 3 + self.words, length, dtype=np.int32)
        keys = rng.permutation(self.key_words)[: self.facts]
        values = rng.integers(0, self.value_words, len(keys))
        ids[:QUESTION] = BOS, self.key(keys[0]), EOS
        position = QUESTION - 1 + distance
        free = np.ones(length, bool)
        free[: QUESTION + 1] = False
        for key, value in zip(keys, values, strict=True):
            ids[position - 1 : position + 1] = self.key(key), self.value(value)
            free[max(position - self.apart, 0) : position + self.apart + 1] = False
            positions = np.flatnonzero(free)
            if not len(positions):
                break
            position = rng.choice(positions)
        return ids, int(self.value(values[0]))

    def batch(
        self, rng: np.random.Generator, length: int, distances: Sequence[int], *, use_global: bool
    ) -> dict[str, np.ndarray]:
        """Create the inputs of `Reader` with one text per distance: arrays [B,length], labels [B,1].

        Args:
          rng: Random generator.
          length: Number of tokens in each text.
          distances: Distance from question to answer for each text.
          use_global: Whether the tokens of the question are global.
        """
        ids, answers = zip(*(self.example(rng, length, distance) for distance in distances), strict=True)
        mask = np.zeros((len(ids), length), np.int32)
        mask[:, :QUESTION] = use_global
        labels = np.array(answers, np.int32)[:, None]
        return {"input_ids": np.stack(ids), "global_attention_mask": mask, "labels": labels}


class Curriculum:
    """The batches of a run as a random-access data source for grain; batch i depends on i and the seed only.

    All batches have about the same number of tokens; texts get longer from stage to stage. In every second text, the
    distance of the fact is uniform; in the others it is log-uniform, so that 10 to 20 tokens are as frequent as 1,000
    to 2,000.
    """

    def __init__(self, language: Language, stages: Sequence[tuple[int, int]], tokens: int, seed: int, use_global: bool):
        """Create the batches.

        Args:
          language: Language of the texts.
          stages: (last step, length in tokens) of each stage.
          tokens: Number of tokens in a batch.
          seed: Random seed.
          use_global: Whether the tokens of the question are global.

        Raises:
          ValueError: The stages are not in ascending order, too short for a fact, or longer than a batch.
        """
        ends, lengths = zip(*stages, strict=True)
        if list(ends) != sorted(set(ends)) or min(lengths) < QUESTION + NEAREST or max(lengths) > tokens:
            raise ValueError(
                f"curriculum is a list of (last step, length) with ascending steps, lengths from {QUESTION + NEAREST} "
                f"to batch_tokens={tokens}; got {tuple(map(tuple, stages))}"
            )
        self._language, self._ends, self._lengths, self._tokens = language, ends, lengths, tokens
        self._seed, self._use_global = seed, use_global

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self._seed, int(number)])
        length = self._lengths[int(np.searchsorted(self._ends, number, side="right"))]
        farthest = length - QUESTION
        batch_size = self._tokens // length
        distances = rng.integers(NEAREST, farthest + 1, batch_size)
        distances[::2] = np.exp(rng.uniform(np.log(NEAREST), np.log(farthest + 1), len(distances[::2])))
        return self._language.batch(rng, length, distances, use_global=self._use_global)

    def iterator(self) -> grain.DatasetIterator:
        """Iterate over the batches in order; the state of the iterator, its position, can be saved and restored."""
        source = grain.MapDataset.source(self)
        return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def at_distance(
    language: Language, length: int, distance: int, *, batch_size: int, batches: int, use_global: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over test batches, the same in every run: texts of `length` tokens with the answer at `distance`.

    They differ from the training batches, whose seeds have another number of elements.
    """
    for number in range(batches):
        rng = np.random.default_rng([length, distance, number])
        yield language.batch(rng, length, [distance] * batch_size, use_global=use_global)
