"""Tokenizer folders with one damaged file, and the outcome of loading each."""

import copy
import json
import random
import shutil
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import jaxmodels.tokenization as jt
from jaxmodels.tokenization import files

VALUES = [
    None,
    True,
    1.5,
    float("nan"),
    -1,
    2**40,
    "",
    "false",
    "\ud800",
    [],
    [1],
    [None],
    {},
    {"a": 1},
    {"content": 5},
]
TEXTS = ["Hello world and the river", "low <mask> new", "é 中文 [SEP] <extra_id_0>"]
LINES = ["", "a", "a b c", "zzz qqq", "\x00 \x00", "h e\u0301"]


def cases(folder: Path, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (description, file name, content) of damaged files of a folder."""
    picks = random.Random(seed)
    names = sorted(path.name for path in folder.iterdir())
    beside = {"vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"}  # not read beside it
    beside = beside if files.TOKENIZER in names else set()
    for name in sorted({*names} - beside):
        path = folder / name
        if path.suffix == ".json":
            yield from ((f"{name}: {what}", name, text) for what, text in _of_json(json.loads(path.read_text()), picks))
        elif path.suffix == ".txt":
            lines = path.read_text().splitlines()
            for new in LINES:
                at = picks.randrange(len(lines))
                changed = [*lines[:at], new, *lines[at + 1 :]]
                yield f"{name}: line {at} is {new!r}", name, "\n".join(changed).encode()
        else:
            content = path.read_bytes()
            for _ in range(8):
                at = picks.randrange(min(len(content), 4000))
                yield f"{name}: byte {at}", name, content[:at] + bytes([picks.randrange(256)]) + content[at + 1 :]
                yield f"{name}: {at} bytes", name, content[:at]
        for content in (b"", b"\xff\xfe", b"[]", b"null", b"3", b"{", b'{"a": ' * 3000, b"9" * 5000):
            yield f"{name} is {content[:9]!r}", name, content


def _of_json(state: dict, picks: random.Random) -> Iterator[tuple[str, bytes]]:
    keys = list(state) if len(state) < 60 else picks.sample(list(state), 6)
    paths = [path for key in keys for path in _paths(state[key], (key,), picks)]
    for path in paths:
        for value in VALUES:
            changed = copy.deepcopy(state)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            yield f"{path} is {value!r}", json.dumps(changed).encode()
    if state and all(isinstance(value, int) for value in state.values()):  # a vocabulary
        first, second, *_ = [*state, "other"]
        for what, change in (("one id twice", {second: state[first]}), ("a gap", {first: 10**6})):
            yield what, json.dumps(state | change).encode()


def _paths(value, path: tuple, picks: random.Random) -> Iterator[tuple]:
    """Yield the paths to a value and to some of the values in it."""
    yield path
    if isinstance(value, dict | list) and len(path) < 5:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in picks.sample(keys, min(len(keys), 3 if len(path) == 1 else 2)):
            yield from _paths(value[key], (*path, key), picks)


def outcome(original: Path, name: str, content: bytes, at: Path) -> str:
    """Return "refused", "works", "no effect" (without a warning), or the unexpected error."""
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(original, at)
    (at / name).write_bytes(content)
    if name in (files.SPECIAL_MAP, files.ADDED):  # these are only read without it
        config = json.loads((at / files.CONFIG).read_text())
        config.pop("added_tokens_decoder")
        (at / files.CONFIG).write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tokenizer = jt.load_tokenizer(at)
        except BaseException as error:
            named = str(at) in str(error)
            return (
                "refused"
                if isinstance(error, ValueError | OSError) and raised_by_library(error) and named
                else raw(error)
            )
        try:
            actual = _state(tokenizer, at)
        except BaseException as error:
            return raw(error)
    changed = actual != _state(jt.load_tokenizer(original), at)
    return "works" if changed or caught or json_equal(original / name, content) else "no effect"


def _state(tokenizer, at: Path) -> str:
    """Return a description of what a tokenizer computes and saves."""
    sequences = [tokenizer.encode(text, text_pair=None) for text in TEXTS]
    texts = [tokenizer.decode(ids) for ids in sequences]
    if tokenizer.pad_token is not None:
        tokenizer(TEXTS, padding=True)
    tokenizer.save_pretrained(at / "saved")
    saved = (at / "saved" / files.TOKENIZER).read_text()
    return repr((sequences, texts, files.tokenizer_config(tokenizer), saved, type(tokenizer)))


def raised_by_library(error: BaseException) -> bool:
    """Whether a `raise` statement of jaxmodels created an error."""
    return "jaxmodels/" in traceback.extract_tb(error.__traceback__)[-1].filename


def raw(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:100]}"


def json_equal(path: Path, content: bytes) -> bool:
    try:
        return json.loads(content) == json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
