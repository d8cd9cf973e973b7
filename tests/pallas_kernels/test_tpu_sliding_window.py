"""The TPU sliding-window kernels, run in interpret mode: values, gradients, dropout, unsupported calls."""

import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import format_case
from support.interpreted import (
    Implementation,
    assert_error_at_most_twice_that_of_xla,
    assert_matches_reference,
    interpreted,
    races_found,
)
from support.other_platform import on
from support.transformed import assert_vmap_and_remat_do_not_change_the_result

from pallas_kernels import DenseBias, Dropout, Mask, attention
from pallas_kernels.tpu import sliding_window
from pallas_kernels.tpu.tiles import SLIDING_WINDOW_TILINGS, SlidingWindowTilings, TpuTiling

H, K, KV = 2, 8, 5


@dataclass(frozen=True)
class WindowCase:
    """Two examples. window: None for a causal mask without one. globals: for each the positions of its global keys, or
    their number at random positions. halo: keys before the first and after the last query, as far as the window
    reaches."""

    T: int
    window: tuple[int, int] | None
    globals: tuple[tuple[int, ...] | int, tuple[int, ...] | int] | None = None
    slots: int | None = None  # of Mask.global_at; default: the maximum number of globals
    valid: str | None = None  # "some" keys, or "none" in the first example
    causal: bool = False
    rate: float = 0.0
    scale: float = K**-0.5
    key_heads: int = H
    halo: bool = False

    __str__ = format_case

    def build(self):
        """q, k, v, mask, bias, dropout."""
        rng, T = np.random.default_rng(self.T * 1009 + (self.window or (0, 0))[0]), self.T
        start = self.window[0] if self.halo else None
        S = T + sum(self.window) if self.halo else T
        shapes = [(2, T, H, K), (2, S, self.key_heads, K), (2, S, self.key_heads, KV)]
        q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
        valid = rng.random((2, S)) < 0.7
        valid[0] &= self.valid != "none"
        flags = positions = None
        if self.globals is not None:
            examples = [
                each if isinstance(each, tuple) else rng.choice(S, each, replace=False) for each in self.globals
            ]
            slots = max(map(len, examples)) if self.slots is None else self.slots
            flags = jnp.array([np.isin(np.arange(S), each) for each in examples])
            positions = jnp.array([[*each, *[S] * (slots - len(each))] for each in examples], jnp.int32)
        mask = Mask(self.causal, self.window, jnp.asarray(valid) if self.valid else None, flags, positions, start)
        return q, k, v, mask, None, Dropout(self.rate, jax.random.key(7)) if self.rate else None


def with_tilings(tilings: SlidingWindowTilings) -> Implementation:
    return Implementation("pallas_tpu", partial(sliding_window.attend, tilings=tilings))


# Blocks of at most 256 queries, so that a few hundred tokens cover every edge; the passes have different tile sizes.
SMALL = with_tilings(SlidingWindowTilings(256, TpuTiling(128, 256, 1), TpuTiling(256, 128, 2)))


