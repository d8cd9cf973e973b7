"""The training step: accumulation, sharding, dropout keys, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels as jm
from jaxmodels.parameters import flatten
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place, weight_decay_mask
from jaxmodels.training.step import QUEUED, Evaluate

KEY = jax.random.key(7)


def tiny(**config) -> jm.GPT2LMHeadModel:
    config = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **config}
    return jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4, **config))


MODEL = tiny()
# Momentum instead of Adam, which divides by the gradient's magnitude and so amplifies rounding errors.
OPTIMIZER = optax.chain(optax.add_decayed_weights(0.1, weight_decay_mask), optax.sgd(0.1, momentum=0.9))


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, jm.init(MODEL, jax.random.key(0)))


def ragged(batch_size=8) -> dict[str, np.ndarray]:
    """Examples with different numbers of labels."""
    ids = np.random.default_rng(0).integers(0, 64, (batch_size, 16), dtype=np.int32)
    lengths = np.linspace(2, 16, batch_size).astype(int)
    return {"input_ids": ids, "labels": np.where(np.arange(16) < lengths[:, None], ids, -100)}


def label_count(batch):
    return (batch["labels"][:, 1:] != -100).sum()


def two_steps(params, data, *, mesh=None, rules=None, **options):
    """Returns the state after two steps, and the metrics of both."""
    shardings = None if mesh is None else jm.sharding.shardings(MODEL, mesh, rules)
    state = init_state(OPTIMIZER, jax.device_put(params, shardings))
    step = make_step(MODEL, OPTIMIZER, mesh=mesh, rules=rules, **options)
    history = []
    for _ in range(2):
        state, metrics = step(state, data, KEY)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture(scope="module")
def reference(params):
    """Two steps written out: value_and_grad, then the optimizer."""
    data, opt_state, history = ragged(), OPTIMIZER.init(params), []
    gradient = jax.jit(jax.value_and_grad(lambda p: MODEL.apply({"params": p}, **data).loss))
    for _ in range(2):
        loss, grads = gradient(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        norm = float(optax.tree.norm(grads))
        history.append({"loss": float(loss), "grad_norm": norm, "skipped": 0.0, "unlabelled": 0.0})
    return params, history


@pytest.mark.parametrize(
    ("axes", "table", "microbatches"),
    [
        (None, None, 1),
        (None, None, 4),
        ({"data": 8}, "DP", 1),
        ({"data": 4, "model": 2}, "FSDP_TP", 2),
    ],
)
def test_step_matches_the_reference(params, reference, axes, table, microbatches):
    """Including accumulation over microbatches with different numbers of labels, and eight devices."""
    mesh = None if axes is None else jm.sharding.make_mesh(axes)
    rules = None if axes is None else getattr(jm.sharding, table)
    data = ragged() if mesh is None else place(ragged(), mesh, rules)
    state, history = two_steps(params, data, mesh=mesh, rules=rules, microbatches=microbatches, weight=label_count)
    for actual, expected in zip(history, reference[1], strict=True):
        assert actual == pytest.approx(expected, rel=1e-5)
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, flatten(reference[0])[path], rtol=1e-4, atol=1e-6, err_msg=path)
    assert int(state.step) == 2
    if table == "FSDP_TP":
        kernel = state.params["transformer"]["h"]["layers"]["feed_forward"]["up"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (2, 32 // 4, 128 // 2)


def test_without_a_weight_microbatches_are_weighted_equally(params, reference):
    _, history = two_steps(params, ragged(), microbatches=4)
    parts = [{name: array[i::4] for name, array in ragged().items()} for i in range(4)]
    unweighted = np.mean([float(MODEL.apply({"params": params}, **part).loss) for part in parts])
    assert history[0]["loss"] == pytest.approx(unweighted, rel=1e-5)
    assert abs(unweighted - reference[1][0]["loss"]) > 1e-3, "the loss of the whole batch differs"


def test_dropout_is_a_function_of_key_and_step(params):
    """So that a restored run draws the same dropout as an uninterrupted one."""
    frozen = optax.sgd(0.0)
    step = make_step(tiny(resid_pdrop=0.5), frozen)

    def loss(at, key=KEY):
        state = init_state(frozen, jax.device_put(params)).replace(step=jnp.int32(at))
        state, metrics = step(state, ragged(), key)
        return float(metrics["loss"]), state

    first, state = loss(0)
    second = float(step(state, ragged(), KEY)[1]["loss"])
    assert first != second, "two steps draw different dropout"
    assert loss(0)[0] == first and loss(1)[0] == second
    assert loss(0, jax.random.key(8))[0] != first


def test_microbatches_draw_different_dropout(params):
    """A batch that repeats one example four times, each with a part of the step's key."""
    model, one = tiny(resid_pdrop=0.5), {name: array[-1:] for name, array in ragged().items()}
    of_key = jax.jit(jax.vmap(lambda key: model.apply({"params": params}, **one, rngs={"dropout": key}).loss))
    parts = of_key(jax.random.split(jax.random.fold_in(KEY, 0), 4))
    assert np.ptp(parts) > 1e-3
    step = make_step(model, optax.sgd(0.0), microbatches=4)
    repeated = {name: np.repeat(array, 4, axis=0) for name, array in one.items()}
    _, metrics = step(init_state(optax.sgd(0.0), jax.device_put(params)), repeated, KEY)
    assert float(metrics["loss"]) == pytest.approx(float(parts.mean()), rel=1e-5)


