"""A tokenizer's folder: the names of its files, and the constructor arguments that its JSON files stand for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmodels import download
from jaxmodels.tensor_files.saved import SavedFolder
from jaxmodels.tokenization import settings
from jaxmodels.tokenization.kinds import refused
from jaxmodels.tokenization.special_tokens import ADDITIONAL, SPECIAL_TOKENS, as_added_token, as_id, content
from jaxmodels.wording import brief

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"
NAMES = (TOKENIZER, CONFIG, SPECIAL_MAP, ADDED, CHAT_TEMPLATE)

ADDED_DECODER = "added_tokens_decoder"
EXTRA = "extra_special_tokens"
# What tokenizer_config.json may set for every family.
ARGUMENTS = (*settings.COMMON, *SPECIAL_TOKENS, ADDITIONAL, EXTRA, ADDED_DECODER)

# Keys about where the files came from and which program wrote them.
WITHOUT_EFFECT = {"tokenizer_class", "processor_class", "auto_map", "name_or_path", "use_fast", "from_slow", "verbose"}
WITHOUT_EFFECT |= {"tokenizer_file", "vocab_file", "merges_file", "added_tokens_file", "special_tokens_map_file"}
WITHOUT_EFFECT |= {"special_tokens_map", "fast_tokenizer_files", "init_inputs", "trust_remote_code", "device_map"}
# Those that only transformers 5 writes; it calls all that is not one model's own tokenizer a TokenizersBackend.
FIVE = {"backend", "is_local", "local_files_only", "model_specific_special_tokens"}
WITHOUT_EFFECT |= FIVE - {"model_specific_special_tokens"}
# Further names of what a folder without a family of its own is for.
NO_FAMILY = ("PreTrainedTokenizer", "TokenizersBackend")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file; ValueError naming the file where it is damaged."""
    return download.read_json(path) if path.is_file() else {}


def read_text(path: Path) -> str:
    """A text file's content; ValueError naming the file where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def written_by_5(config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer_config.json is one of transformers 5, whose defaults are others."""
    listed = isinstance(config.get(EXTRA), list)
    return listed or not FIVE.isdisjoint(config) or config.get("tokenizer_class") == "TokenizersBackend"


def read_arguments(folder: SavedFolder) -> dict[str, Any]:
    """The constructor arguments that a folder's tokenizer_config.json and its companions stand for.

    As in the reference, `added_tokens_decoder` makes special_tokens_map.json and added_tokens.json, which are older,
    irrelevant; without it they win over tokenizer_config.json.

    Raises:
      ValueError: a value of the wrong kind; it names the file and the key.
    """
    path = folder / CONFIG
    config = read_json(path)
    arguments = _typed(path, config)
    if (folder / CHAT_TEMPLATE).is_file():
        arguments["chat_template"] = read_text(folder / CHAT_TEMPLATE)
    if ADDED_DECODER in arguments:
        return arguments
    arguments |= _typed(folder / SPECIAL_MAP, read_json(folder / SPECIAL_MAP))
    special = {content(token): as_added_token(token, special=True) for token in _special_tokens(arguments)}
    listed = {}
    for token, i in read_json(folder / ADDED).items():
        with _named(folder / ADDED):
            added, i = as_added_token(token, special=False), as_id(token, i)
            if i in listed:
                raise ValueError(f"{listed[i].content!r} and {token!r} have the same id, {i}")
        listed[i] = special.get(token) or added
    return arguments | {ADDED_DECODER: listed}


def _typed(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a file's object: each of its kind, and old and new names in one form."""
    # null unsets a special token; for anything else it means that nobody chose
    arguments = {
        key: value
        for key, value in values.items()
        if key not in WITHOUT_EFFECT and (value is not None or key in SPECIAL_TOKENS)
    }
    if "max_len" in arguments:
        arguments.setdefault("model_max_length", arguments.pop("max_len"))
    with _named(path):
        _gather_extra(arguments)
        for key, value in arguments.items():
            arguments[key] = _argument(key, value)
    return arguments


def _argument(key: str, value):
    if settings.is_setting(key):
        return settings.check(key, value)
    if key in SPECIAL_TOKENS:
        return value if value is None else _token(key, value)
    if key == ADDITIONAL:
        if not isinstance(value, list):
            raise refused(key, "a list of tokens", value)
        return [_token(key, each) for each in value]
    if key == EXTRA:
        return {name: _token(f"{key}[{name!r}]", token) for name, token in value.items()}
    if key == ADDED_DECODER:
        if not isinstance(value, Mapping):
            raise refused(key, "an object of ids and tokens", value)
        return {
            _decimal(key, i): as_added_token(token, special=False, name=f"{key}[{i!r}]") for i, token in value.items()
        }
    return value


def _gather_extra(arguments: dict[str, Any]):
    """transformers 5 lists further special tokens as extra ones; those with names, of 4.50 on, are a mapping."""
    extra = arguments.pop(EXTRA, {})
    named = arguments.pop("model_specific_special_tokens", {})
    for key, value in ((EXTRA, extra), ("model_specific_special_tokens", named)):
        if not isinstance(value, Mapping) and (key != EXTRA or not isinstance(value, list)):
            raise refused(key, "an object of names and tokens" + ", or a list of tokens" * (key == EXTRA), value)
    if isinstance(extra, list):
        listed = arguments.get(ADDITIONAL, [])
        if isinstance(listed, list):
            arguments[ADDITIONAL] = [*listed, *(token for token in extra if token not in listed)]
    else:
        named = {**extra, **named}
    if named:
        for name, token in named.items():
            again = arguments.pop(name, token)
            if again != token:
                raise ValueError(f"{name} is {brief(again)} here, and {brief(token)} among the extra special tokens")
        arguments[EXTRA] = dict(named)


def _token(name: str, value):
    as_added_token(value, special=True, name=name)
    return value


def _decimal(name: str, value) -> int:
    try:
        number = int(value) if str(value).isascii() else -1
    except ValueError:
        number = -1
    if str(number) != str(value):
        raise refused(name, "an object whose keys are ids, as decimal numbers", value)
    return as_id(name, number)


def _special_tokens(arguments: Mapping[str, Any]) -> Iterator:
    yield from (arguments[name] for name in SPECIAL_TOKENS if arguments.get(name) is not None)
    yield from arguments.get(EXTRA, {}).values()
    yield from arguments.get(ADDITIONAL, ())


class _named:
    """Errors of what is read in this block name the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, ValueError):
            raise ValueError(f"{self.path}: {error}") from error
