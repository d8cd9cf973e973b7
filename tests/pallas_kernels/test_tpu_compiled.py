"""Every TPU kernel, compiled for every chip: its instruction bundles, and no operation that moves its operands.

The counts are compared with `tpu_budgets.json`, which `python -m benchmarks.bundles --write FILE` updates: a rise of
more than 3 % fails. They are those of one version of libtpu, named in the file; with another one the kernels are
compiled but not counted.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.experimental.layout import Format, Layout

import jaxmodels as jm
from benchmarks import bundles
from jaxmodels import estimate, sharding
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.layers.longformer import LongformerAttention
from jaxmodels.parameters import abstract
from jaxmodels.training import abstract_state, make_step
from pallas_kernels import Mask

ROOT = Path(__file__).parents[2]
BUDGETS = json.loads((Path(__file__).parent / "tpu_budgets.json").read_text())

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"),
]


def compiled(chip: str, *options: str) -> dict:
    """In a separate process, because the compiler reads the folder for its counts when it is loaded."""
    cases = [option for case in BUDGETS["chips"][chip] for option in ("--case", case)]
    command = [sys.executable, "-m", "benchmarks.bundles", "--json", "--chip", chip, *cases, *options]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


# Chips that differ from these in their tile sizes only are tested at night.
CHIPS = [chip if chip in ("v5e", "v6e") else pytest.param(chip, marks=pytest.mark.long) for chip in BUDGETS["chips"]]


@pytest.mark.parametrize("chip", CHIPS)
def test_bundles_and_spills_stay_within_the_budget(chip):
    found = compiled(chip)
    assert found.keys() == BUDGETS["chips"][chip].keys() and all(found.values())
    version = importlib.metadata.version("libtpu")
    if version != BUDGETS["libtpu"]:
        pytest.skip(f"the budgets are those of libtpu {BUDGETS['libtpu']}, this is {version}; everything compiled")
    over = [
        f"{case}, {count['kernel']}: {count[what]} {what}, budget {budget[what]}"
        for case, counts in found.items()
        for count, budget in zip(counts, BUDGETS["chips"][chip][case], strict=True)
        for what in ("bundles", "fills", "spills")
        if count[what] > 1.03 * budget[what] + 8
    ]
    assert not over, over


def producers(program: str, kernel: str) -> dict[str, str]:
    """By operand of the kernel's call in an HLO text, the operation that produces it."""
    lines = {found[1]: found[2] for found in re.finditer(r"^\s*(?:ROOT )?(%\S+) = (.*)$", program, re.MULTILINE)}
    call = next(line for name, line in lines.items() if name.startswith(f"%{kernel}") and "custom-call(" in line)
    operands = re.findall(r"%[\w.\-]+", call[call.index("custom-call(") : call.index(")", call.index("custom-call("))])

    def origin(name):
        line = lines[name]
        # An asynchronous copy is one between memories and does not change the layout.
        if passing := re.search(r" (?:get-tuple-element|bitcast|copy-done|copy-start)\((%[\w.\-]+)\)", line):
            return origin(passing[1])
        return line

    return {name: origin(name) for name in operands}


def program_of(layer, mask: Mask, shape: tuple[int, ...]) -> str:
    """The compiled forward and backward pass of an attention layer on one chip, [B,T,D] in bfloat16."""
    mesh = estimate.topology_mesh("v5e:1x1", {"data": 1})
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def init(x, mask):
        return layer.init(jax.random.key(0), x, AttentionInputs(mask=mask))

    params = nn.unbox(jax.eval_shape(init, x, mask))

    def both(params, x, mask):
        out, pull = jax.vjp(lambda params, x: layer.apply(params, x, AttentionInputs(mask=mask))[0], params, x)
        return out, pull(out)

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), (params, x, mask))
    with jax.set_mesh(mesh):
        return jax.jit(both).lower(*placed).compile().as_text()


