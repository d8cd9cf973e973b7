"""Loading by name or folder: the classes, which one a folder is for, and RAG's pair of tokenizers."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, overload

from jaxmodels.messages import brief, reject_unsupported, truncate, unknown_name
from jaxmodels.tensor_files.atomic_save import FolderSnapshot
from jaxmodels.tokenization import files, unsupported
from jaxmodels.tokenization.arguments import EncodeKwargs, TextInput
from jaxmodels.tokenization.backend import read_text
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.byte_level import BartTokenizer, GPT2Tokenizer, LEDTokenizer, RobertaTokenizer
from jaxmodels.tokenization.decoding import Ids
from jaxmodels.tokenization.dpr import DPRContextEncoderTokenizer, DPRQuestionEncoderTokenizer, DPRReaderTokenizer
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.generic import GenericTokenizer
from jaxmodels.tokenization.llama import LlamaTokenizer
from jaxmodels.tokenization.sentencepiece import read_pieces
from jaxmodels.tokenization.t5 import T5Tokenizer

_FAMILIES: tuple[type[Tokenizer], ...] = (GPT2Tokenizer, RobertaTokenizer, BertTokenizer, BartTokenizer, LEDTokenizer)
_FAMILIES += (T5Tokenizer, LlamaTokenizer)
_FAMILIES += (DPRQuestionEncoderTokenizer, DPRContextEncoderTokenizer, DPRReaderTokenizer)
TOKENIZERS: dict[str, type[Tokenizer]] = {cls.__name__: cls for cls in (*_FAMILIES, GenericTokenizer)}
"""All classes by name, which is that of transformers without "Fast". If several match a folder, the first is used."""

AUTO = "AutoTokenizer"
# Names that transformers writes for tokenizers without a class of their own. The first names exactly the generic class;
# the others may stand for a family, which the vocabulary tells.
GENERIC = "PreTrainedTokenizerFast"
UNSPECIFIC = ("PreTrainedTokenizer", "TokenizersBackend")
RAG_FOLDERS = ("question_encoder_tokenizer", "generator_tokenizer")


class RagTokenizer:
    """RAG's two tokenizers: questions use the question encoder's; answers use the generator's.

    From transformers 4.37.2, tokenization_rag.py; docs/parity.md, A18.

    Args:
      question_encoder: the tokenizer of questions.
      generator: the tokenizer of answers.
    """

    def __init__(self, question_encoder: Tokenizer, generator: Tokenizer):
        for part, tokenizer in (("question_encoder", question_encoder), ("generator", generator)):
            if not isinstance(tokenizer, Tokenizer):
                raise TypeError(f"{part} must be a tokenizer of jaxmodels, got {type(tokenizer).__name__}")
        self.question_encoder, self.generator = question_encoder, generator

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike, *, subfolder: str | None = None, **options: Any
    ) -> Self:
        """Load both tokenizers from the subfolders of a folder or a Hub id; see `jm.load_tokenizer`.

        Options apply to both.
        """
        hub, options = files.split_hub_options(options)
        folder = files.find_folder(name_or_folder, cls.file_names(), subfolder, hub)
        missing = [name for name in RAG_FOLDERS if not (folder / name).is_dir()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}, which a RagTokenizer needs")
        return cls(*(files.load_folder(folder / name, select_class, options) for name in RAG_FOLDERS))

    @staticmethod
    def file_names() -> list[str]:
        """Return the names of all files that may belong to a RAG's tokenizers."""
        return [f"{folder}/{name}" for folder in RAG_FOLDERS for name in files.file_names(TOKENIZERS.values())]

    def save_pretrained(self, save_directory: str | os.PathLike, **other_options: object) -> tuple[str, ...]:
        """Write both tokenizers into their subfolders and return the paths."""
        reject_unsupported("save_pretrained() has no option", other_options, (), unsupported.SAVE)
        parts = zip(RAG_FOLDERS, (self.question_encoder, self.generator), strict=True)
        return tuple(path for name, part in parts for path in part.save_pretrained(Path(save_directory) / name))

    def __call__(
        self,
        text: TextInput | None = None,
        text_pair: TextInput | None = None,
        *,
        text_target: TextInput | None = None,
        **options: Unpack[EncodeKwargs],
    ) -> BatchEncoding:
        """Encode questions, and answers passed as `text_target`, which become `labels`; see `Tokenizer.__call__`."""
        if text is None:
            return self.generator(text_target, **options)
        encoded = self.question_encoder(text, text_pair, **options)
        if text_target is not None:
            encoded["labels"] = self.generator(text_target, **options)["input_ids"]
        return encoded

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **other_options: object,
    ) -> str:
        """Return the text of an answer; see `Tokenizer.decode`."""
        return self.generator.decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces, **other_options)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **other_options: object,
    ) -> list[str]:
        """Return the texts of several answers; see `Tokenizer.batch_decode`."""
        return self.generator.batch_decode(
            sequences, skip_special_tokens, clean_up_tokenization_spaces, **other_options
        )

    def __getattr__(self, name: str) -> Any:
        raise unsupported.missing_attribute("RagTokenizer", name, ["question_encoder", "generator", *dir(type(self))])


