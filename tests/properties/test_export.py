"""`jax.export`: symbolic batches and lengths, decode steps for other processes, programs for a TPU from a CPU host."""

import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from support import other_platform
from support.tiny import tiny

import jaxmodels as jm
from pallas_kernels import Mask, attention, platform

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ["GPT2LMHeadModel", "GPTNeoForCausalLM", "LlamaForCausalLM", "RobertaPreLayerNormForMaskedLM"]
FAMILIES += ["DPRQuestionEncoder", "BartForConditionalGeneration", "T5ForConditionalGeneration"]
FAMILIES += ["LEDForConditionalGeneration"]


def forward(name: str, **choices):
    """A jitted forward pass of (params, inputs), the parameters, and inputs of two sequences of up to 8 tokens."""
    model, params = tiny(name, choices=choices)
    ids = np.random.default_rng(0).integers(3, 60, (3, 8)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": (np.arange(8) < [[8], [6], [7]]).astype(np.int32)}
    if name.startswith("T5"):
        inputs["decoder_input_ids"] = ids
    return jax.jit(lambda params, inputs: model.apply({"params": params}, **inputs)), params, inputs


def shapes(tree, shape=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype), tree)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forward_pass_is_exported_for_any_batch_and_length(name):
    function, params, inputs = forward(name)
    shape = jax.export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 1", "t <= 24"])
    exported = jax.export.export(function)(shapes(params), shapes(inputs, shape))
    for batch, length in ((3, 8), (1, 5)):
        part = jax.tree.map(lambda x: x[:batch, :length], inputs)  # noqa: B023
        expected, actual = function(params, part), exported.call(params, part)
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_a_symbolic_batch_keeps_attention_in_blocks():
    """The length decides, and it is known."""
    (batch,) = jax.export.symbolic_shape("b", constraints=["b >= 1"])
    q = jax.ShapeDtypeStruct((batch, 600, 2, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda q: attention(q, q, q, mask=Mask(causal=True))))(q)
    assert "600x600" not in exported.mlir_module()
    x = jax.random.normal(jax.random.key(0), (2, 600, 2, 8))
    expected = attention(x, x, x, mask=Mask(causal=True), implementation="xla")
    np.testing.assert_allclose(exported.call(x), expected, rtol=1e-4, atol=1e-5)


def test_named_kernels_reject_symbolic_dimensions():
    (batch,) = jax.export.symbolic_shape("b", constraints=["b >= 1"])
    q = jax.ShapeDtypeStruct((batch, 128, 2, 16), jnp.float32)
    with pytest.raises(ValueError, match="symbolic dimensions"):
        jax.export.export(jax.jit(lambda q: attention(q, q, q, implementation="pallas_tpu")))(q)


DECODE = """
import pickle, sys
import jax, jax.export
import jaxmodels
data, params, ids, cache, steps = pickle.load(sys.stdin.buffer)
step = jax.export.deserialize(bytearray(data))
treedef = jax.tree.structure(jax.tree.unflatten(step.in_tree, range(step.in_tree.num_leaves))[0][2])
cache = jax.tree.unflatten(treedef, cache)
produced = []
for _ in range(steps):
    out = step.call(params, ids, cache)
    assert type(out).__name__ == "CausalLMOutputWithCrossAttentions", type(out)
    ids, cache = out.logits[:, -1:].argmax(-1).astype("int32"), out.cache
    produced.append(ids[:, 0].tolist())
print(produced)
"""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_decode_step_is_called_in_another_process(dtype):
    """It gives the ids of this one; the process knows neither the model nor how the step was made."""
    pytest.importorskip("flatbuffers", reason="jax.export writes files with it")
    model, params = tiny()
    cache = model.init_cache(2, 8, dtype)
    step = jax.jit(lambda params, ids, cache: model.apply({"params": params}, ids, cache=cache))
    ids = first = np.array([[5], [9]], np.int32)
    data = jax.export.export(step)(params, ids, cache).serialize()
    values = pickle.dumps((data, *jax.tree.map(np.asarray, (params, first, jax.tree.leaves(cache))), 6))
    run = subprocess.run([sys.executable, "-c", DECODE], input=values, cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    produced = []
    for _ in range(6):
        out = step(params, ids, cache)
        ids, cache = out.logits[:, -1:].argmax(-1).astype(np.int32), out.cache
        produced.append(ids[:, 0].tolist())
    assert run.stdout.decode().strip().splitlines()[-1] == str(produced)


def test_all_caches_and_outputs_are_registered():
    pytest.importorskip("flatbuffers", reason="jax.export writes files with it")
    model, _ = tiny("BartForConditionalGeneration")
    cache = model.init_cache(2, 4).expand(2)
    exported = jax.export.export(jax.jit(lambda cache: cache))(cache)
    assert jax.export.deserialize(bytearray(exported.serialize())).in_tree == exported.in_tree


def for_tpu(name: str, **choices):
    function, params, inputs = forward(name, **choices)
    return jax.export.export(function, platforms=["tpu"])(params, inputs)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_a_program_for_tpu_has_the_operations_of_a_trace_on_one(name):
    with other_platform.on("tpu"):
        expected = for_tpu(name).mlir_module()
    with jm.target_platform("tpu"):
        assert platform() == "tpu"
        exported = for_tpu(name)
    assert exported.platforms == ("tpu",) and exported.nr_devices == 1
    for operation in ("dot_general", "stablehlo.while", "tpu_custom_call"):
        assert exported.mlir_module().count(operation) == expected.count(operation), operation
    assert "tpu_custom_call" in expected
    # What this host would run is another program; it is as correct on a TPU.
    assert platform() == jax.default_backend()
    elsewhere = for_tpu(name).mlir_module()
    assert elsewhere.count("dot_general") != expected.count("dot_general") and "tpu_custom_call" not in elsewhere


def test_the_kernel_is_a_custom_call_where_it_is_named():
    with jm.target_platform("tpu"):
        assert "tpu_custom_call" in for_tpu("GPT2LMHeadModel", attention="pallas").mlir_module()
    with pytest.raises(ValueError, match="the platform is cpu"):
        for_tpu("GPT2LMHeadModel", attention="pallas")


def test_a_target_platform_keeps_the_mesh_in_context():
    mesh = jm.sharding.make_mesh({"data": 8})
    with jax.set_mesh(mesh), jm.target_platform("tpu"):
        assert platform() == "tpu" and jax.sharding.get_abstract_mesh().shape == {"data": 8}
    with pytest.raises(ValueError, match="cpu, gpu, tpu; got 'TPU'"):
        jm.target_platform("TPU")
