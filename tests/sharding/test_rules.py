"""Rules from logical axis names to shardings, and their errors."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import abstract, flatten, logical_axes
from jaxmodels.sharding import AXES, DP, FSDP, FSDP_TP, batch_sharding, make_mesh, shardings, spec


@pytest.mark.parametrize("rules", [DP, FSDP, FSDP_TP], ids=["DP", "FSDP", "FSDP_TP"])
def test_rule_tables_are_complete_and_immutable(rules):
    assert set(rules) == set(AXES)
    with pytest.raises(TypeError):
        rules["embed"] = None


def test_every_parameter_has_logical_axes():
    model, _ = tiny("GPT2DoubleHeadsModel", add_cross_attention=True)
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    for path, shape in shapes.items():
        assert len(names[path]) == shape.ndim, path
        assert set(names[path]) <= {*AXES, None}, path
        assert (names[path][0] == "layers") == ("/layers/" in path), path
    assert names["transformer/h/layers/attention/qkv/kernel"] == ("layers", "embed", None, "heads", "head_dim")
    assert names["transformer/wte/embedding"] == ("vocab", "embed")


def test_shardings_follow_the_rules():
    mesh = make_mesh({"data": 4, "model": 2})
    named = flatten(shardings(tiny()[0], mesh, FSDP_TP))
    assert named["transformer/h/layers/attention/qkv/kernel"].spec == PartitionSpec(None, "data", None, "model", None)
    assert named["transformer/h/layers/feed_forward/down/kernel"].spec == PartitionSpec(None, "model", "data")
    assert named["transformer/wte/embedding"].spec == PartitionSpec(None, "data")
    assert all(
        place.spec == PartitionSpec(*[None] * len(place.spec))
        for place in flatten(shardings(tiny()[0], mesh, DP)).values()
    )
    assert batch_sharding(mesh, FSDP_TP).spec == PartitionSpec("data")


def test_axis_split_over_two_mesh_axes():
    mesh = make_mesh({"data": 4, "model": 2})
    rules = {**FSDP, "embed": ("data", "model")}
    assert flatten(shardings(tiny()[0], mesh, rules))["transformer/wpe/embedding"].spec == PartitionSpec(
        None, ("data", "model")
    )


@pytest.mark.parametrize(("size", "expected"), [(32, PartitionSpec("data", None)), (30, PartitionSpec(None, "data"))])
def test_position_tables_are_split_where_their_rows_divide(size, expected):
    """By a name of their own, before the model width; else every device has all rows."""
    model = tiny(n_positions=size)[0]
    rules = {**FSDP, "length": "data", "positions": "data"}
    assert flatten(shardings(model, make_mesh({"data": 8}), rules))["transformer/wpe/embedding"].spec == expected
    kept = flatten(shardings(model, make_mesh({"data": 8}), {**FSDP, "length": "data"}))
    assert kept["transformer/wpe/embedding"].spec == PartitionSpec(None, "data")


def test_missing_rule_raises():
    rules = {name: axis for name, axis in FSDP.items() if name != "mlp"}
    with pytest.raises(KeyError, match="h/layers/feed_forward/.*: the rules have no entry for the axis 'mlp'"):
        shardings(tiny()[0], make_mesh({"data": 8}), rules)
    with pytest.raises(KeyError, match="'experts'"):
        spec(("experts",), FSDP)


def test_an_axis_name_may_be_added(monkeypatch):
    monkeypatch.setitem(AXES, "experts", "experts of a mixture")
    assert spec(("experts", "embed"), FSDP) == PartitionSpec(None, "data")
    assert spec(("experts", "embed"), {**FSDP, "experts": "model"}) == PartitionSpec("model", "data")


def test_kv_heads_are_split_like_heads_or_by_a_rule_of_their_own():
    model = tiny("LlamaForCausalLM")[0]
    mesh = make_mesh({"data": 2, "model": 4})
    with pytest.raises(ValueError, match="kv/kernel: the axis 'kv_heads' has size 2, .*'kv_heads': None"):
        shardings(model, mesh, FSDP_TP)
    named = flatten(shardings(model, mesh, {**FSDP_TP, "kv_heads": None}))
    attention = "model/h/layers/attention"
    assert named[f"{attention}/q/kernel"].spec == PartitionSpec(None, "data", "model", None)
    assert named[f"{attention}/kv/kernel"].spec == PartitionSpec(None, "data", None, None, None)
    named = flatten(shardings(model, make_mesh({"data": 4, "model": 2}), FSDP_TP))
    assert named[f"{attention}/kv/kernel"].spec == PartitionSpec(None, "data", None, "model", None)


def test_indivisible_axis_raises():
    with pytest.raises(ValueError, match=r"'heads' has size 4, which is not divisible by 8 devices"):
        shardings(tiny()[0], make_mesh({"data": 1, "model": 8}), FSDP_TP)
    with pytest.raises(ValueError, match="'vocab' has size 67"):
        shardings(tiny()[0], make_mesh({"data": 4, "model": 2}), {**FSDP_TP, "vocab": "model"})


def test_padded_vocabulary_is_divisible():
    model, _ = jm.resize_token_embeddings(*tiny(), pad_to_multiple_of=8, key=jax.random.key(0))
    named = flatten(shardings(model, make_mesh({"data": 4, "model": 2}), {**FSDP_TP, "vocab": "model"}))
    assert named["transformer/wte/embedding"].spec == PartitionSpec("model", "data")


def test_missing_mesh_axis_raises():
    with pytest.raises(ValueError, match="'model'.*mesh has"):
        shardings(tiny()[0], make_mesh({"data": 8}), FSDP_TP)


def test_two_axes_on_one_mesh_axis_raise():
    with pytest.raises(ValueError, match="same mesh axis"):
        shardings(tiny()[0], make_mesh({"data": 8}), {**FSDP, "mlp": "data"})


def test_mesh_sizes():
    mesh = make_mesh({"data": -1, "model": 2})
    assert dict(mesh.shape) == {"data": 4, "model": 2} and set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh({"data": 2}, devices=jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"data": 16}, {"data": -1, "model": -1}, {"data": -1, "model": 3}], ids=str
)
def test_mesh_of_the_wrong_size_raises(axes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_mesh(axes)


@pytest.mark.parametrize("options", [{"mesh": True}, {"rules": True}], ids=str)
def test_mesh_and_rules_must_be_passed_together(options, tmp_path):
    arguments = {"mesh": make_mesh({"data": 8})} if "mesh" in options else {"rules": FSDP}
    model, params = tiny()
    jm.save(tmp_path, model, params)
    for act in (lambda: jm.load(tmp_path, **arguments), lambda: jm.init(model, jax.random.key(0), **arguments)):
        with pytest.raises(ValueError, match="mesh and rules must be passed together"):
            act()
