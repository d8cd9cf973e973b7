"""BERT's tokenizer (Devlin et al. 2018, section 3), which DPR uses."""

import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import processors

from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.settings import check
from jaxmodels.tokenization.special_tokens import content
from jaxmodels.tokenization.wordpiece import BasicTokenization, read_backend, write_vocabulary


class BertTokenizer(Tokenizer):
    """WordPiece with [CLS] text [SEP] and [CLS] text [SEP] second text [SEP], from vocab_file or tokenizer_file.

    do_lower_case: lower-case a text. A cased vocabulary needs False: the option rules over a tokenizer.json, as in the
      reference.
    strip_accents: remove accents; None is the same as do_lower_case.
    tokenize_chinese_chars: make every Chinese character a word.
    never_split: words that are kept whole, though they have punctuation in them; they must be in the vocabulary.
    do_basic_tokenize: False leaves a split at white space, and with that nothing for the four options above to do.
    cls_token, sep_token: what a call puts around texts. unk_token: stands for a word that the vocabulary cannot spell
      or that has more than 100 characters. Further arguments: `Tokenizer`.

    Ids are those of the reference's slow tokenizer (transformers 4.37.2, tokenization_bert.py); see `wordpiece`.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": ("vocab.txt",)}
    MODEL_TYPES = ("bert",)
    OPTIONS = ("do_lower_case", "do_basic_tokenize", "never_split", "tokenize_chinese_chars", "strip_accents")
    MODEL_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(
        self,
        vocab_file=None,
        tokenizer_file=None,
        *,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Sequence[str] | None = None,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **common,
    ):
        named = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        if unk_token is None:
            raise ValueError("BERT's WordPiece needs an unk_token, for words that its vocabulary cannot spell")
        # special tokens are never split, anyway
        special = {content(token) for token in named.values() if token is not None}
        self._basic = BasicTokenization(
            do_lower_case=check("do_lower_case", do_lower_case),
            do_basic_tokenize=check("do_basic_tokenize", do_basic_tokenize),
            never_split=tuple(word for word in check("never_split", never_split) or () if word not in special),
            tokenize_chinese_chars=check("tokenize_chinese_chars", tokenize_chinese_chars),
            strip_accents=check("strip_accents", strip_accents),
        )
        super().__init__(read_backend(vocab_file, tokenizer_file, self._basic, content(unk_token)), **named, **common)

    do_lower_case = property(attrgetter("_basic.do_lower_case"))
    do_basic_tokenize = property(attrgetter("_basic.do_basic_tokenize"))
    never_split = property(attrgetter("_basic.never_split"))
    tokenize_chinese_chars = property(attrgetter("_basic.tokenize_chinese_chars"))
    strip_accents = property(attrgetter("_basic.strip_accents"))

    @classmethod
    def settle(cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        # transformers 5 cleans up in WordPiece's decoder
        return {"clean_up_tokenization_spaces": True} | arguments

    @classmethod
    def recognises(cls, tokens: AbstractSet[str]) -> bool:
        return {"[CLS]", "[SEP]"} <= tokens

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.txt, with "prefix-" before its name; -> its path."""
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs a folder that is there, got {save_directory}")
        path = Path(save_directory) / (f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt")
        write_vocabulary(path, self._backend.get_vocab(with_added_tokens=False))
        return (str(path),)

    def _special_tokens_changed(self):
        if None in (self.cls_token, self.sep_token, self.unk_token):
            raise ValueError(f"a BertTokenizer needs cls_token, sep_token and unk_token, got {self.special_tokens_map}")
        self._backend.model.unk_token = self.unk_token
        self._backend.post_processor = processors.TemplateProcessing(
            single="cls:0 $A:0 sep:0",
            pair="cls:0 $A:0 sep:0 $B:1 sep:1",
            special_tokens=[
                {"id": "cls", "ids": [self.cls_token_id], "tokens": [self.cls_token]},
                {"id": "sep", "ids": [self.sep_token_id], "tokens": [self.sep_token]},
            ],
        )
