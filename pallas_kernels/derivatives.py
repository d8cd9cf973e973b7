"""Functions with a reverse pass of their own that can still be differentiated in every other way.

`jax.custom_vjp` gives up forward mode, and with it Hessian-vector products; `jax.custom_derivatives.linear_call` can
neither be batched nor be differentiated with respect to its residuals. Here the tangent of a function is an operation
of its own: evaluated, it is the function's ordinary derivative; transposed, it is the given reverse pass. Both are
plain JAX, and so are their derivatives.

Results of attention that a gradient uses have a name, under which a policy of `jax.checkpoint` may keep them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]
CHECKPOINT_NAME = "attention"


def named_residuals(tree: Any) -> Any:
    """Names arrays for policies of `jax.checkpoint`; the values, and compiled programs, stay the same."""
    return checkpoint_name(tree, CHECKPOINT_NAME)


class LinearRule(NamedTuple):
    """A function of arrays and vectors that is linear in the vectors.

    Attributes:
      apply: (arrays, vectors) -> an array.
      transpose: (arrays, cotangent of that array) -> cotangents of the vectors.
    """

    apply: Callable[[Arrays, Arrays], jax.Array]
    transpose: Callable[[Arrays, jax.Array], Arrays]


def with_reverse_pass(function: Callable[..., jax.Array], reverse: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Gives a function a reverse pass.

    Args:
      function: function(plan, x, fixed) -> an array, in plain JAX. The plan is static; x and fixed are pytrees, and the
        leaves of x are floating.
      reverse: reverse(plan, x, fixed, cotangent) -> the cotangent of x, a tree like x, in plain JAX.

    Returns:
      A function of the same arguments that can be differentiated with respect to x. Its gradient keeps nothing but the
      arguments.
    """
    wrapped = jax.custom_jvp(function, nondiff_argnums=(0,))

    @partial(wrapped.defjvp, symbolic_zeros=True)
    def jvp(plan, primals, tangents):
        x, fixed = primals
        leaves, tree = jax.tree.flatten(x)
        others, fixed_tree = jax.tree.flatten(fixed)
        directions = _nonzero(tree.flatten_up_to(tangents[0]))
        count = len(leaves)

        def apply(arrays, vectors):
            fixed = fixed_tree.unflatten(arrays[count:])
            moved = dict(zip(directions, vectors, strict=True))
            return _directional(lambda leaves: function(plan, tree.unflatten(leaves), fixed), arrays[:count], moved)

        def transpose(arrays, cotangent):
            x, fixed = tree.unflatten(arrays[:count]), fixed_tree.unflatten(arrays[count:])
            cotangents = tree.flatten_up_to(reverse(plan, x, fixed, cotangent))
            return [cotangents[i] for i in directions]

        out = wrapped(plan, x, fixed)
        arrays, rule = (*leaves, *others), LinearRule(apply, transpose)
        return out, _linear_p.bind(*arrays, *directions.values(), rule=rule, count=len(arrays), out=jax.typeof(out))

    return wrapped


def _nonzero(tangents: Sequence[Any]) -> dict[int, jax.Array]:
    """The tangents that are not zero, by their index."""
    return {i: each for i, each in enumerate(tangents) if not isinstance(each, SymbolicZero | ad.Zero)}


def _directional(function: Callable[[Arrays], jax.Array], at: Arrays, directions: Mapping[int, jax.Array]) -> jax.Array:
    """The derivative of a function of arrays in the directions of some of them."""

    def moved(*changed):
        changes = dict(zip(directions, changed, strict=True))
        return function([changes.get(i, x) for i, x in enumerate(at)])

    return jax.jvp(moved, tuple(at[i] for i in directions), tuple(directions.values()))[1]


_linear_p = Primitive("linear_with_transpose")


def _evaluate(*operands: jax.Array, rule: LinearRule, count: int, out: Any) -> jax.Array:
    return rule.apply(operands[:count], operands[count:])


def _jvp(primals: Arrays, tangents: Sequence[Any], **params: Any) -> tuple[jax.Array, jax.Array]:
    count, directions = params["count"], _nonzero(tangents)
    value = _linear_p.bind(*primals, **params)
    if min(directions) < count:
        return value, _directional(lambda operands: _evaluate(*operands, **params), primals, directions)
    # Of the vectors alone it stays the same operation, with the same transpose.
    return value, _linear_p.bind(*primals[:count], *map(ad.instantiate_zeros, tangents[count:]), **params)


def _transpose(cotangent: Any, *operands: Any, rule: LinearRule, count: int, out: Any) -> list[jax.Array | None]:
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    cotangents = rule.transpose(operands[:count], cotangent)
    pairs = zip(operands[count:], cotangents, strict=True)
    return [None] * count + [each if ad.is_undefined_primal(vector) else None for vector, each in pairs]


def _batch(operands: Arrays, axes: Sequence[int | None], *, rule: LinearRule, count: int, out: Any):
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    first = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)]
    # All vectors get the batch axis, so that the transpose has it too; JAX sums over it where it was not there before.
    pairs = zip(first[count:], axes[count:], strict=True)
    vectors = [jnp.broadcast_to(x, (size, *x.shape)) if axis is None else x for x, axis in pairs]
    in_axes = ([None if axis is None else 0 for axis in axes[:count]], 0)

    def batched(function):
        return lambda arrays, operand: jax.vmap(function, in_axes)(list(arrays), operand)

    rule = LinearRule(batched(rule.apply), batched(rule.transpose))
    (out,) = jax.make_jaxpr(rule.apply)(first[:count], vectors).out_avals
    return _linear_p.bind(*first[:count], *vectors, rule=rule, count=count, out=out), 0


_linear_p.def_impl(_evaluate)
_linear_p.def_abstract_eval(lambda *_, out, **__: out)
mlir.register_lowering(_linear_p, mlir.lower_fun(_evaluate, multiple_results=False))
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
