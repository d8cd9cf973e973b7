"""Checkpoints: restored bit for bit, onto another mesh, and never half."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state
from jaxmodels.training.checkpoints import Checkpoints


def tiny(width=32) -> jm.GPT2LMHeadModel:
    return jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=width, n_layer=2, n_head=4))


@pytest.fixture(scope="module")
def state():
    return init_state(optax.adamw(1e-3), jm.init(tiny(), jax.random.key(0)))


def save(folder, state, *steps, keep=2):
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, note=ocp.args.JsonSave({"at": step}))


def test_restored_bit_for_bit_onto_a_mesh(tmp_path, state):
    save(tmp_path, state, 5)
    mesh, rules = jm.sharding.make_mesh({"data": 8}), jm.sharding.FSDP
    like = abstract_state(tiny(), optax.adamw(1e-3), mesh=mesh, rules=rules)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        restored = checkpoints.restore(like, note=ocp.args.JsonRestore())
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(
        lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) or pytest.fail("misplaced"), restored, like
    )


def test_only_the_newest_are_kept(tmp_path, state):
    save(tmp_path, state, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


def test_an_interrupted_save_is_not_a_checkpoint(tmp_path, state):
    """A killed process leaves a folder with Orbax's temporary name."""
    save(tmp_path, state, 5)
    half = tmp_path / "6.orbax-checkpoint-tmp-0"
    (half / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        checkpoints.restore(abstract_state(tiny(), optax.adamw(1e-3)))
    assert not half.exists()


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints, pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoints.restore(abstract_state(tiny(), optax.adamw(1e-3)))


@pytest.mark.parametrize(
    ("model", "optimizer"), [(tiny(width=64), optax.adamw(1e-3)), (tiny(), optax.sgd(1e-3, momentum=0.9))]
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, state, model, optimizer):
    save(tmp_path, state, 5)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="step 5 .* another model or optimizer"):
        checkpoints.restore(abstract_state(model, optimizer))
