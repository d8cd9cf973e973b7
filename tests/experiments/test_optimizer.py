"""The optimizers: the matrices of Muon, and sharding of the optimizer state."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

import jaxmodels as jm
from experiments.configs import gpt2_demo
from experiments.optimizer import make_optimizer, make_schedule, matrices
from jaxmodels.parameters import flatten
from jaxmodels.training import abstract_state, init_state

MODEL = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4))


def config(**changes) -> FrozenConfigDict:
    config = gpt2_demo.get_config()
    config.optimizer = ConfigDict({**config.optimizer, **changes})
    return FrozenConfigDict(config)


@pytest.fixture(scope="module")
def params():
    return jm.init(MODEL, jax.random.key(0))


def test_muon_dimension_numbers_of_all_layer_kernels(params):
    numbers = {path: n for path, n in flatten(matrices(params)).items() if n is not None}
    assert set(numbers) == {path for path in flatten(params) if "layers" in path and path.endswith("kernel")}
    for path, n in numbers.items():
        shape = flatten(params)[path].shape
        inside, outside = (np.prod([shape[a] for a in np.atleast_1d(axes)]) for axes in n)
        expected = {"qkv": (32, 32), "out": (32, 32), "up": (32, 128), "down": (128, 32)}[path.split("/")[-2]]
        assert (inside, outside) == expected, path


def test_muon_orthogonalises_each_matrix_separately(params):
    """Newton-Schulz iterations bring all singular values near 1, separately for q, k and v of each layer."""
    optimizer, _ = make_optimizer(config(name="muon", weight_decay=0.0, clip=1e9))
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    qkv = np.asarray(flatten(updates)["transformer/h/layers/attention/qkv/kernel"])  # [L, D, 3, H, K]
    each = np.moveaxis(qkv, 2, 1).reshape(6, 32, 32)
    values = np.linalg.svd(each, compute_uv=False)
    assert values.max() / values.min() < 4, "and not those of a random matrix, which spread over a factor of 100"


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_optimizer_state_is_sharded_like_the_parameters(name):
    optimizer, _ = make_optimizer(config(name=name))
    sharding = {"mesh": jm.sharding.make_mesh({"data": 8}), "rules": jm.sharding.FSDP}
    state = init_state(optimizer, jm.init(MODEL, jax.random.key(0), **sharding))
    like = abstract_state(MODEL, optimizer, **sharding)
    split = 0
    for (path, leaf), shape in zip(
        jax.tree.leaves_with_path(state.opt_state), jax.tree.leaves(like.opt_state), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim), path
        if "kernel" in str(path[-1]):
            assert not leaf.sharding.is_fully_replicated, path
            split += 1
    assert split == (4 if name == "muon" else 8), "one momentum per matrix with Muon, two moments with AdamW"


def test_unknown_optimizer_is_rejected():
    with pytest.raises(ValueError, match="optimizer.name is adamw or muon, got 'sgd'"):
        make_optimizer(config(name="sgd"))


@pytest.mark.parametrize(("name", "half", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)])
def test_schedules_warm_up_and_decay(name, half, last):
    options = {"learning_rate": 1.0, "warmup": 4, "final": 0.1, "schedule": name}
    schedule = make_schedule(FrozenConfigDict(options), 104)
    rates = [float(schedule(step)) for step in (0, 2, 4, 54, 104)]
    assert rates == pytest.approx([0.2, 0.6, 1, half, last])
    quarter = {"cosine": 0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2, "linear": 0.775, "constant": 1}[name]
    assert float(schedule(29)) == pytest.approx(quarter)


def test_unknown_schedule_is_rejected():
    with pytest.raises(ValueError, match="optimizer.schedule is one of cosine, linear, constant, got 'step'"):
        make_optimizer(config(schedule="step"))
