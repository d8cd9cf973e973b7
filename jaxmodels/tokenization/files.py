"""A tokenizer's folder: what its JSON files say about special tokens and settings, and how they are written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken

from jaxmodels.tensor_files.commit import staged
from jaxmodels.tensor_files.saved import SavedFolder
from jaxmodels.tokenization.special_tokens import ADDITIONAL, SPECIAL_TOKENS, as_added_token, content

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"

# What tokenizer_config.json may set for every family: attributes of the tokenizer, and tokens.
SETTINGS = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "chat_template")
SETTINGS += ("clean_up_tokenization_spaces", "split_special_tokens")
ARGUMENTS = (*SETTINGS, *SPECIAL_TOKENS, ADDITIONAL, "added_tokens_decoder")

# Keys about where the files came from and which program wrote them.
WITHOUT_EFFECT = {"tokenizer_class", "processor_class", "auto_map", "name_or_path", "use_fast", "from_slow", "verbose"}
WITHOUT_EFFECT |= {"tokenizer_file", "vocab_file", "merges_file", "added_tokens_file", "special_tokens_map_file"}
WITHOUT_EFFECT |= {"special_tokens_map", "fast_tokenizer_files", "init_inputs", "trust_remote_code", "device_map"}


def read_json(path: Path) -> dict:
    """The object in a JSON file, {} where there is no file; ValueError naming the file where it is damaged."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(values).__name__}")
    return values


def read_arguments(folder: SavedFolder) -> dict:
    """The constructor arguments that a folder's tokenizer_config.json and its companions stand for.

    As in the reference, `added_tokens_decoder` makes special_tokens_map.json and added_tokens.json, which are older,
    irrelevant; without it they win over tokenizer_config.json.
    """
    config = read_json(folder / CONFIG)
    # null unsets a special token; for anything else it means that nobody chose
    arguments = {
        key: value
        for key, value in config.items()
        if key not in WITHOUT_EFFECT and (value is not None or key in SPECIAL_TOKENS)
    }
    if "max_len" in arguments:
        arguments.setdefault("model_max_length", arguments.pop("max_len"))
    if arguments.pop("extra_special_tokens", None):
        raise ValueError(
            f"{folder / CONFIG}: extra_special_tokens is not supported; list these tokens under {ADDITIONAL}"
        )
    if isinstance(arguments.get("chat_template"), list):
        arguments["chat_template"] = {entry["name"]: entry["template"] for entry in arguments["chat_template"]}
    if (folder / CHAT_TEMPLATE).is_file():
        arguments["chat_template"] = (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")

    if "added_tokens_decoder" in arguments:
        listed = {
            int(i): as_added_token(token, special=False) for i, token in arguments["added_tokens_decoder"].items()
        }
    else:
        arguments |= read_json(folder / SPECIAL_MAP)
        special = {content(token): as_added_token(token, special=True) for token in _special_tokens(arguments)}
        added = read_json(folder / ADDED)
        listed = {i: special.get(token) or as_added_token(token, special=False) for token, i in added.items()}
    return arguments | {"added_tokens_decoder": listed}


def _special_tokens(arguments: Mapping):
    named = [arguments[name] for name in SPECIAL_TOKENS if arguments.get(name) is not None]
    return named + list(arguments.get(ADDITIONAL) or [])


def write(tokenizer, folder: str | os.PathLike) -> tuple[str, ...]:
    """Writes every file of a tokenizer, or none of them where something fails or kills the process; -> the paths.

    No file of an earlier tokenizer stays, for it would speak for this one.
    """
    folder = Path(folder)
    with staged(folder, "tokenizer") as staging:
        tokenizer._write_vocabulary(staging)
        tokenizer._backend.save(str(staging / TOKENIZER))
        _write_json(staging / CONFIG, _config(tokenizer))
        _write_json(staging / SPECIAL_MAP, _special_map(tokenizer))
        beyond = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= tokenizer.vocab_size}
        if beyond:
            _write_json(staging / ADDED, beyond)
        written = sorted(os.listdir(staging))
    return tuple(str(folder / name) for name in written)


def _config(tokenizer) -> dict:
    values = {name: getattr(tokenizer, name) for name in (*SETTINGS, *tokenizer.OPTIONS)}
    # None is a default, for which transformers' slow tokenizers take no null
    config = {name: value for name, value in values.items() if value is not None}
    templates = config.get("chat_template")
    if isinstance(templates, Mapping):
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
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
