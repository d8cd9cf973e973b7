"""The GPU kernels, compiled: always to Triton's language, and to an H200's machine code by `make test-cuda-aot`.

Neither requires a GPU. The second requires JAX's CUDA plugin and NVIDIA's assembler, packages for Linux only.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from support.attention_cases import Case

from benchmarks.cuda_code import (
    DECODED,
    MISSING,
    MODELS,
    arguments,
    decoded,
    kernels_of,
    lowered,
    lowered_step,
    machine_code,
    placed,
)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, *(pytest.param(x, marks=pytest.mark.slow) for x in (jnp.float16, jnp.float32))]
)
@pytest.mark.parametrize("model", MODELS)
def test_the_kernels_of_the_models_lower_to_triton(model, dtype):
    options, rate = MODELS[model]
    inputs = arguments(**options, dtype=dtype)
    program = lowered(inputs, rate, lowering_platforms=("cuda",))
    assert set(re.findall(r"flash_\w+", program.as_text())) == kernels_of(inputs[4])


@pytest.mark.parametrize(
    "case",
    [
        Case(7, 13, valid="some"),
        Case(33, 500, causal=True, start=(57, 3), rate=0.1),
        Case(20, 90, window=(12, 3), start=500),
        Case(300, 300, window=(0, 0), bias="relative_key_query"),
        Case(40, 260, bias="relative_key + toeplitz + dense", valid="some", rate=0.1),
        Case(270, 50, bias="toeplitz per example", causal=True, start=3),
    ],
    ids=str,
)
def test_edge_cases_lower_to_triton(case):
    q, k, v, mask, bias, _ = case.build()
    inputs = q, k, v, mask, bias, jax.random.key(0)
    program = lowered(inputs, case.rate, lowering_platforms=("cuda",))
    assert set(re.findall(r"flash_\w+", program.as_text())) == kernels_of(bias)


@pytest.mark.parametrize("name", DECODED)
def test_the_decode_kernel_lowers_to_triton(name):
    program = lowered_step(decoded(**DECODED[name]), lowering_platforms=("cuda",))
    assert re.findall(r'name = "(\w+)"', program.as_text()) == ["decode"]


@pytest.mark.cuda_aot
@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} are not installed; `make test-cuda-aot` installs them")
@pytest.mark.parametrize("model", MODELS)
def test_the_kernels_compile_for_hopper_to_wide_products_without_spills(model, tmp_path):
    options, rate = MODELS[model]
    inputs = arguments(**options)
    found = machine_code(lowered(placed(inputs), rate), tmp_path)
    print(model, *found.items(), sep="\n")
    assert found.keys() == kernels_of(inputs[4])
    for name, counts in found.items():
        assert counts["wgmma"] > 0 and counts["spilled"] == 0, (name, counts)


@pytest.mark.cuda_aot
@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} are not installed; `make test-cuda-aot` installs them")
@pytest.mark.parametrize("name", DECODED)
def test_the_decode_kernel_prefetches_in_wide_loads_without_spills(name, tmp_path):
    inputs = decoded(**DECODED[name])
    found = machine_code(lowered_step(placed(inputs)), tmp_path)["decode"]
    print(name, found, sep="\n")
    assert found["spilled"] == 0
    # 16 bytes for keys and values; for int8 values 8, as their tile has to be transposed.
    narrow = {n for n in found["loads"] if n < 16}
    assert found["loads"][16] > 0
    assert narrow <= ({4, 8} if "8 bits" in name else {4})
