"""What a language model has to beat, in bits per byte of the same held-out text."""

import gzip
import lzma
import math

import numpy as np


def gzip_bits(text: bytes) -> float:
    """gzip -9 over the documents as one stream, so that a later one profits from an earlier."""
    return 8 * len(gzip.compress(text, compresslevel=9)) / len(text)


def xz_bits(text: bytes) -> float:
    """xz -9e over the documents as one stream."""
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def bigram_bits(train: np.ndarray, tokens: np.ndarray, vocab_size: int, size: int) -> float:
    """A bigram model over the tokens, counted on all of `train`, smoothed by Witten and Bell (1991).

    p(b|a) = (n(ab) + t(a) p(b)) / (n(a) + t(a)), where t(a) is the number of different tokens seen after a, and p(b) is
    the unigram model with one added to every count.

    Args:
      train: int [n]; tokens: int [m], of which all but the first are predicted.
      size: bytes of text that `tokens` stand for.
    """
    train, tokens = train.astype(np.int64), tokens.astype(np.int64)
    unigram = np.bincount(train, minlength=vocab_size) + 1.0
    unigram /= unigram.sum()
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    before = np.bincount(pairs // vocab_size, weights=counts, minlength=vocab_size)
    kinds = np.bincount(pairs // vocab_size, minlength=vocab_size)

    first, second = tokens[:-1], tokens[1:]
    wanted = first * vocab_size + second
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[place] == wanted, counts[place], 0)
    smoothed = (seen + kinds[first] * unigram[second]) / np.maximum(before[first] + kinds[first], 1)
    probability = np.where(before[first] > 0, smoothed, unigram[second])
    return float(-np.log2(probability).sum() / size)


def bits_per_byte(loss: float, tokens: int, size: int) -> float:
    """A mean loss in nats per token as bits per byte: what an arithmetic coder driven by the model would write."""
    return loss * tokens / math.log(2) / size
