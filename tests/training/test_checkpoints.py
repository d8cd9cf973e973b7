"""Checkpoints: bitwise equal after restoring, onto any mesh; atomic saves; damage is detected."""

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


def test_a_state_is_restored_bitwise_onto_a_mesh(tmp_path, state):
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


def test_only_the_newest_checkpoints_are_kept(tmp_path, state):
    save(tmp_path, state, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


def test_an_interrupted_save_is_not_a_checkpoint(tmp_path, state):
    """A killed process leaves a folder with a temporary name."""
    save(tmp_path, state, 5)
    partial = tmp_path / "6.orbax-checkpoint-tmp-0"
    (partial / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        checkpoints.restore(abstract_state(tiny(), optax.adamw(1e-3)))
    assert not partial.exists()


def test_restoring_without_a_checkpoint_raises(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints, pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoints.restore(abstract_state(tiny(), optax.adamw(1e-3)))


@pytest.mark.parametrize(
    ("model", "optimizer"), [(tiny(width=64), optax.adamw(1e-3)), (tiny(), optax.sgd(1e-3, momentum=0.9))]
)
def test_a_checkpoint_of_another_model_or_optimizer_raises(tmp_path, state, model, optimizer):
    save(tmp_path, state, 5)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="step 5 .* another model or optimizer"):
        checkpoints.restore(abstract_state(model, optimizer))


@pytest.mark.parametrize("step", [5, 4, -1, True, 6.0, "6", None])
def test_steps_that_do_not_increase_raise(tmp_path, state, step):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        with pytest.raises(ValueError, match="must be an integer|cannot save step .*has a checkpoint of step 5"):
            checkpoints.save(step, state)
        checkpoints.save(np.int64(6), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "6"]


@pytest.mark.parametrize("keep", [0, -1, None, 1.5, True])
def test_an_invalid_number_of_checkpoints_to_keep_raises(tmp_path, keep):
    with pytest.raises(ValueError, match="keep must be an integer of at least 1"):
        Checkpoints(tmp_path, keep=keep)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, state):
    broken = state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        with pytest.raises(FloatingPointError, match="cannot save step 6: .*; the newest checkpoint is of step 5"):
            checkpoints.save(6, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


@pytest.mark.parametrize("last", [False, True])
def test_a_failed_background_write_raises_once(tmp_path, state, monkeypatch, last):
    """At the next save or on exit; partial files are removed, the previous checkpoint stays."""
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(5, state)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = "cannot write the checkpoint of step 6 to .*No space left.*; the newest checkpoint is of step 5"
    with pytest.raises(OSError, match=message):  # noqa: SIM117
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            monkeypatch.setattr(digests, "write", full)
            checkpoints.save(6, state)
            if not last:
                checkpoints.save(7, state)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, state):
    """Checkpoints of steps 3 and 6, which differ."""
    folder = tmp_path_factory.mktemp("two")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 6):
            numbers = state.replace(step=jnp.int32(step))
            checkpoints.save(step, numbers, note=ocp.args.JsonSave({"at": step}))
    return folder


def damage(file, rng) -> None:
    """Flips a bit, overwrites bytes, truncates or deletes a file."""
    content, action = bytearray(file.read_bytes()), rng.randrange(4)
    at = rng.randrange(len(content))
    if action == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif action == 1:
        content[at : at + 8] = rng.randbytes(len(content[at : at + 8]))
    else:
        del content[at:]
    file.unlink() if action == 3 else file.write_bytes(content)


@pytest.mark.parametrize("attempts", [12, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_damaged_file_is_detected_and_skip_damaged_restores_the_older_checkpoint(tmp_path, two, state, attempts):
    rng, like = random.Random(0), abstract_state(tiny(), optax.adamw(1e-3))
    files = sorted(path.relative_to(two) for path in (two / "6").rglob("*") if path.is_file())
    found = 0
    for n in range(attempts):
        shutil.rmtree(tmp_path)
        shutil.copytree(two, tmp_path)
        name = rng.choice(files)
        damage(tmp_path / name, rng)
        with Checkpoints(tmp_path) as checkpoints:
            try:
                restored = checkpoints.restore(like, note=ocp.args.JsonRestore())
            except DamagedCheckpoint as error:
                assert (error.step, error.intact) == (6, 3) and len(str(error)) < 500
                assert str(tmp_path / "6") in str(error) and "step 3 is the newest intact one" in str(error)
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


def test_changed_and_swapped_bytes_are_detected(tmp_path):
    """Including those that Orbax would restore as other numbers."""
    whole = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "data").write_bytes(whole)
    digests.write(tmp_path)
    assert digests.damage(tmp_path) is None
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (0, 2 << 20, len(whole) - 1)]
    for content in (*changed, whole[8:16] + whole[:8] + whole[16:]):
        (tmp_path / "data").write_bytes(content)
        assert digests.damage(tmp_path) == "data does not match its checksum"
    (tmp_path / "data").write_bytes(whole)
    assert digests.damage(tmp_path) is None


def test_an_unreadable_checkpoint_without_checksums_is_damaged(tmp_path, two):
    """As saved by a version without checksums."""
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
