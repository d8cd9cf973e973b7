"""Estimates come from really compiling for a TPU slice; needs libtpu, no TPU."""

import importlib.util

import jax.numpy as jnp
import optax
import pytest

import jaxmodels as jm
from jaxmodels import estimate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"),
]

SLICE = {"topology": "v5e:2x4", "axes": {"data": 4, "model": 2}, "length": 128}


def compiled(rules, remat=False, layers=4, batch=8):
    config = jm.GPT2Config(vocab_size=512, n_positions=128, n_embd=256, n_layer=layers, n_head=4)
    model = jm.GPT2LMHeadModel(config, dtype=jnp.bfloat16, param_dtype=jnp.float32, remat=remat)
    return estimate.train_step(model, optax.adamw(1e-4), rules=rules, batch=batch, **SLICE)


@pytest.fixture(scope="module")
def estimates():
    rules = jm.sharding
    return {name: compiled(getattr(rules, name)) for name in ("DP", "FSDP", "FSDP_TP")}


def test_sharded_parameters_take_less_of_each_device(estimates):
    whole, split, both = (estimates[name].arguments for name in ("DP", "FSDP", "FSDP_TP"))
    assert split < 0.35 * whole, "four devices along `data` share the state"
    assert both < 0.75 * split, "two along `model` share heads and feed-forward besides"


def test_the_collectives_are_those_of_the_rules(estimates):
    assert set(estimates["DP"].collectives) == {"all-reduce"}
    assert estimates["FSDP"].collectives["all-gather"] > 0
    assert all(e.devices == 8 and e.flops > 0 and e.memory > e.arguments for e in estimates.values())
    assert "v5e:2x4: 8 devices" in str(estimates["DP"])


def test_remat_takes_less_temporary_memory():
    sizes = {"layers": 16, "batch": 64}
    kept = compiled(jm.sharding.DP, **sizes)
    assert compiled(jm.sharding.DP, remat=True, **sizes).temporaries < 0.1 * kept.temporaries


def test_a_mesh_that_does_not_fit_the_slice_is_refused():
    with pytest.raises(ValueError, match="has 8 devices, the mesh .* asks for 6"):
        estimate.topology_mesh("v5e:2x4", {"data": 6})