@pytest.mark.parametrize(
    "case",
    [
        WindowCase(1, (1, 1), globals=((0,), ())),
        WindowCase(300, (64, 64), globals=((290, 0, 5), ()), valid="none"),
        WindowCase(520, (200, 70), globals=(130, 1), valid="some", rate=0.3),
        WindowCase(260, (1000, 1000), globals=(3, 1), slots=20),
        WindowCase(520, (130, 9), globals=(3, 1), causal=True, scale=1.0),
        WindowCase(520, (200, 70), globals=(17, 1), valid="some", rate=0.3, key_heads=1),
        WindowCase(700, None, causal=True, valid="some", key_heads=1),
        WindowCase(270, (300, 140), globals=(17, 1), valid="some", rate=0.3, halo=True),
    ],
    ids=str,
)
def test_outputs_and_gradients_match_the_reference(case):
    assert_matches_reference(case, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        WindowCase(2, (0, 1)),
        WindowCase(7, (64, 64), globals=(0, 0), slots=1),
        WindowCase(127, (1, 1), globals=(1, 3), rate=0.5),
        WindowCase(128, (64, 512), globals=(3, 0), valid="some"),
        WindowCase(129, (0, 0), globals=(129, 3)),
        WindowCase(257, (3, 300), valid="none", rate=0.1),
        WindowCase(512, (512, 512), globals=(130, 3), valid="some"),
        WindowCase(512, (512, 512), globals=(17, 3), causal=True, rate=0.2),
        WindowCase(640, (256, 256), globals=(1, 1)),
        WindowCase(640, (255, 257), globals=((639,), (0, 639)), valid="some"),
        WindowCase(700, (0, 513), valid="some"),
        WindowCase(1000, (1, 1), globals=(3, 130)),
        WindowCase(1000, (512, 64), globals=(300, 0), causal=True),
        WindowCase(1000, (5000, 64), globals=(3, 1), valid="none", rate=0.3),
        WindowCase(700, (0, 513), valid="none", key_heads=1),
        WindowCase(1000, (512, 64), causal=True, key_heads=1),
        WindowCase(1500, None, causal=True, rate=0.1),
        WindowCase(1200, (1199, 300), globals=(3, 1), valid="some"),
        WindowCase(520, (130, 0), causal=True, globals=(3, 1), valid="none", key_heads=1, halo=True),
        WindowCase(128, (128, 128), globals=(140, 0), halo=True),
    ],
    ids=str,
)
def test_edge_case_lengths_windows_and_globals(case):
    assert_matches_reference(
        case, SMALL, atol=3e-5
    )  # the scale's gradient is a sum of a million terms that nearly cancel


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_default_tile_sizes(chip):
    assert_matches_reference(
        WindowCase(2500, (512, 512), globals=(16, 3), valid="some"), with_tilings(SLIDING_WINDOW_TILINGS[chip, 64])
    )


def output_and_gradients(mask):
    """A compiled function of q, k and v."""

    def run(q, k, v):
        out, pull = jax.vjp(lambda *x: SMALL(*x, mask=mask), q, k, v)
        return out, pull(jnp.ones_like(out))

    return jax.jit(run)


@pytest.mark.parametrize(("T", "chosen"), [(2048, "short"), (4096, "band"), (4097, None)])
def test_long_causal_calls_take_the_window_kernels(T, chosen):
    """Up to 2,048 keys the rows are whole, and from 4,097 on "auto" takes XLA."""
    q, k = (jax.ShapeDtypeStruct((1, T, heads, 128), jnp.bfloat16) for heads in (8, 2))
    with on("tpu"):
        program = str(jax.make_jaxpr(partial(attention, mask=Mask(causal=True)))(q, k, k))
    assert {name for name in ("short", "band") if f"name={name}_forward" in program} == ({chosen} - {None})


def test_queries_without_visible_keys_give_zero_and_zero_gradients():
    """The first example has no valid key; in the second one is visible to the queries near token 0 only."""
    q, k, v, mask, _, _ = WindowCase(150, (4, 4), globals=((), ()), slots=1).build()
    valid = jnp.zeros((2, 150), bool).at[1, 0].set(True)
    mask = Mask(window=mask.window, key_valid=valid, key_global=mask.key_global, global_at=mask.global_at)
    with interpreted():
        out, gradients = output_and_gradients(mask)(q, k, v)
    np.testing.assert_allclose(out[1, :5], jnp.broadcast_to(v[1, :1], (5, H, KV)), atol=1e-6)
    assert (out[0] == 0).all() and (out[1, 5:] == 0).all()
    for gradient in gradients:
        assert (gradient[0] == 0).all() and (gradient[1, 5:] == 0).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(gradients[2][1, 0], 5.0, rtol=1e-6)


