"""From a folder or a Hub id to the tokenizer that it is for."""

import os

from jaxmodels.tokenization import families, folders
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.families import TOKENIZERS
from jaxmodels.tokenization.rag import RagTokenizer, is_rag

ALL = (*TOKENIZERS, RagTokenizer.__name__)
AUTO = "AutoTokenizer"


def load_tokenizer(
    source: str | os.PathLike,
    cls: type[Tokenizer] | type[RagTokenizer] | str | None = None,
    *,
    subfolder: str | None = None,
    **options,
):
    """The tokenizer of a folder, or of a model on the Hugging Face Hub.

    source: a folder with tokenizer.json or the family's vocabulary files; or a Hub id such as "openai-community/gpt2",
      of which only the tokenizer's files are fetched. A folder of RAG's two tokenizers gives a `RagTokenizer`.
    cls: the class, or its name (with "Fast" or without); None and "AutoTokenizer" take it from tokenizer_config.json,
      config.json, or the vocabulary.
    subfolder: "question_encoder_tokenizer", say, of a RAG.
    options: revision, token, cache_dir, local_files_only and force_download, for huggingface_hub; the others are
      constructor arguments (padding_side="left", pad_token="<|endoftext|>", ...) in place of what the files say.

    Raises FileNotFoundError where there is no such folder or file, or the Hub cannot be reached; ValueError for a
    tokenizer class that is not here, for damaged files and for wrong settings, with the file and the key; TypeError for
    an unknown option, with what to write instead.
    """
    wanted = _wanted(cls)
    if wanted is not None:
        return wanted.from_pretrained(source, subfolder=subfolder, **options)
    hub, options = folders.hub_options(options)
    own = folders.patterns(TOKENIZERS.values())
    folder = folders.find(source, [*own, *RagTokenizer.patterns()], subfolder, hub)
    if is_rag(folder):
        return RagTokenizer.from_pretrained(folder, **options)
    return folders.load(folder, families.of_folder, options)


def _wanted(cls) -> type[Tokenizer] | type[RagTokenizer] | None:
    if isinstance(cls, str):
        name = families.by_name(cls, extra=(RagTokenizer.__name__, AUTO))
        return None if name == AUTO else TOKENIZERS.get(name, RagTokenizer)
    if cls is None or isinstance(cls, type) and issubclass(cls, (Tokenizer, RagTokenizer)) and cls is not Tokenizer:
        return cls
    raise TypeError(f"cls must be one of {', '.join(ALL)}, or its name, got {cls!r}")
