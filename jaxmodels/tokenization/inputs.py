"""What may be tokenized: a text, a pair of texts, words, or a batch of them. Anything else is refused in words."""

import numpy as np


def as_batch(text, pair, is_split_into_words: bool) -> tuple[list, bool]:
    """-> rows as the `tokenizers` library takes them (a text, or a tuple for a pair), and whether they are a batch.

    A text is a str, or a list of str where `is_split_into_words`. A batch is a list, tuple or numpy array of texts; of
    pairs, too, where `pair` is None and the texts are not split into words.
    """
    text, pair = plain(text), plain(pair)
    if is_split_into_words:
        batched = isinstance(text, list) and bool(text) and isinstance(text[0], (list, tuple, np.ndarray))
    else:
        batched = isinstance(text, list)
    if not batched:
        texts, pairs = [text], None if pair is None else [pair]
    else:
        texts, pairs = text, pair
        if pairs is not None and (not isinstance(pairs, list) or len(pairs) != len(texts)):
            got = f"{len(pairs)} of them" if isinstance(pairs, list) else f"a {type(pairs).__name__}"
            raise ValueError(f"a batch of {len(texts)} texts needs a list of {len(texts)} second texts, got {got}")
    check = _words if is_split_into_words else _text
    if pairs is not None:
        rows = [(check(a, i), check(b, i)) for i, (a, b) in enumerate(zip(texts, pairs, strict=True))]
    elif is_split_into_words:
        rows = [_words(a, i) for i, a in enumerate(texts)]
    else:
        rows = [_text_or_pair(a, i) for i, a in enumerate(texts)]
    return rows, batched


def check_unicode(rows: list):
    """ValueError for the first text with a lone surrogate, which no UTF-8 bytes stand for."""
    for i, row in enumerate(rows):
        for text in _flat(row):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                where = f"U+{ord(text[error.start]):04X} at character {error.start}"
                raise ValueError(
                    f"text {i} holds the lone surrogate {where}, which is not valid Unicode; "
                    "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') repairs it"
                ) from None


def plain(value):
    """Tuples and arrays as lists."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _flat(row):
    return [row] if isinstance(row, str) else [text for part in row for text in _flat(part)]


def _text(text, i: int) -> str:
    if isinstance(text, str):
        return text
    hint = (
        "; for texts that are lists of words pass is_split_into_words=True" if isinstance(text, (list, tuple)) else ""
    )
    raise TypeError(f"text {i} must be a str, got {type(text).__name__}{hint}")


def _text_or_pair(text, i: int):
    if isinstance(text, (list, tuple)) and len(text) == 2:
        return (_text(text[0], i), _text(text[1], i))
    return _text(text, i)


def _words(words, i: int) -> list[str]:
    words = plain(words)
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    raise TypeError(f"text {i} must be a list of str, as is_split_into_words=True says, got {type(words).__name__}")