_TokenizerT = TypeVar("_TokenizerT", bound=Tokenizer | RagTokenizer)


@overload
def load_tokenizer(
    source: str | os.PathLike, cls: type[_TokenizerT], *, subfolder: str | None = None, **options: Any
) -> _TokenizerT: ...


@overload
def load_tokenizer(
    source: str | os.PathLike, cls: str | None = None, *, subfolder: str | None = None, **options: Any
) -> Any: ...


def load_tokenizer(
    source: str | os.PathLike,
    cls: type[_TokenizerT] | str | None = None,
    *,
    subfolder: str | None = None,
    **options: Any,
) -> Any:
    """Load the tokenizer of a folder or of a model on the Hugging Face Hub.

    Args:
      source: a folder with a tokenizer.json or a family's vocabulary files; or a Hub id such as
        "openai-community/gpt2", of which only the tokenizer's files are downloaded. A folder with RAG's two tokenizers
        gives a `RagTokenizer`.
      cls: the class or its name, with or without "Fast". None and "AutoTokenizer" select it by tokenizer_config.json,
        config.json or the vocabulary; a tokenizer.json that belongs to no family gives a `GenericTokenizer`.
      subfolder: a subfolder of `source`, such as "question_encoder_tokenizer" of a RAG.
      options: revision, token, cache_dir, local_files_only and force_download for huggingface_hub; all others are
        constructor arguments (padding_side="left", pad_token="<|endoftext|>", ...) that override the files.

    Returns:
      A `Tokenizer` or a `RagTokenizer`.

    Raises:
      FileNotFoundError: there is no such folder or file, or the Hub cannot be reached.
      ValueError: a class that is not supported, damaged files, or invalid settings; the message names the file and key.
      TypeError: an unknown option; the message names the replacement.

    Examples:
      >>> tok = jm.load_tokenizer("openai-community/gpt2")
      >>> tok.pad_token = tok.eos_token
      >>> batch = tok(["Hello", "Hello world"], padding=True)
      >>> batch["input_ids"].shape == batch["attention_mask"].shape
      True
      >>> tok.decode(batch["input_ids"][1])
      'Hello world'
    """
    requested = _resolve_class(cls)
    if requested is not None:
        return requested.from_pretrained(source, subfolder=subfolder, **options)
    hub, options = files.split_hub_options(options)
    names = files.file_names(TOKENIZERS.values())
    folder = files.find_folder(source, [*names, *RagTokenizer.file_names()], subfolder, hub)
    if _is_rag(folder):
        return RagTokenizer.from_pretrained(folder, **options)
    return files.load_folder(folder, select_class, options)


def _resolve_class(cls: Any) -> type[Tokenizer] | type[RagTokenizer] | None:
    known = [*TOKENIZERS, RagTokenizer.__name__]
    if isinstance(cls, str):
        if cls == GENERIC:
            return GenericTokenizer
        name = cls.removesuffix("Fast")
        if name not in (*known, AUTO):
            raise ValueError(unknown_name("there is no tokenizer class", cls, [*known, AUTO]))
        return None if name == AUTO else TOKENIZERS.get(name, RagTokenizer)
    if cls is None or isinstance(cls, type) and issubclass(cls, (Tokenizer, RagTokenizer)) and cls is not Tokenizer:
        return cls
    raise TypeError(f"cls must be one of {', '.join(known)}, or its name, got {brief(cls)}")


def _is_rag(folder: Path) -> bool:
    """Whether a folder contains RAG's two tokenizers and none itself."""
    names = files.file_names(TOKENIZERS.values())
    has_tokenizer = any((folder / name).is_file() for name in names if name != files.MODEL_CONFIG)
    return not has_tokenizer and all((folder / name).is_dir() for name in RAG_FOLDERS)


