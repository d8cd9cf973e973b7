"""Profiles show which implementation of attention ran: the metadata of its operations names it."""

import re

import jax
import jax.numpy as jnp
import pytest
from support import other_platform

from pallas_kernels import Mask, PackedKV, attention, decode


def scopes(program: str) -> set[str]:
    """The implementations that the locations of a lowered program name."""
    return set(re.findall(r"attention/(\w+)", program))


def lowered(function, *arrays, **options) -> str:
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays]
    return jax.jit(function).trace(*shapes).lower(**options).as_text(debug_info=True)


@pytest.mark.parametrize(("length", "name"), [(16, "xla"), (600, "xla_blocked")])
def test_on_a_cpu(length, name):
    x = (1, length, 2, 16)
    assert scopes(lowered(lambda q, k, v: attention(q, k, v, mask=Mask(causal=True)), x, x, x)) == {name}


def test_on_a_tpu():
    x, packed = (1, 128, 2, 64), (1, 128, 128)
    with other_platform.on("tpu"):
        tpu = {"lowering_platforms": ("tpu",)}
        assert scopes(lowered(lambda q, k, v: attention(q, k, v), x, x, x, **tpu)) == {"pallas_tpu"}
        step = lowered(lambda q, k, v: decode(q, PackedKV(k, v)), (1, 1, 2, 64), packed, packed, **tpu)
    assert scopes(step) == {"pallas_tpu"}


def test_a_compiled_program_keeps_the_name():
    x = jnp.ones((1, 8, 2, 4))
    program = jax.jit(lambda x: attention(x, x, x)).lower(x).compile().as_text()
    assert re.search(r'op_name="[^"]*attention/xla/', program)
