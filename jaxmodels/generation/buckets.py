"""Lengths are rounded up to few sizes, so that a prompt of another length finds its program compiled."""


def bucket(size: int, smallest: int = 32) -> int:
    """The next of smallest * (1, 1.5, 2, 3, 4, 6, 8, ...): at most half is padding, on average a fifth."""
    step = smallest
    while step < size:
        if size <= step * 3 // 2:
            return step * 3 // 2
        step *= 2
    return step
