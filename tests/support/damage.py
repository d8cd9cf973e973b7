"""Damage to files, by chance."""

import json
import random

VALUES = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**63), 1.5, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "\0", "\ud800", "a" * 100_000, "float32", "1e999"),
    *([], {}, [None], [[[]]], {"a": {"b": {}}}, [0] * 10_000, ["x"] * 3),
]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` cut short, with bits flipped, bytes overwritten, or a part of it moved, removed or repeated."""
    begin, length = dice.randrange(len(data)), dice.choice((1, 2, 4, 8, dice.randrange(1, 200)))
    other = dice.randrange(len(data))
    kind = dice.choice(("cut", "flip", "fill", "copy", "insert", "remove"))
    changed = bytearray(data)
    if kind == "cut":
        return data[:begin]
    if kind == "flip":
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == "fill":
        changed[begin : begin + length] = bytes([dice.choice((0, 0x7F, 0x80, 0xFF))]) * length
    elif kind == "copy":
        changed[begin : begin + length] = data[other : other + length]
    elif kind == "insert":
        changed[begin:begin] = data[other : other + length]
    else:
        del changed[begin : begin + length]
    return bytes(changed)


def damaged_json(data: bytes, dice: random.Random) -> bytes:
    """A JSON file with another value in one of its places, or without it, or nested deeper than anybody reads."""
    tree = json.loads(data)
    if dice.random() < 0.05:
        return b'{"a":' * 5000 + b"1" + b"}" * 5000
    places = list(_places(tree))
    if not places or dice.random() < 0.05:
        return json.dumps(dice.choice(VALUES)).encode()
    parent, key = dice.choice(places)
    if dice.random() < 0.15:
        del parent[key]
    elif isinstance(parent, dict) and dice.random() < 0.15:
        parent[dice.choice(("", "x", "a" * 10_000, "\0"))] = parent.pop(key)
    else:
        parent[key] = dice.choice(VALUES)
    return json.dumps(tree).encode()


def _places(tree):
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])