OPTIONS = {"kernel_init": nn.initializers.normal(0.02), "out_init": nn.initializers.normal(0.02), "dtype": jnp.bfloat16}
FLAGS = jax.ShapeDtypeStruct((1, 4096), jnp.bool_)
BAND = Mask(False, (512, 512), FLAGS, FLAGS, jax.ShapeDtypeStruct((1, 16), jnp.int32))


@pytest.mark.parametrize(
    ("layer", "mask", "shape", "kernel"),
    [
        (Attention(12, 64, **OPTIONS), Mask(causal=True), (4, 1024, 768), "short"),
        (LongformerAttention(12, 64, **OPTIONS), BAND, (1, 4096, 768), "band"),
    ],
    ids=["short", "band"],
)
def test_operands_are_not_moved_between_the_projections_and_the_kernels(layer, mask, shape, kernel):
    """No copy, transposition, slice or pad: a kernel's operands are produced by a matrix product or a kernel.

    LED's output at padding and global tokens is replaced afterwards, so its cotangent comes from a fusion.
    """
    program = program_of(layer, mask, shape)
    whole = f"[{shape[0]},12,64,{shape[1]}]"  # queries, keys, values, outputs and their gradients
    for name, least in ((f"{kernel}_forward", 3), (f"{kernel}_backward", 5)):
        read = [line for line in producers(program, name).values() if whole in line]
        moved = [line for line in read if "custom-call(" not in line and "kind=kOutput" not in line]
        assert len(read) >= least
        assert len(moved) <= (name == "band_backward"), f"{name} reads {[line[:200] for line in moved]}"
        assert not [line for line in moved if re.search(r" (copy|transpose|pad|slice)\(", line)]


@pytest.mark.parametrize("case", ["short_causal_1024", "short_toeplitz_512", "band_16384", "decode_1024_int8"])
def test_temporary_memory_is_small(case):
    """At most a tenth of operands and results, in the layouts of the kernels, which are those of the projections."""
    place = jax.sharding.NamedSharding(estimate.topology_mesh("v5e:1x1", {"chip": 1}), jax.sharding.PartitionSpec())
    any_layout = Format(Layout.AUTO, place)
    function, shapes = bundles.CASES[case]()
    with jax.set_mesh(place.mesh):
        run = jax.jit(function, in_shardings=any_layout, out_shardings=any_layout)
        memory = run.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 0.1 * (memory.argument_size_in_bytes + memory.output_size_in_bytes)


def sharded_step(model, shapes: dict[str, tuple[int, ...]]) -> str:
    """The program of a training step on 4 x 2 chips, with the batch over "data" and heads over "model"."""
    mesh, rules, optimizer = (
        estimate.topology_mesh("v5e:2x4", {"data": 4, "model": 2}),
        sharding.FSDP_TP,
        optax.sgd(0.1),
    )
    state = abstract_state(model, optimizer, mesh=mesh, rules=rules)
    place = sharding.batch_sharding(mesh, rules)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place) for name, shape in shapes.items()}
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    return make_step(model, optimizer, mesh=mesh, rules=rules).lower(state, batch, key).compile().as_text()


def assert_on_shards(program: str, kernel: str, local: tuple[int, ...]) -> None:
    """The kernels' first result has the shape of a shard, and no array of that length and head width is gathered."""
    for name in (f"{kernel}_forward", f"{kernel}_backward"):
        assert re.search(rf"%{name}\S* = \(bf16\[{','.join(map(str, local))}\]", program), name
    gathered = re.findall(r"= \S+\[([\d,]+)\]\S* all-gather", program)
    # FSDP gathers weights.
    assert gathered and not [shape for shape in gathered if {str(n) for n in local[2:]} <= set(shape.split(","))]


def test_a_sharded_training_step_of_gpt2_runs_the_kernels_on_its_shards():
    model = jm.GPT2LMHeadModel(jm.GPT2Config(n_layer=2, vocab_size=1024), dtype=jnp.bfloat16)
    program = sharded_step(model, {"input_ids": (16, 1024), "labels": (16, 1024)})
    assert_on_shards(program, "short", (4, 6, 64, 1024))


