"""Reading a tokenizer.json."""

import json
from pathlib import Path

import tokenizers

from jaxmodels.tokenization import library
from jaxmodels.tokenization.files import read_text
from jaxmodels.tokenization.vocabulary import check_backend

ADDED = '"added_tokens":'


def read_tokenizer_json(path, family: str, **parts: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of the file.

    Args:
      family: what the tokenizer has to be, for the error.
      parts: the library's classes of its parts, such as model="BPE", decoder="ByteLevel".

    Raises:
      ValueError: a file that the library does not read, or reads otherwise than it says, or with other parts.
    """
    text = read_text(Path(path))
    with library.errors(f"{path} is not a tokenizer.json that the tokenizers library reads"):
        backend = tokenizers.Tokenizer.from_str(text)
    found = {name: type(getattr(backend, name)).__name__ for name in parts}
    if found != parts:
        listed = ", ".join(f"its {name} is {kind}" for name, kind in found.items())
        raise ValueError(f"{path} is not {family}: {listed}")
    check_backend(path, backend)
    for token in _added_tokens(text):
        got = backend.token_to_id(token["content"])
        if got != token["id"]:  # the library changes it without a word
            content = token["content"]
            raise ValueError(f"{path}: added_tokens: {content!r} must have the id {token['id']} and would get {got}")
    return backend


def _added_tokens(text: str) -> list[dict]:
    """The list in a file that the library reads, without the time that parsing all of it takes."""
    start = text.find(ADDED)
    if start < 0:
        return []
    rest = text[start + len(ADDED) :].lstrip()  # quotes in a string are escaped, so this is the key
    return json.JSONDecoder().raw_decode(rest)[0] or []
