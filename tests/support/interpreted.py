"""Kernels on a CPU: the reference and a kernel side by side, and what the race detector saw."""

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import attention


def interpreted(**options):
    """A context in which TPU kernels run on the CPU, with uninitialised memory full of NaN."""
    return pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(**options))


def evaluated():
    """The same without the machine: kernels as plain JAX, for what has no rule for callbacks (checkpoint)."""
    return pltpu.force_tpu_interpret_mode(True)


def running(implementation: str):
    """How an implementation runs here: only TPUs have a machine that is interpreted."""
    return evaluated() if implementation == "pallas_gpu" else interpreted()


def races_found() -> bool:
    """Whether the last run under `detect_races=True` had a race. JAX keeps this in a private place."""
    return interpret_pallas_call.races.races_found


def outputs_and_gradients(case, implementation: str, dtype=jnp.float32):
    """float32 (output, gradients by q, k, v, the bias and the scale) of one implementation."""
    q, k, v, mask, bias, dropout = case.build()
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    cotangent = jax.random.normal(jax.random.key(1), (*q.shape[:3], v.shape[-1])).astype(dtype)

    @jax.jit
    def run(q, k, v, bias, scale):
        def output(q, k, v, bias, scale):
            return attention(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout, implementation=implementation)

        out, pullback = jax.vjp(output, q, k, v, bias, scale)
        return out, pullback(cotangent)

    with jax.default_matmul_precision("highest"), running(implementation):
        return jax.tree.map(lambda x: np.asarray(x, np.float32), run(q, k, v, bias, jnp.float32(case.scale)))


def assert_same(case, kernel: str, atol: float = 1e-5) -> None:
    """Output and every gradient are the reference's, to `atol` of each one's largest value."""
    expected, got = (outputs_and_gradients(case, name) for name in ("xla", kernel))
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(paths, jax.tree.leaves(got), strict=True):
        assert np.isfinite(b).all(), jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, atol=atol * max(1.0, np.abs(a).max()), err_msg=jax.tree_util.keystr(path))


def relative_errors(case, implementation: str, dtype) -> list[float]:
    """Of the output and the gradients by q, k and v in a lower precision, against float32 from the same inputs."""

    def rounded(x):
        return jax.tree.leaves(x)[:4]

    exact = rounded(outputs_and_gradients(case, "xla"))
    return [
        float(np.linalg.norm(b - a) / np.linalg.norm(a))
        for a, b in zip(exact, rounded(outputs_and_gradients(case, implementation, dtype)), strict=True)
    ]


def assert_errs_at_most_twice_as_much(case, kernel: str, dtype) -> None:
    """As the plain path in that precision does."""
    plain, ours = (relative_errors(case, name, dtype) for name in ("xla", kernel))
    for mine, its in zip(ours, plain, strict=True):
        assert mine <= 2 * its, (ours, plain)
