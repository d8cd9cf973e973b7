"""Dense attention runs in microbatches on a CPU, which does not change the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import IMPLEMENTATIONS, Case, fast_jit

from pallas_kernels import Dropout, Mask, attention, platform, reference
from pallas_kernels.bias import as_tuple

pytestmark = pytest.mark.skipif(platform() != "cpu", reason="other platforms run the whole batch at once")
CASES = [
    Case(6, 7, B=5, valid="none"),
    Case(6, 6, B=5, causal=True, bias="toeplitz"),
    Case(6, 9, B=5, causal=True, start=(0, 3, 1, 2, 0), bias="relative_key_query"),
    Case(6, 9, B=5, causal=True, start=3, valid="some"),
    Case(4, 5, B=5, bias="dense", scale=1.0),
    Case(4, 5, B=5, bias="dense over keys"),
    Case(8, 8, B=5, window=(1, 2), globals=0.2),
    Case(6, 9, B=5, H=4, G=2, causal=True, start=3, valid="some", bias="relative_key_query"),
]


def microbatches_of_two(q, k, v, *, mask=Mask(), bias=None, scale=1.0):  # noqa: B008 - frozen, holds no array
    """As `attention`, with a score buffer for two examples."""
    max_bytes = 2 * 4 * q.shape[1] * q.shape[2] * k.shape[1]
    assert reference.microbatch_size(q, k, max_bytes) == 2

    def attend(q, k, v, mask, biases):
        return reference.attend(q, k, v, mask=mask, biases=biases, scale=scale, seed=None, rate=0.0)[0]

    return reference.microbatched(attend, q, k, v, mask, as_tuple(bias), max_bytes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_microbatches_do_not_change_outputs_and_gradients(case):
    q, k, v, mask, bias, _ = case.build()
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1]))

    def value(run):
        def output(q, k, v, bias, scale):
            return run(q, k, v, mask=mask, bias=bias, scale=scale)

        out, pullback = jax.vjp(output, q, k, v, bias, jnp.float32(case.scale))
        return out, pullback(cotangent)

    expected, actual = fast_jit(lambda: (value(IMPLEMENTATIONS["xla"]), value(microbatches_of_two)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), expected, actual)


def shapes(call) -> set:
    """The shapes of all intermediate arrays."""
    return {variable.aval.shape for eqn in jax.make_jaxpr(call)().jaxpr.eqns for variable in eqn.outvars}


# Five examples, the scores of three of which fit into the buffer.
LONG = 1500
Q = jnp.zeros((5, LONG, 1, 8))


def test_the_scores_of_the_whole_batch_are_never_formed():
    few = jnp.zeros((5, 6, 1, 8))
    assert (5, 1, 6, 6) in shapes(lambda: attention(few, few, few, implementation="xla"))
    found = shapes(lambda: attention(Q, Q, Q, implementation="xla"))
    assert (5, 1, LONG, LONG) not in found and {(3, 1, LONG, LONG), (2, 1, LONG, LONG)} <= found


@pytest.mark.parametrize("options", [{"return_weights": True}, {"dropout": Dropout(0.3, jax.random.key(0))}], ids=str)
def test_weights_and_dropout_run_the_whole_batch_at_once(options):
    assert (5, 1, LONG, LONG) in shapes(lambda: attention(Q, Q, Q, implementation="xla", **options))


def test_the_number_of_microbatches_is_bounded():
    q = jnp.zeros((1000, 4, 1, 1))
    assert reference.microbatch_size(q, q, max_bytes=1) == 63
