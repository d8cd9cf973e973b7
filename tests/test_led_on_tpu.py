"""LED at its full length, really compiled for TPUs; needs libtpu, no TPU."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxmodels as jm
from jaxmodels import estimate
from jaxmodels.architectures.bart.decoder import bart_layer
from jaxmodels.layers.longformer import LongformerAttention
from pallas_kernels import Mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"),
]
LENGTH = 16384
BASE = {
    "d_model": 768,
    **{f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 6), ("attention_heads", 12))},
    **{f"{stack}_ffn_dim": 3072 for stack in ("encoder", "decoder")},
    "attention_window": 1024,
}
# Memory of one chip, in bytes (cloud.google.com/tpu/docs).
CHIPS = {"v5e": 16 * 2**30, "v6e": 32 * 2**30}


@pytest.mark.parametrize("chip", CHIPS)
def test_a_training_step_on_16384_tokens_fits_one_chip(chip):
    model = jm.LEDForConditionalGeneration(
        jm.LEDConfig(**BASE), dtype=jnp.bfloat16, param_dtype=jnp.float32, remat=True, max_global_tokens=64
    )
    found = estimate.train_step(
        model,
        optax.adamw(1e-4),
        topology=f"{chip}:1x1",
        axes={"data": 1},
        rules=jm.sharding.DP,
        batch=1,
        length=LENGTH,
        further={"labels": (1, 512), "global_attention_mask": (1, LENGTH)},
    )
    print(found)
    assert found.memory < CHIPS[chip] / 2


def test_the_backward_pass_of_a_layer_holds_little_more_than_the_forward_activations():
    config = jm.LEDConfig(**BASE)
    kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    init = jax.nn.initializers.normal(0.02)
    own = partial(LongformerAttention, 12, 64, kernel_init=init, out_init=init, **kinds)
    layer = bart_layer(config, "encoder", attention="auto", own_attention=own, **kinds)
    x = jax.ShapeDtypeStruct((1, LENGTH, 768), jnp.float32)
    flags, at = jax.ShapeDtypeStruct((1, LENGTH), jnp.bool_), jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = Mask(window=(512, 512), key_valid=flags, key_global=flags, global_at=at)
    params = jax.eval_shape(lambda x, mask: layer.init(jax.random.key(0), x, mask=mask)["params"], x, mask)

    def loss(params, x, mask):
        return layer.apply({"params": params}, x, mask=mask)[0].sum()

    device = estimate.topology_mesh("v5e:1x1", {"data": 1})
    place = jax.sharding.NamedSharding(device, jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (jax.tree.map(lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, "value")), x, mask),
    )
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    # What a forward pass makes and a backward pass wants: q, k, v, the mixed values, two residual states, two norms,
    # the wide states of the feed-forward before and after the activation.
    activations = 4 * LENGTH * (8 * 768 + 2 * 3072)
    print(f"temporary {temporary / 2**20:.0f} MiB, activations {activations / 2**20:.0f} MiB")
    assert temporary < 1.5 * activations
