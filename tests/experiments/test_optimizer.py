"""The experiment's optimizers: what Muon takes, and that its momentum is sharded with the parameters."""

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.configs import gpt2_demo
from experiments.optimizer import make_optimizer, matrices
from jaxmodels.parameters import flatten
from jaxmodels.training import abstract_state, init_state

MODEL = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4))


def config(**changes) -> FrozenConfigDict:
    config = gpt2_demo.get_config()
    config.optimizer.update(changes)
    return FrozenConfigDict(config)


@pytest.fixture(scope="module")
def params():
    return jm.init(MODEL, jax.random.key(0))


def test_muon_reads_every_kernel_of_the_layers_as_the_matrices_they_are(params):
    numbers = {path: n for path, n in flatten(matrices(params)).items() if n is not None}
    assert set(numbers) == {path for path in flatten(params) if "layers" in path and path.endswith("kernel")}
    for path, n in numbers.items():
        shape = flatten(params)[path].shape
        inside, outside = (np.prod([shape[a] for a in np.atleast_1d(axes)]) for axes in n)
        expected = {"qkv": (32, 32), "out": (32, 32), "up": (32, 128), "down": (128, 32)}[path.split("/")[-2]]
        assert (inside, outside) == expected, path


def test_muon_makes_orthogonal_updates_of_one_matrix_each(params):
    """Newton and Schulz bring the singular values near 1, for q, k and v of each layer apart."""
    optimizer, _ = make_optimizer(config(name="muon", weight_decay=0.0, clip=1e9))
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    qkv = np.asarray(flatten(updates)["transformer/h/layers/attention/qkv/kernel"])  # [L, D, 3, H, K]
    each = np.moveaxis(qkv, 2, 1).reshape(6, 32, 32)
    values = np.linalg.svd(each, compute_uv=False)
    assert values.max() / values.min() < 4, "and not those of a random matrix, which spread over a factor of 100"


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_what_the_optimizer_keeps_is_sharded_as_the_parameters(name):
    optimizer, _ = make_optimizer(config(name=name))
    here = {"mesh": jm.sharding.make_mesh({"data": 8}), "rules": jm.sharding.FSDP}
    state = init_state(optimizer, jm.init(MODEL, jax.random.key(0), **here))
    like = abstract_state(MODEL, optimizer, **here)
    split = 0
    for (path, leaf), shape in zip(
        jax.tree.leaves_with_path(state.opt_state), jax.tree.leaves(like.opt_state), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim), path
        if "kernel" in str(path[-1]):
            assert not leaf.sharding.is_fully_replicated, path
            split += 1
    assert split == (4 if name == "muon" else 8), "one momentum per matrix with Muon, two moments with AdamW"


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="optimizer.name is adamw or muon, got 'sgd'"):
        make_optimizer(config(name="sgd"))
