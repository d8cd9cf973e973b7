"""Dynamic loss scaling: small gradients in float16, overflow, microbatches, eight devices, checkpoints."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from flax.training.dynamic_scale import DynamicScale

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state, make_contrastive_step, make_step, place
from jaxmodels.training.checkpoints import Checkpoints

KEY = jax.random.key(0)
OPTIMIZER = optax.sgd(1e8)
SCALE = DynamicScale(growth_interval=2)


@struct.dataclass
class Output:
    loss: jax.Array


class Product(nn.Module):
    """1e-4 times the mean of w x, a product in float16: the gradient of w is 1e-4 times the mean of x."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.with_partitioning(nn.initializers.ones, ("embed",)), (8,))
        return Output(1e-4 * jnp.mean(w.astype(jnp.float16) * x.astype(jnp.float16), dtype=jnp.float32))

    def dummy_inputs(self):
        return {"x": jnp.ones((1, 8))}


def batch(value):
    return {"x": np.full((8, 8), value, np.float32)}


def start(scale=SCALE, **placement):
    shardings = jm.sharding.shardings(Product(), **placement) if placement else None
    return init_state(OPTIMIZER, jax.device_put({"w": jnp.ones(8)}, shardings), loss_scale=scale)


@pytest.mark.parametrize(("microbatches", "devices"), [(1, 1), (2, 1), (1, 8)])
def test_gradients_too_small_for_float16_are_exact(microbatches, devices):
    placement, data = {}, batch(1e-3)
    if devices > 1:
        placement = {"mesh": jm.sharding.make_mesh({"data": devices}), "rules": jm.sharding.FSDP}
        data = place(data, **placement)
    step = make_step(Product(), OPTIMIZER, microbatches=microbatches, **placement)
    lost, _ = step(start(None, **placement), data, KEY)
    np.testing.assert_array_equal(lost.params["w"], 1)
    kept, metrics = step(start(**placement), data, KEY)
    expected = 1e-4 * 1e-3 / 8 * 1e8
    np.testing.assert_allclose(kept.params["w"], 1 - expected, rtol=5e-3)
    assert float(metrics["loss_scale"]) == 65536 and float(metrics["loss"]) == pytest.approx(1e-7, rel=1e-3)
    assert float(metrics["grad_norm"]) == pytest.approx(expected / 1e8 * 8**0.5, rel=5e-3)


def test_overflow_lowers_the_scale_until_steps_succeed_and_a_checkpoint_keeps_it(tmp_path):
    """Scales are powers of two from 2 ** 22, where gradients overflow, to one where they do not."""
    step, state, scales, skipped = (
        make_step(Product(), OPTIMIZER, microbatches=2),
        start(SCALE.replace(scale=2.0**22)),
        [],
        [],
    )
    for _ in range(3):
        state, metrics = step(state, batch(10_000.0), KEY)
        assert metrics["skipped"] == 1
    np.testing.assert_array_equal(state.params["w"], 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        like = abstract_state(Product(), OPTIMIZER, loss_scale=SCALE)
        state = checkpoints.restore(like)
    for _ in range(6):
        state, metrics = step(state, batch(10_000.0 if not scales else 1e-3), KEY)
        scales.append(float(jnp.log2(metrics["loss_scale"])))
        skipped.append(int(metrics["skipped"]))
    assert scales == [19, 18, 18, 18, 19, 19] and skipped == [1, 0, 0, 0, 0, 0]
    assert step._function._cache_size() == 1


def test_contrastive_steps_are_scaled_too():
    def encode(params, inputs, key):
        return params["w"].astype(jnp.float16) * inputs["x"]

    step = make_contrastive_step(Product(), encode, lambda *a: encode(*a)[:, None], OPTIMIZER)
    x = np.eye(8, dtype=np.float16)
    state, metrics = step(start(SCALE.replace(scale=2.0**30)), {"question_x": x, "context_x": x}, KEY)
    assert metrics["skipped"] == 1 and state.loss_scale.scale == 2.0**29
