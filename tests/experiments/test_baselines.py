"""The baselines: a bigram model with normalised probabilities, and compressors."""

import gzip
import lzma
import math

import numpy as np
import pytest

from experiments import baselines


def test_bigram_against_counting_by_hand():
    """n(01)=2, n(00)=1, n(10)=1: two different tokens follow 0, three times in total."""
    train, vocab = np.array([0, 1, 0, 0, 1]), 3
    unigram = np.array([4, 3, 1]) / 8
    after_0 = (np.array([1, 2, 0]) + 2 * unigram) / (3 + 2)
    after_1 = (np.array([1, 0, 0]) + 1 * unigram) / (1 + 1)
    tokens = np.array([0, 1, 0, 2, 1])
    expected = -np.log2([after_0[1], after_1[0], after_0[2], unigram[1]]).sum()
    assert baselines.bigram_bits(train, tokens, vocab, 10) == pytest.approx(expected / 10, rel=1e-12)


def test_bigram_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    train, vocab = rng.integers(0, 9, 200).astype(np.uint16), 10
    for first in range(vocab):
        bits = [baselines.bigram_bits(train, np.array([first, second]), vocab, 1) for second in range(vocab)]
        assert sum(2**-b for b in bits) == pytest.approx(1, rel=1e-9)


def test_bigram_does_not_overflow_small_ids():
    train = np.full(100, 65_000, np.uint16)
    assert baselines.bigram_bits(train, train, 65_536, 100) < 1


def test_compressors_match_zlib_and_lzma():
    text = b"def f(x):\n    return x\n" * 50
    assert len(gzip.decompress(gzip.compress(text, 9))) == len(text)
    assert baselines.gzip_bits(text) == 8 * len(gzip.compress(text, 9)) / len(text)
    assert baselines.xz_bits(text) == pytest.approx(8 * len(lzma.compress(text, preset=9)) / len(text), rel=0.1)


def test_bits_per_byte_of_a_uniform_model_over_bytes():
    assert baselines.bits_per_byte(math.log(256), tokens=7, size=7) == pytest.approx(8)
