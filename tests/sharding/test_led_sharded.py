"""BART and LED give the same results on one device and on eight, with heads, feed-forward and batch split."""

import jax
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten

AXES, RULES = {"data": 2, "model": 4}, sharding.FSDP_TP


def batch(name):
    """Eight sequences of different lengths and, for LED, with no, one or two global tokens."""
    mask = (np.arange(9) < np.array([9, 5, 7, 9, 4, 8, 6, 9])[:, None]).astype(int)
    inputs = {"input_ids": np.where(mask, ids((8, 9), low=3), 1), "attention_mask": mask}
    if name.startswith("LED"):
        inputs["global_attention_mask"] = np.array([[t == 0 and i % 2, t == i % 4] for i in range(8) for t in range(9)])
        inputs["global_attention_mask"] = inputs["global_attention_mask"].any(axis=1).reshape(8, 9).astype(int)
    labels = ids((8, 4), seed=1, low=3)
    labels[3, 2:] = -100
    return {**inputs, "labels": labels}


def loss(model, params, data):
    def run(params):
        out = model.apply({"params": params}, **data)
        return out.loss, out.logits

    return jax.value_and_grad(run, has_aux=True)(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "LEDForConditionalGeneration"])
def test_logits_loss_and_gradients_match_one_device(name):
    model, params = tiny(name, encoder_layers=1, decoder_layers=1)
    if name.startswith("LED"):
        model = model.clone(max_global_tokens=2)
    run = jax.jit(lambda params, data: loss(model, params, data))
    (expected, logits), gradients = run(params, batch(name))
    mesh = sharding.make_mesh(AXES)
    placed = jax.device_put(params, sharding.shardings(model, mesh, RULES))
    data = jax.device_put(batch(name), sharding.batch_sharding(mesh, RULES))
    with sharding.use(mesh, RULES):
        (got, got_logits), got_gradients = jax.jit(lambda params, data: loss(model, params, data))(placed, data)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(got_logits, logits, rtol=1e-5, atol=2e-5)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(got_gradients)[path], leaf, rtol=1e-4, atol=2e-5, err_msg=path)


def test_led_is_loaded_onto_shards(tmp_path):
    model, params = tiny("LEDForSequenceClassification")
    jm.save(tmp_path, model, params)
    loaded = jm.load(tmp_path, mesh=sharding.make_mesh(AXES), rules=RULES)[1]
    layers = loaded["led"]["encoder"]["stack"]["layers"]["attention"]
    decoder = loaded["led"]["decoder"]["stack"]["layers"]
    parts = {
        "qkv": (layers["qkv"]["kernel"], (2, 16, 3, 1, 8)),
        "global query": (layers["global_q"]["kernel"], (2, 16, 1, 8)),
        "cross keys and values": (decoder["cross_attention"]["kv"]["kernel"], (2, 16, 2, 2, 4)),
        "feed-forward": (decoder["feed_forward"]["up"]["kernel"], (2, 16, 12)),
        "positions": (loaded["led"]["encoder"]["embeddings"]["table"]["embedding"], (32, 16)),
    }
    for name, (array, shape) in parts.items():
        assert {shard.data.shape for shard in array.addressable_shards} == {shape}, name
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))
