"""Kernels under JAX's transformations: the shards of a mesh, a caller's shard_map, vmap with remat."""

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
    """With a bias of each head and dropout of each example and head."""
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
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 40, 4, 16)) for i in range(3))
    return q, k, v, jax.random.normal(jax.random.key(3), (4, 79))


def two_by_two() -> Mesh:
    return Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def close(got, expected) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-5)


def assert_shards_give_what_the_whole_gives(run: Implementation) -> None:
    """Heads and examples split over a mesh."""
    mesh, arguments = two_by_two(), inputs()
    value = jax.value_and_grad(partial(causal_loss, run), argnums=(0, 1, 2, 3))
    rows, heads = NamedSharding(mesh, P("data", None, "model", None)), NamedSharding(mesh, P("model"))
    with interpreter_of(run.name):
        expected = jax.jit(value)(*arguments)
        with jax.set_mesh(mesh):
            got = jax.jit(value, in_shardings=(rows, rows, rows, heads))(*arguments)
    assert got[1][0].sharding.is_equivalent_to(rows, 4)
    close(got, expected)


def assert_it_runs_inside_shard_map(run: Implementation) -> None:
    """The caller has cut examples and heads: one of each is left, and nothing is cut again."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    q, k, v, _ = inputs()
    rows = P("data", None, "model", None)

    def local(q, k, v):
        return run(q, k, v, mask=Mask(causal=True), split=SPLIT)

    with interpreter_of(run.name):
        expected = jax.jit(local)(q, k, v)
        with jax.set_mesh(mesh):
            mapped = jax.shard_map(local, in_specs=(rows,) * 3, out_specs=rows, check_vma=False)
            got = jax.jit(mapped)(q, k, v)
    close(got, expected)


def assert_vmap_and_remat_change_nothing(loss, *arguments) -> None:
    """loss(*arguments), and of the arguments with their examples in reverse."""
    stacked = [jnp.stack([x, x[::-1]]) for x in arguments]
    value = partial(jax.value_and_grad, argnums=tuple(range(len(arguments))))
    with evaluated():
        one_by_one = [jax.jit(value(loss))(*each) for each in zip(*stacked, strict=True)]
        together = jax.jit(jax.vmap(value(jax.checkpoint(loss))))(*stacked)
    close(together, jax.tree.map(lambda *x: jnp.stack(x), *one_by_one))
