"""The same results on one device and on eight, with sharded parameters."""

import jax
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten

# (rules, mesh, shapes of the shards of a kernel [2,32,3,4,8] and of embeddings [67,32])
LAYOUTS = {
    "DP": (sharding.DP, {"data": 8}, (2, 32, 3, 4, 8), (67, 32)),
    "FSDP": (sharding.FSDP, {"data": 8}, (2, 4, 3, 4, 8), (67, 4)),
    "FSDP_TP": (sharding.FSDP_TP, {"data": 2, "model": 4}, (2, 16, 3, 1, 8), (67, 16)),
}
KERNEL, TABLE = "transformer/h/layers/attention/qkv/kernel", "transformer/wte/embedding"


def batch():
    mask = np.ones((8, 6), int)
    mask[3, 4:] = 0
    return {"input_ids": ids((8, 6)), "attention_mask": mask, "labels": np.where(mask, ids((8, 6), 1), -100)}


def loss(model):
    def run(params, batch):
        out = model.apply({"params": params}, **batch)
        return out.loss, out.logits

    return jax.value_and_grad(run, has_aux=True)


@pytest.fixture(scope="module")
def unsharded():
    model, params = tiny()
    return model, params, jax.jit(loss(model))(params, batch())


def parts(tree) -> dict[str, set]:
    """The shapes of the shards of each array."""
    return {path: {shard.data.shape for shard in leaf.addressable_shards} for path, leaf in flatten(tree).items()}


def place(params, layout):
    rules, axes, *_ = LAYOUTS[layout]
    mesh = sharding.make_mesh(axes)
    return mesh, rules, jax.device_put(params, sharding.shardings(tiny()[0], mesh, rules))


@pytest.mark.parametrize(("layout", "remat"), [("DP", False), ("FSDP", False), ("FSDP_TP", False), ("FSDP_TP", True)])
def test_logits_loss_and_gradients_match_one_device(layout, remat, unsharded):
    model, params, ((expected, logits), gradients) = unsharded
    mesh, rules, placed = place(params, layout)
    data = jax.device_put(batch(), sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        (got, got_logits), got_gradients = jax.jit(loss(model.clone(remat=remat)))(placed, data)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(got_logits, logits, rtol=1e-5, atol=1e-5)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(got_gradients)[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_device_has_only_its_shard(layout, unsharded):
    *_, kernel, table = LAYOUTS[layout]
    held = parts(place(unsharded[1], layout)[2])
    assert held[KERNEL] == {kernel} and held[TABLE] == {table}
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(unsharded[1]))
    mine = sum(4 * int(np.prod(shape)) for shapes in held.values() for shape in shapes)
    assert mine == whole if layout == "DP" else mine < (0.15 if layout == "FSDP" else 0.6) * whole


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_places_every_parameter_on_its_shards(layout, unsharded, tmp_path):
    model, params, _ = unsharded
    jm.save(tmp_path, model, params)
    rules, axes, *_ = LAYOUTS[layout]
    mesh = sharding.make_mesh(axes)
    loaded = jm.load(tmp_path, mesh=mesh, rules=rules)[1]
    expected = flatten(sharding.shardings(model, mesh, rules))
    for path, leaf in flatten(loaded).items():
        assert leaf.sharding.is_equivalent_to(expected[path], leaf.ndim), path
        np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=path)
    assert parts(loaded) == parts(place(params, layout)[2])


@pytest.mark.filterwarnings("ignore:.*initialised")
def test_initialised_head_is_sharded(unsharded, tmp_path):
    jm.save(tmp_path, *unsharded[:2])
    mesh = sharding.make_mesh({"data": 8})
    loaded = jm.load(tmp_path, cls="GPT2ForSequenceClassification", mesh=mesh, rules=sharding.FSDP)[1]
    assert parts(loaded)["score/kernel"] == {(4, 2)} and parts(loaded)[KERNEL] == {(2, 4, 3, 4, 8)}


def test_init_creates_the_same_parameters_on_shards():
    model, _ = tiny("GPT2Model")
    whole = flatten(jm.init(model, jax.random.key(0)))
    made = jm.init(model, jax.random.key(0), mesh=sharding.make_mesh({"data": 2, "model": 4}), rules=sharding.FSDP_TP)
    assert parts(made)["h/layers/attention/qkv/kernel"] == {(2, 16, 3, 1, 8)}
    for path, leaf in flatten(made).items():
        np.testing.assert_allclose(leaf, whole[path], rtol=1e-6, atol=1e-8, err_msg=path)


def test_sharded_parameters_are_saved_completely(unsharded, tmp_path):
    model, params, _ = unsharded
    jm.save(tmp_path, model, place(params, "FSDP_TP")[2])
    assert jax.tree.all(jax.tree.map(np.array_equal, jm.load(tmp_path)[1], params))


def test_activations_follow_the_rules_inside_use(unsharded):
    """The batch axis of the activations stays split; the batch is never gathered on one device."""
    model, params, _ = unsharded
    mesh, rules, placed = place(params, "FSDP")
    data = jax.device_put(batch(), sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        out = jax.jit(lambda p, b: model.apply({"params": p}, **b).logits)(placed, data)
        text = jax.jit(lambda p, b: model.apply({"params": p}, **b).logits).lower(placed, data).as_text()
    assert {shard.data.shape for shard in out.addressable_shards} == {(1, 6, 67)}
    assert "sharding_constraint" in text or "@Sharding" in text


def test_decoding_with_a_sharded_cache_gives_the_same_tokens(unsharded):
    model, params, _ = unsharded
    mesh, rules, placed = place(params, "FSDP_TP")
    prompt, options = ids((4, 5)), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": 66, "pad_token_id": 0}
    expected = jm.generate(model, params, prompt, **options).sequences
    with sharding.use(mesh, rules):
        got = jm.generate(model, placed, prompt, **options).sequences
    np.testing.assert_array_equal(got, expected)
