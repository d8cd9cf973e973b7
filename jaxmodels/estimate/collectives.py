"""What a compiled program sends between devices, from its text as the TPU's compiler writes it."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
_START = re.compile(r"(ENTRY )?%(\S+) \(")
# Of a pair of start and done the latter has the results alone. A reduce-scatter is a computation of that name, called
# by a fusion, with an all-reduce and a slice in it.
_SENT = re.compile(rf" = (\(.*\)|\S+) (?:({_KINDS})(?:-done)?\(|fusion\(.* calls=%all-reduce-scatter)")
_CHAIN = re.compile(r"\bchain_id=\"(\d+)\"")
_CALLED = re.compile(r"\bcalls=%([^\s,)]+)")
_LOOP = re.compile(r" while\(.*\bcondition=%([^\s,)]+).*\bbody=%([^\s,)]+)")
_UNTIL = re.compile(r"\bROOT .* compare\(%\S+, (%\S+)\), direction=LT")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """How often a kind of collective runs, and the bytes of its results on a device, all times together."""

    count: int
    bytes: int


def collectives(program: str, turns: int = 1) -> dict[str, Collective]:
    """By kind, of one run of a compiled program. A loop that counts up to a constant turns so often.

    Args:
      turns: of another loop (a decoding loop), but for such loops inside it.
    """
    parts, entry = _parts(program)
    found: dict[str, Collective] = defaultdict(lambda: Collective(0, 0))

    def visit(name: str, times: int, unknown: int, chains: set[str]) -> None:
        for line in parts.get(name, ()):
            sent, chain, called = _SENT.search(line), _CHAIN.search(line), _CALLED.search(line)
            if sent and chain and chain[1] in chains:
                continue
            if sent:
                chains.update(chain.groups() if chain else ())
                kind = sent[2] or "reduce-scatter"
                count, size = found[kind]
                found[kind] = Collective(count + times, size + times * _bytes(sent[1]))
            elif called:
                visit(called[1], times, unknown, chains)
            elif loop := _LOOP.search(line):
                known = _constant(parts[loop[1]])
                for part in loop.groups():
                    visit(part, times * (unknown if known is None else known), 1 if known is None else unknown, set())

    # One that runs beside other operations is cut into steps, which are fusions of one computation and share a chain.
    visit(entry, 1, turns, set())
    return dict(found)


def _parts(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by its name, and the name of the first one to run."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in program.splitlines():
        if start := _START.match(line):
            lines = parts[start[2]] = []
            entry = start[2] if start[1] else entry
        lines.append(line)
    return parts, entry


def _constant(condition: list[str]) -> int | None:
    """What a loop counts up to; None where its condition is another one."""
    until = next((found[1] for line in condition if (found := _UNTIL.search(line))), None)
    constant = re.compile(rf"{until} = s32\[\]\S* constant\((\d+)\)")
    return next((int(found[1]) for line in condition if (found := constant.search(line))), None)


def _bytes(shape: str) -> int:
    """Of an array or of a tuple of them, such as "(bf16[8,128]{1,0}, f32[4]{0})"."""
    bits = 0
    for kind, width, sizes in _ARRAY.findall(shape):
        bits += (8 if kind == "pred" else int(width)) * math.prod(int(size) for size in sizes.split(",") if size)
    return bits // 8
