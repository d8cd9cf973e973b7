"""Forward-mode and higher derivatives of attention in blocks and of whole models."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import tiny

from pallas_kernels import Dropout, Mask, ToeplitzBias, attention

# More than two blocks of queries, and no whole number of them.
T = 300
GLOBAL = jnp.zeros((2, T), bool).at[:, 3].set(True)
CALLS = {
    "causal, with a Toeplitz bias": ({"mask": Mask(causal=True)}, True),
    "padding, an example without a visible key": (
        {"mask": Mask(key_valid=jnp.zeros((2, T), bool).at[1, :200].set(True))},
        True,
    ),
    "a window": ({"mask": Mask(window=(20, 20))}, False),
    "a window and a global key": (
        {"mask": Mask(window=(20, 20), key_global=GLOBAL, global_at=jnp.array([[3, T], [3, T]]))},
        False,
    ),
    "dropout": ({"dropout": Dropout(0.3, jax.random.key(5))}, True),
}


def arguments():
    """q, k and v, the diagonals of a bias, and a direction for each of them."""
    arrays = [jax.random.normal(jax.random.key(i), (2, T, 2, 8)) for i in range(3)]
    arrays.append(jax.random.normal(jax.random.key(3), (2, 2 * T - 1)))
    return arrays, [jnp.cos(7 * x) for x in arrays]


def output(name: str, implementation: str, arrays) -> jax.Array:
    options, biased = CALLS[name]
    q, k, v, diagonals = arrays
    bias = ToeplitzBias(diagonals) if biased else None
    return attention(q, k, v, bias=bias, implementation=implementation, **options)


def inner(a, b) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def jvp(f, loss, x, v):
    return jax.jvp(f, (x,), (v,))


def hessian_vector(f, loss, x, v):
    return jax.jvp(jax.grad(loss), (x,), (v,))


def reverse_over_reverse(f, loss, x, v):
    return jax.grad(lambda x: inner(jax.grad(loss)(x), v))(x)


def reverse_over_forward(f, loss, x, v):
    return jax.grad(lambda x: jax.jvp(loss, (x,), (v,))[1])(x)


def jacobian(f, loss, x, v):
    """Of the output in two directions, and the Hessian of the loss in both."""
    q, k, *rest = x

    def scaled(function, s):
        return function([q * s[0], k * s[1], *rest])

    return jax.jacfwd(partial(scaled, f))(jnp.ones(2)), jax.hessian(partial(scaled, loss))(jnp.ones(2))


def gradient_of_vmap(f, loss, x, v):
    """Of queries that are mapped over, with keys and values that are not."""
    q, *rest = x

    def total(q, rest):
        return jax.vmap(lambda q: loss([q, *rest]))(jnp.stack([q, q[::-1]])).sum()

    return jax.grad(total, argnums=(0, 1))(q, rest)


WAYS = [jvp, hessian_vector, reverse_over_reverse, reverse_over_forward, jacobian, gradient_of_vmap]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in WAYS[:2] else pytest.mark.slow, id=way.__name__) for way in WAYS]
)
def test_attention_in_blocks_has_the_derivatives_of_dense_attention(name, way):
    x, v = arguments()

    def result(implementation):
        f = partial(output, name, implementation)
        return jax.jit(partial(way, f, lambda x: jnp.sin(f(x)).sum()))(x, v)

    for a, b in zip(*map(jax.tree.leaves, (result("xla"), result("xla_blocked"))), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-4 * max(1.0, float(jnp.abs(a).max())))


def temporary_bytes(function, length: int) -> int:
    arrays = [jnp.zeros((1, length, 1, 8))] * 3
    return jax.jit(function).lower(arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("way", [hessian_vector, reverse_over_reverse, reverse_over_forward])
def test_memory_of_second_derivatives_grows_with_the_length(way):
    """All scores would take four times as much for twice the length."""

    def loss(x):
        return jnp.sin(attention(*x, mask=Mask(window=(32, 32)), implementation="xla_blocked")).sum()

    short, long = (temporary_bytes(lambda x: way(None, loss, x, x), length) for length in (1024, 2048))
    assert long < 2.5 * short


FAMILIES = ["GPTNeoForCausalLM", "LlamaForCausalLM", "RobertaPreLayerNormForMaskedLM", "BartForConditionalGeneration"]
FAMILIES += ["T5ForConditionalGeneration", "LEDForConditionalGeneration"]


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)]
)
def test_hessian_vector_products_of_a_model_do_not_depend_on_the_implementation(name):
    ids = np.random.default_rng(0).integers(3, 60, (2, 12))

    def product(implementation):
        model, params = tiny(name, choices={"attention": implementation})
        direction = jax.tree.map(jnp.cos, params)

        def loss(params):
            return model.apply({"params": params}, ids, labels=ids, rngs={"dropout": jax.random.key(0)}).loss

        return jax.jit(lambda params: jax.jvp(jax.grad(loss), (params,), (direction,)))(params)

    for a, b in zip(*map(jax.tree.leaves, (product("xla"), product("xla_blocked"))), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * max(1.0, float(jnp.abs(a).max())))
