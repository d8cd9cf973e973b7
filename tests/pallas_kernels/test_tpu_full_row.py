"""The TPU full-row kernels, run in interpret mode: values, gradients, dropout, transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from support.attention_cases import Case
from support.interpreted import (
    TPU,
    Implementation,
    assert_error_at_most_twice_that_of_xla,
    assert_matches_reference,
    assert_queries_without_visible_keys_give_zero,
    assert_very_low_biases_do_not_mask,
    interpreted,
    races_found,
)
from support.transformed import (
    assert_runs_inside_shard_map,
    assert_sharding_does_not_change_the_result,
    assert_vmap_and_remat_do_not_change_the_result,
    causal_loss,
    inputs,
)

from benchmarks.bundles import CHIPS
from pallas_kernels import Mask
from pallas_kernels.tpu import full_row
from pallas_kernels.tpu.tiles import FULL_ROW_TILINGS, SLIDING_WINDOW_TILINGS, FullRowTilings, TpuTiling


def with_tilings(tilings: FullRowTilings) -> Implementation:
    return Implementation("pallas_tpu", partial(full_row.attend, tilings=tilings))


# Tiles so small that a few hundred tokens cover every edge; each pass has a different tile size and lookahead.
SMALL = with_tilings(
    FullRowTilings(
        forward=TpuTiling(128, 128, 1), backward_causal=TpuTiling(128, 256, 2), backward_unmasked=TpuTiling(256, 128, 0)
    )
)


def test_every_chip_and_head_width_has_tilings():
    expected = {(chip, width) for chip in CHIPS for width in (64, 128)}
    assert FULL_ROW_TILINGS.keys() == SLIDING_WINDOW_TILINGS.keys() == expected


@pytest.mark.parametrize(
    "case",
    [
        Case(7, 13, valid="some"),
        Case(300, 200, valid="none", rate=0.5),
        Case(257, 257, causal=True),
        Case(130, 300, causal=True, start=(170, 3), valid="some"),
        Case(300, 130, causal=True, bias="toeplitz"),
        Case(130, 400, bias="toeplitz"),
        Case(140, 260, bias="relative_key + toeplitz + dense", valid="some", scale=0.7),
        Case(260, 260, causal=True, segments=3, valid="some"),
        Case(140, 300, segments=2, bias="dense"),
        Case(130, 200, H=4, G=2, valid="some", rate=0.1),
        Case(140, 140, H=4, G=1, causal=True, bias="relative_key_query"),
    ],
    ids=str,
)
def test_outputs_and_gradients_match_the_reference(case):
    assert_matches_reference(case, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 1),
        Case(127, 129, causal=True, valid="none", rate=0.3),
        Case(128, 128, causal=True, start=0),
        Case(512, 512, B=1, causal=True),
        Case(1000, 1000, B=1, causal=True, valid="some"),
        Case(129, 400, bias="dense"),
        Case(260, 140, bias="dense over keys", valid="some"),
        Case(140, 260, bias="dense rank 2"),
        Case(200, 200, bias="relative_key", valid="some"),
        Case(200, 200, bias="relative_key_query", causal=True, rate=0.2),
        Case(270, 390, bias="toeplitz", valid="none", rate=0.1, scale=1.0),
        Case(150, 150, bias="toeplitz per example"),
        Case(130, 200, H=8, G=4, causal=True, bias="toeplitz", rate=0.1),
        Case(800, 800, B=1, H=8, G=2, causal=True, valid="some"),
        Case(800, 800, B=1, H=4, G=1, bias="toeplitz"),
    ],
    ids=str,
)
def test_edge_case_shapes_masks_and_biases(case):
    assert_matches_reference(case, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(600, 600, causal=True), Case(600, 1100, bias="toeplitz", valid="some")], ids=str)
@pytest.mark.parametrize("chip", CHIPS)
def test_default_tile_sizes(case, chip):
    assert_matches_reference(case, with_tilings(FULL_ROW_TILINGS[chip, 64]))


def test_queries_without_visible_keys_give_zero_and_zero_gradients():
    assert_queries_without_visible_keys_give_zero(Case(20, 30, valid="none"), TPU)


def test_very_low_biases_do_not_mask():
    assert_very_low_biases_do_not_mask(TPU)


@pytest.mark.parametrize("case", [Case(150, 150, causal=True), Case(140, 200, valid="some", rate=0.1)], ids=str)
def test_bfloat16_error_is_at_most_twice_that_of_xla(case):
    assert_error_at_most_twice_that_of_xla(case, TPU, jnp.bfloat16)


def test_no_races_and_deterministic_results():
    q, k, v, _, bias, _ = Case(260, 260, bias="toeplitz").build()
    valid = jnp.arange(260) < jnp.array([[260], [100]])

    @jax.jit
    def run(q, k, v, bias):
        def output(q, k, v, bias):
            return SMALL(q, k, v, mask=Mask(key_valid=valid), bias=bias)

        out, pull = jax.vjp(output, q, k, v, bias)
        return out, pull(out)

    with interpreted(detect_races=True, num_cores_or_threads=2):
        first = jax.block_until_ready(run(q, k, v, bias))
        assert not races_found()
    with interpreted(detect_races=True, num_cores_or_threads=2):
        second = run(q, k, v, bias)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_sharding_does_not_change_the_result():
    assert_sharding_does_not_change_the_result(SMALL)


def test_the_kernels_run_inside_shard_map():
    assert_runs_inside_shard_map(SMALL)


def test_vmap_and_remat_do_not_change_the_result():
    assert_vmap_and_remat_do_not_change_the_result(partial(causal_loss, SMALL), *inputs())
