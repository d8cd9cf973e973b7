"""Frozen parameters: no update, no optimizer state, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten
from jaxmodels.training import abstract_state, init_state, make_step, place

KEY = jax.random.key(0)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2))
MODEL, PARAMS = tiny("GPT2LMHeadModel", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
PLACEMENT = {"mesh": jm.sharding.make_mesh({"data": 2}, jax.devices()[:2]), "rules": jm.sharding.FSDP}


def trainable(path: str) -> bool:
    return "/feed_forward/" in path


def batch():
    ids = np.random.default_rng(0).integers(0, MODEL.config.vocab_size, (8, 8), dtype=np.int32)
    return {"input_ids": ids, "labels": ids}


@pytest.fixture(scope="module")
def expected():
    """Two steps of Optax's masks: the others' gradients are computed, and zeroed before they are clipped."""
    labels = jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), PARAMS)
    masks = jax.tree.map(trainable, labels), jax.tree.map(lambda path: not trainable(path), labels)
    optimizer = optax.chain(optax.masked(optax.set_to_zero(), masks[1]), optax.masked(OPTIMIZER, masks[0]))
    state, step = init_state(optimizer, jax.tree.map(jnp.copy, PARAMS)), make_step(MODEL, optimizer)
    for _ in range(2):
        state, _ = step(state, batch(), KEY)
    return flatten(jax.device_get(state.params)), step.trace(state, batch(), KEY)


@pytest.mark.parametrize(("microbatches", "placement"), [(2, {}), (1, PLACEMENT)])
def test_only_trainable_parameters_change(expected, microbatches, placement):
    shardings = jm.sharding.shardings(MODEL, **placement) if placement else None
    params = jax.device_put(jax.tree.map(np.array, PARAMS), shardings)
    state = init_state(OPTIMIZER, params, trainable=trainable)
    like = abstract_state(MODEL, OPTIMIZER, **placement, trainable=trainable)
    moments = flatten(optax.tree.get(state.opt_state, "mu"))
    assert {path for path, leaf in moments.items() if leaf is not None} == set(filter(trainable, flatten(PARAMS)))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, like)
    step = make_step(MODEL, OPTIMIZER, microbatches=microbatches, trainable=trainable, **placement)
    data = place(batch(), **placement) if placement else batch()
    for _ in range(2):
        state, metrics = step(state, data, KEY)
    for path, leaf in flatten(jax.device_get(state.params)).items():
        if trainable(path):
            np.testing.assert_allclose(leaf, expected[0][path], atol=1e-4, err_msg=path)
            assert not np.array_equal(leaf, flatten(PARAMS)[path])
        else:
            np.testing.assert_array_equal(leaf, flatten(PARAMS)[path], err_msg=path)


def test_gradients_of_frozen_parameters_are_not_computed(expected):
    state = abstract_state(MODEL, OPTIMIZER, trainable=trainable)
    traced = make_step(MODEL, OPTIMIZER, trainable=trainable).trace(state, batch(), KEY)
    products = [str(t.jaxpr).count("dot_general[") for t in (expected[1], traced)]
    # Those of the kernels of attention, in a loop over the layers, and of the embedding.
    assert products[0] - products[1] >= 3


def test_nothing_to_train_raises():
    with pytest.raises(ValueError, match="there is nothing to train"):
        init_state(OPTIMIZER, PARAMS, trainable=lambda path: False)
