"""Folders of tokenizers: finding them, reading constructor arguments from their JSON files, loading and saving."""

import contextlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from jaxmodels import download
from jaxmodels.messages import brief, reject_unsupported, truncate
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tokenization import unsupported
from jaxmodels.tokenization.backend import read_text
from jaxmodels.tokenization.special_tokens import ADDITIONAL, SPECIAL_TOKENS, to_added_token, token_content
from jaxmodels.tokenization.validation import COMMON_SETTINGS, invalid, is_setting, token_id, validate_setting

if TYPE_CHECKING:
    from jaxmodels.tokenization.base import Tokenizer

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"
MODEL_CONFIG = "config.json"
NAMES = (TOKENIZER, CONFIG, SPECIAL_MAP, ADDED, CHAT_TEMPLATE)

ADDED_DECODER = "added_tokens_decoder"
EXTRA = "extra_special_tokens"
NAMED_EXTRA = "model_specific_special_tokens"
# Constructor arguments of all classes that tokenizer_config.json may set.
ARGUMENTS = (*COMMON_SETTINGS, *SPECIAL_TOKENS, ADDITIONAL, EXTRA, ADDED_DECODER)

# Keys that describe the origin of the files.
IGNORED_KEYS = {"tokenizer_class", "processor_class", "auto_map", "name_or_path", "use_fast", "from_slow", "verbose"}
IGNORED_KEYS |= {"tokenizer_file", "vocab_file", "merges_file", "added_tokens_file", "special_tokens_map_file"}
IGNORED_KEYS |= {"special_tokens_map", "fast_tokenizer_files", "init_inputs", "trust_remote_code", "device_map"}
# Keys that only transformers 5 writes.
TRANSFORMERS_5_KEYS = {"backend", "is_local", "local_files_only", NAMED_EXTRA}
IGNORED_KEYS |= TRANSFORMERS_5_KEYS - {NAMED_EXTRA}


def read_json(path: Path) -> dict[str, Any]:
    """Read the object of a JSON file; {} if there is no such file.

    Raises:
      ValueError: the file is damaged; the message names it.
    """
    return download.read_json(path) if path.is_file() else {}


def is_transformers_5(config: Mapping[str, Any]) -> bool:
    """Whether transformers 5, which has other defaults, wrote a tokenizer_config.json."""
    has_list = isinstance(config.get(EXTRA), list)
    return (
        has_list or not TRANSFORMERS_5_KEYS.isdisjoint(config) or config.get("tokenizer_class") == "TokenizersBackend"
    )


def read_arguments(folder: FolderSnapshot) -> dict[str, Any]:
    """Read constructor arguments from a folder's tokenizer_config.json and the files beside it.

    As in transformers, `added_tokens_decoder` supersedes special_tokens_map.json and added_tokens.json, which are older
    formats; without it these override tokenizer_config.json.

    Raises:
      ValueError: an invalid value; the message names the file and the key.
    """
    path = folder / CONFIG
    arguments = _parse_arguments(path, read_json(path))
    if (folder / CHAT_TEMPLATE).is_file():
        arguments["chat_template"] = read_text(folder / CHAT_TEMPLATE)
    if ADDED_DECODER in arguments:
        return arguments
    arguments |= _parse_arguments(folder / SPECIAL_MAP, read_json(folder / SPECIAL_MAP))
    special = {token_content(token): to_added_token(token, special=True) for token in _special_tokens(arguments)}
    added: dict[int, AddedToken] = {}
    for content, i in read_json(folder / ADDED).items():
        with _errors_name(folder / ADDED):
            token, i = to_added_token(content, special=False), token_id(content, i)
            if i in added:
                raise ValueError(f"{added[i].content!r} and {content!r} have the same id, {i}")
        added[i] = special.get(content) or token
    return arguments | {ADDED_DECODER: added}


