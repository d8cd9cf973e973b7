"""The TPU decode kernel, run in interpret mode: values, what it does not read, races."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.decode_cases import DecodeCase, Decoder, assert_matches_reference
from support.interpreted import interpreted, races_found

from pallas_kernels import decode
from pallas_kernels.tpu import decode as kernel

# Blocks of 128 keys, so that a few hundred slots are several of them.
SMALL = Decoder("pallas_tpu", partial(kernel.attend, block_bytes=1))


@pytest.mark.parametrize(
    "case",
    [
        DecodeCase(1, 300, causal=True, start=(210, 7), valid="some"),
        DecodeCase(4, 256, valid="none", bias="dense"),
        DecodeCase(1, 300, H=12, dtype="int8", causal=True, start=299),
        DecodeCase(3, 140, H=9, dtype="int8", valid="some", bias="toeplitz dense"),
        DecodeCase(1, 7),
        DecodeCase(2, 200, bias="relative_key_query", causal=True, start=150),
        DecodeCase(1, 300, H=32, G=8, valid="some"),
        DecodeCase(2, 300, H=12, G=4, dtype="int8", causal=True, start=(210, 7), bias="toeplitz"),
        DecodeCase(3, 140, H=6, G=1, dtype="int8", valid="none", bias="relative_key_query dense"),
    ],
    ids=str,
)
def test_decode_matches_the_reference(case):
    assert_matches_reference(case, SMALL)


def test_blocks_without_a_visible_key_at_the_ends_are_not_read():
    """NaN would propagate through any product."""
    case = DecodeCase(1, 640, causal=True, start=300, valid="some")
    case_mask = case.mask()
    hidden = np.arange(case.S) < 128
    mask = replace(case_mask, key_valid=case_mask.key_valid & ~hidden)
    masked = jnp.asarray(hidden | (np.arange(case.S) >= 384))[None, :, None]
    q, packed = case.arrays()
    key, value = (jnp.where(masked, jnp.nan, x) for x in (packed.key, packed.value))
    run = jax.jit(partial(SMALL, mask=mask))
    with interpreted():
        np.testing.assert_array_equal(run(q, packed._replace(key=key, value=value)), run(q, packed))


def test_results_are_deterministic_and_race_free():
    case = DecodeCase(2, 300, causal=True, start=200)
    q, packed = case.arrays()
    run = jax.jit(partial(SMALL, mask=case.mask()))
    with interpreted(detect_races=True, num_cores_or_threads=2):
        np.testing.assert_array_equal(run(q, packed), run(q, packed))
    assert not races_found()


def test_many_queries_and_weights_use_attention():
    """A prompt is written into the cache, which is then read as a whole."""
    case = DecodeCase(200, 200, causal=True)
    assert_matches_reference(case, Decoder("pallas_tpu"), atol=1e-5)
    q, packed = DecodeCase(1, 20).arrays()
    with pytest.raises(ValueError, match="return_weights"):
        decode(q, packed, implementation="pallas_tpu", return_weights=True)
    out, weights = decode(q, packed, return_weights=True)
    assert out.shape == q.shape and weights.shape == (2, 3, 1, 20)
