"""The train state: weight decay mask and shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels as jm
from jaxmodels.parameters import flatten
from jaxmodels.training import TrainState, abstract_state, init_state, weight_decay_mask


def tiny() -> jm.GPT2LMHeadModel:
    return jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4))


def optimizer() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1, mask=weight_decay_mask))


def test_weight_decay_applies_to_matrices_and_embeddings_only():
    mask = flatten(weight_decay_mask(jm.init(tiny(), jax.random.key(0))))
    assert {path.split("/")[-1] for path, decayed in mask.items() if decayed} == {"kernel", "embedding"}
    assert {path.split("/")[-1] for path, decayed in mask.items() if not decayed} == {"bias", "scale"}


def test_weight_decay_follows_the_mask():
    params = jax.tree.map(jnp.ones_like, jm.init(tiny(), jax.random.key(0)))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer().update)(zeros, optimizer().init(params), params)
    for path, update in flatten(updates).items():
        expected = 0.0 if path.endswith(("bias", "scale")) else -1e-2 * 0.1
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("table", ["DP", "FSDP", "FSDP_TP"])
def test_moments_are_sharded_like_their_parameters(table):
    mesh, rules = jm.sharding.make_mesh({"data": 4, "model": 2}), getattr(jm.sharding, table)
    params = jm.init(tiny(), jax.random.key(0), mesh=mesh, rules=rules)
    state = init_state(optimizer(), params)
    adam = state.opt_state[1][0]
    for moments in (adam.mu, adam.nu):
        jax.tree.map(lambda m, p: assert_same_sharding(m, p), moments, params)
    if table != "DP":
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(adam.mu))


def assert_same_sharding(a, b):
    assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("axes", [None, {"data": 4, "model": 2}])
def test_abstract_state_matches_the_initial_state(axes):
    mesh = None if axes is None else jm.sharding.make_mesh(axes)
    rules = None if axes is None else jm.sharding.FSDP_TP
    state = init_state(optimizer(), jm.init(tiny(), jax.random.key(0), mesh=mesh, rules=rules))
    like = abstract_state(tiny(), optimizer(), mesh=mesh, rules=rules)
    assert isinstance(like, TrainState)

    def check(shape, array):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        if mesh is not None:
            assert_same_sharding(shape, array)

    jax.tree.map(check, like, state)


def test_a_mesh_without_rules_raises():
    with pytest.raises(ValueError, match="mesh and rules must be passed together"):
        abstract_state(tiny(), optimizer(), mesh=jm.sharding.make_mesh({"data": 8}))
