"""The TPU kernel that reads a cache, run in interpret mode: values, what it does not read, transformations."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.decode_cases import DecodeCase, Decoder, assert_decodes
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
    ],
    ids=str,
)
def test_a_query_sees_what_is_kept(case):
    assert_decodes(case, SMALL)


def test_blocks_in_which_no_key_is_seen_are_not_read():
    """What is not a number would come through any product."""
    case = DecodeCase(1, 640, causal=True, start=300, valid="some")
    case_mask = case.mask()
    hidden = np.arange(case.S) < 128
    mask = replace(case_mask, key_valid=case_mask.key_valid & ~hidden)
    dead = jnp.asarray(hidden | (np.arange(case.S) >= 384))[None, :, None]
    q, stored = case.arrays()
    poisoned = stored._replace(key=jnp.where(dead, jnp.nan, stored.key), value=jnp.where(dead, jnp.nan, stored.value))
    run = jax.jit(partial(SMALL, mask=mask))
    with interpreted():
        np.testing.assert_array_equal(run(q, poisoned), run(q, stored))


def test_two_runs_are_the_same_to_the_bit_and_race_free():
    case = DecodeCase(2, 300, causal=True, start=200)
    q, stored = case.arrays()
    run = jax.jit(partial(SMALL, mask=case.mask()))
    with interpreted(detect_races=True, num_cores_or_threads=2):
        np.testing.assert_array_equal(run(q, stored), run(q, stored))
    assert not races_found()


def test_many_queries_and_weights_take_the_attention_function():
    """A prompt is written into the cache and read back as a whole."""
    case = DecodeCase(200, 200, causal=True)
    assert_decodes(case, Decoder("pallas_tpu"), atol=1e-5)
    q, stored = DecodeCase(1, 20).arrays()
    with pytest.raises(ValueError, match="return_weights"):
        decode(q, stored, implementation="pallas_tpu", return_weights=True)
    out, weights = decode(q, stored, return_weights=True)
    assert out.shape == q.shape and weights.shape == (2, 3, 1, 20)
