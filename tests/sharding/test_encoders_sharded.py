"""DPR and RoBERTa-PreLayerNorm give the same results on one device and on eight."""

import jax
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import CLASSES, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import abstract, flatten, logical_axes

LAYOUTS = {"FSDP": (sharding.FSDP, {"data": 8}), "FSDP_TP": (sharding.FSDP_TP, {"data": 2, "model": 4})}


def batch():
    tokens = ids((8, 6), low=2)
    mask = np.ones((8, 6), int)
    mask[3, 4:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def total(model):
    def run(params, inputs):
        out = model.apply({"params": params}, **inputs)
        return jax.numpy.sin(out[0]).sum(), out[0]

    return jax.value_and_grad(run, has_aux=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DPRQuestionEncoder", {"projection_dim": 16}),
        ("DPRReader", {"position_embedding_type": "relative_key_query"}),
        ("RobertaPreLayerNormForMaskedLM", {}),
        ("RobertaPreLayerNormForMaskedLM", {"position_embedding_type": "relative_key"}),
        ("BertForPreTraining", {}),
        pytest.param("RobertaForMaskedLM", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_outputs_and_gradients_match_one_device(name, config, layout):
    model, params = tiny(name, **config)
    (_, expected), gradients = jax.jit(total(model))(params, batch())
    rules, axes = LAYOUTS[layout]
    mesh = sharding.make_mesh(axes)
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    data = jax.device_put(batch(), sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        (_, got), got_gradients = jax.jit(total(model))(placed, data)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(got_gradients)[path], leaf, rtol=1e-4, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_has_logical_axes(name):
    model, _ = tiny(name)
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    for path, shape in shapes.items():
        assert len(names[path]) == shape.ndim and set(names[path]) <= {*sharding.AXES, None}, path


def test_bert_is_loaded_onto_shards(tmp_path):
    model, params = tiny("DPRContextEncoder")
    jm.save(tmp_path, model, params)
    mesh = sharding.make_mesh({"data": 2, "model": 4})
    loaded = jm.load(tmp_path, mesh=mesh, rules=sharding.FSDP_TP)[1]
    kernel = loaded["ctx_encoder"]["bert_model"]["encoder"]["layers"]["attention"]["qkv"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 16, 3, 1, 8)}
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))
