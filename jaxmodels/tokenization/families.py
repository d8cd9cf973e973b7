"""The families' classes, and which one a folder is for."""

from pathlib import Path
from typing import Any

from jaxmodels.names import no_such
from jaxmodels.tokenization import files, folders
from jaxmodels.tokenization.bart import BartTokenizer
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.dpr import DPRContextEncoderTokenizer, DPRQuestionEncoderTokenizer, DPRReaderTokenizer
from jaxmodels.tokenization.gpt2 import GPT2Tokenizer
from jaxmodels.tokenization.led import LEDTokenizer
from jaxmodels.tokenization.roberta import RobertaTokenizer
from jaxmodels.tokenization.t5 import SPIECE, T5Tokenizer, read_pieces
from jaxmodels.wording import brief, cut

_CLASSES = (GPT2Tokenizer, RobertaTokenizer, BertTokenizer, BartTokenizer, LEDTokenizer, T5Tokenizer)
_CLASSES += (DPRQuestionEncoderTokenizer, DPRContextEncoderTokenizer, DPRReaderTokenizer)
TOKENIZERS: dict[str, type[Tokenizer]] = {cls.__name__: cls for cls in _CLASSES}
"""Every family's classes by Hugging Face's names, without "Fast"; where a folder leaves a choice, the first one."""

NAMES = ", ".join(TOKENIZERS)


def by_name(name: str, extra: tuple[str, ...] = ()) -> str:
    """The name of a class here, for one that may end in Fast; ValueError for others, with the nearest one."""
    known, plain = [*TOKENIZERS, *extra], name.removesuffix("Fast")
    if plain in known:
        return plain
    raise ValueError(no_such("there is no tokenizer class", name, known))


def of_folder(folder: Path) -> type[Tokenizer]:
    """The class by tokenizer_config.json, config.json, or the vocabulary; ValueError where none of them says it."""
    config, model_config = files.read_json(folder / files.CONFIG), files.read_json(folder / folders.MODEL_CONFIG)
    of_model = _of_model(folder, model_config)
    for path, values in ((files.CONFIG, config), (folders.MODEL_CONFIG, model_config)):
        name = values.get("tokenizer_class")
        name = "" if name is None else name
        if not isinstance(name, str):
            raise ValueError(f"{folder / path}: tokenizer_class must be a str, got {brief(name)}")
        name = name.removesuffix("Fast")
        if name in TOKENIZERS:
            cls = TOKENIZERS[name]
            # BART's and LED's are called RoBERTa's there
            more = of_model is not None and cls is RobertaTokenizer and issubclass(of_model, cls)
            return of_model if of_model and more and files.written_by_5(config) else cls
        if name and name not in files.NO_FAMILY:
            raise ValueError(f"{folder} is for a {cut(name)}; the tokenizers here are {NAMES}")
    if of_model:
        return of_model
    model_type = model_config.get("model_type")
    if model_type is not None:
        raise ValueError(f"{folder} is for the model type {model_type!r}; the tokenizers here are {NAMES}")
    tokens = _tokens(folder)
    for cls in TOKENIZERS.values():
        if cls.recognises(tokens):
            return cls
    raise ValueError(
        f"nothing in {folder} says which of {NAMES} it is for: pass cls=, or write a tokenizer_config.json with the "
        f"tokenizer_class. It holds {folders.listing(folder)}"
    )


def _of_model(folder: Path, model_config: dict[str, Any]) -> type[Tokenizer] | None:
    of_type = [cls for cls in TOKENIZERS.values() if model_config.get("model_type") in cls.MODEL_TYPES]
    # DPR's models have a tokenizer each
    architectures = model_config.get("architectures") or ()
    if not isinstance(architectures, (list, tuple)):
        raise ValueError(f"{folder / folders.MODEL_CONFIG}: architectures must be a list, got {architectures!r}")
    named = [f"{model}Tokenizer" for model in architectures]
    return next((cls for cls in of_type if cls.__name__ in named), of_type[0] if of_type else None)


def _tokens(folder: Path) -> set[str]:
    """The tokens of whatever vocabulary a folder holds."""
    tokens = _of_json(folder / files.TOKENIZER)
    for name in folders.patterns(TOKENIZERS.values()):
        path = folder / name
        if name not in (*files.NAMES, folders.MODEL_CONFIG) and path.is_file():
            if path.suffix == ".json":
                tokens |= files.read_json(path).keys()
            elif path.suffix == ".txt":
                tokens |= set(files.read_text(path).splitlines())
    spiece = folder / SPIECE
    # last, since reading it takes a package
    return read_pieces(spiece) if not tokens and spiece.is_file() else tokens


def _of_json(path: Path) -> set[str]:
    model = files.read_json(path).get("model", {})
    vocabulary = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocabulary, list):
        return {entry[0] for entry in vocabulary if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return set(vocabulary) if isinstance(vocabulary, dict) else set()
