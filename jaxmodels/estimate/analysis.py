"""Analysis of traced and compiled programs: collectives and their bytes, FLOPs of matrix products, reads per token.

The compiler counts the body of a loop once, and of a kernel only its declared cost. What its count misses is the
difference between the two modes of `product_flops`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

_OPERATIONS = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
)
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(")
# Of a start/done pair, only done has the result type alone. A reduce-scatter is a computation of that name, called by a
# fusion, that contains an all-reduce and a slice.
_SENT = re.compile(rf" = (\(.*\)|\S+) (?:({_OPERATIONS})(?:-done)?\(|fusion\(.* calls=%all-reduce-scatter)")
_CHAIN = re.compile(r"\bchain_id=\"(\d+)\"")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CALLED = re.compile(r"\bcalls=%([^\s,)]+)")
_LOOP = re.compile(r" while\(.*\bcondition=%([^\s,)]+).*\bbody=%([^\s,)]+)")
_LIMIT = re.compile(r"\bROOT .* compare\(%\S+, (%\S+)\), direction=LT")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# Operations on one array that read it only if their result is read; the compiler fuses them with their consumer.
_VIEWS = frozenset(
    ["broadcast_in_dim", "convert_element_type", "copy", "dynamic_slice", "reshape", "sharding_constraint", "slice"]
    + ["squeeze", "transpose"]
)


class Collective(NamedTuple):
    """Number of runs of a type of collective, and the total bytes of its results per device."""

    count: int  # type: ignore[assignment]  # replaces tuple.count
    bytes: int


def collectives(program: str, turns: int = 1) -> dict[str, Collective]:
    """Counts the collectives of one run of a compiled program, by type.

    Args:
      program: HLO text of the TPU compiler.
      turns: iterations of a loop with an unknown trip count (the decoding loop); such loops inside it count once. The
        trip count of a loop that counts up to a constant is known.
    """
    computations, entry = _computations(program)
    found: dict[str, Collective] = defaultdict(lambda: Collective(0, 0))

    def visit(name: str, times: int, unknown: int, chains: set[tuple[str, str | None]]) -> None:
        for line in computations.get(name, ()):
            sent, chain, called = _SENT.search(line), _CHAIN.search(line), _CALLED.search(line)
            if sent and chain:
                channel = _CHANNEL.search(line)
                step = chain[1], channel and channel[1]
                if step in chains:
                    continue
                chains.add(step)
            if sent:
                operation = sent[2] or "reduce-scatter"
                count, size = found[operation]
                found[operation] = Collective(count + times, size + times * _result_bytes(sent[1]))
            elif called:
                visit(called[1], times, unknown, chains)
            elif loop := _LOOP.search(line):
                known = _trip_count(computations[loop[1]])
                for part in loop.groups():
                    begun: set[tuple[str, str | None]] = {
                        (chain, channel) for chain, channel in chains if channel is not None
                    }
                    visit(part, times * (unknown if known is None else known), 1 if known is None else unknown, begun)

    # An asynchronous collective is split into steps, which are fusions and share a chain. The steps of one that begins
    # before a loop may be in its body, beside chains of the loop's own that have the same numbers on other channels.
    visit(entry, 1, turns, set())
    return dict(found)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of every computation by its name, and the name of the entry computation."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in program.splitlines():
        if start := _COMPUTATION.match(line):
            lines = computations[start[2]] = []
            entry = start[2] if start[1] else entry
        lines.append(line)
    return computations, entry


def _trip_count(condition: list[str]) -> int | None:
    """Returns the constant that a loop counts up to; None for any other condition."""
    limit = next((found[1] for line in condition if (found := _LIMIT.search(line))), None)
    constant = re.compile(rf"{limit} = s32\[\]\S* constant\((\d+)\)")
    return next((int(found[1]) for line in condition if (found := constant.search(line))), None)


def _result_bytes(shape: str) -> int:
    """Returns the bytes of an array or a tuple of arrays, such as "(bf16[8,128]{1,0}, f32[4]{0})"."""
    bits = 0
    for dtype, width, sizes in _ARRAY.findall(shape):
        bits += (8 if dtype == "pred" else int(width)) * math.prod(int(size) for size in sizes.split(",") if size)
    return bits // 8


def product_flops(jaxpr: Jaxpr, *, whole: bool, turns: int = 1) -> float:
    """Counts the FLOPs of matrix products, on all devices together.

    Args:
      jaxpr: traced program.
      whole: include every iteration of loops and the products inside kernels; otherwise count as the compiler does.
      turns: iterations of a loop with an unknown trip count (the decoding loop); such loops inside it count once.
    """
    total = 0.0
    for eqn in _live(jaxpr):
        name, params = eqn.primitive.name, eqn.params
        times, inner_turns, inner = 1, turns, list(_subprograms(params))
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            operand: Any = eqn.invars[0].aval
            result: Any = eqn.outvars[0].aval
            terms = math.prod(operand.shape[axis] for axis in contracted)
            total += 2.0 * terms * math.prod(result.shape)
        elif name == "scan":
            times = params["length"] if whole else 1
        elif name == "while":
            times, inner_turns, inner = turns if whole else 1, 1, [params["body_jaxpr"].jaxpr]
        elif name == "shard_map":
            times = params["mesh"].size
        elif name == "pallas_call":
            declared = params["cost_estimate"]
            total += 0.0 if declared is None else declared.flops
            times = math.prod(params["grid_mapping"].grid) if whole and declared is None else 0
        counts = [product_flops(each, whole=whole, turns=inner_turns) for each in inner]
        total += times * (max(counts) if name == "cond" else sum(counts))
    return total


def _live(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yields the operations that a compiler keeps: traces of rematerialisation contain some without a use."""
    needed = {var for var in jaxpr.outvars if isinstance(var, Var)}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            needed |= {var for var in eqn.invars if isinstance(var, Var)}
            yield eqn


def decoding_loop(jaxpr: Jaxpr) -> tuple[Jaxpr, list[bool]]:
    """Returns the body of the decoding loop, and for each input of the program whether an iteration reads all of it.

    The decoding loop is the last loop with an unknown trip count: selecting the first token may contain such loops,
    too. An array that is only indexed (an embedding table without a tied head) is not read as a whole.
    """
    *_, loop = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while")
    origin: dict[Var, int] = {var: number for number, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        views = eqn.primitive.name in _VIEWS
        pairs = zip(eqn.invars[:1], eqn.outvars, strict=True) if views else ()
        if eqn.primitive.name == "optimization_barrier":
            pairs = zip(eqn.invars, eqn.outvars, strict=True)
        origin |= {out: origin[var] for var, out in pairs if isinstance(var, Var) and var in origin}
    body, first, count = loop.params["body_jaxpr"].jaxpr, loop.params["cond_nconsts"], loop.params["body_nconsts"]
    read = [False] * len(jaxpr.invars)
    for constant, used in zip(loop.invars[first : first + count], _read_whole(body)[:count], strict=True):
        if used and constant in origin:
            read[origin[constant]] = True
    return body, read


def _read_whole(jaxpr: Jaxpr) -> list[bool]:
    """Returns for each input whether all of it is read."""
    read: set[Any] = set()
    for eqn in reversed(jaxpr.eqns):
        name, operands, inner = eqn.primitive.name, eqn.invars, list(_subprograms(eqn.params))
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


def _subprograms(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yields the programs among the parameters of an operation."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each.jaxpr if isinstance(each, ClosedJaxpr) else each
