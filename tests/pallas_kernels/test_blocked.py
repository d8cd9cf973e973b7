"""Blocked attention in XLA against dense attention: outputs, every gradient, and cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import FEW_GLOBALS, IMPLEMENTATIONS, Case, fast_jit, small_blocked

from pallas_kernels import Dropout, Mask, attention


def both(case, blocked):
    """(output, gradients of q, k, v, the bias and the scale) of dense attention and of another implementation."""
    q, k, v, mask, bias, dropout = case.build()
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1]))

    def run(implementation):
        def output(q, k, v, bias, scale):
            return implementation(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)

        out, pullback = jax.vjp(output, q, k, v, bias, jnp.float32(case.scale))
        return out, pullback(cotangent)

    return fast_jit(lambda: (run(IMPLEMENTATIONS["xla"]), run(blocked)))()


def assert_matches_dense(case, blocked, atol=2e-5):
    expected, actual = both(case, blocked)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(paths, jax.tree.leaves(actual), strict=True):
        scale = max(1.0, float(jnp.abs(a).max()))
        assert np.isfinite(b).all()
        np.testing.assert_allclose(b, a, atol=atol * scale, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "case",
    [
        Case(13, 7, valid="none", rate=0.5),
        Case(18, 18, causal=True, bias="toeplitz"),
        Case(6, 17, causal=True, start=(0, 9), bias="relative_key_query", rate=0.2),
        Case(8, 11, bias="dense", scale=1.0),
        Case(8, 30, window=(2, 2), start=13, causal=True, bias="dense over keys"),
        Case(30, 30, window=(3, 1), bias="relative_key_query", valid="some"),
        Case(28, 28, window=(2, 2), globals=0.03, valid="none", rate=0.3),
        Case(28, 28, window=(2, 2), globals=0.5, causal=True),
        Case(18, 18, H=4, G=2, causal=True, bias="toeplitz", rate=0.2),
        Case(30, 30, H=4, G=1, window=(3, 1), bias="relative_key_query", valid="some"),
        Case(28, 28, H=4, G=2, window=(2, 2), globals=0.03, valid="none", rate=0.3),
    ],
    ids=str,
)
def test_outputs_and_gradients_match_the_dense_implementation(case):
    assert_matches_dense(case, small_blocked)


def test_default_block_sizes():
    assert_matches_dense(
        Case(300, 400, B=1, window=(16, 16), globals=0.02, rate=0.1), partial(attention, implementation="xla_blocked")
    )


@pytest.mark.parametrize(("share", "few"), [(0.03, True), (0.5, False)])
def test_cases_with_globals_cover_both_branches(share, few):
    count = int(Case(28, 28, globals=share).build()[3].key_global.sum(axis=1).max())
    assert count >= 1
    assert (count <= FEW_GLOBALS) == few


def test_gradients_of_bfloat16_keys_are_summed_in_float32():
    """One cotangent of 1 and many of 2**-9: a bfloat16 sum over blocks would lose the small ones."""
    T = 128 * 64
    q, k, v = (
        jnp.zeros((1, T, 1, 8), jnp.bfloat16),
        jnp.zeros((1, 1, 1, 8), jnp.bfloat16),
        jnp.ones((1, 1, 1, 8), jnp.bfloat16),
    )
    cotangent = jnp.full((1, T, 1, 8), 2.0**-9 / 128, jnp.bfloat16).at[:, -128:].set(1 / 128)

    def loss(v):
        out = attention(q, k, v, implementation="xla_blocked")
        return jnp.sum((out * cotangent).astype(jnp.float32))

    np.testing.assert_allclose(np.float32(jax.jit(jax.grad(loss))(v)), 1 + 63 * 2.0**-9, rtol=2**-8)


def compiled(T, mask, gradient, dropout=None):
    q = jax.ShapeDtypeStruct((1, T, 12, 64), jnp.float32)

    def loss(q, k, v):
        return attention(q, k, v, mask=mask, dropout=dropout, implementation="xla_blocked").sum()

    return fast_jit(jax.grad(loss, (0, 1, 2)) if gradient else loss).lower(q, q, q).compile()


@pytest.mark.parametrize(
    ("mask", "gradient", "share"),
    [(Mask(causal=True), False, 1 / 6), (Mask(causal=True), True, 1 / 3), (Mask(window=(256, 256)), True, 1 / 12)],
    ids=["causal", "causal gradient", "window gradient"],
)
def test_memory_at_4096_is_far_below_the_scores(mask, gradient, share):
    """All temporaries, including gradients and layout copies, against one [B, H, T, S] array of float32."""
    T = 4096
    memory = compiled(T, mask, gradient, Dropout(0.1, jax.random.key(0))).memory_analysis().temp_size_in_bytes
    scores = 12 * T * T * 4
    assert memory < scores * share, f"{memory / 2**20:.0f} MB against {scores / 2**20:.0f} MB of scores"


def test_cost_of_a_window_is_linear_in_the_length():
    """XLA counts the body of a loop once: the cost of a block must not depend on the number of keys."""

    def flops(T, mask):
        return compiled(T, mask, gradient=False).cost_analysis()["flops"]

    assert flops(4096, Mask(window=(128, 128))) < 1.3 * flops(2048, Mask(window=(128, 128)))
    assert flops(4096, Mask()) > 1.8 * flops(2048, Mask())
