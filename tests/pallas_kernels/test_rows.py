"""On a CPU dense attention takes examples some at a time, and nobody can tell from the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attention_cases import Case, fast_jit

from pallas_kernels import Dropout, attention, platform, rows

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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_give_the_outputs_and_gradients_of_the_whole(case, monkeypatch):
    q, k, v, mask, bias, _ = case.build()
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1]))

    def run():
        def output(q, k, v, bias, scale):
            return attention(q, k, v, mask=mask, bias=bias, scale=scale, implementation="xla")

        def both():
            out, pullback = jax.vjp(output, q, k, v, bias, jnp.float32(case.scale))
            return out, pullback(cotangent)

        return fast_jit(both)()

    whole = run()
    monkeypatch.setattr(rows, "MOST_BYTES", 2 * 4 * q.shape[1] * q.shape[2] * k.shape[1])
    assert rows.at_a_time(q, k) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), whole, run())


def shapes(call) -> set:
    """Of everything that is computed."""
    return {variable.aval.shape for eqn in jax.make_jaxpr(call)().jaxpr.eqns for variable in eqn.outvars}


def test_the_scores_of_all_examples_are_never_there_together(monkeypatch):
    q, k, v, *_ = Case(6, 7, B=5).build()
    scores = (q.shape[2], 6, 7)
    assert (5, *scores) in shapes(lambda: attention(q, k, v, implementation="xla"))
    monkeypatch.setattr(rows, "MOST_BYTES", 2 * 4 * 3 * 6 * 7)
    found = shapes(lambda: attention(q, k, v, implementation="xla"))
    assert (5, *scores) not in found and {(2, *scores), (1, *scores)} <= found


@pytest.mark.parametrize("options", [{"return_weights": True}, {"dropout": Dropout(0.3, jax.random.key(0))}], ids=str)
def test_weights_and_dropout_are_of_all_examples(options, monkeypatch):
    q, k, v, *_ = Case(6, 7, B=5).build()
    expected = attention(q, k, v, implementation="xla", **options)
    monkeypatch.setattr(rows, "MOST_BYTES", 1)
    jax.tree.map(np.testing.assert_array_equal, attention(q, k, v, implementation="xla", **options), expected)


def test_many_examples_are_few_parts(monkeypatch):
    monkeypatch.setattr(rows, "MOST_BYTES", 1)
    q = jnp.zeros((1000, 4, 1, 1))
    assert rows.at_a_time(q, q) == 63
