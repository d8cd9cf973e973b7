"""A tokenizer's files, written all or none."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken

from jaxmodels.tensor_files.commit import staged
from jaxmodels.tokenization import files, settings


def write(tokenizer, folder: str | os.PathLike) -> tuple[str, ...]:
    """Writes every file of a tokenizer, or none of them where something fails or kills the process; -> the paths.

    No file of an earlier tokenizer stays, for it would speak for this one.
    """
    folder = Path(folder)
    with staged(folder, "tokenizer") as staging:
        tokenizer._write_vocabulary(staging)
        tokenizer._backend.save(str(staging / files.TOKENIZER))
        _write_json(staging / files.CONFIG, _config(tokenizer))
        _write_json(staging / files.SPECIAL_MAP, _special_map(tokenizer))
        beyond = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= tokenizer.vocab_size}
        if beyond:
            _write_json(staging / files.ADDED, beyond)
        written = sorted(os.listdir(staging))
    return tuple(str(folder / name) for name in written)


def _config(tokenizer) -> dict:
    values = {name: getattr(tokenizer, name) for name in (*settings.COMMON, *tokenizer.OPTIONS)}
    # None is a default, for which transformers' slow tokenizers take no null
    config = {name: value for name, value in values.items() if value is not None}
    templates = config.get("chat_template")
    if isinstance(templates, Mapping):
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    if tokenizer.extra_special_tokens:
        config[files.EXTRA] = tokenizer.extra_special_tokens
    added = {str(i): token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}
    return {
        **config,
        **tokenizer.special_tokens_map,
        "added_tokens_decoder": added,
        "tokenizer_class": type(tokenizer).__name__,
    }


def _special_map(tokenizer) -> dict:
    flagged = {token.content: _flags(token) for token in tokenizer.added_tokens_decoder.values()}

    def entry(token):
        return [entry(each) for each in token] if isinstance(token, list) else flagged.get(token, token)

    return {name: entry(token) for name, token in tokenizer.special_tokens_map.items()}


def _flags(token: AddedToken) -> dict:
    return {key: value for key, value in token.__getstate__().items() if key != "special"}


def _write_json(path: Path, content: dict):
    path.write_text(
        json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
