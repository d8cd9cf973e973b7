"""On a CPU dense attention takes examples some at a time, and nobody can tell from the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import PATHS, Case, fast_jit

from pallas_kernels import Dropout, Mask, attention, platform, reference, rows
from pallas_kernels.door import as_tuple

pytestmark = pytest.mark.skipif(platform() != "cpu", reason="elsewhere all examples go together")
CASES = [
    Case(6, 7, B=5, valid="none"),
    Case(6, 6, B=5, causal=True, bias="toeplitz"),
    Case(6, 9, B=5, causal=True, start=(0, 3, 1, 2, 0), bias="relative_key_query"),
    Case(6, 9, B=5, causal=True, start=3, valid="some"),
    Case(4, 5, B=5, bias="dense", scale=1.0),
    Case(4, 5, B=5, bias="dense over keys"),
    Case(8, 8, B=5, window=(1, 2), globals=0.2),
]


def two_at_a_time(q, k, v, *, mask=Mask(), bias=None, scale=1.0):  # noqa: B008 - frozen, holds no array
    """What the door does, with room for the scores of two examples."""
    most = 2 * 4 * q.shape[1] * q.shape[2] * k.shape[1]
    assert rows.at_a_time(q, k, most) == 2

    def attend(q, k, v, mask, biases):
        return reference.attend(q, k, v, mask=mask, biases=biases, scale=scale, seed=None, rate=0.0)[0]

    return rows.some_at_a_time(attend, q, k, v, mask, as_tuple(bias), most)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_give_the_outputs_and_gradients_of_the_whole(case):
    q, k, v, mask, bias, _ = case.build()
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1]))

    def value(run):
        def output(q, k, v, bias, scale):
            return run(q, k, v, mask=mask, bias=bias, scale=scale)

        out, pullback = jax.vjp(output, q, k, v, bias, jnp.float32(case.scale))
        return out, pullback(cotangent)

    whole, parts = fast_jit(lambda: (value(PATHS["xla"]), value(two_at_a_time)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), whole, parts)


def shapes(call) -> set:
    """Of everything that is computed."""
    return {variable.aval.shape for eqn in jax.make_jaxpr(call)().jaxpr.eqns for variable in eqn.outvars}


# Five examples, three of which have room for their scores.
LONG = 1500
Q = jnp.zeros((5, LONG, 1, 8))


def test_the_scores_of_all_examples_are_never_there_together():
    few = jnp.zeros((5, 6, 1, 8))
    assert (5, 1, 6, 6) in shapes(lambda: attention(few, few, few, implementation="xla"))
    found = shapes(lambda: attention(Q, Q, Q, implementation="xla"))
    assert (5, 1, LONG, LONG) not in found and {(3, 1, LONG, LONG), (2, 1, LONG, LONG)} <= found


@pytest.mark.parametrize("options", [{"return_weights": True}, {"dropout": Dropout(0.3, jax.random.key(0))}], ids=str)
def test_weights_and_dropout_are_of_all_examples(options):
    assert (5, 1, LONG, LONG) in shapes(lambda: attention(Q, Q, Q, implementation="xla", **options))


def test_many_examples_are_few_parts():
    q = jnp.zeros((1000, 4, 1, 1))
    assert rows.at_a_time(q, q, most_bytes=1) == 63
