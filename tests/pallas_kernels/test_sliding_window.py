"""Windows with global keys at known positions (`Mask.global_at`): blocked attention, and the weights in banded form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import FEW_GLOBALS, IMPLEMENTATIONS, H, K, attention_by_loops, fast_jit, small_blocked

from pallas_kernels import Dropout, Mask, attention, sliding_window_weights


def padded_positions(flags, slots):
    """int32 [B,slots]: the positions of each example's flags, padded with S."""
    S = flags.shape[1]
    positions = [np.flatnonzero(row) for row in flags]
    assert max(map(len, positions)) <= slots
    return np.array([[*row, *[S] * (slots - len(row))] for row in positions], np.int32).reshape(len(flags), slots)


def build(T, w, globals=(), slots=None, valid=None, rate=0.0, key_heads=H):
    """q, k, v, mask, dropout. globals: positions in each of the two examples; valid: "some" keys are valid."""
    rng = np.random.default_rng(T * 101 + w)
    q, k, v = (jnp.asarray(rng.normal(size=(2, T, heads, K)), jnp.float32) for heads in (H, key_heads, key_heads))
    flags = np.array([[t in row for t in range(T)] for row in globals], bool) if globals else None
    at = None if flags is None else padded_positions(flags, max(map(len, globals)) if slots is None else slots)
    key_valid = rng.random((2, T)) < 0.6 if valid == "some" else None
    arrays = {"key_valid": key_valid, "key_global": flags, "global_at": at}
    mask = Mask(window=(w, w), **{name: None if a is None else jnp.asarray(a) for name, a in arrays.items()})
    return q, k, v, mask, Dropout(rate, jax.random.key(3)) if rate else None


# Lengths fall on, below and beside an edge of the blocks of 4 queries.
CASES = {
    "no globals": (21, 3),
    "one in each example": (20, 2, [(0,), (13,)]),
    "in and out of the window": (21, 2, [(0, 5, 6, 20), (10,)]),
    "unused slots": (22, 2, [(), (3, 4)], 5),
    "unused slots only": (19, 3, [(), ()], 2),
    "padding, also of globals": (23, 2, [(1, 7, 8, 9, 22), (0, 11)], 6, "some"),
    "shorter than a block": (3, 1, [(2,), (0, 1)]),
    "as long as a block": (4, 1, [(), (3,)]),
    "one token": (1, 1, [(0,), ()]),
    "window beyond the sequence": (13, 40, [(2, 12), (5,)]),
    "window of the sequence but one": (13, 11),
    "empty window": (17, 0, [(4,), (16,)], 2, "some"),
    "dropout": (22, 3, [(0, 9), (21,)], 3, "some", 0.4),
    "grouped queries": (22, 3, [(0, 9), (21,)], 3, "some", 0.4, 1),
}


def value_and_gradients(q, k, v, mask, dropout, implementation):
    cotangent = jax.random.normal(jax.random.key(1), q.shape)
    run = partial(implementation, mask=mask, dropout=dropout)
    out, pullback = jax.vjp(run, q, k, v)
    return out, pullback(cotangent)


@pytest.mark.parametrize("name", CASES)
def test_blocked_attention_with_global_positions_equals_dense_attention(name):
    case = build(*CASES[name])
    implementations = small_blocked, IMPLEMENTATIONS["xla"]
    actual, expected = fast_jit(lambda: [value_and_gradients(*case, each) for each in implementations])()
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_global_positions_do_not_change_the_result():
    """With `global_at`, without it, and computed pair by pair."""
    q, k, v, mask, _ = build(*CASES["padding, also of globals"])
    searched = Mask(window=mask.window, key_valid=mask.key_valid, key_global=mask.key_global)
    run = lambda m: small_blocked(q, k, v, mask=m)  # noqa: E731
    with_positions, without = fast_jit(lambda: (run(mask), run(searched)))()
    np.testing.assert_allclose(with_positions, without, atol=1e-6)
    plain = Mask(**{n: np.asarray(a) for n in ("key_valid", "key_global") if (a := getattr(mask, n)) is not None})
    plain = Mask(window=mask.window, key_valid=plain.key_valid, key_global=plain.key_global)
    np.testing.assert_allclose(with_positions, attention_by_loops(q, k, v, plain, None, K**-0.5, None)[0], atol=1e-5)


def test_global_positions_are_columns_whatever_their_number():
    """More global keys than FEW_GLOBALS are still columns, and no block reads all keys."""
    slots = FEW_GLOBALS + 2
    q, k, v, mask, _ = build(60, 2, [range(0, 50, 10), (7,)], slots)
    jaxpr = str(jax.make_jaxpr(lambda: small_blocked(q, k, v, mask=mask))())
    assert f"f32[2,{H},4,{2 + 4 + 2 + slots}]" in jaxpr and f"f32[2,{H},4,60]" not in jaxpr and "cond[" not in jaxpr


