"""The GPU decode kernel, run as plain JAX: values, what it does not read, and when it is chosen."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.decode_cases import GPU, XLA, DecodeCase, Decoder, assert_matches_reference
from support.interpreted import evaluated
from support.other_platform import on

from pallas_kernels import DenseBias, Dropout, Mask, PackedKV, decode, dispatch
from pallas_kernels.gpu import decode as kernel
from pallas_kernels.gpu.device import Gpu


@pytest.fixture(params=[1, 20], ids="programs={}".format)
def kernel_with_shares(request):
    """The kernel with one share of several tiles of keys, or with several shares, of which the last is shorter."""
    return Decoder("pallas_gpu", partial(kernel.attend, min_programs=request.param))


def assert_equals_xla(run, q, packed, **options):
    with evaluated():
        actual, expected = (jax.jit(partial(each, **options))(q, packed) for each in (run, XLA))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize(
    "case",
    [
        DecodeCase(1, 300, causal=True, start=(210, 7), valid="some"),
        DecodeCase(4, 150, K=80, valid="none", bias="dense"),
        DecodeCase(1, 300, H=12, dtype="int8", causal=True, start=299),
        DecodeCase(3, 140, B=1, H=9, dtype="int8", valid="some", bias="toeplitz dense"),
        DecodeCase(2, 100, bias="relative_key_query", causal=True, start=(-1, 60)),
        DecodeCase(2, 100, H=12, G=4, dtype="int8", valid="none", bias="toeplitz"),
        DecodeCase(2, 90, H=8, G=1, causal=True, start=(40, 60), bias="relative_key_query dense"),
    ],
    ids=str,
)
def test_decode_matches_the_reference(case, kernel_with_shares):
    assert_matches_reference(case, kernel_with_shares)


@pytest.mark.parametrize(
    "case",
    [
        DecodeCase(1, 1),
        DecodeCase(1, 7, K=5),
        DecodeCase(16, 33, K=20, causal=True, start=17),
        DecodeCase(5, 64, K=64, dtype="int8", valid="none", causal=True, start=(3, 50)),
        DecodeCase(4, 90, B=40, H=8, bias="toeplitz"),
        DecodeCase(2, 90, H=34, G=2, bias="toeplitz"),
    ],
    ids=str,
)
def test_edge_case_shapes(case):
    assert_matches_reference(case, GPU)


def test_a_window_and_values_of_a_different_width():
    q, key, value = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 3, 2, 24), *[(2, 90, 80)] * 2]))
    mask = Mask(causal=True, window=(20, 0), query_start=jnp.array([5, 70]))
    assert_equals_xla(GPU, q, PackedKV(key[..., :48], value), mask=mask)


def test_very_low_biases_do_not_mask(kernel_with_shares):
    """A bias of finfo.min on every key leaves uniform weights, as in the reference, over uneven shares too."""
    q, packed = DecodeCase(1, 90).arrays()
    bias = DenseBias(jnp.full((2, 1, 1, 1), jnp.finfo(jnp.float32).min).at[1].set(0.0))
    assert_equals_xla(kernel_with_shares, q, packed, bias=bias)


def test_masked_keys_at_the_ends_are_not_read(kernel_with_shares):
    """NaN would propagate through any product."""
    case = DecodeCase(2, 200, causal=True, start=(120, 31), valid="some")
    late = np.arange(200) >= 25
    mask = replace(case.mask(), key_valid=case.mask().key_valid & late)
    q, packed = case.arrays()
    masked = jnp.asarray(~late | (np.arange(200) > np.array([[121], [32]])))[..., None]
    key, value = (jnp.where(masked, jnp.nan, x) for x in (packed.key, packed.value))
    run = jax.jit(partial(kernel_with_shares, mask=mask))
    with evaluated():
        np.testing.assert_array_equal(run(q, packed._replace(key=key, value=value)), run(q, packed))


def test_results_are_deterministic(kernel_with_shares):
    case = DecodeCase(3, 300, dtype="int8", causal=True, start=200)
    np.testing.assert_array_equal(case.run(kernel_with_shares), case.run(kernel_with_shares))


def kernels_of(implementation: str, T: int, **options) -> set[str]:
    q, packed = DecodeCase(T, 20).arrays()
    program = str(jax.make_jaxpr(partial(decode, implementation=implementation, **options))(q, packed))
    return {name for name in ("decode", "flash_forward") if f"name={name}\n" in program}


def test_when_the_kernel_is_chosen():
    """By name, for few queries; not by "auto", as the kernel has never run on a GPU."""
    dropout = Dropout(0.1, jax.random.key(0))
    assert kernels_of("pallas_gpu", 16) == {"decode"}
    assert kernels_of("pallas_gpu", 17) == kernels_of("pallas_gpu", 1, dropout=dropout) == {"flash_forward"}
    assert kernels_of("auto", 1) == kernels_of("xla", 1) == set()
    with on("gpu"):
        assert kernels_of("pallas", 1) == {"decode"} and kernels_of("auto", 1) == set()


def test_an_old_gpu_is_rejected():
    """By the decode kernel, and by the attention kernel that would replace it."""
    (q, packed), old = DecodeCase(1, 20).arrays(), Gpu((7, 5), cudnn=False)
    reason = r"require a GPU of compute capability 8\.0 or more; this one has 7\.5"
    assert re.search(reason, kernel.unsupported_reason(q, packed, old))
    call = dispatch.AttentionCall(q, *packed.read(packed.heads(q.shape[3]), q.dtype), Mask(), (), False, None, False)
    with pytest.raises(ValueError, match=reason):
        dispatch.choose("pallas_gpu", call, old)
