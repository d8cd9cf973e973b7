"""A tokenizer read from any tokenizer.json, for models whose family has no tokenizer class here."""

import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Unpack

from tokenizers import pre_tokenizers

from jaxmodels.tokenization.arguments import AllCommonOptions, EncodeOptions
from jaxmodels.tokenization.backend import read_tokenizer_json, stored_settings
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.validation import validate_setting


class GenericTokenizer(Tokenizer):
    """Uses a tokenizer.json as it is: its normalizer, pre-tokenizer, model, post-processor and decoder.

    `jm.load_tokenizer` falls back to it for a folder with a tokenizer.json that belongs to no other class. It
    corresponds to transformers' PreTrainedTokenizerFast (transformers 4.57.6, tokenization_utils_fast.py) and is saved
    under that name. One difference: without add_prefix_space, transformers switches it off in a byte-level
    pre-tokenizer, and this class does not.

    A tokenizer.json does not say which of its special tokens is which. `jm.load_tokenizer` takes them from
    special_tokens_map.json or tokenizer_config.json; otherwise they are arguments.

    Args:
      tokenizer_file: the tokenizer.json.
      add_prefix_space: prepend a space to a text that does not begin with one, if the pre-tokenizer is byte-level. None
        means the setting of the tokenizer.json.
      common: arguments of `Tokenizer`, with clean_up_tokenization_spaces=False by default. Defaults of pad_token,
        padding_side and truncation_side are those of the padding and truncation stored in the tokenizer.json, if any.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or an argument is invalid.
    """

    OPTIONS: ClassVar = ("add_prefix_space",)
    SAVED_CLASS: ClassVar = "PreTrainedTokenizerFast"
    MODEL_INPUT_NAMES: ClassVar = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(
        self,
        tokenizer_file: str | os.PathLike,
        *,
        add_prefix_space: bool | None = None,
        **common: Unpack[AllCommonOptions],
    ):
        if not os.path.isfile(tokenizer_file):
            raise FileNotFoundError(f"there is no file {tokenizer_file}")
        backend = read_tokenizer_json(tokenizer_file, "a tokenizer", {})
        if add_prefix_space is not None:
            add_prefix_space = validate_setting("add_prefix_space", add_prefix_space)
            if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
                backend.pre_tokenizer.add_prefix_space = add_prefix_space
        self._add_prefix_space = add_prefix_space
        options: AllCommonOptions = {"clean_up_tokenization_spaces": False}
        options.update(stored_settings(backend))
        options.update(common)
        super().__init__(backend, **options)
        try:
            self._encode_batch(["", ("", "")], EncodeOptions())
        except ValueError as error:
            raise ValueError(f"{tokenizer_file}: the post-processor is invalid: {error}") from error

    @property
    def add_prefix_space(self) -> bool | None:
        """The argument of that name."""
        return self._add_prefix_space

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        return False  # it is only used if no other class matches

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Raise ValueError, since this class has no vocabulary files."""
        raise ValueError("a GenericTokenizer has no vocabulary files besides its tokenizer.json: use save_pretrained")

    def _write_vocabulary(self, folder: Path) -> None:
        """Write nothing; the tokenizer.json contains the vocabulary."""