def _parse_arguments(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the arguments of a file and convert names of older and newer releases."""
    # null unsets a special token; elsewhere it means that the default applies
    arguments = {
        key: value
        for key, value in values.items()
        if key not in IGNORED_KEYS and (value is not None or key in SPECIAL_TOKENS)
    }
    if "max_len" in arguments:
        arguments.setdefault("model_max_length", arguments.pop("max_len"))
    with _errors_name(path):
        _merge_extra_tokens(arguments)
        for key, value in arguments.items():
            arguments[key] = _parse_argument(key, value)
    return arguments


def _parse_argument(key: str, value: Any) -> Any:
    if is_setting(key):
        return validate_setting(key, value)
    if key in SPECIAL_TOKENS:
        return value if value is None else _checked_token(key, value)
    if key == ADDITIONAL:
        if not isinstance(value, list):
            raise invalid(key, "a list of tokens", value)
        return [_checked_token(key, token) for token in value]
    if key == EXTRA:
        return {name: _checked_token(f"{key}[{name!r}]", token) for name, token in value.items()}
    if key == ADDED_DECODER:
        if not isinstance(value, Mapping):
            raise invalid(key, "an object of ids and tokens", value)
        return {
            _parse_id(key, i): to_added_token(token, special=False, name=f"{key}[{i!r}]") for i, token in value.items()
        }
    return value


def _merge_extra_tokens(arguments: dict[str, Any]) -> None:
    """Convert extra special tokens: transformers 5 writes a list of tokens, 4.50 and later a mapping of names."""
    extra = arguments.pop(EXTRA, {})
    named = arguments.pop(NAMED_EXTRA, {})
    for key, value in ((EXTRA, extra), (NAMED_EXTRA, named)):
        if not isinstance(value, Mapping) and (key != EXTRA or not isinstance(value, list)):
            raise invalid(key, "an object of names and tokens" + ", or a list of tokens" * (key == EXTRA), value)
    if isinstance(extra, list):
        listed = arguments.get(ADDITIONAL, [])
        if isinstance(listed, list):
            arguments[ADDITIONAL] = [*listed, *(token for token in extra if token not in listed)]
    else:
        named = {**extra, **named}
    if named:
        for name, token in named.items():
            other = arguments.pop(name, token)
            if other != token:
                raise ValueError(f"{name} is {brief(other)}, but {brief(token)} among the extra special tokens")
        arguments[EXTRA] = dict(named)


def _checked_token(name: str, value: Any) -> Any:
    to_added_token(value, special=True, name=name)
    return value


def _parse_id(name: str, value: Any) -> int:
    try:
        number = int(value) if str(value).isascii() else -1
    except ValueError:
        number = -1
    if str(number) != str(value):
        raise invalid(name, "an object whose keys are ids, as decimal numbers", value)
    return token_id(name, number)


def _special_tokens(arguments: Mapping[str, Any]) -> Iterator[Any]:
    yield from (arguments[name] for name in SPECIAL_TOKENS if arguments.get(name) is not None)
    yield from arguments.get(EXTRA, {}).values()
    yield from arguments.get(ADDITIONAL, ())


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Prepend the file's name to ValueErrors raised in this block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def split_hub_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into those of the Hub client and the rest."""
    hub = {name: value for name, value in options.items() if name in download.HUB_OPTIONS}
    return hub, {name: value for name, value in options.items() if name not in hub}


def file_names(classes: "Iterable[type[Tokenizer]]") -> list[str]:
    """Return the names of all files that tokenizers of these classes may consist of."""
    vocabularies = {name for cls in classes for names in cls.VOCABULARY_FILES.values() for name in names}
    return [*NAMES, MODEL_CONFIG, *sorted(vocabularies)]


def find_folder(source: str | os.PathLike, names: list[str], subfolder: str | None, hub: Mapping[str, Any]) -> Path:
    """Return a local folder, or download a Hub repository; see `download.local_folder` for errors."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a folder or a Hub id, as a str or a path, got {brief(source)}")
    if subfolder is not None and not isinstance(subfolder, str):
        raise invalid("subfolder", "a str", subfolder)
    name = source if isinstance(source, str) and not os.path.isdir(source) else Path(source)
    return download.local_folder(name, names, subfolder=subfolder, **hub)


def load_folder(
    folder: Path, select_class: "Callable[[FolderSnapshot], type[Tokenizer]]", options: Mapping[str, Any]
) -> "Tokenizer":
    """Load the tokenizer of a folder.

    Args:
      folder: the folder.
      select_class: returns the class for the folder's files.
      options: constructor arguments that override the folder's settings.

    Raises:
      FileNotFoundError: the folder lacks files that the class needs.
      ValueError: damaged or contradictory files; the message names the folder or the file.
      TypeError: an unknown option.
    """
    return read_snapshot(folder, lambda snapshot: _load(snapshot, select_class(snapshot), options))


def _load(folder: FolderSnapshot, cls: "type[Tokenizer]", options: Mapping[str, Any]) -> "Tokenizer":
    rejected = {name: value for name, value in options.items() if name in unsupported.LOAD and name not in cls.OPTIONS}
    reject_unsupported(f"loading a {cls.__name__} has no option", rejected, (), unsupported.LOAD)
    options = {name: value for name, value in options.items() if name not in rejected}
    arguments = read_arguments(folder)
    others = {key: arguments.pop(key) for key in sorted(arguments.keys() - {*ARGUMENTS, *cls.OPTIONS})}
    ignored = [key for key, value in others.items() if not unsupported.is_neutral_at_loading(key, value)]
    if ignored:
        warnings.warn(
            f"{folder / CONFIG}: no effect on a {cls.__name__}: {truncate(', '.join(ignored), 300)}", stacklevel=6
        )
    vocabulary = _vocabulary_files(folder, cls)
    if "tokenizer_file" in vocabulary:
        arguments = cls.resolve_arguments(arguments, vocabulary["tokenizer_file"], read_json(folder / CONFIG))
    build: Callable[..., Tokenizer] = cls  # whose arguments differ from those of the base class
    try:
        return build(**vocabulary, **(arguments | options))
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{folder}: {error}") from error


def _vocabulary_files(folder: FolderSnapshot, cls: "type[Tokenizer]") -> dict[str, Path]:
    """Return {constructor argument: file}: tokenizer.json and files beside it, or else the class's vocabulary files."""
    paths = {
        argument: next((folder / name for name in names if (folder / name).is_file()), None)
        for argument, names in cls.VOCABULARY_FILES.items()
    }
    if (folder / TOKENIZER).is_file():
        beside = {argument: path for argument in cls.FILES_BESIDE_JSON if (path := paths[argument])}
        return {"tokenizer_file": folder / TOKENIZER, **beside}
    found = {argument: path for argument, path in paths.items() if path is not None}
    missing = paths.keys() - found.keys()
    if missing or not paths:
        alternatives = "".join(
            f" nor {' or '.join(cls.VOCABULARY_FILES[argument])}" for argument in sorted(missing)[:1]
        )
        raise FileNotFoundError(
            f"{folder} has {f'neither {TOKENIZER}{alternatives}' if missing else f'no {TOKENIZER}'}, which "
            f"{cls.__name__} needs; it contains {list_files(folder)}"
        )
    return found


def list_files(folder: FolderSnapshot) -> str:
    """Return the names of the first files of a folder, for messages."""
    return ", ".join(folder.names()[:20]) or "nothing"


def save_folder(tokenizer: "Tokenizer", folder: str | os.PathLike) -> tuple[str, ...]:
    """Write all files of a tokenizer, or none if it fails or the process is killed.

    Files of a tokenizer that was saved there before are removed, since they would be read with this one's.

    Returns:
      The paths of the files.
    """
    folder = Path(folder)
    with atomic_save(folder, "tokenizer") as staging:
        tokenizer._write_vocabulary(staging)
        tokenizer._backend.save(str(staging / TOKENIZER))
        _write_json(staging / CONFIG, tokenizer_config(tokenizer))
        _write_json(staging / SPECIAL_MAP, _special_tokens_map(tokenizer))
        beyond = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= tokenizer.vocab_size}
        if beyond:
            _write_json(staging / ADDED, beyond)
        written = sorted(os.listdir(staging))
    return tuple(str(folder / name) for name in written)


