"""Noise for the pretraining of encoder-decoders: the span corruption of T5, and the text infilling of BART."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from .batches import IGNORE
from .bpe import token_id

# (ids [T], random) -> inputs and targets, [N] and [M]
Noise: TypeAlias = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class SpanCorruption:
    """Spans are replaced by a sentinel each; the target is the spans, each after its sentinel.

    Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4, with the lengths of `t5.data.preprocessors` of its code
    (`random_spans_noise_mask`): kept tokens come first, and the last span is at the end. Inputs and targets end with
    the end-of-text token.
    """

    def __init__(self, tokenizer: Tokenizer, density: float, mean_span: float):
        """Take the sentinels <extra_id_0>, ... from the tokenizer.

        Raises:
          ValueError: There are none, a density outside (0, 1), or a mean below 1.
        """
        if not 0 < density < 1 or mean_span < 1:
            raise ValueError(
                f"noise_density is between 0 and 1, and mean_span at least 1; got {density} and {mean_span}"
            )
        self._density, self._mean_span = density, mean_span
        self._end = token_id(tokenizer, "eos")
        self.sentinels = np.array(_sentinels(tokenizer), np.int32)

    def counts(self, length: int) -> tuple[int, int]:
        """Return how many of `length` tokens are noise, and in how many spans."""
        noise = min(max(round(length * self._density), 1), length - 1)
        return noise, min(max(round(noise / self._mean_span), 1), length - noise)

    def input_length(self, length: int) -> int:
        """Return the number of input tokens for `length` tokens of text."""
        noise, spans = self.counts(length)
        return length - noise + spans + 1

    def target_length(self, length: int) -> int:
        """Return the number of target tokens for `length` tokens of text."""
        return sum(self.counts(length)) + 1

    def text_length(self, longest: int) -> int:
        """Return how many tokens of text have inputs of at most `longest` tokens.

        Raises:
          ValueError: Fewer than 4 input tokens, or more spans than sentinels.
        """
        if longest < 4:
            raise ValueError(f"max_tokens is at least 4 for a span and its context, got {longest}")
        length = 2
        while self.input_length(length + 1) <= longest:
            length += 1
        if (spans := self.counts(length)[1]) > len(self.sentinels):
            raise ValueError(
                f"max_tokens={longest} needs {spans} sentinels, but the tokenizer has {len(self.sentinels)}; set a "
                "smaller --config.max_tokens or a larger --config.mean_span"
            )
        return length

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of at least two tokens."""
        noise, spans = self.counts(len(ids))
        kept, lost = _divide(len(ids) - noise, spans, random), _divide(noise, spans, random)
        # Boundaries of kept, lost, kept, lost, ...
        parts = np.split(ids, np.cumsum(np.stack([kept, lost], axis=1))[:-1])
        sentinels = self.sentinels[:spans, None]
        inputs = [part for pair in zip(parts[::2], sentinels, strict=True) for part in pair]
        targets = [part for pair in zip(sentinels, parts[1::2], strict=True) for part in pair]
        return np.concatenate([*inputs, [self._end]]), np.concatenate([*targets, [self._end]])


def _sentinels(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of <extra_id_0>, <extra_id_1>, ..."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (name := f"<extra_id_{len(found)}>") in vocabulary:
        found.append(vocabulary[name])
    if not found:
        raise ValueError("span corruption needs sentinels, <extra_id_0> and so on, which T5's tokenizers have")
    return found


def _divide(total: int, parts: int, random: np.random.Generator) -> np.ndarray:
    """Divide `total` into `parts` numbers of at least 1, all ways alike probable, int [parts]."""
    cuts = np.sort(random.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


class Denoising:
    """Sentences in another order, and spans of tokens each replaced by one <mask>; the target is the text.

    Lewis et al. 2020 (arXiv:1910.13461), section 2.2 and 4.1, sentence permutation and text infilling: the lengths of
    spans have a Poisson distribution, and for one of length 0 a mask is inserted. Sentences end with a full stop.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float, mean_span: float, permute: bool):
        """Take the special tokens from the tokenizer.

        Raises:
          ValueError: It has no mask token, a rate outside [0, 1), or a mean below 1.
        """
        if not 0 <= rate < 1 or mean_span < 1:
            raise ValueError(
                f"mask_rate is at least 0 and below 1, and mean_span at least 1; got {rate} and {mean_span}"
            )
        self._rate, self._mean_span, self._permute = rate, mean_span, permute
        self._begin, self._end = token_id(tokenizer, "bos"), token_id(tokenizer, "eos")
        self.mask = token_id(tokenizer, "mask")
        self._stops = np.array([number for token, number in tokenizer.get_vocab().items() if token.endswith(".")])

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets; the inputs are not longer."""
        noised = self.infill(self.permute(ids, random) if self._permute else ids, random)
        return tuple(np.concatenate([[self._begin], x, [self._end]]) for x in (noised, ids))  # type: ignore[return-value]

    def permute(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the sentences in random order."""
        ends = np.flatnonzero(np.isin(ids, self._stops)) + 1
        sentences = [part for part in np.split(ids, ends) if len(part)]
        return np.concatenate([sentences[index] for index in random.permutation(len(sentences))])

    def infill(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the tokens with spans replaced by masks; at least one is, unless the rate is 0."""
        count = round(len(ids) * self._rate) or int(self._rate > 0)
        lengths: list[int] = []
        while sum(lengths) < count:
            lengths.append(min(int(random.poisson(self._mean_span)), count - sum(lengths)))
        spans = np.array([length for length in lengths if length], int)
        # Lost spans lie between kept tokens, and touch each other where there are too few of those.
        slots = len(ids) - count + 1
        at = np.sort(random.choice(slots, len(spans), replace=len(spans) > slots))
        lost = np.repeat(at, spans) + np.arange(count)
        noised = np.insert(np.delete(ids, lost), at, self.mask)
        # As many insertions as there is room for: batches are planned by the length of the text.
        inserted = min(len(lengths), count) - len(spans)
        return np.insert(noised, random.integers(0, len(noised) + 1, inserted), self.mask)


class NoisedTexts:
    """Pieces of text with noise, anew for each epoch, as `buckets.Examples`.

    The noise depends on the seed, the epoch and the index of the piece: it differs between epochs, but not between a
    resumed and an uninterrupted run.
    """

    def __init__(
        self, pieces: Sequence[np.ndarray], noise: Noise, lengths: Sequence[int], *, pad: int, target: int, seed: int
    ):
        """Create examples.

        Args:
          pieces: Token ids of each.
          noise: What inputs and targets are.
          lengths: The maximum number of input tokens of each.
          pad: Id of the padding token.
          target: The maximum number of target tokens.
          seed: Random seed.
        """
        self._pieces, self._noise, self._pad, self._target, self._seed = pieces, noise, pad, target, seed
        self.lengths = np.asarray(lengths)

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return input_ids and attention_mask, int32 [B, length], and labels, int32 [B, target]."""
        fields = {
            "input_ids": np.full((len(indices), length), self._pad, np.int32),
            "attention_mask": np.zeros((len(indices), length), np.int32),
            "labels": np.full((len(indices), self._target), IGNORE, np.int32),
        }
        for row, index in enumerate(indices):
            inputs, targets = self._noise(self._pieces[index], np.random.default_rng([self._seed, epoch, index]))
            fields["input_ids"][row, : len(inputs)] = inputs
            fields["attention_mask"][row, : len(inputs)] = 1
            fields["labels"][row, : len(targets)] = targets
        return fields
