"""Checkpoints: restored bit for bit, onto another mesh, and never half."""

import errno
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxmodels as jm
from jaxmodels.training import abstract_state, digests, init_state
from jaxmodels.training.checkpoints import Checkpoints, DamagedCheckpoint


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


@pytest.mark.parametrize("step", [5, 4, -1, True, 6.0, "6", None])
def test_a_save_that_would_write_nothing_is_refused(tmp_path, state, step):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        with pytest.raises(ValueError, match="whole number|step . would not be written.*has one of step 5"):
            checkpoints.save(step, state)
        checkpoints.save(np.int64(6), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "6"]


@pytest.mark.parametrize("keep", [0, -1, None, 1.5, True])
def test_keeping_none_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match="keep is a whole number from 1 on"):
        Checkpoints(tmp_path, keep=keep)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, state):
    broken = state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        with pytest.raises(FloatingPointError, match="state of step 6 is not saved: .*; the newest is of step 5"):
            checkpoints.save(6, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


@pytest.mark.parametrize("last", [False, True])
def test_a_write_that_fails_beside_the_training_is_one_error(tmp_path, state, monkeypatch, last):
    """At the next save, or on leaving; nothing half written stays, and the one before it does."""
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(5, state)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="step 6 could not be written to .*No space left.*; the newest is of step 5"):  # noqa: SIM117
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            monkeypatch.setattr(digests, "write", full)
            checkpoints.save(6, state)
            if not last:
                checkpoints.save(7, state)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, state):
    """Steps 3 and 6, with other numbers."""
    folder = tmp_path_factory.mktemp("two")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 6):
            numbers = state.replace(step=jnp.int32(step))
            checkpoints.save(step, numbers, note=ocp.args.JsonSave({"at": step}))
    return folder


def harm(file, rng) -> None:
    """Flips a bit, writes other bytes, cuts or deletes."""
    content, kind = bytearray(file.read_bytes()), rng.randrange(4)
    at = rng.randrange(len(content))
    if kind == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[at : at + 8] = rng.randbytes(len(content[at : at + 8]))
    else:
        del content[at:]
    file.unlink() if kind == 3 else file.write_bytes(content)


@pytest.mark.parametrize("attempts", [12, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_damaged_file_is_found_and_the_older_checkpoint_taken_when_asked(tmp_path, two, state, attempts):
    rng, like = random.Random(0), abstract_state(tiny(), optax.adamw(1e-3))
    files = sorted(path.relative_to(two) for path in (two / "6").rglob("*") if path.is_file())
    found = 0
    for n in range(attempts):
        shutil.rmtree(tmp_path)
        shutil.copytree(two, tmp_path)
        name = rng.choice(files)
        harm(tmp_path / name, rng)
        with Checkpoints(tmp_path) as checkpoints:
            try:
                restored = checkpoints.restore(like, note=ocp.args.JsonRestore())
            except DamagedCheckpoint as error:
                assert (error.step, error.sound) == (6, 3) and len(str(error)) < 500
                assert str(tmp_path / "6") in str(error) and "step 3 is the newest sound one" in str(error)
                found += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, restored, state.replace(step=np.int32(6)))
                continue
            if attempts < 100 or n % 20 == 0:
                restored = checkpoints.restore(like, skip_damaged=True, note=ocp.args.JsonRestore())
                jax.tree.map(np.testing.assert_array_equal, restored, state.replace(step=np.int32(3)))
                assert checkpoints.latest == 3 and (tmp_path / "6.damaged").is_dir()
                checkpoints.save(4, restored)
    assert found > attempts / 2


def test_bytes_that_changed_or_traded_places_are_found(tmp_path):
    """Also those that Orbax would restore as other numbers."""
    whole = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "data").write_bytes(whole)
    digests.write(tmp_path)
    assert digests.damage(tmp_path) is None
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (0, 2 << 20, len(whole) - 1)]
    for content in (*changed, whole[8:16] + whole[:8] + whole[16:]):
        (tmp_path / "data").write_bytes(content)
        assert digests.damage(tmp_path) == "data holds other bytes than were written"
    (tmp_path / "data").write_bytes(whole)
    assert digests.damage(tmp_path) is None


def test_a_checkpoint_without_check_values_that_cannot_be_read_is_damaged(tmp_path, two):
    """As they were saved before there were any."""
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    for step in (3, 6):
        (tmp_path / str(step) / digests.NAME).unlink()
    largest = max((tmp_path / "6").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    for file in ((tmp_path / "6" / "state" / "_METADATA"), largest):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        like = abstract_state(tiny(), optax.adamw(1e-3))
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(DamagedCheckpoint, match="6.*step 3 is the newest"),
        ):
            checkpoints.restore(like)
        file.write_bytes(content)
