"""From logical axis names to shardings, and what is refused on the way."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import abstract, flatten, logical_axes
from jaxmodels.sharding import DP, FSDP, FSDP_TP, NAMES, batch_sharding, make_mesh, shardings, spec


@pytest.mark.parametrize("rules", [DP, FSDP, FSDP_TP], ids=["DP", "FSDP", "FSDP_TP"])
def test_rule_tables_name_every_axis_and_cannot_be_changed(rules):
    assert set(rules) == set(NAMES)
    with pytest.raises(TypeError):
        rules["embed"] = None


def test_every_parameter_names_its_axes():
    model, _ = tiny("GPT2DoubleHeadsModel", add_cross_attention=True)
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    for path, shape in shapes.items():
        assert len(names[path]) == shape.ndim, path
        assert set(names[path]) <= {*NAMES, None}, path
        assert (names[path][0] == "layers") == ("/layers/" in path), path
    assert names["transformer/h/layers/attention/qkv/kernel"] == ("layers", "embed", None, "heads", "head_dim")
    assert names["transformer/wte/embedding"] == ("vocab", "embed")


def test_partitions_follow_the_rules():
    mesh = make_mesh({"data": 4, "model": 2})
    places = flatten(shardings(tiny()[0], mesh, FSDP_TP))
    assert places["transformer/h/layers/attention/qkv/kernel"].spec == PartitionSpec(None, "data", None, "model", None)
    assert places["transformer/h/layers/feed_forward/down/kernel"].spec == PartitionSpec(None, "model", "data")
    assert places["transformer/wte/embedding"].spec == PartitionSpec(None, "data")
    assert all(
        place.spec == PartitionSpec(*[None] * len(place.spec))
        for place in flatten(shardings(tiny()[0], mesh, DP)).values()
    )
    assert batch_sharding(mesh, FSDP_TP).spec == PartitionSpec("data")


def test_an_axis_may_be_split_over_two_mesh_axes():
    mesh = make_mesh({"data": 4, "model": 2})
    rules = {**FSDP, "embed": ("data", "model")}
    assert flatten(shardings(tiny()[0], mesh, rules))["transformer/wpe/embedding"].spec == PartitionSpec(
        None, ("data", "model")
    )


def test_a_missing_rule_is_an_error_and_never_a_silent_copy():
    rules = {name: axis for name, axis in FSDP.items() if name != "mlp"}
    with pytest.raises(KeyError, match="no entry for the axis 'mlp'"):
        shardings(tiny()[0], make_mesh({"data": 8}), rules)
    with pytest.raises(KeyError, match="'kv_heads'"):
        spec(("kv_heads",), FSDP)


def test_an_axis_that_the_mesh_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match=r"'heads' has size 4, which is not divisible by 8 devices"):
        shardings(tiny()[0], make_mesh({"data": 1, "model": 8}), FSDP_TP)
    with pytest.raises(ValueError, match="'vocab' has size 67"):
        shardings(tiny()[0], make_mesh({"data": 4, "model": 2}), {**FSDP_TP, "vocab": "model"})


def test_padding_the_vocabulary_makes_it_divide():
    model, _ = jm.resize_token_embeddings(*tiny(), pad_to_multiple_of=8, key=jax.random.key(0))
    places = flatten(shardings(model, make_mesh({"data": 4, "model": 2}), {**FSDP_TP, "vocab": "model"}))
    assert places["transformer/wte/embedding"].spec == PartitionSpec("model", "data")


def test_a_mesh_that_lacks_an_axis_of_the_rules_is_an_error():
    with pytest.raises(ValueError, match="'model'.*mesh has"):
        shardings(tiny()[0], make_mesh({"data": 8}), FSDP_TP)


def test_two_axes_of_one_array_on_one_mesh_axis_are_an_error():
    with pytest.raises(ValueError, match="same mesh axis"):
        shardings(tiny()[0], make_mesh({"data": 8}), {**FSDP, "mlp": "data"})


def test_mesh_sizes():
    mesh = make_mesh({"data": -1, "model": 2})
    assert dict(mesh.shape) == {"data": 4, "model": 2} and set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh({"data": 2}, devices=jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"data": 16}, {"data": -1, "model": -1}, {"data": -1, "model": 3}], ids=str
)
def test_a_mesh_that_does_not_fit_the_devices_is_an_error(axes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_mesh(axes)


@pytest.mark.parametrize("options", [{"mesh": True}, {"rules": True}], ids=str)
def test_mesh_and_rules_go_together(options, tmp_path):
    given = {"mesh": make_mesh({"data": 8})} if "mesh" in options else {"rules": FSDP}
    model, params = tiny()
    jm.save(tmp_path, model, params)
    for act in (lambda: jm.load(tmp_path, **given), lambda: jm.init(model, jax.random.key(0), **given)):
        with pytest.raises(ValueError, match="mesh and rules must be passed together"):
            act()
