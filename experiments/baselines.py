"""Baselines for language models, in bits per byte of the same held-out text."""

import gzip
import lzma
import math

import numpy as np


def gzip_bits(text: bytes) -> float:
    """Compress all documents as one stream with gzip -9, so that later ones profit from earlier ones."""
    return 8 * len(gzip.compress(text, compresslevel=9)) / len(text)


def xz_bits(text: bytes) -> float:
    """Compress all documents as one stream with xz -9e."""
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def bigram_bits(train: np.ndarray, tokens: np.ndarray, vocab_size: int, size: int) -> float:
    """Evaluate a bigram model that is counted on `train`, with the smoothing of Witten and Bell (1991).

    p(b|a) = (n(ab) + t(a) p(b)) / (n(a) + t(a)), where t(a) is the number of different tokens seen after a, and p(b) is
    the unigram model with one added to every count.

    Args:
      train: Training tokens, int [n].
      tokens: Tokens to evaluate, int [m]; all but the first are predicted.
      vocab_size: Number of different tokens.
      size: Size in bytes of the text that `tokens` represent.
    """
    train, tokens = train.astype(np.int64), tokens.astype(np.int64)
    unigram = np.bincount(train, minlength=vocab_size) + 1.0
    unigram /= unigram.sum()
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    before = np.bincount(pairs // vocab_size, weights=counts, minlength=vocab_size)
    followers = np.bincount(pairs // vocab_size, minlength=vocab_size)

    first, second = tokens[:-1], tokens[1:]
    targets = first * vocab_size + second
    index = np.minimum(np.searchsorted(pairs, targets), len(pairs) - 1)
    seen = np.where(pairs[index] == targets, counts[index], 0)
    smoothed = (seen + followers[first] * unigram[second]) / np.maximum(before[first] + followers[first], 1)
    probability = np.where(before[first] > 0, smoothed, unigram[second])
    return float(-np.log2(probability).sum() / size)


def bits_per_byte(loss: float, tokens: int, size: int) -> float:
    """Convert a mean loss in nats per token to bits per byte, the rate of an arithmetic coder driven by the model."""
    return loss * tokens / math.log(2) / size