def select_class(folder: FolderSnapshot) -> type[Tokenizer]:
    """Return the class of a folder's tokenizer.

    The `tokenizer_class` of tokenizer_config.json or config.json decides; if it names no family, the `model_type` of
    config.json (llama only with a tokenizer.json like Llama's), and then the vocabulary. A folder with a tokenizer.json
    that belongs to no family gets a `GenericTokenizer`.

    Raises:
      ValueError: no class matches.
    """
    has_json = (folder / files.TOKENIZER).is_file()
    supported = ", ".join(TOKENIZERS)
    config, model_config = files.read_json(folder / files.CONFIG), files.read_json(folder / files.MODEL_CONFIG)
    model_cls = _class_of_model(folder, model_config)
    if model_cls is LlamaTokenizer and has_json and not _is_llama(folder, config):
        model_cls = None
    for file, values in ((files.CONFIG, config), (files.MODEL_CONFIG, model_config)):
        full_name = values.get("tokenizer_class")
        full_name = "" if full_name is None else full_name
        if not isinstance(full_name, str):
            raise ValueError(f"{folder / file}: tokenizer_class must be a str, got {brief(full_name)}")
        name = full_name.removesuffix("Fast")
        if name in TOKENIZERS:
            cls = TOKENIZERS[name]
            # transformers 5 saves BART's and LED's as RobertaTokenizer
            is_variant = model_cls is not None and cls is RobertaTokenizer and issubclass(model_cls, cls)
            return model_cls if model_cls and is_variant and files.is_transformers_5(config) else cls
        if full_name == GENERIC and has_json and model_cls is None:
            return GenericTokenizer
        if name and name not in UNSPECIFIC:
            if not has_json:
                raise ValueError(
                    f"{folder} is for a {truncate(name)} and has no {files.TOKENIZER}, which a GenericTokenizer could "
                    f"read; supported tokenizers are {supported}"
                )
            warnings.warn(
                f"{folder} is for a {truncate(name)}, which is not supported: a GenericTokenizer reads its "
                f"{files.TOKENIZER}",
                stacklevel=6,
            )
            return GenericTokenizer
    if model_cls:
        return model_cls
    model_type = model_config.get("model_type")
    if model_type is not None and not has_json:
        raise ValueError(
            f"{folder} is for the model type {brief(model_type)} and has no {files.TOKENIZER}, which a "
            f"GenericTokenizer could read; supported tokenizers are {supported}"
        )
    if model_type is None:
        tokens, state = _vocabulary_tokens(folder), files.read_json(folder / files.TOKENIZER)
        for cls in TOKENIZERS.values():
            if cls.matches_vocabulary(tokens) and (not has_json or cls.accepts_json(state)):
                return cls
    if has_json:
        return GenericTokenizer
    raise ValueError(
        f"nothing in {folder} says which tokenizer it is for ({supported}): pass cls=, or add a tokenizer_config.json "
        f"with the tokenizer_class. It contains {files.list_files(folder)}"
    )


def _class_of_model(folder: FolderSnapshot, model_config: Mapping[str, Any]) -> type[Tokenizer] | None:
    matching = [cls for cls in TOKENIZERS.values() if model_config.get("model_type") in cls.MODEL_TYPES]
    # each of DPR's models has its own tokenizer
    architectures = model_config.get("architectures") or ()
    if not isinstance(architectures, (list, tuple)):
        raise ValueError(f"{folder / files.MODEL_CONFIG}: architectures must be a list, got {brief(architectures)}")
    named = [f"{model}Tokenizer" for model in architectures]
    return next((cls for cls in matching if cls.__name__ in named), matching[0] if matching else None)


def _is_llama(folder: FolderSnapshot, config: Mapping[str, Any]) -> bool:
    """Whether a model of type llama has Llama's tokenizer: others of this type, such as Llama 3, have their own."""
    name = str(config.get("tokenizer_class"))
    if name.removesuffix("Fast") in TOKENIZERS:
        return True
    return name != GENERIC and LlamaTokenizer.accepts_json(files.read_json(folder / files.TOKENIZER))


def _vocabulary_tokens(folder: FolderSnapshot) -> set[str]:
    """Return the tokens of the vocabulary files in a folder."""
    tokens = _json_tokens(folder / files.TOKENIZER)
    models = []
    for name in files.file_names(TOKENIZERS.values()):
        path = folder / name
        if name not in (*files.NAMES, files.MODEL_CONFIG) and path.is_file():
            if path.suffix == ".json":
                tokens |= files.read_json(path).keys()
            elif path.suffix == ".txt":
                tokens |= set(read_text(path).splitlines())
            else:
                models.append(path)
    # last, since reading one of SentencePiece needs a package
    return read_pieces(models[0]) if not tokens and models else tokens


def _json_tokens(path: Path) -> set[str]:
    model = files.read_json(path).get("model", {})
    vocabulary = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocabulary, list):
        return {entry[0] for entry in vocabulary if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return set(vocabulary) if isinstance(vocabulary, dict) else set()
