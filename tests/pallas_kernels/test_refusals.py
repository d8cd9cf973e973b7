"""The table of what a kernel cannot take, in the docs, is what the kernels say."""

import ast
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import DenseBias, Mask, Stored, attention
from pallas_kernels.gpu import cudnn, flash
from pallas_kernels.gpu import decode as decode_gpu
from pallas_kernels.gpu.device import OLDEST, Gpu
from pallas_kernels.tpu import band, decode, short

DOCS = (Path(__file__).parents[2] / "pallas_kernels" / "README.md").read_text()
TABLE = re.findall(r"^\| (short|band|decode|flash|decode_gpu|cudnn) \| (.+?) \|$", DOCS, re.MULTILINE)


def call(T=16, S=16, K=8, dtype=jnp.float32, bias=(), **mask):
    """Arguments of `refuses`, as shapes: nothing is computed."""
    q, k = (jax.ShapeDtypeStruct((2, n, 2, K), dtype) for n in (T, S))
    return q, k, k, Mask(**mask), bias


def kept(T=1, S=16, K=8, dtype=jnp.float32, kept_as=jnp.float32):
    """The same for `decode`."""
    array = jax.ShapeDtypeStruct((2, S, 2 * K), kept_as)
    return jax.ShapeDtypeStruct((2, T, 2, K), dtype), Stored(array, array)


def name_of(kernel) -> str:
    return "decode_gpu" if kernel is decode_gpu else kernel.__name__.rpartition(".")[2]


FLAGS = jnp.zeros((2, 16), bool)
BIAS = (DenseBias(jnp.zeros((1, 1))),)
CALLS = [
    (short, call(dtype=jnp.float16)),
    (short, call(window=(2, 2))),
    (short, call(S=3000)),
    (short, call(K=300)),
    (short, call(T=2000, S=2000, bias=BIAS)),
    (band, call(dtype=jnp.float16)),
    (band, call()),
    (band, call(S=20, window=(2, 2))),
    (band, call(window=(2, 2), query_start=3)),
    (band, call(window=(2, 2), bias=BIAS)),
    (band, call(window=(2, 2), key_global=FLAGS)),
    (band, call(window=(2, 2), key_global=FLAGS, global_at=jnp.zeros((2, 600), jnp.int32))),
    (band, call(T=9000, S=9000, window=(5000, 5000))),
    (band, call(K=300, window=(2, 2))),
    (decode, kept(T=40)),
    (decode, kept(dtype=jnp.float16)),
    (decode, kept(kept_as=jnp.bfloat16)),
    (flash, call(dtype=jnp.float64)),
    (flash, call(K=300)),
    (flash, call(T=50000, S=50000, bias=BIAS)),
    (flash, call(window=(2, 2), bias=BIAS, key_global=FLAGS)),
    (flash, call(window=(2, 2), key_global=FLAGS)),
    (flash, call(window=(2, 2), key_global=FLAGS, global_at=jnp.zeros((2, 600), jnp.int32))),
    (decode_gpu, kept(T=40)),
    (decode_gpu, kept(kept_as=jnp.float8_e4m3fn)),
    (decode_gpu, kept(K=300)),
    (decode_gpu, kept(S=2**28)),
    (cudnn, (*call(dtype=jnp.bfloat16), True)),
    (cudnn, (*call(), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, bias=BIAS), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, window=(2, 2)), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, key_valid=FLAGS), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, causal=True, S=20), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, T=1), False)),
    (cudnn, (*call(dtype=jnp.bfloat16, K=300), False)),
]


@pytest.mark.parametrize(("kernel", "arguments"), CALLS)
def test_a_reason_is_in_the_table(kernel, arguments):
    reason = kernel.refuses(*arguments, *([Gpu(OLDEST, cudnn=True)] if kernel is cudnn else []))
    assert reason is not None and (name_of(kernel), reason.partition(";")[0]) in TABLE


def test_cudnn_is_not_here():
    assert ("cudnn", cudnn.refuses(*call(dtype=jnp.bfloat16), False).partition(";")[0]) in TABLE


def test_a_gpu_is_too_old():
    assert ("decode_gpu", decode_gpu.refuses(*kept(), Gpu((7, 5), cudnn=True)).partition(";")[0]) in TABLE


@pytest.mark.parametrize("kernel", [short, band, decode, flash, decode_gpu, cudnn])
def test_the_table_has_no_more_and_no_less(kernel):
    function = ast.parse(inspect.getsource(kernel.refuses))
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    reasons = [node for node in returns if not (isinstance(node.value, ast.Constant) and node.value.value is None)]
    made = sum(case[0] is kernel for case in CALLS) + (kernel in (cudnn, decode_gpu))
    assert len(reasons) == sum(row[0] == name_of(kernel) for row in TABLE) == made


def test_a_named_kernel_raises_every_reason():
    q = jnp.zeros((2, 16, 2, 8), jnp.float16)
    with pytest.raises(ValueError, match="cannot take this call: .*bfloat16 or float32"):
        attention(q, q, q, implementation="pallas_tpu")
