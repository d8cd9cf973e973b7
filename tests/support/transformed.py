"""Kernels under JAX's transformations: sharding over a mesh, a caller's shard_map, vmap with remat."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from support.interpreted import Implementation, evaluated, interpreter_of

from pallas_kernels import Dropout, Mask, PartitionAxes, ToeplitzBias

SPLIT = PartitionAxes("data", "model")


def causal_loss(run: Implementation, q, k, v, diagonals):
    """A loss with a Toeplitz bias and dropout."""
    out = run(
        q,
        k,
        v,
        mask=Mask(causal=True),
        bias=ToeplitzBias(diagonals),
        dropout=Dropout(0.2, jax.random.key(9)),
        split=SPLIT,
    )
    return (out**2).sum()


def inputs():
    """q [B,T,H,K], k and v [B,T,G,K] and the diagonals of the bias [H,2T-1]."""
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 40, heads, 16)) for i, heads in enumerate((4, 2, 2)))
    return q, k, v, jax.random.normal(jax.random.key(3), (4, 79))


def two_by_two() -> Mesh:
    return Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def assert_close(actual, expected) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-5)


def assert_sharding_does_not_change_the_result(run: Implementation) -> None:
    """With the batch and the heads sharded over a mesh, but not the heads of the values."""
    mesh, arguments = two_by_two(), inputs()
    value = jax.value_and_grad(partial(causal_loss, run), argnums=(0, 1, 2, 3))
    array, values, heads = (NamedSharding(mesh, P(*axes)) for axes in (("data", None, "model"), ("data",), ("model",)))
    with interpreter_of(run.name):
        expected = jax.jit(value)(*arguments)
        with jax.set_mesh(mesh):
            actual = jax.jit(value, in_shardings=(array, array, values, heads))(*arguments)
    assert actual[1][0].sharding.is_equivalent_to(array, 4)
    assert_close(actual, expected)


def assert_runs_inside_shard_map(run: Implementation) -> None:
    """The arrays of a caller's shard_map are shards already, which the kernel must not shard again."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    q, k, v, _ = inputs()
    spec = P("data", None, "model", None)

    def local(q, k, v):
        return run(q, k, v, mask=Mask(causal=True), split=SPLIT)

    with interpreter_of(run.name):
        expected = jax.jit(local)(q, k, v)
        with jax.set_mesh(mesh):
            mapped = jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
            actual = jax.jit(mapped)(q, k, v)
    assert_close(actual, expected)


def assert_vmap_and_remat_do_not_change_the_result(loss, *arguments) -> None:
    """Compares vmap of a rematerialised loss over two batches with the loss of each."""
    stacked = [jnp.stack([x, x[::-1]]) for x in arguments]
    value = partial(jax.value_and_grad, argnums=tuple(range(len(arguments))))
    with evaluated():
        separate = [jax.jit(value(loss))(*each) for each in zip(*stacked, strict=True)]
        batched = jax.jit(jax.vmap(value(jax.checkpoint(loss))))(*stacked)
    assert_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *separate))