def test_evaluation_weights_every_label_equally(params):
    data = ragged()
    expected = float(MODEL.apply({"params": params}, **data).loss)
    parts = [{name: array[i : i + 2] for name, array in data.items()} for i in range(0, 8, 2)]
    unlabelled = {"input_ids": data["input_ids"][:2], "labels": np.full((2, 16), -100, np.int32)}
    # The model has dropout, which evaluation must not apply.
    evaluate = make_evaluate(tiny(resid_pdrop=0.5), weight=label_count)
    assert evaluate(params, [*parts, unlabelled]) == pytest.approx(expected, rel=1e-6)


def test_evaluation_on_eight_devices(params):
    mesh, rules = jm.sharding.make_mesh({"data": 8}), jm.sharding.FSDP
    sharded = jax.device_put(params, jm.sharding.shardings(MODEL, mesh, rules))
    evaluate = make_evaluate(MODEL, mesh=mesh, rules=rules, weight=label_count)
    expected = float(MODEL.apply({"params": params}, **ragged()).loss)
    assert evaluate(sharded, [place(ragged(), mesh, rules)]) == pytest.approx(expected, rel=1e-5)


def test_evaluation_queues_few_batches():
    """A batch is requested only when all but a few of those before it have been computed and fetched."""
    fetched = []

    class Sum:
        def __init__(self, value):
            self.value = value

        def __array__(self, dtype=None, copy=None):
            fetched.append(self)
            return np.float32(self.value)

    def batches():
        for n in range(20):
            assert n - len(fetched) // 2 <= QUEUED, "each batch has a sum and a number of terms"
            yield {"x": np.full((1,), n)}

    assert Evaluate(lambda _, batch: (Sum(batch["x"][0]), Sum(2)), None, None)({}, batches()) == 19 / 4
    assert len(fetched) == 40


def test_the_program_can_be_lowered_without_arrays():
    placement = {"mesh": jm.sharding.make_mesh({"data": 8}), "rules": jm.sharding.FSDP}
    like = abstract_state(MODEL, OPTIMIZER, **placement)
    shapes = {name: jax.ShapeDtypeStruct((8, 16), jnp.int32) for name in ("input_ids", "labels")}
    assert "num_partitions = 8" in make_step(MODEL, OPTIMIZER, **placement).lower(like, shapes, KEY).as_text()


def test_invalid_batches_raise(params):
    placement = {"mesh": jm.sharding.make_mesh({"data": 8}), "rules": jm.sharding.DP}
    step = make_step(MODEL, OPTIMIZER, **placement, microbatches=2)
    state = abstract_state(MODEL, OPTIMIZER, **placement)
    with pytest.raises(ValueError, match=r"24 examples .* 2 microbatch\(es\) on 8 device\(s\).* multiple of 16"):
        step(state, ragged(24), KEY)
    with pytest.raises(ValueError, match="same leading dimension"):
        step(state, {"input_ids": np.zeros((16, 4), np.int32), "labels": np.zeros((8, 4), np.int32)}, KEY)
    with pytest.raises(ValueError, match=r"12 examples does not divide among the 8 devices .* multiple of 8"):
        place(ragged(12), **placement)
    with pytest.raises(ValueError, match=r"of 16 examples.*has to pass the 16 rows.*got 8"):
        place(ragged(), **placement, size=16)
    with pytest.raises(ValueError, match="no batches"):
        make_evaluate(MODEL)(params, [])
    with pytest.raises(ValueError, match="microbatches must be at least 1"):
        make_step(MODEL, OPTIMIZER, microbatches=0)
