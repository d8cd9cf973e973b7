"""The GPU kernels at the shapes of the models, lowered, and compiled to an H200's machine code. No GPU is needed.

Machine code needs JAX's CUDA plugin and NVIDIA's assembler: `make test-cuda-aot` installs them, in an environment of
their own.
"""

import importlib.util
import re
import subprocess
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, SingleDeviceSharding, use_abstract_mesh

from pallas_kernels import DenseBias, Dropout, Mask, PackedKV, ToeplitzBias, attention, decode

MISSING = [name for name in ("jax_cuda12_plugin", "nvidia") if importlib.util.find_spec(name) is None]

FORWARD, BACKWARD, BIAS = "flash_forward", ("flash_backward_keys", "flash_backward_queries"), "flash_backward_bias"

# All that XLA asks of a device.
H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800 device_memory_size: 150000000000 memory_bandwidth: 4800000000000
}
platform_name: "CUDA" device_description_str: "NVIDIA H200"
runtime_version { major: 12 minor: 9 } dnn_version_info { major: 9 minor: 8 }
"""


GPU = partial(attention, implementation="pallas")


def both(q, k, v, mask, bias, key, rate=0.0, run=GPU):
    """Output and gradients by q, k, v and the bias."""
    dropout = Dropout(rate, key) if rate else None
    out, pull = jax.vjp(lambda q, k, v, bias: run(q, k, v, mask=mask, bias=bias, dropout=dropout), q, k, v, bias)
    return out, pull(out)


def arguments(B, T, H=12, K=64, dtype=jnp.bfloat16, bias=None, globals=0, valid=False, G=None, **mask):
    """Shapes for `both` without its last two. G: key heads, None for H."""
    q, k = (jax.ShapeDtypeStruct((B, T, heads, K), dtype) for heads in (H, G or H))
    flags, key = jax.ShapeDtypeStruct((B, T), bool), jax.eval_shape(lambda: jax.random.key(0))
    given = Mask(**mask)
    if valid:
        given = replace(given, key_valid=flags)
    if globals:
        given = replace(given, key_global=flags, global_at=jax.ShapeDtypeStruct((B, globals), jnp.int32))
    values = {
        None: None,
        "toeplitz": ToeplitzBias(jax.ShapeDtypeStruct((H, 2 * T - 1), jnp.float32)),
        "dense": DenseBias(jax.ShapeDtypeStruct((1, H, T, T), jnp.float32)),
    }
    return q, k, k, given, values[bias], key


# What the models run: GPT-2, T5, LED, a bias of another kind, and Llama 3.
MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "gpt2": ({"B": 16, "T": 1024, "causal": True}, 0.1),
    "t5": ({"B": 16, "T": 512, "bias": "toeplitz", "valid": True}, 0.1),
    "led": ({"B": 1, "T": 16384, "window": (512, 512), "globals": 16, "valid": True}, 0.1),
    "dense": ({"B": 16, "T": 512, "bias": "dense", "valid": True}, 0.1),
    "gpt2 of width 128": ({"B": 16, "T": 1024, "K": 128, "causal": True}, 0.1),
    "t5 of width 128": ({"B": 16, "T": 512, "K": 128, "bias": "toeplitz", "valid": True}, 0.1),
    "grouped queries": ({"B": 4, "T": 2048, "H": 32, "G": 8, "K": 128, "causal": True}, 0.1),
    "led of width 128": ({"B": 1, "T": 16384, "K": 128, "window": (512, 512), "globals": 16, "valid": True}, 0.1),
}


# From JAX 0.11 on Triton's back-end asks which GPU it lowers for.
HOPPER = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))


def lowered(given, rate, run=GPU, **options):
    with use_abstract_mesh(HOPPER):
        return jax.jit(partial(both, rate=rate, run=run)).trace(*given).lower(**options)


def kernels_of(bias) -> set[str]:
    return {FORWARD, *BACKWARD, *([] if bias is None else [BIAS])}


# A token of GPT-2, of whole chips and of one example; queries of beams over one source; heads of other widths.
DECODED = {
    "gpt2": {"B": 32},
    "gpt2 in 8 bits": {"B": 32, "kept": "int8"},
    "one example": {"B": 1},
    "beams": {"B": 8, "T": 4, "S": 300},
    "beams in 8 bits": {"B": 8, "T": 4, "S": 300, "kept": "int8"},
    "width 128": {"B": 8, "K": 128},
    "width 80": {"B": 8, "K": 80},
    "width 128 in 8 bits": {"B": 8, "T": 16, "K": 128, "kept": "int8"},
    "float32": {"B": 8, "dtype": "float32", "kept": "float32"},
    "grouped queries": {"B": 8, "H": 32, "G": 8, "K": 128},
    "grouped queries in 8 bits": {"B": 8, "H": 32, "G": 8, "K": 128, "kept": "int8"},
}


def decoded(B, T=1, S=1024, H=12, K=64, dtype="bfloat16", kept="bfloat16", G=None):
    """Shapes for a step of decoding with padding and a start of every example. G: key heads, None for H."""
    array = jax.ShapeDtypeStruct((B, S, (G or H) * K), kept)
    scale = jax.ShapeDtypeStruct((B, G or H, S), jnp.float32) if kept == "int8" else None
    mask = Mask(causal=True, key_valid=jax.ShapeDtypeStruct((B, S), bool), query_start=jax.ShapeDtypeStruct((B,), int))
    return jax.ShapeDtypeStruct((B, T, H, K), dtype), PackedKV(array, array, scale, scale), mask


def lowered_step(given, **options):
    def step(q, stored, mask):
        return decode(q, stored, mask=mask, implementation="pallas_gpu")

    with use_abstract_mesh(HOPPER):
        return jax.jit(step).trace(*given).lower(**options)


def placed(given):
    """The same shapes, on an H200 that is not here."""
    device = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1").devices[0]
    place = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), given)


def machine_code(program, folder: Path) -> dict[str, dict]:
    """By kernel: registers, bytes spilled, products by warp group and by warp, and loads into shared memory by their
    bytes, of a lowered program."""
    package = importlib.util.find_spec("nvidia.cuda_nvcc")
    assert package is not None and package.submodule_search_locations, "nvidia-cuda-nvcc-cu12 is not installed"
    root = Path(next(iter(package.submodule_search_locations)))
    options = {
        "xla_dump_to": str(folder),
        "xla_gpu_cuda_data_dir": str(root),
        "xla_gpu_autotune_level": 0,
        "xla_backend_optimization_level": 3,  # the tests' own default is 0
    }
    program.compile(compiler_options=options)
    assert any(folder.glob("*.ptx")), f"the XLA of JAX {jax.__version__} wrote no PTX"
    found = {}
    for file in folder.glob("*.ptx"):
        bodies = re.split(r"(?=\.visible \.entry (?:flash_|decode))", file.read_text())[1:]
        if not bodies:  # XLA's own
            continue
        command = [str(root / "bin" / "ptxas"), "-v", "-arch=sm_90a", str(file), "-o", str(folder / "code")]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        for body in bodies:
            name = _groups(r"\.visible \.entry (\w+)", body)[0]
            about = report[report.index(f"'{name}'") :]
            found[name] = {
                "registers": int(_groups(r"Used (\d+) registers", about)[0]),
                "spilled": sum(map(int, _groups(r"(\d+) bytes spill stores, (\d+)", about))),
                "wgmma": body.count("wgmma.mma_async"),
                "mma": body.count("mma.sync"),
                "loads": Counter(int(n, 16) for n in re.findall(r"cp\.async\.c[ag].*?, (0x\w+), %", body)),
            }
    return found


def _groups(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the first match, which has to be there."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern} in what the assembler wrote"
    return match.groups()
