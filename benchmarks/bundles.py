"""Instruction bundles of the TPU kernels, counted in what the real compiler makes of them; no TPU is needed.

    python -m benchmarks.bundles --chip v6e --case short_causal_1024

A bundle is what a TensorCore issues in one cycle, so a kernel's bundles over the clock are its time, wherever memory is
fast enough (forward passes agree with published timings within a few per cent; a backward pass was 20 to 35 % slower
than its count). A loop's body counts once. The peer is the splash attention that comes with JAX, at its best blocks.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pallas_kernels import Mask, PackedKV, ToeplitzBias, attention, decode

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_emit_annotations=true"
SUFFIX = "final_hlo-static-per-bundle-utilization.txt"


@dataclass(frozen=True)
class Count:
    """Of one kernel, one grid step."""

    kernel: str
    bundles: int
    fills: int
    spills: int


class Compiler:
    """Compiles for one chip, which is not here, and reads what the compiler says of each kernel. One in a process."""

    def __init__(self, chip: str):
        self._folder = tempfile.TemporaryDirectory()
        os.environ["LIBTPU_INIT_ARGS"] = FLAGS.format(folder=self._folder.name)
        device = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip]).devices[0]
        self.mesh = Mesh(np.array([device]), ("chip",), axis_types=(AxisType.Auto,))

    def compile(self, function: Callable, *shapes: tuple[tuple[int, ...], jnp.dtype]):
        """The compiled program and the counts of its kernels, by the order of their files."""
        place = NamedSharding(self.mesh, PartitionSpec())
        arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype in shapes]
        before = set(Path(self._folder.name).glob(f"*{SUFFIX}"))
        with jax.set_mesh(self.mesh):
            compiled = jax.jit(function).lower(*arguments).compile()
        new = sorted(set(Path(self._folder.name).glob(f"*{SUFFIX}")) - before)
        return compiled, [count for path in new if (count := _read(path)) is not None]


def _read(path: Path) -> Count | None:
    """None for what is no Pallas kernel: a fusion that the compiler made itself."""
    lines = path.read_text().splitlines()
    kernel = next((name for name in KERNELS if name in path.name), None)
    if kernel is None:
        return None
    start = lines.index("== UTILIZATION:")
    columns = [name.strip() for name in lines[1].split(",")]
    table = np.array([[int(n) for n in line.split()] for line in lines[start + 1 :] if line.strip()])
    total = dict(zip(columns, table.sum(axis=0).tolist(), strict=True))
    return Count(kernel, len(table), total["VLOAD:FILL"], total["VSTORE:SPILL"])


KERNELS = (
    "short_forward",
    "short_backward",
    "band_forward",
    "band_backward",
    "band_pick",
    "band_put_back",
    "decode",
    "splash",
)


def gradients(function: Callable) -> Callable:
    """A forward and a backward pass with a cotangent that is not constant."""

    def run(*arguments):
        out, pull = jax.vjp(function, *arguments)
        return out, pull(out)

    return run


# As the door takes it; `tile_sides` has others.
TPU = partial(attention, implementation="pallas_tpu")


def _ours(batch, length, keys, heads, width, run=TPU, key_heads=None, **options):
    """A call of the door at the layout of the models, [B,T,H,K], bfloat16. key_heads: None for as many as heads."""
    shapes = [(batch, length, heads, width), *[(batch, keys, key_heads or heads, width)] * 2]
    return gradients(partial(run, **options)), [(shape, jnp.bfloat16) for shape in shapes]


def _padded(batch, length, heads, width, run=TPU):
    def both(q, k, v, valid):
        return gradients(partial(run, mask=Mask(key_valid=valid)))(q, k, v)

    shape = (batch, length, heads, width)
    return both, [(shape, jnp.bfloat16)] * 3 + [((batch, length), jnp.bool_)]


def _packed(batch, length, heads, width, run=TPU):
    def both(q, k, v, segments):
        mask = Mask(causal=True, query_segments=segments, key_segments=segments)
        return gradients(partial(run, mask=mask))(q, k, v)

    shape = (batch, length, heads, width)
    return both, [(shape, jnp.bfloat16)] * 3 + [((batch, length), jnp.int32)]


def _toeplitz(batch, length, heads, width, run=TPU):
    def biased(q, k, v, diagonals):
        return run(q, k, v, bias=ToeplitzBias(diagonals))

    shape = (batch, length, heads, width)
    return gradients(biased), [(shape, jnp.bfloat16)] * 3 + [((heads, 2 * length - 1), jnp.float32)]


def _band(batch, length, heads, width, reach, count, run=TPU):
    def both(q, k, v, places):
        globals_ = (jnp.arange(length) == places[..., None]).any(axis=1)
        mask = Mask(window=(reach, reach), key_global=globals_, global_at=places)
        return gradients(partial(run, mask=mask))(q, k, v)

    shape = (batch, length, heads, width)
    return both, [(shape, jnp.bfloat16)] * 3 + [((batch, count), jnp.int32)]


def _decode(batch, queries, slots, heads, width, dtype, key_heads=None):
    """Queries in bfloat16, and a cache in `dtype` of which the first slots are used."""
    key_heads = key_heads or heads
    kept, scale = (batch, slots, key_heads * width), (batch, key_heads, slots)

    def run(q, used, key, value, *scales):
        mask = Mask(causal=queries == 1, key_valid=jnp.arange(slots) < used[:, None], query_start=used - 1)
        return decode(q, PackedKV(key, value, *scales), mask=mask, implementation="pallas_tpu")

    shapes = [((batch, queries, heads, width), jnp.bfloat16), ((batch,), jnp.int32), (kept, dtype), (kept, dtype)]
    return run, shapes + ([(scale, jnp.float32)] * 2 if dtype == jnp.int8 else [])


def _splash(heads, length, width, kind, block, compute, key_heads=None, fused=False):
    """JAX's own, in its layout [H,T,K] for one example. fused: one kernel for all gradients."""
    masks = {
        "causal": lambda: splash_attention_mask.CausalMask((length, length)),
        "local": lambda: splash_attention_mask.LocalMask((length, length), (512, 512), 0),
    }
    names = "block_q", "block_kv", "block_q_dkv", "block_kv_dkv", *(() if fused else ("block_q_dq", "block_kv_dq"))
    sizes = splash_attention_kernel.BlockSizes(
        **dict.fromkeys(names, block),
        block_kv_compute=compute,
        block_kv_dkv_compute=compute,
        use_fused_bwd_kernel=fused,
    )
    mask = splash_attention_mask.MultiHeadMask([masks[kind]() for _ in range(heads)])
    run = splash_attention_kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
    shapes = (heads, length, width), *[(key_heads or heads, length, width)] * 2
    return gradients(run), [(shape, jnp.bfloat16) for shape in shapes]