def banded(weights, mask, w):
    """Dense weights [B,H,T,S] in banded form, one pair of query and key at a time."""
    weights = np.asarray(weights)
    B, heads, T, S = weights.shape
    at = np.zeros((B, 0), int) if mask.global_at is None else np.asarray(mask.global_at)
    G = at.shape[1]
    out = np.zeros((B, heads, T, G + 2 * w + 1), np.float32)
    for b in range(B):
        for g, s in enumerate(at[b]):
            if s < S:
                out[b, :, :, g] = weights[b, :, :, s]
        for t in range(T):
            for s in range(max(0, t - w), min(S, t + w + 1)):
                if s not in at[b]:
                    out[b, :, t, G + s - t + w] = weights[b, :, t, s]
    return out


@pytest.mark.parametrize("name", CASES)
def test_banded_weights_equal_the_dense_weights(name):
    """Dropout included: the mask is a function of the positions."""
    q, k, v, mask, dropout = build(*CASES[name])
    w = mask.window[0]

    @fast_jit
    def both():
        dense = attention(q, k, v, mask=mask, dropout=dropout, implementation="xla", return_weights=True)[1]
        return sliding_window_weights(q, k, mask=mask, dropout=dropout, block=4), dense

    actual, dense = both()
    np.testing.assert_allclose(actual, banded(dense, mask, w), atol=1e-6)
    if dropout is None:
        np.testing.assert_allclose(actual.sum(axis=-1), dense.sum(axis=-1), atol=1e-5, err_msg="nothing is lost")


def test_banded_weights_with_default_blocks_a_scale_and_bfloat16():
    q, k, v, mask, _ = build(300, 16, [(0, 150, 299), (4,)], 4, "some")
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))

    @fast_jit
    def both():
        dense = attention(q, k, v, mask=mask, scale=0.7, implementation="xla", return_weights=True)[1]
        return sliding_window_weights(q, k, mask=mask, scale=0.7), dense

    actual, dense = both()
    assert actual.dtype == jnp.bfloat16 and actual.shape == (2, H, 300, 4 + 33)
    np.testing.assert_allclose(actual.astype("float32"), banded(dense.astype("float32"), mask, 16), atol=1e-2)


def test_banded_weights_take_memory_proportional_to_the_length():
    def temporary(T):
        x = jax.ShapeDtypeStruct((1, T, 4, 16), jnp.float32)
        run = fast_jit(lambda q, k: sliding_window_weights(q, k, mask=Mask(window=(32, 32))))
        return run.lower(x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4096) < 2.2 * temporary(2048)


FLAGS = jnp.zeros((2, 8), bool)
UNSUPPORTED = {
    "no window": Mask(),
    "not symmetric": Mask(window=(2, 3)),
    "causal": Mask(window=(2, 2), causal=True),
    "shifted": Mask(window=(2, 2), query_start=3),
    "globals without positions": Mask(window=(2, 2), key_global=FLAGS),
    "positions without globals": Mask(window=(2, 2), global_at=jnp.zeros((2, 1), jnp.int32)),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_banded_weights_reject_other_masks(name):
    x = jnp.zeros((2, 8, H, K))
    with pytest.raises(
        ValueError, match="a symmetric window over as many keys as queries, with global keys as global_at"
    ):
        sliding_window_weights(x, x, mask=UNSUPPORTED[name])


def test_banded_weights_reject_fewer_queries_than_keys():
    with pytest.raises(ValueError, match="as many keys as queries.*got 6 queries, 8 keys"):
        sliding_window_weights(jnp.zeros((2, 6, H, K)), jnp.zeros((2, 8, H, K)), mask=Mask(window=(2, 2)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"global_at": jnp.zeros((2, 3), jnp.int32)}, r"got \[2, 3\] without key_global"),
        ({"global_at": jnp.zeros((3, 3), jnp.int32), "key_global": FLAGS}, r"with B = 2.*got \[3, 3\]"),
        ({"global_at": jnp.zeros(3, jnp.int32), "key_global": FLAGS}, r"got \[3\]"),
    ],
    ids=["alone", "other batch", "rank"],
)
def test_invalid_global_positions_are_rejected(arrays, message):
    x = jnp.zeros((2, 8, H, K))
    with pytest.raises(ValueError, match=f"Mask.global_at must be int .*{message}"):
        attention(x, x, x, mask=Mask(window=(2, 2), **arrays))
    assert Mask(window=(2, 2), key_global=FLAGS, global_at=jnp.zeros((2, 0), jnp.int32)).validate(2, 8, 8) is None
