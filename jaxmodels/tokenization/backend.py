"""The `tokenizers` library: thread-safe encoding, reading of tokenizer.json, and its errors as ValueError."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import tokenizers

from jaxmodels.messages import truncate
from jaxmodels.tokenization.arguments import CommonOptionsWithPadding, Example, check_unicode
from jaxmodels.tokenization.validation import token_id

ADDED_TOKENS_KEY = '"added_tokens":'
# Largest factor by which replacements in a tokenizer.json may lengthen a text. Published files stay below 100.
MAX_GROWTH = 10_000


class Truncation(TypedDict):
    """Arguments of `tokenizers.Tokenizer.enable_truncation`."""

    max_length: int
    stride: int
    strategy: str
    direction: str


class Padding(TypedDict):
    """Arguments of `tokenizers.Tokenizer.enable_padding`."""

    length: int | None
    pad_to_multiple_of: int | None
    direction: str
    pad_id: int
    pad_token: str


class Backend:
    """A `tokenizers.Tokenizer` whose truncation, padding and splitting are arguments of a call instead of state.

    It may be called from any thread, and it is copied and pickled like the tokenizer that it holds.

    Attributes:
      tokenizer: the library's tokenizer.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._lock = threading.Lock()

    def __getstate__(self) -> tokenizers.Tokenizer:
        return self.tokenizer

    def __setstate__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.__init__(tokenizer)  # type: ignore[misc]  # the lock is created anew

    def encode(
        self,
        examples: Sequence[Example],
        *,
        is_pretokenized: bool,
        add_special_tokens: bool,
        split_special_tokens: bool,
        truncation: Truncation | None,
        padding: Padding | None,
    ) -> list[tokenizers.Encoding]:
        """Encode a batch of texts, or of tuples for pairs, as `arguments.to_batch` returns them.

        Args:
          examples: the texts or pairs.
          is_pretokenized: texts are lists of words.
          add_special_tokens: apply the post-processor.
          split_special_tokens: tokenize special tokens in a text as ordinary text.
          truncation: None for no truncation.
          padding: None for no padding.

        Raises:
          ValueError: the truncation is impossible, or a text is not valid Unicode.
        """
        if truncation:
            self._check_truncation(examples, add_special_tokens, truncation)
        with self._lock, self._configured(split_special_tokens, truncation, padding):
            try:
                return self.tokenizer.encode_batch(examples, is_pretokenized, add_special_tokens)
            except BaseException as error:
                # The library raises a bare Exception if a strategy cannot shorten a sequence enough. It panics, which
                # is not an Exception, if the stride does not fit into what remains of one text of a pair.
                if not _is_library_error(error):
                    raise
                check_unicode(examples)
                if not truncation:
                    raise ValueError(f"the vocabulary cannot encode this text: {truncate(str(error), 250)}") from error
                raise ValueError(
                    f"truncation={truncation['strategy']!r} with stride {truncation['stride']} cannot shorten a "
                    f"sequence of this batch to {truncation['max_length']} tokens: {truncate(str(error), 250)}"
                ) from error

    @contextlib.contextmanager
    def _configured(
        self, split_special_tokens: bool, truncation: Truncation | None, padding: Padding | None
    ) -> Iterator[None]:
        self.tokenizer.encode_special_tokens = split_special_tokens
        try:
            if truncation:
                self.tokenizer.enable_truncation(**truncation)
            if padding:
                self.tokenizer.enable_padding(**padding)
            yield
        finally:
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()

    def _check_truncation(self, examples: Sequence[Example], add_special_tokens: bool, truncation: Truncation) -> None:
        """Raise ValueError for arguments that would crash the library."""
        pairs = [isinstance(example, tuple) for example in examples]
        if truncation["strategy"] == "only_second" and not all(pairs):
            raise ValueError("truncation='only_second' needs a second text in every example: pass text_pair")
        num_special = self.tokenizer.num_special_tokens_to_add(any(pairs)) if add_special_tokens else 0
        max_length, stride = truncation["max_length"], truncation["stride"]
        if not 0 <= stride < max_length - num_special:
            raise ValueError(
                f"max_length={max_length} leaves {max_length - num_special} tokens besides the special tokens; the "
                f"stride, {stride}, must be at least 0 and less than that"
            )


