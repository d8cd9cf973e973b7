"""LED at its full length, really compiled for one chip of a TPU; needs libtpu, no TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxmodels as jm
from jaxmodels import estimate
from jaxmodels.architectures.bart.model import bart_layer
from jaxmodels.architectures.base import RunOptions
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs
from jaxmodels.layers.longformer import LongformerAttention
from pallas_kernels import Mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"),
]
LENGTH = 16384
BASE = {"d_model": 768, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072, "dropout": 0.0}


def test_the_backward_pass_of_a_layer_holds_little_more_than_the_forward_activations():
    config = jm.LEDConfig(**BASE)
    layer = bart_layer(config, "encoder", RunOptions(), LongformerAttention)
    x = jax.ShapeDtypeStruct((1, LENGTH, 768), jnp.float32)
    flags, at = jax.ShapeDtypeStruct((1, LENGTH), jnp.bool_), jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = Mask(window=(512, 512), key_valid=flags, key_global=flags, global_at=at)

    def inputs(mask):
        return LayerInputs(AttentionInputs(mask))

    params = jax.eval_shape(lambda x, mask: layer.init(jax.random.key(0), x, inputs(mask))["params"], x, mask)

    def loss(params, x, mask):
        return layer.apply({"params": params}, x, inputs(mask))[0].sum()

    device = estimate.topology_mesh("v5e:1x1", {"data": 1})
    place = jax.sharding.NamedSharding(device, jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (jax.tree.map(lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, "value")), x, mask),
    )
    # The tests' own precision makes six products of each, which takes the TPU's compiler minutes; memory is the same.
    with jax.default_matmul_precision("default"):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    # What a forward pass makes and a backward pass wants: q, k, v, the mixed values, two residual states, two norms,
    # the wide states of the feed-forward before and after the activation.
    activations = 4 * LENGTH * (8 * 768 + 2 * 3072)
    print(f"temporary {temporary / 2**20:.0f} MiB, activations {activations / 2**20:.0f} MiB")
    assert temporary < 1.5 * activations


@pytest.mark.parametrize(("chip", "memory"), [("v5e:1x1", 16), pytest.param("v6e:1x1", 32, marks=pytest.mark.long)])
def test_a_training_step_of_led_base_fits_one_chip(chip, memory):
    """162 million parameters, 16,384 tokens, 32 global ones, dropout, rematerialised, bfloat16 over float32 state."""
    sizes = {f"{stack}_{name}": 12 if name == "attention_heads" else 6 if name == "layers" else 3072
             for stack in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}  # fmt: skip
    config = jm.LEDConfig(d_model=768, attention_window=1024, vocab_size=50265, dropout=0.1, **sizes)
    types = {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
    model = jm.LEDForConditionalGeneration(config, remat=True, max_global_tokens=32, **types)
    found = estimate.train_step(
        model,
        optax.adamw(1e-4),
        topology=chip,
        axes={"data": 1},
        rules=jm.sharding.DP,
        batch=1,
        length=LENGTH,
        further={"labels": (1, 512), "global_attention_mask": (1, LENGTH)},
        prng="rbg",
    )
    print(found)
    assert found.memory < memory * 2**30
    assert found.temporaries < 2.5 * 2**30, "nothing is as large as tokens by tokens"
