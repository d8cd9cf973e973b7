"""Skipped steps: a gradient or loss that is not finite, batches and microbatches without labels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

import jaxmodels as jm
from jaxmodels.training import init_state, make_contrastive_step, make_step

KEY = jax.random.key(7)


@struct.dataclass
class Output:
    loss: jax.Array


class Roots(nn.Module):
    """Mean of sqrt(w x): finite at w = 0, where its gradient is not; NaN for w < 0."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.with_partitioning(nn.initializers.ones, ("embed",)), (3,))
        return Output(jnp.mean(jnp.sqrt(w * x)))


def at(w: float, optimizer):
    return init_state(optimizer, {"w": jnp.full(3, w)})


def ones(rows=4, value=1.0):
    return {"x": np.full((rows, 3), value, np.float32)}


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize(("w", "x"), [(0.0, 1.0), (1.0, -1.0), (1.0, np.inf)])
def test_a_step_that_is_not_finite_is_skipped_and_counted(w, x, microbatches):
    optimizer = optax.adam(0.1)
    before = jax.tree.map(np.asarray, at(w, optimizer))
    step = make_step(Roots(), optimizer, microbatches=microbatches)
    batch = ones()
    batch["x"][-1] = x  # in one microbatch only
    after, metrics = step(at(w, optimizer), batch, KEY)
    assert float(metrics["skipped"]) == 1 and not np.isfinite(float(metrics["loss"]) * float(metrics["grad_norm"]))
    assert same((after.params, after.opt_state), (before.params, before.opt_state))
    assert int(after.step) == 1
    updated, metrics = step(at(1.0, optimizer), ones(), KEY)
    assert float(metrics["skipped"]) == 0 and not same(updated.params, before.params)


def tiny(**choices):
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=4, **off)
    return jm.GPT2LMHeadModel(config, **choices)


def label_count(batch):
    return (batch["labels"][:, 1:] != -100).sum()


def labelled(*rows: int) -> dict[str, np.ndarray]:
    """Four examples, of which these have labels."""
    ids = np.random.default_rng(0).integers(0, 64, (4, 16), dtype=np.int32)
    labels = np.full_like(ids, -100)
    labels[list(rows)] = ids[list(rows)]
    return {"input_ids": ids, "labels": labels}


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, jm.init(tiny(), jax.random.key(0)))


def stepped(params, batch, **choices):
    optimizer = optax.adamw(0.1)
    state = init_state(optimizer, jax.device_put(params))
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    state, metrics = make_step(tiny(), optimizer, **choices)(state, batch, KEY)
    return before, state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("weight", [None, label_count])
def test_a_batch_without_labels_is_skipped(params, microbatches, weight):
    before, after, metrics = stepped(params, labelled(), microbatches=microbatches, weight=weight)
    assert metrics == {"loss": 0, "grad_norm": 0, "skipped": 1, "unlabelled": microbatches}
    assert same(before, (after.params, after.opt_state)), "also no weight decay"


@pytest.mark.parametrize("weight", [None, label_count])
def test_a_microbatch_without_labels_contributes_nothing(params, weight):
    """Microbatches are strided: the second one has no labels, so the update is that of the first one alone."""
    _, whole, expected = stepped(params, {n: a[::2] for n, a in labelled(0, 2).items()}, weight=weight)
    _, after, metrics = stepped(params, labelled(0, 2), microbatches=2, weight=weight)
    assert metrics == pytest.approx({**expected, "unlabelled": 1}, rel=1e-5) and metrics["skipped"] == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), after.params, whole.params)


def test_an_invalid_label_is_not_taken_for_a_missing_one(params):
    batch = labelled(0, 2)
    batch["labels"][0, 3] = 64
    for alone in (False, True):  # also where it is the only label
        if alone:
            batch["labels"][:] = -100
            batch["labels"][0, 3] = 64
        before, after, metrics = stepped(params, batch)
        assert np.isnan(metrics["loss"]) and metrics["skipped"] == 1 and metrics["unlabelled"] == 0
        assert same(before, (after.params, after.opt_state))


@pytest.mark.parametrize("weight", [None, label_count])
def test_jax_debug_nans_finds_nothing_in_a_valid_step(params, weight):
    ids = jnp.asarray(labelled()["input_ids"])
    with jax.debug_nans(True):
        jax.grad(lambda p: tiny().apply({"params": p}, ids, labels=ids).loss)(jax.device_put(params))
        _, _, metrics = stepped(params, labelled(0, 2), microbatches=2, weight=weight)
    assert metrics["skipped"] == 0


def test_contrastive_steps_are_skipped_too():
    model, optimizer = Roots(), optax.adam(0.1)

    def encode(params, inputs, key):
        return jnp.sqrt(params["w"] * inputs["x"])

    step = make_contrastive_step(model, encode, lambda *a: encode(*a)[:, None], optimizer)
    batch = {"question_x": ones()["x"], "context_x": np.random.default_rng(0).uniform(1, 2, (4, 3)).astype(np.float32)}
    before = jax.tree.map(np.asarray, at(0.0, optimizer))
    after, metrics = step(at(0.0, optimizer), batch, KEY)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["skipped"]) == 1
    assert same((after.params, after.opt_state), (before.params, before.opt_state))
    assert float(step(at(1.0, optimizer), batch, KEY)[1]["skipped"]) == 0


OPTIMIZERS = {
    "adamw": optax.adamw(1e-2),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adafactor(1e-2)),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "lion": optax.lion(1e-2),
    "rmsprop": optax.rmsprop(optax.linear_schedule(1e-2, 0.0, 10)),
    "multi-steps": optax.MultiSteps(optax.adam(1e-2), 2),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_keeps_its_dtypes_and_compiles_once(name):
    """Parameters in bfloat16: moments that became float32 would differ from those of a checkpoint."""
    optimizer, model = OPTIMIZERS[name], tiny(dtype="bfloat16", param_dtype="bfloat16")
    state = init_state(optimizer, jm.init(model, jax.random.key(0)))
    types = [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)]
    step = make_step(model, optimizer, weight=label_count, microbatches=2)
    for _ in range(3):
        state, metrics = step(state, labelled(0, 1, 2), KEY)
        assert [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)] == types
        assert all(value.dtype == jnp.float32 for value in metrics.values())
    assert step._function._cache_size() == 1


def test_skipping_takes_no_memory_for_a_second_state():
    """The result of selecting the old or the new state is written into the donated memory of the old one."""
    optimizer = optax.adam(1e-2)
    model = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=20_000, n_positions=16, n_embd=64, n_layer=1, n_head=4))
    state = init_state(optimizer, jm.init(model, jax.random.key(0)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    compiled = make_step(model, optimizer).lower(state, labelled(0), KEY).compile().memory_analysis()
    assert compiled.alias_size_in_bytes > 0.99 * size
    assert compiled.temp_size_in_bytes < 1.1 * size, "with XLA's optimisations off; the same without skipping"