@contextlib.contextmanager
def library_errors(message: str) -> Iterator[None]:
    """Turn whatever the `tokenizers` library raises in this block into a ValueError that begins with `message`."""
    try:
        yield
    except BaseException as error:
        if not _is_library_error(error):
            raise
        raise ValueError(f"{message}: {truncate(str(error), 250)}") from None


def _is_library_error(error: BaseException) -> bool:
    # a panic of the library derives from BaseException
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
      ValueError: it is not UTF-8; the message names the file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def read_tokenizer_json(path: str | os.PathLike, description: str, parts: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Read a tokenizer.json.

    Args:
      path: the file.
      description: what the tokenizer must be, for the error.
      parts: required classes of its parts, such as {"model": "BPE", "decoder": "ByteLevel"}.

    Raises:
      ValueError: the library cannot read the file, changes its ids, or finds parts of other classes.
    """
    text = read_text(Path(path))
    with library_errors(f"{path} is not a tokenizer.json that the tokenizers library can read"):
        backend = tokenizers.Tokenizer.from_str(text)
    actual = {name: type(getattr(backend, name)).__name__ for name in parts}
    if actual != parts:
        listed = ", ".join(f"its {name} is {kind}" for name, kind in actual.items())
        raise ValueError(f"{path} is not {description}: {listed}")
    for name in ("normalizer", "decoder"):
        _check_growth(f"{path}: {name}", getattr(backend, name))
    size = backend.get_vocab_size(with_added_tokens=False)
    # if each of the first `size` ids has a token, no two tokens share one, and the vocabulary need not be copied
    if any(backend.model.id_to_token(i) is None for i in range(size)):
        check_ids(path, backend.get_vocab(with_added_tokens=False))
    for token in _added_tokens(text):
        actual_id = backend.token_to_id(token["content"])
        if actual_id != token["id"]:  # the library renumbers it silently
            content = token["content"]
            raise ValueError(
                f"{path}: added_tokens: {content!r} must have the id {token['id']} and would get {actual_id}"
            )
    return backend


def stored_settings(backend: tokenizers.Tokenizer) -> CommonOptionsWithPadding:
    """Return the constructor arguments that follow from the padding and truncation stored in a tokenizer.json."""
    settings: CommonOptionsWithPadding = {}
    if backend.truncation is not None:
        settings["truncation_side"] = backend.truncation["direction"]
    if backend.padding is not None:
        settings["padding_side"] = backend.padding["direction"]
        settings["pad_token"] = backend.padding["pad_token"]
    return settings


def check_ids(path: str | os.PathLike, vocabulary: Mapping[str, Any]) -> None:
    """Raise ValueError for an invalid id, or for one that two tokens share; gaps are allowed."""
    tokens: dict[int, str] = {}
    for token, i in vocabulary.items():
        i = token_id(f"{path}: the id of {token!r}", i)
        if tokens.setdefault(i, token) != token:
            raise ValueError(f"{path}: {tokens[i]!r} and {token!r} have the same id, {i}")


def _check_growth(name: str, part: Any) -> None:
    """Raise ValueError for a chain of replacements that would lengthen a text exponentially."""
    growth, num_precompiled = 1.0, 0
    pending = [] if part is None else [json.loads(part.__getstate__())]
    while pending:
        state = pending.pop()
        pending += [*state.get("normalizers", ()), *state.get("decoders", ())]
        num_precompiled += state["type"] == "Precompiled"
        if state["type"] == "Replace":
            length, pattern = len(state["content"].encode()), state["pattern"].get("String")
            growth *= max(1.0, length / len(pattern.encode()) if pattern else length + 1)
    if growth > MAX_GROWTH or num_precompiled > 1:
        raise ValueError(f"{name} could lengthen a text by a factor of more than {MAX_GROWTH}")


def _added_tokens(text: str) -> list[dict[str, Any]]:
    """Parse the list of added tokens alone, which is faster than parsing the whole file."""
    start = text.find(ADDED_TOKENS_KEY)
    if start < 0:
        return []
    rest = text[start + len(ADDED_TOKENS_KEY) :].lstrip()  # quotes inside strings are escaped, so this is a key
    added = json.JSONDecoder().raw_decode(rest)[0] or []
    if isinstance(added, list) and all(
        isinstance(token, dict) and {"content", "id"} <= token.keys() for token in added
    ):
        return added
    return json.loads(text).get("added_tokens") or []  # it was a nested key of that name