CASES: dict[str, Callable] = {
    "short_causal_1024": partial(_ours, 4, 1024, 1024, 12, 64, mask=Mask(causal=True)),
    "short_padded_512": partial(_padded, 8, 512, 12, 64),
    "short_packed_1024": partial(_packed, 4, 1024, 12, 64),
    "short_toeplitz_512": partial(_toeplitz, 8, 512, 12, 64),
    "short_cross_1024x256": partial(_ours, 8, 256, 1024, 12, 64),
    "short_causal_1024_width_128": partial(_ours, 4, 1024, 1024, 8, 128, mask=Mask(causal=True)),
    "short_causal_1024_grouped": partial(_ours, 4, 1024, 1024, 32, 128, key_heads=8, mask=Mask(causal=True)),
    "band_causal_4096_grouped": partial(_ours, 1, 4096, 4096, 32, 128, key_heads=8, mask=Mask(causal=True)),
    "band_16384": partial(_band, 1, 16384, 12, 64, 512, 16),
    "decode_1024": partial(_decode, 32, 1, 1024, 12, 64, jnp.bfloat16),
    "decode_1024_int8": partial(_decode, 32, 1, 1024, 12, 64, jnp.int8),
    "decode_1024_beams": partial(_decode, 8, 4, 1024, 12, 64, jnp.bfloat16),
    "decode_4096_grouped": partial(_decode, 8, 1, 4096, 32, 128, jnp.bfloat16, 8),
    "decode_4096_grouped_int8": partial(_decode, 8, 1, 4096, 32, 128, jnp.int8, 8),
    "splash_causal_1024": partial(_splash, 12, 1024, 64, "causal", 1024, 512),
    "splash_causal_4096_grouped": partial(_splash, 32, 4096, 128, "causal", 1024, 512, 8, True),
    "splash_local_16384": partial(_splash, 12, 16384, 64, "local", 512, 512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=CHIPS, default="v6e")
    parser.add_argument("--case", choices=CASES, action="append", help="may be given several times; default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object for all")
    parser.add_argument("--write", type=Path, help="a file of budgets: this chip's part of it is replaced")
    options = parser.parse_args()
    compiler, found = Compiler(options.chip), {}
    for case in options.case or CASES:
        function, shapes = CASES[case]()
        _, counts = compiler.compile(function, *shapes)
        found[case] = [asdict(count) for count in counts]
        if not options.json:
            for count in counts:
                counted = f"{count.bundles} bundles, {count.fills} fills, {count.spills} spills"
                print(f"{options.chip} {case}: {count.kernel} {counted}")
    if options.json:
        print(json.dumps(found))
    if options.write:
        _write(options.write, options.chip, found)


def _write(path: Path, chip: str, found: dict) -> None:
    """Counts of one version of the compiler belong together: those of another one are dropped."""
    version = importlib.metadata.version("libtpu")
    budgets = json.loads(path.read_text()) if path.exists() else {}
    chips = budgets["chips"] if budgets.get("libtpu") == version else {}
    chips[chip] = {**chips.get(chip, {}), **found}
    path.write_text(json.dumps({"libtpu": version, "chips": chips}, indent=2) + "\n")


if __name__ == "__main__":
    main()
