"""Dense attention, the definition of the result, against loops over single pairs of query and key."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from support.attention_cases import CASES, Case, attention_by_loops, fast_jit, is_visible, small_blocked

from pallas_kernels import Mask, ToeplitzBias, attention


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dense_and_blocked_attention_equal_the_loops(case):
    q, k, v, mask, bias, dropout = case.build()

    @fast_jit
    def call(q, k, v):
        options = {"mask": mask, "bias": bias, "scale": case.scale, "dropout": dropout}
        blocked = small_blocked(q, k, v, **options)
        return *attention(q, k, v, return_weights=True, **options), blocked

    out, weights, blocked = call(q, k, v)
    expected, expected_weights = attention_by_loops(q, k, v, mask, bias, case.scale, dropout)
    np.testing.assert_allclose(weights, expected_weights, atol=2e-6)
    np.testing.assert_allclose(out, expected, atol=5e-6)
    np.testing.assert_allclose(blocked, expected, atol=5e-6)
    np.testing.assert_array_equal(np.asarray(weights)[expected_weights == 0], 0)


@pytest.mark.parametrize(
    "case",
    [
        Case(6, 7, H=8, G=2, valid="some", rate=0.3),
        Case(40, 40, H=4, G=1, causal=True, bias="relative_key_query"),
        Case(1, 17, H=4, G=2, causal=True, start=11, bias="relative_key_query"),
    ],
    ids=str,
)
def test_grouped_queries_equal_repeated_keys_and_values(case):
    """Gradients too: that of a key is the sum over the query heads that share it."""
    q, k, v, mask, bias, dropout = case.build()
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1]))

    def value(copies):
        def output(q, k, v, bias):
            k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
            return attention(q, k, v, mask=mask, bias=bias, dropout=dropout, implementation="xla")

        out, pullback = jax.vjp(output, q, k, v, bias)
        return out, pullback(cotangent)

    actual, expected = fast_jit(lambda: (value(1), value(case.H // case.G)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), actual, expected)


@pytest.mark.parametrize("T", [1, 40])
def test_grouped_queries_never_repeat_keys(T):
    """No array of the program, with its gradients, is as large as the keys of all query heads."""
    B, S, H, G, K = 2, 50, 8, 2, 64
    q, k = jnp.zeros((B, T, H, K)), jnp.zeros((B, S, G, K))

    def loss(q, k, v):
        return attention(q, k, v, implementation="xla").sum()

    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, k))
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in re.findall(r"f32\[([\d,]+)\]", program)]
    assert k.size <= max(sizes) < B * S * H * K


def test_gradients_of_dense_attention_match_finite_differences():
    case = Case(4, 5, B=1, valid="some", bias="dense", rate=0.3)
    q, k, v, mask, bias, dropout = case.build()

    def output(q, k, v, bias, scale):
        return attention(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout, implementation="xla")

    check_grads(jax.jit(output), (q, k, v, bias, jnp.float32(0.3)), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("case", [c for c in CASES if c.T < 20], ids=str)
def test_dense_mask_matches_the_rule(case):
    mask = case.build()[3]
    dense = np.broadcast_to(mask.dense(case.B, case.T, case.S), (case.B, 1, case.T, case.S))
    for b, t, s in np.ndindex(case.B, case.T, case.S):
        assert dense[b, 0, t, s] == is_visible(mask, b, t, s)


def test_a_mask_without_arrays_has_no_batch_axis():
    assert Mask(causal=True, window=(3, 3), query_start=2).dense(4, 5, 6).shape == (1, 1, 5, 6)


def test_a_query_without_visible_keys_gives_zero_and_zero_gradients():
    q, k, v, mask, _, _ = Case(6, 5, valid="none").build()

    @fast_jit
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def gradients_and_output(q, k, v):
        out = attention(q, k, v, mask=mask, implementation="xla")
        return jnp.sum(out[:1] ** 2 + out[:1]), out

    gradients, out = gradients_and_output(q, k, v)
    np.testing.assert_array_equal(out[0], 0)
    assert np.abs(out[1]).max() > 0
    for g in gradients:
        np.testing.assert_array_equal(g, 0)


def test_toeplitz_bias_of_a_decoded_token_is_a_row_of_the_full_bias():
    table = jax.random.normal(jax.random.key(0), (3, 64))

    def diagonals(T, S, start):
        return ToeplitzBias(table[:, ToeplitzBias.relative_positions(T, S, start) % 64])

    @partial(fast_jit, static_argnums=(0, 1))
    def dense(T, S, start):
        q, k = jnp.zeros((1, T, 3, 8)), jnp.zeros((1, S, 3, 8))
        return diagonals(T, S, start).dense(q, k, start)

    full = dense(12, 12, 0)
    np.testing.assert_array_equal(dense(1, 12, jnp.int32(9)), full[:, :, 9:10])
    np.testing.assert_array_equal(dense(4, 12, 5), full[:, :, 5:9])


def test_toeplitz_relative_positions_per_example():
    positions = ToeplitzBias.relative_positions(2, 3, jnp.array([0, 5]))
    np.testing.assert_array_equal(positions, [[-1, 0, 1, 2], [-6, -5, -4, -3]])


@pytest.mark.parametrize("implementation", ["xla", "xla_blocked"])
def test_no_gradient_flows_from_a_position_to_its_future(implementation):
    q, k, v, *_ = Case(9, 9, B=1, causal=True).build()

    def output(k, v):
        return attention(q, k, v, mask=Mask(causal=True), implementation=implementation)

    for jacobian in fast_jit(jax.jacrev(output, (0, 1)))(k, v):
        strength = np.abs(jacobian).max(axis=(0, 2, 3, 4, 6, 7))  # [query, key]
        assert (np.triu(strength, 1) == 0).all()
        assert (np.diag(strength)[1:] > 0).all()
