"""Kernels interpreted on a CPU: comparison with the reference, and the result of the race detector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import DenseBias, attention
from pallas_kernels.api import attention_with_kernel


def interpreted(**options):
    """A context in which TPU kernels run on the CPU, with uninitialised memory full of NaN."""
    return pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(**options))


def evaluated():
    """The same without the simulated machine: kernels as plain JAX, for transformations without a rule for callbacks
    (checkpoint)."""
    return pltpu.force_tpu_interpret_mode(True)


class Implementation(NamedTuple):
    """`attention` by the name of an implementation, or by a kernel's `attend` with other tile sizes."""

    name: str
    attend: Callable | None = None

    def __call__(self, q, k, v, **options) -> jax.Array:
        if self.attend is None:
            return attention(q, k, v, implementation=self.name, **options)
        return attention_with_kernel(self.attend, q, k, v, **options)


XLA, TPU, GPU = (Implementation(name) for name in ("xla", "pallas_tpu", "pallas_gpu"))


def interpreter_of(name: str):
    """The context in which an implementation runs on a CPU: only TPU kernels have a simulated machine."""
    return evaluated() if name == "pallas_gpu" else interpreted()


def races_found() -> bool:
    """Whether the last run under `detect_races=True` had a race; a private attribute of JAX."""
    return interpret_pallas_call.races.races_found


def outputs_and_gradients(case, run: Implementation, dtype=jnp.float32):
    """float32 (output, gradients of q, k, v, the bias and the scale) of one implementation."""
    q, k, v, mask, bias, dropout = case.build()
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1])).astype(dtype)

    @jax.jit
    def value(q, k, v, bias, scale):
        def output(q, k, v, bias, scale):
            return run(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)

        out, pullback = jax.vjp(output, q, k, v, bias, scale)
        return out, pullback(cotangent)

    with jax.default_matmul_precision("highest"), interpreter_of(run.name):
        return jax.tree.map(lambda x: np.asarray(x, np.float32), value(q, k, v, bias, jnp.float32(case.scale)))


def assert_matches_reference(case, kernel: Implementation, atol: float = 1e-5) -> None:
    """Output and every gradient match those of the reference, to `atol` relative to each one's largest value."""
    expected, actual = (outputs_and_gradients(case, run) for run in (XLA, kernel))
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(paths, jax.tree.leaves(actual), strict=True):
        assert np.isfinite(b).all(), jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, atol=atol * max(1.0, np.abs(a).max()), err_msg=jax.tree_util.keystr(path))


def assert_queries_without_visible_keys_give_zero(case, kernel: Implementation) -> None:
    """Output and gradients of the first example, all of whose keys are padding."""
    out, grads = outputs_and_gradients(case, kernel)
    assert (out[0] == 0).all() and (out[1] != 0).any()
    assert all((g[0] == 0).all() and np.isfinite(g).all() for g in grads[:3])


def assert_very_low_biases_do_not_mask(kernel: Implementation) -> None:
    """A bias of finfo.min on every key of a query leaves its weights uniform, as in the reference."""
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 3, 2, 8)) for i in range(3))
    bias = jnp.where(jnp.arange(3)[:, None] == 1, jnp.finfo(jnp.float32).min, 0.0) * jnp.ones((3, 3))

    def run(each, v):
        return each(q, k, v, bias=DenseBias(bias))

    with interpreter_of(kernel.name):
        for f in (run, jax.grad(lambda each, v: run(each, v)[0, 1].sum(), argnums=1)):
            np.testing.assert_allclose(f(kernel, v), f(XLA, v), atol=1e-5)


def relative_errors(case, run: Implementation, dtype) -> list[float]:
    """Errors of the output and the gradients of q, k and v in a lower precision, relative to float32."""

    def output_and_main_gradients(x):
        return jax.tree.leaves(x)[:4]

    exact = output_and_main_gradients(outputs_and_gradients(case, XLA))
    return [
        float(np.linalg.norm(b - a) / np.linalg.norm(a))
        for a, b in zip(exact, output_and_main_gradients(outputs_and_gradients(case, run, dtype)), strict=True)
    ]


def assert_error_at_most_twice_that_of_xla(case, kernel: Implementation, dtype) -> None:
    """Each relative error of a kernel is at most twice that of the implementation in XLA, in the same precision."""
    expected, actual = (relative_errors(case, run, dtype) for run in (XLA, kernel))
    for a, b in zip(expected, actual, strict=True):
        assert b <= 2 * a, (actual, expected)
