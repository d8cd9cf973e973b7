"""XLA:CPU still needs cache writes to be isolated in a loop (`jaxmodels.layers.platform.update_slots`)."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.layers import platform
from jaxmodels.layers.cache import KeyValue
from pallas_kernels import platform as current_platform

SLOTS = 512


def copies_of_the_cache(isolated: bool, monkeypatch) -> int:
    """Copies and fusions of the size of the keys in a compiled decode loop of one sequence."""
    if not isolated:
        monkeypatch.setattr(platform, "_isolated", lambda write, old, new, start: write(old, new, start))
    cache = KeyValue.zeros((1, SLOTS, 4, 16), jnp.float32)

    def step(state):
        cache, start, x = state
        token = jnp.tanh(x).reshape(1, 1, 4, 16)
        cache = cache.write(token, token, start)
        return cache, start + 1, cache.attend(token).reshape(x.shape)

    @jax.jit
    def loop(cache, x):
        return jax.lax.while_loop(lambda state: state[1] < SLOTS, step, (cache, jnp.int32(0), x))[0]

    text = loop.lower(cache, jnp.ones((64,))).compile().as_text()
    body = [part for part in re.split(r"\n(?=\S)", text) if "copy" in part or "dynamic-update-slice" in part]
    return sum(len(re.findall(rf"= f32\[1,4,16,{SLOTS}\][^=]* copy\(", part)) for part in body)


@pytest.mark.skipif(current_platform() != "cpu", reason="a fault of XLA:CPU")
def test_xla_copies_the_cache_without_the_loop(monkeypatch):
    """When this fails, XLA:CPU no longer needs the loop of one iteration in `update_slots`: remove it."""
    isolated = copies_of_the_cache(True, monkeypatch)
    merged = copies_of_the_cache(False, monkeypatch)
    assert isolated < merged