def test_bfloat16_error_is_at_most_twice_that_of_xla():
    case = WindowCase(200, (40, 64), globals=(3, 1), valid="some", rate=0.1)
    assert_error_at_most_twice_that_of_xla(case, SMALL, jnp.bfloat16)


def test_no_races_and_deterministic_results():
    """Two global keys lie in one block of lanes and a third in another: gradients are added to both."""
    q, k, v, mask, _, _ = WindowCase(280, (130, 70), globals=((3, 7, 270), (279,))).build()
    q, k, v = q[:, :, :1], k[:, :, :1], v[:, :, :1]

    run = output_and_gradients(mask)
    with interpreted(detect_races=True, num_cores_or_threads=2):
        runs = [jax.block_until_ready(run(q, k, v)) for _ in range(2)]
        assert not races_found()
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, runs), strict=True))


@pytest.mark.slow
def test_vmap_and_remat_do_not_change_the_result():
    q, k, v, mask, _, _ = WindowCase(200, (30, 30), globals=(3, 1)).build()

    def loss(q, k, v):
        return (SMALL(q, k, v, mask=mask) ** 2).sum()

    assert_vmap_and_remat_do_not_change_the_result(loss, q, k, v)


FLAGS, POSITIONS = jnp.zeros((1, 40), bool), jnp.zeros((1, 600), jnp.int32)


@pytest.mark.parametrize(
    ("mask", "options", "reason"),
    [
        (Mask(), {}, "requires Mask.window, or a causal mask"),
        (Mask(causal=True), {"T": 5000, "S": 5000}, r"up to 4096 keys; got \(4999, 0\) with T = 5000"),
        (Mask(window=(1, 1)), {"S": 41}, "T = 40, S = 41"),
        (Mask(window=(1, 1), query_start=3), {"S": 50}, "requires a static query_start, .* got query_start = 3"),
        (Mask(window=(1, 1)), {"biases": (DenseBias(jnp.zeros((40, 40))),)}, "does not support a bias"),
        (Mask(window=(1, 1), key_global=FLAGS), {}, "pass Mask.global_at"),
        (Mask(window=(1, 1), key_global=FLAGS, global_at=POSITIONS), {}, "at most 512 global keys.* has 600"),
        (Mask(window=(2048, 2048)), {"T": 5000, "S": 5000}, "up to 4096 keys"),
        (Mask(window=(1, 1)), {"width": 257}, "head width must be at most 256; got K = 257"),
        (Mask(window=(1, 1)), {"dtype": jnp.float16}, "must all be bfloat16 or float32"),
    ],
)
def test_unsupported_calls_have_a_reason(mask, options, reason):
    arguments = {"T": 40, "S": 40, "width": 8, "dtype": jnp.float32, "biases": ()} | options
    q, k = (
        jax.ShapeDtypeStruct((1, n, 2, arguments["width"]), arguments["dtype"])
        for n in (arguments["T"], arguments["S"])
    )
    assert re.search(reason, sliding_window.unsupported_reason(q, k, k, mask, arguments["biases"]))


@pytest.mark.parametrize("mask", [Mask(window=(4096, 4096)), Mask(causal=True, window=(4095, 4096))])
def test_the_width_of_a_window_is_limited_by_length_and_causality(mask):
    """At most the length of the sequence, and nothing after a causal query."""
    T = 2048 if not mask.causal else 9000
    q = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)
    assert sliding_window.unsupported_reason(q, q, q, mask, ()) is None


def test_unused_global_slots_do_not_change_the_result():
    """Whatever their place among the others."""
    q, k, v, mask, _, _ = WindowCase(100, (20, 20), globals=((90, 3), (40,)), slots=2).build()
    moved = Mask(window=mask.window, key_global=mask.key_global, global_at=jnp.array([[100, 3, 90], [100, 40, 100]]))
    with interpreted():
        a, b = jax.jit(lambda: [SMALL(q, k, v, mask=m) for m in (mask, moved)])()
    np.testing.assert_allclose(a, b, atol=1e-6)
