"""Dropout's keep mask: its rate, its independence, and that every implementation uses the same one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import IMPLEMENTATIONS, fast_jit

from pallas_kernels import Dropout, attention
from pallas_kernels.dropout import keep_mask

SHAPE = (4, 6, 64, 256)  # b, h, t, s
B, H, T, S = (
    np.arange(n).reshape(shape) for n, shape in zip(SHAPE, ((-1, 1, 1, 1), (-1, 1, 1), (-1, 1), (-1,)), strict=True)
)


def mask(seed, rate):
    return np.asarray(keep_mask(Dropout(rate, jax.random.key(seed)).seed(), B, H, T, S, rate))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_overall_and_along_each_axis(rate):
    keep = mask(0, rate)
    z = (keep.mean() - (1 - rate)) / np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(z) < 4
    for axis in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):
        counts = keep.sum(axis=axis)
        n = keep.size // counts.size
        chi2, freedom = ((counts - n * (1 - rate)) ** 2 / (n * rate * (1 - rate))).sum(), counts.size
        assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom), axis
    # The variance of the counts per query is the binomial one: neither clustered nor evened out.
    counts = keep.sum(axis=-1)
    variance = counts.var() / (SHAPE[-1] * rate * (1 - rate))
    assert abs(variance - 1) < 5 * np.sqrt(2 / counts.size)


@pytest.mark.parametrize("axis", range(4), ids=["examples", "heads", "queries", "keys"])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_neighbours_are_uncorrelated(axis, distance):
    x = np.where(mask(1, 0.5), 1.0, -1.0)
    near = np.take(x, range(x.shape[axis] - distance), axis), np.take(x, range(distance, x.shape[axis]), axis)
    assert abs((near[0] * near[1]).mean()) < 4 / np.sqrt(near[0].size)


def test_queries_are_pairwise_uncorrelated():
    """1536 queries with 256 keys: no pair agrees more than by chance, nor do the diagonals (t + s constant)."""
    x = np.where(mask(2, 0.5), 1.0, -1.0)
    rows = x.reshape(-1, SHAPE[-1])
    products = np.abs(rows @ rows.T / np.sqrt(SHAPE[-1]) - np.sqrt(SHAPE[-1]) * np.eye(len(rows)))
    assert products.max() < 6.5
    sheared = (x[:, :, 1:, :-1] * x[:, :, :-1, 1:]).mean()
    assert abs(sheared) < 4 / np.sqrt(x.size)


def test_a_random_key_determines_the_mask():
    assert (mask(3, 0.5) == mask(3, 0.5)).all()
    assert abs((mask(3, 0.5) == mask(4, 0.5)).mean() - 0.5) < 4 * 0.5 / np.sqrt(np.prod(SHAPE))


def test_large_positions_do_not_wrap():
    row = keep_mask(jnp.array([1, 2], jnp.uint32), 0, 0, 70_000, np.arange(200_000), 0.5)
    assert abs(np.mean(row) - 0.5) < 4 * 0.5 / np.sqrt(200_000)
    first, second = (
        np.asarray(keep_mask(jnp.array([1, 2], jnp.uint32), 0, 0, t, np.arange(4096), 0.5)) for t in (5, 65_541)
    )
    assert abs((first == second).mean() - 0.5) < 4 * 0.5 / np.sqrt(4096)


@pytest.mark.parametrize("implementation", ["xla", "xla_blocked"])
def test_forward_and_backward_use_the_keep_mask(implementation):
    """With uniform probabilities and one-hot values, output and gradient are the mask itself."""
    n, dropout = 11, Dropout(0.4, jax.random.key(5))
    q = k = jnp.zeros((2, n, 3, 8))
    v = jnp.broadcast_to(jnp.eye(n)[:, None], (2, n, 3, n))
    keep = np.asarray(keep_mask(dropout.seed(), *np.meshgrid(*map(np.arange, (2, 3, n, n)), indexing="ij"), 0.4))

    @fast_jit
    def call(v, cotangent):
        out, pullback = jax.vjp(lambda v: IMPLEMENTATIONS[implementation](q, k, v, dropout=dropout), v)
        return out, *pullback(cotangent)

    out, gradient = call(v, v)  # as values [b, s, h, key], as cotangents [b, t, h, query]
    np.testing.assert_allclose(out.swapaxes(1, 2), keep / (n * 0.6), atol=1e-6)
    np.testing.assert_allclose(gradient.transpose(0, 2, 3, 1), keep / (n * 0.6), atol=1e-6)


def test_rate_zero_is_no_dropout_and_invalid_rates_are_rejected():
    q = jax.random.normal(jax.random.key(0), (1, 3, 2, 4))
    np.testing.assert_array_equal(attention(q, q, q, dropout=Dropout(0.0, jax.random.key(0))), attention(q, q, q))
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"rate must be in \[0, 1\)"):
            Dropout(rate, jax.random.key(0))
