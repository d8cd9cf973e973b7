"""The README's table of unsupported calls matches the reasons that the kernels give."""

import ast
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import DenseBias, Mask, PackedKV, attention
from pallas_kernels.gpu import cudnn, flash
from pallas_kernels.gpu import decode as gpu_decode
from pallas_kernels.gpu.device import MIN_CAPABILITY, Gpu
from pallas_kernels.tpu import decode, full_row, sliding_window

README = (Path(__file__).parents[2] / "pallas_kernels" / "README.md").read_text()
TABLE = re.findall(r"^\| (full_row|sliding_window|decode|flash|gpu_decode|cudnn) \| (.+?) \|$", README, re.MULTILINE)


def call(T=16, S=16, K=8, dtype=jnp.float32, bias=(), **mask):
    """Arguments of `unsupported_reason`, as shapes: nothing is computed."""
    q, k = (jax.ShapeDtypeStruct((2, n, 2, K), dtype) for n in (T, S))
    return q, k, k, Mask(**mask), bias


def decode_call(T=1, S=16, K=8, dtype=jnp.float32, cache_dtype=jnp.float32):
    """The same for the decode kernels."""
    array = jax.ShapeDtypeStruct((2, S, 2 * K), cache_dtype)
    return jax.ShapeDtypeStruct((2, T, 2, K), dtype), PackedKV(array, array)


def name_of(kernel) -> str:
    return "gpu_decode" if kernel is gpu_decode else kernel.__name__.rpartition(".")[2]


FLAGS = jnp.zeros((2, 16), bool)
SEGMENTS = jnp.zeros((2, 16), jnp.int32)
BIAS = (DenseBias(jnp.zeros((1, 1))),)
CALLS = [
    (full_row, call(dtype=jnp.float16)),
    (full_row, call(window=(2, 2))),
    (full_row, call(S=3000)),
    (full_row, call(K=300)),
    (full_row, call(T=2000, S=2000, bias=BIAS)),
    (sliding_window, call(dtype=jnp.float16)),
    (sliding_window, call()),
    (sliding_window, call(S=20, window=(2, 2))),
    (sliding_window, call(window=(2, 2), query_start=3)),
    (sliding_window, call(window=(2, 2), bias=BIAS)),
    (sliding_window, call(window=(2, 2), query_segments=SEGMENTS, key_segments=SEGMENTS)),
    (sliding_window, call(window=(2, 2), key_global=FLAGS)),
    (sliding_window, call(window=(2, 2), key_global=FLAGS, global_at=jnp.zeros((2, 600), jnp.int32))),
    (sliding_window, call(T=9000, S=9000, window=(5000, 5000))),
    (sliding_window, call(K=300, window=(2, 2))),
    (decode, decode_call(T=40)),
    (decode, decode_call(dtype=jnp.float16)),
    (decode, decode_call(cache_dtype=jnp.bfloat16)),
    (flash, call(dtype=jnp.float64)),
    (flash, call(K=300)),
    (flash, call(T=50000, S=50000, bias=BIAS)),
    (flash, call(window=(2, 2), bias=BIAS, key_global=FLAGS)),
    (flash, call(window=(2, 2), key_global=FLAGS)),
    (flash, call(window=(2, 2), key_global=FLAGS, global_at=jnp.zeros((2, 600), jnp.int32))),
    (gpu_decode, decode_call(T=40)),
    (gpu_decode, decode_call(cache_dtype=jnp.float8_e4m3fn)),
    (gpu_decode, decode_call(K=300)),
    (gpu_decode, decode_call(S=2**28)),
    (cudnn, (*call(dtype=jnp.bfloat16), True)),
    (cudnn, (*call(), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, bias=BIAS), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, window=(2, 2)), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, key_valid=FLAGS), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, query_segments=SEGMENTS, key_segments=SEGMENTS), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, causal=True, S=20), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, T=1), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, K=300), False)),
]


@pytest.mark.parametrize(("kernel", "arguments"), CALLS)
def test_a_reason_is_in_the_table(kernel, arguments):
    reason = kernel.unsupported_reason(*arguments, *([Gpu(MIN_CAPABILITY, cudnn=True)] if kernel is cudnn else []))
    assert reason is not None and (name_of(kernel), reason.partition(";")[0]) in TABLE


def test_a_missing_cudnn_is_in_the_table():
    assert ("cudnn", cudnn.unsupported_reason(*call(dtype=jnp.bfloat16), False).partition(";")[0]) in TABLE


def test_an_old_gpu_is_in_the_table():
    assert (
        "gpu_decode",
        gpu_decode.unsupported_reason(*decode_call(), Gpu((7, 5), cudnn=True)).partition(";")[0],
    ) in TABLE


@pytest.mark.parametrize("kernel", [full_row, sliding_window, decode, flash, gpu_decode, cudnn])
def test_the_table_lists_exactly_the_reasons_in_the_code(kernel):
    function = ast.parse(inspect.getsource(kernel.unsupported_reason))
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    reasons = [node for node in returns if not (isinstance(node.value, ast.Constant) and node.value.value is None)]
    calls = sum(case[0] is kernel for case in CALLS) + (kernel in (cudnn, gpu_decode))
    assert len(reasons) == sum(row[0] == name_of(kernel) for row in TABLE) == calls


def test_a_named_kernel_raises_all_reasons():
    q = jnp.zeros((2, 16, 2, 8), jnp.float16)
    with pytest.raises(ValueError, match="does not support this call: .*bfloat16 or float32"):
        attention(q, q, q, implementation="pallas_tpu")
