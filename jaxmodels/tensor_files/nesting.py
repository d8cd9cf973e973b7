"""Nested containers to flat names."""

from collections.abc import Iterator

from .errors import SAVE_AGAIN, Malformed, described

# A few hundred bytes of pickle can describe a graph with 2**60 paths, or a cycle; these bounds are far above real
# checkpoints and keep such a file from taking the machine's time and memory.
MAX_NODES = 1_000_000
MAX_TENSORS = 200_000
MAX_NAME = 1024  # each level adds a character at least, so this bounds the depth, too


def flatten(tree: object, leaf_type: type) -> dict[str, object]:
    """Leaves of `leaf_type` under their dotted paths; dict keys and list positions are path parts, other leaves drop.

    A tree that is itself a leaf has the empty path.
    """
    leaves: dict[str, object] = {}
    for visited, (name, node) in enumerate(_walk(tree)):
        if visited >= MAX_NODES or len(leaves) >= MAX_TENSORS:
            raise Malformed(f"at most {MAX_TENSORS} tensors among {MAX_NODES} values", "more", SAVE_AGAIN)
        if isinstance(node, leaf_type):
            if name in leaves:
                raise Malformed("a different name for each tensor", f"{described(name)} twice", SAVE_AGAIN)
            leaves[name] = node
    if not leaves:
        raise Malformed("at least one tensor", "none", "check that this is the file that holds the weights")
    return leaves


def _walk(tree: object) -> Iterator[tuple[str, object]]:
    yield "", tree
    pending = [_children("", tree)]
    while pending:
        name, node = next(pending[-1], (None, None))
        if name is None:
            pending.pop()
            continue
        yield name, node
        if isinstance(node, dict | list | tuple):
            pending.append(_children(f"{name}.", node))


def _children(prefix: str, node: object) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in items:
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise Malformed(f"tensor names of at most {MAX_NAME} characters", described(name), SAVE_AGAIN)
        yield name, child