def tokenizer_config(tokenizer: "Tokenizer") -> dict[str, Any]:
    """Return the content of a tokenizer's tokenizer_config.json."""
    values = {name: getattr(tokenizer, name) for name in (*COMMON_SETTINGS, *tokenizer.OPTIONS)}
    # None is a default, and transformers' slow tokenizers do not accept null
    config = {name: value for name, value in values.items() if value is not None}
    templates = config.get("chat_template")
    if isinstance(templates, Mapping):
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    if tokenizer.extra_special_tokens:
        config[EXTRA] = tokenizer.extra_special_tokens
    added = {str(i): token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}
    defaults = inspect.signature(type(tokenizer)).parameters
    # a token that is unset would otherwise get its default, and a new id if the vocabulary lacks that
    unset = [name for name in SPECIAL_TOKENS if name in defaults and defaults[name].default is not None]
    return {
        **config,
        **{name: None for name in unset},
        **tokenizer.special_tokens_map,
        ADDED_DECODER: added,
        "tokenizer_class": tokenizer.SAVED_CLASS or type(tokenizer).__name__,
    }


def _special_tokens_map(tokenizer: "Tokenizer") -> dict[str, Any]:
    with_flags = {token.content: _flags(token) for token in tokenizer.added_tokens_decoder.values()}

    def entry(token: str | list[str]) -> Any:
        return [entry(each) for each in token] if isinstance(token, list) else with_flags.get(token, token)

    return {name: entry(token) for name, token in tokenizer.special_tokens_map.items()}


def _flags(token: AddedToken) -> dict[str, Any]:
    return {key: value for key, value in token.__getstate__().items() if key != "special"}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
