"""The operations of a traced program's matrix products: in every turn of a loop, and in every step of a kernel.

A compiler counts the body of a loop once, and of a kernel what it declares. What its count lacks is the difference
between these two ways to count the same traced program.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

# Of one array, and read or not as their result is; a compiler fuses them with what reads that.
_VIEWS = frozenset(
    ["broadcast_in_dim", "convert_element_type", "copy", "dynamic_slice", "reshape", "sharding_constraint", "slice"]
    + ["squeeze", "transpose"]
)


def product_flops(jaxpr: Jaxpr, *, whole: bool, turns: int = 1) -> float:
    """On all devices together.

    Args:
      whole: every turn of the loops, and the products inside kernels; else as a compiler counts them.
      turns: of a loop that does not say how often it turns (a decoding loop), but for loops inside it.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        times, further, inner = 1, turns, list(_inside(params))
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            terms = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * terms * math.prod(eqn.outvars[0].aval.shape)
        elif name == "scan":
            times = params["length"] if whole else 1
        elif name == "while":
            times, further, inner = turns if whole else 1, 1, [params["body_jaxpr"].jaxpr]
        elif name == "shard_map":
            times = params["mesh"].size
        elif name == "pallas_call":
            declared = params["cost_estimate"]
            total += 0.0 if declared is None else declared.flops
            times = math.prod(params["grid_mapping"].grid) if whole and declared is None else 0
        counts = [product_flops(each, whole=whole, turns=further) for each in inner]
        total += times * (max(counts) if name == "cond" else sum(counts))
    return total


def decoding_loop(jaxpr: Jaxpr) -> tuple[Jaxpr, list[bool]]:
    """The body of the decoding loop, and for each input of the program: does a turn read all of it?

    It is the last loop of unknown length: what chooses the first token may have some, too. An array that is only
    looked up (a table of embeddings without a head tied to it) is not read whole.
    """
    *_, loop = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while")
    origin: dict[Var, int] = {var: number for number, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _VIEWS and isinstance(eqn.invars[0], Var) and eqn.invars[0] in origin:
            origin[eqn.outvars[0]] = origin[eqn.invars[0]]
    body, first, count = loop.params["body_jaxpr"].jaxpr, loop.params["cond_nconsts"], loop.params["body_nconsts"]
    read = [False] * len(jaxpr.invars)
    for constant, used in zip(loop.invars[first : first + count], _read_whole(body)[:count], strict=True):
        if used and constant in origin:
            read[origin[constant]] = True
    return body, read


def _read_whole(jaxpr: Jaxpr) -> list[bool]:
    """For each input: is all of it read?"""
    read: set[Any] = set()
    for eqn in reversed(jaxpr.eqns):
        name, operands, inner = eqn.primitive.name, eqn.invars, list(_inside(eqn.params))
        if name in _VIEWS:
            used = [eqn.outvars[0] in read, *[True] * (len(operands) - 1)]
        elif name == "gather":
            used = [False, *[True] * (len(operands) - 1)]
        elif len(inner) == 1 and len(inner[0].invars) == len(operands):
            used = _read_whole(inner[0])
        else:
            used = [True] * len(operands)
        read |= {var for var, flag in zip(operands, used, strict=True) if flag and not isinstance(var, Literal)}
    return [var in read for var in jaxpr.invars]


def _inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation runs."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each.jaxpr if isinstance(each, ClosedJaxpr) else each