def test_a_sharded_training_step_of_led_runs_the_kernels_on_its_shards():
    """4,096 tokens, a window of 512 to either side, up to 16 global tokens."""
    sizes = {f"{stack}_{name}": value for stack in ("encoder", "decoder")
             for name, value in (("layers", 1), ("attention_heads", 12), ("ffn_dim", 3072))}  # fmt: skip
    config = jm.LEDConfig(d_model=768, attention_window=1024, vocab_size=1024, **sizes)
    model = jm.LEDForConditionalGeneration(config, dtype=jnp.bfloat16, max_global_tokens=16)
    masks = dict.fromkeys(("input_ids", "attention_mask", "global_attention_mask"), (4, 4096))
    program = sharded_step(model, {**masks, "labels": (4, 128)})
    assert_on_shards(program, "band", (1, 6, 64, 4096))
    assert_on_shards(program, "short", (1, 6, 64, 128))


def decode_step(topology: str, data: int, model_axis: int, cache_dtype):
    """Two layers of GPT-2, one token of each of 16 sequences, a donated cache of 1,024 slots."""
    mesh, rules = estimate.topology_mesh(topology, {"data": data, "model": model_axis}), sharding.FSDP_TP
    model = jm.GPT2LMHeadModel(jm.GPT2Config(n_layer=2, vocab_size=1024), dtype=jnp.bfloat16)

    def placed(leaf):
        """Keys and values [B,S,H*K], their scales [B,H,S], flags and tokens [B,N]."""
        names = {0: (), 2: ("data",), 3: ("data", None, "model") if leaf.shape[1:2] == (1024,) else ("data", "model")}
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names[leaf.ndim]))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    def step(params, tokens, cache):
        out = model.apply({"params": params}, tokens, cache=cache)
        return out.logits.argmax(-1), out.cache

    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=place),
        abstract(model),
        sharding.shardings(model, mesh, rules),
    )
    with sharding.use(mesh, rules):
        cache = jax.tree.map(placed, jax.eval_shape(lambda: model.init_cache(16, 1024, dtype=cache_dtype)))
        tokens = placed(jax.ShapeDtypeStruct((16, 1), jnp.int32))
        return jax.jit(step, donate_argnums=2).lower(params, tokens, cache).compile()


@pytest.mark.parametrize("cache_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_a_decode_step_reads_the_cache_once_from_hbm(chip, cache_dtype):
    """No copy, slice or transposition of keys and values, and none of them in VMEM, S(1)."""
    compiled = decode_step(f"{chip}:1x1", 1, 1, cache_dtype)
    program = compiled.as_text()
    hlo_dtype = {"bfloat16": "bf16", "int8": "s8"}[cache_dtype]
    whole = [line for line in program.splitlines() if re.search(rf"= \(*{hlo_dtype}\[16,1024,768\]", line)]
    writes = [line for line in whole if "dynamic-update-slice(" in line]
    assert len(re.findall(r"%decode\S* = .*custom-call\(", program)) == 2 and len(writes) == 4
    assert not [line[:200] for line in whole if "S(1)" in line or re.search(r" (copy|transpose|slice)\S*\(", line)]
    cache_bytes = 2 * 2 * 16 * 1024 * 768 * (2 if cache_dtype == "bfloat16" else 1)
    assert compiled.cost_analysis()["bytes accessed"] < 2 * cache_bytes + 3e8


def test_a_sharded_decode_step_reads_the_cache_on_its_shards():
    program = decode_step("v5e:2x4", 4, 2, "int8").as_text()
    assert re.search(r"%decode\S* = bf16\[4,1,384\]\S* custom-call\(", program)
    assert not [line for line in program.splitlines() if "all-gather" in line and ",1024," in line.split("=")[1][:60]]
