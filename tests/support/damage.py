"""Random damage to files."""

import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**63), 1.5, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "\0", "\ud800", "a" * 100_000, "float32", "1e999"),
    *([], {}, [None], [[[]]], {"a": {"b": {}}}, [0] * 10_000, ["x"] * 3),
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Truncates the data, flips bits, overwrites bytes, or moves, removes or repeats a part of it."""
    begin, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, rng.randrange(1, 200)))
    other = rng.randrange(len(data))
    change = rng.choice(("cut", "flip", "fill", "copy", "insert", "remove"))
    changed = bytearray(data)
    if change == "cut":
        return data[:begin]
    if change == "flip":
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif change == "fill":
        changed[begin : begin + length] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * length
    elif change == "copy":
        changed[begin : begin + length] = data[other : other + length]
    elif change == "insert":
        changed[begin:begin] = data[other : other + length]
    else:
        del changed[begin : begin + length]
    return bytes(changed)


def damaged_json(data: bytes, rng: random.Random) -> bytes:
    """Replaces, removes or renames a value of a JSON file, or returns a deeply nested one."""
    tree = json.loads(data)
    if rng.random() < 0.05:
        return b'{"a":' * 5000 + b"1" + b"}" * 5000
    items = list(_items(tree))
    if not items or rng.random() < 0.05:
        return json.dumps(rng.choice(VALUES)).encode()
    parent, key = rng.choice(items)
    if rng.random() < 0.15:
        del parent[key]
    elif isinstance(parent, dict) and rng.random() < 0.15:
        parent[rng.choice(("", "x", "a" * 10_000, "\0"))] = parent.pop(key)
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(tree).encode()


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _items(tree[key])
