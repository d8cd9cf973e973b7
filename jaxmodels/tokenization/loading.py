"""From a folder or a Hub id to a tokenizer."""

import os
import warnings
from pathlib import Path

import huggingface_hub

from jaxmodels.tensor_files.saved import SavedFolder, read_saved
from jaxmodels.tokenization import files
from jaxmodels.tokenization.bart import BartTokenizer
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.dpr import DPRContextEncoderTokenizer, DPRQuestionEncoderTokenizer, DPRReaderTokenizer
from jaxmodels.tokenization.gpt2 import GPT2Tokenizer
from jaxmodels.tokenization.led import LEDTokenizer
from jaxmodels.tokenization.roberta import RobertaTokenizer
from jaxmodels.tokenization.t5 import SPIECE, T5Tokenizer, read_pieces

FAMILIES = (GPT2Tokenizer, RobertaTokenizer, BertTokenizer, BartTokenizer, LEDTokenizer, T5Tokenizer)
FAMILIES += (DPRQuestionEncoderTokenizer, DPRContextEncoderTokenizer, DPRReaderTokenizer)
TOKENIZERS: dict[str, type[Tokenizer]] = {cls.__name__: cls for cls in FAMILIES}
"""Every family's classes by Hugging Face's names, without "Fast"; where a folder leaves a choice, the first one."""

COMMON_FILES = (files.TOKENIZER, files.CONFIG, files.SPECIAL_MAP, files.ADDED, files.CHAT_TEMPLATE, "config.json")


def load_tokenizer(
    source: str | os.PathLike,
    cls: type[Tokenizer] | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    **options,
) -> Tokenizer:
    """The tokenizer of a folder, or of a model on the Hugging Face Hub.

    source: a folder with tokenizer.json or the family's vocabulary files; or a Hub id such as "openai-community/gpt2",
      of which only the tokenizer's files are fetched.
    revision: a branch, tag or commit of a Hub id. subfolder: "question_encoder_tokenizer", say, of a RAG.
    cls: the class; None takes it from tokenizer_config.json, config.json, or the vocabulary.
    options: constructor arguments (padding_side="left", pad_token="<|endoftext|>", ...) in place of what the files say.

    Raises FileNotFoundError where there is no such folder or file, or the Hub cannot be reached; ValueError for a
    tokenizer class that is not here, and for damaged files; TypeError for an unknown option.
    """
    if cls is not None and not (isinstance(cls, type) and issubclass(cls, Tokenizer)):
        raise TypeError(f"cls must be one of {_names()}, got {cls!r}")
    return read_saved(_folder(source, revision, subfolder), lambda folder: _load(folder, cls, options))


def _load(folder: SavedFolder, cls: type[Tokenizer] | None, options: dict) -> Tokenizer:
    cls = _class(folder) if cls is None else cls
    arguments = files.read_arguments(folder)
    strange = sorted(arguments.keys() - {*files.ARGUMENTS, *cls.OPTIONS})
    if strange:
        warnings.warn(f"{folder / files.CONFIG}: no effect on a {cls.__name__}: {', '.join(strange)}", stacklevel=5)
    arguments = {key: value for key, value in arguments.items() if key not in strange}
    return cls(**_vocabulary(folder, cls), **(arguments | options))


def _folder(source: str | os.PathLike, revision: str | None, subfolder: str | None) -> Path:
    if os.path.isdir(source):
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for Hub ids, and {source} is a folder")
        folder = Path(source)
    else:
        prefix = f"{subfolder}/" if subfolder else ""
        patterns = [prefix + name for name in (*COMMON_FILES, *_family_files())]
        try:
            folder = Path(huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:
            # the Hub's and the network's errors are OSErrors; a path that is no folder is an invalid id, a ValueError
            raise FileNotFoundError(
                f"there is no folder {str(source)!r}, and as a Hub id it could not be had ({error}); give a folder "
                "with the tokenizer's files, or a Hub id that can be reached or was downloaded before"
            ) from error
    folder = folder / subfolder if subfolder else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return folder


def _class(folder: SavedFolder) -> type[Tokenizer]:
    model_config = files.read_json(folder / "config.json")
    for config in (files.read_json(folder / files.CONFIG), model_config):
        name = (config.get("tokenizer_class") or "").removesuffix("Fast")
        if name in TOKENIZERS:
            return TOKENIZERS[name]
        # PreTrainedTokenizer(Fast) names no family
        if name and name != "PreTrainedTokenizer":
            raise ValueError(f"{folder} is for a {name}; the tokenizers here are {_names()}")
    model_type = model_config.get("model_type")
    of_type = [cls for cls in TOKENIZERS.values() if model_type in cls.MODEL_TYPES]
    if of_type:
        # DPR's models have a tokenizer each
        named = [f"{model}Tokenizer" for model in model_config.get("architectures") or ()]
        return next((cls for cls in of_type if cls.__name__ in named), of_type[0])
    if model_type is not None:
        raise ValueError(f"{folder} is for the model type {model_type!r}; the tokenizers here are {_names()}")
    tokens = _tokens(folder)
    for cls in TOKENIZERS.values():
        if cls.recognises(tokens):
            return cls
    raise ValueError(
        f"nothing in {folder} says which of {_names()} it is for: pass cls=, or write a tokenizer_config.json with the "
        f"tokenizer_class. It holds {_listing(folder)}"
    )


def _tokens(folder: SavedFolder) -> set[str]:
    """The tokens of whatever vocabulary a folder holds."""
    vocabulary = files.read_json(folder / files.TOKENIZER).get("model", {}).get("vocab", {})
    tokens = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    for name in _family_files("vocab_file"):
        path = folder / name
        if path.suffix == ".json":
            tokens |= files.read_json(path).keys()
        elif path.suffix == ".txt" and path.is_file():
            tokens |= set(path.read_text(encoding="utf-8").splitlines())
    spiece = folder / SPIECE
    # last, since reading it takes a package
    return read_pieces(spiece) if not tokens and spiece.is_file() else tokens


def _vocabulary(folder: SavedFolder, cls: type[Tokenizer]) -> dict[str, Path]:
    """Constructor argument -> file: tokenizer.json with what stands beside it, or else the family's own files."""
    there = {
        argument: next((folder / name for name in names if (folder / name).is_file()), None)
        for argument, names in cls.VOCABULARY_FILES.items()
    }
    if (folder / files.TOKENIZER).is_file():
        beside = {argument: there[argument] for argument in cls.BESIDE_JSON if there[argument]}
        return {"tokenizer_file": folder / files.TOKENIZER, **beside}
    for argument, path in there.items():
        if path is None:
            raise FileNotFoundError(
                f"{folder} has neither {files.TOKENIZER} nor {' or '.join(cls.VOCABULARY_FILES[argument])}, which "
                f"{cls.__name__} needs; it holds {_listing(folder)}"
            )
    return there


def _family_files(argument: str | None = None) -> list[str]:
    """The names of the families' own files, or of those that go to one constructor argument."""
    tables = [cls.VOCABULARY_FILES for cls in TOKENIZERS.values()]
    return sorted({name for table in tables for key in table if argument in (None, key) for name in table[key]})


def _listing(folder: SavedFolder) -> str:
    return ", ".join(folder.names()[:20]) or "nothing"


def _names() -> str:
    return ", ".join(TOKENIZERS)
