"""BERT's tokenizer: basic tokenization and WordPiece.

It is built from parts that a tokenizer.json can hold, and follows transformers' slow tokenizer rather than the fast
one, whose BertNormalizer keeps unassigned characters, does not compose accents in cased text, splits at fewer kinds of
punctuation and does not split at U+2B820 to U+2B91F.

Character classes come from the library's Unicode tables (16.0); transformers' slow tokenizer uses Python's (14.0 in
Python 3.11) and therefore differs in characters that were assigned between these versions.
"""

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Unpack

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from jaxmodels import download
from jaxmodels.messages import brief
from jaxmodels.tokenization.arguments import CommonOptionsWithTokens, Token
from jaxmodels.tokenization.backend import read_tokenizer_json
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.special_tokens import token_content
from jaxmodels.tokenization.validation import validate_setting

# The ranges that BERT treats as Chinese. They include neither kana nor Hangul.
CJK = r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"
# Includes ASCII symbols such as $ and ^.
PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"


def _remove(pattern: str) -> normalizers.Normalizer:
    return normalizers.Replace(tokenizers.Regex(pattern), "")


def _split(pattern: str, behaviour: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behaviour)


CLEAN = _remove(r"[\p{C}\x{FFFD}&&[^\t\n\r]]")
STRIP_ACCENTS = (normalizers.NFD(), _remove(r"\p{Mn}"))
# Python's white space: Unicode's and four control characters.
WORDS = _split(r"[\s\x{1C}-\x{1F}]+", "removed")
CHINESE = _split(f"[{CJK}]", "isolated")


@dataclasses.dataclass(frozen=True)
class BasicTokenization:
    """Processing of a text before WordPiece; the options are those of `BertTokenizer`."""

    do_lower_case: bool
    do_basic_tokenize: bool
    never_split: tuple[str, ...]
    tokenize_chinese_chars: bool
    strip_accents: bool | None

    def normalizer(self) -> normalizers.Normalizer:
        """Return the normalizer for these options."""
        if not self.do_basic_tokenize:
            return normalizers.Sequence([])
        strip = self.do_lower_case if self.strip_accents is None else self.strip_accents
        lower = [normalizers.Lowercase()] if self.do_lower_case else []
        return normalizers.Sequence([CLEAN, *lower, *(STRIP_ACCENTS if strip else [normalizers.NFC()])])

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """Return the pre-tokenizer for these options."""
        if not self.do_basic_tokenize:
            return pre_tokenizers.Sequence([WORDS])
        chinese = [CHINESE] if self.tokenize_chinese_chars else []
        # match whole words of never_split before the punctuation in them
        unsplit = "".join(rf"\A{re.escape(word)}\z|" for word in self.never_split)
        return pre_tokenizers.Sequence([WORDS, *chinese, _split(f"{unsplit}[{PUNCTUATION}]", "isolated")])


class BertTokenizer(Tokenizer):
    """BERT's tokenizer: WordPiece with [CLS] text [SEP] and [CLS] text [SEP] second text [SEP].

    From Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3. Ids are those of
    transformers' slow tokenizer (transformers 4.37.2, tokenization_bert.py); see the module's docstring.

    Args:
      vocab_file: vocab.txt, with one token per line.
      tokenizer_file: a tokenizer.json, instead of it.
      do_lower_case: convert texts to lower case. A cased vocabulary needs False; as in transformers, the option
        overrides a tokenizer.json.
      do_basic_tokenize: False splits at white space only, and the four options below have no effect.
      never_split: words that are not split at punctuation; they must be in the vocabulary.
      tokenize_chinese_chars: make each Chinese character a word.
      strip_accents: remove accents; None means the value of do_lower_case.
      unk_token: represents words that the vocabulary cannot form or that have more than 100 characters.
      cls_token, sep_token: added around texts by a call.
      pad_token, mask_token, bos_token, eos_token: further special tokens.
      common: arguments of `Tokenizer`.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": ("vocab.txt",)}
    JSON_PARTS: ClassVar = {"model": "WordPiece"}
    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("bert",)
    OPTIONS: ClassVar = (
        "do_lower_case",
        "do_basic_tokenize",
        "never_split",
        "tokenize_chinese_chars",
        "strip_accents",
    )
    MODEL_INPUT_NAMES: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        *,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Sequence[str] | None = None,
        unk_token: Token | None = "[UNK]",
        sep_token: Token | None = "[SEP]",
        pad_token: Token | None = "[PAD]",
        cls_token: Token | None = "[CLS]",
        mask_token: Token | None = "[MASK]",
        bos_token: Token | None = None,
        eos_token: Token | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **common: Unpack[CommonOptionsWithTokens],
    ):
        if unk_token is None:
            raise ValueError("BERT's WordPiece needs an unk_token, for words that its vocabulary cannot form")
        # special tokens are never split in any case
        named = (unk_token, sep_token, pad_token, cls_token, mask_token)
        special = {token_content(token) for token in named if token is not None}
        never_split = validate_setting("never_split", never_split) or ()
        self._basic = BasicTokenization(
            do_lower_case=validate_setting("do_lower_case", do_lower_case),
            do_basic_tokenize=validate_setting("do_basic_tokenize", do_basic_tokenize),
            never_split=tuple(word for word in never_split if word not in special),
            tokenize_chinese_chars=validate_setting("tokenize_chinese_chars", tokenize_chinese_chars),
            strip_accents=validate_setting("strip_accents", strip_accents),
        )
        super().__init__(
            _read_backend(vocab_file, tokenizer_file, self._basic, token_content(unk_token)),
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            bos_token=bos_token,
            eos_token=eos_token,
            **common,
        )

    @property
    def do_lower_case(self) -> bool:
        """Whether texts are converted to lower case."""
        return self._basic.do_lower_case

    @property
    def do_basic_tokenize(self) -> bool:
        """Whether texts are cleaned and split at punctuation."""
        return self._basic.do_basic_tokenize

    @property
    def never_split(self) -> tuple[str, ...]:
        """Words that are not split at punctuation."""
        return self._basic.never_split

    @property
    def tokenize_chinese_chars(self) -> bool:
        """Whether each Chinese character is a word."""
        return self._basic.tokenize_chinese_chars

    @property
    def strip_accents(self) -> bool | None:
        """Whether accents are removed; None means the value of do_lower_case."""
        return self._basic.strip_accents

    @classmethod
    def resolve_arguments(
        cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        # transformers 5 does the cleaning up in WordPiece's decoder
        return {"clean_up_tokenization_spaces": True} | arguments

    @classmethod
    def accepts_json(cls, state: Mapping[str, Any]) -> bool:
        normalizer, pre_tokenizer = state.get("normalizer"), state.get("pre_tokenizer")
        return super().accepts_json(state) and (
            _is_original(normalizer, pre_tokenizer) or _is_saved_here(normalizer, pre_tokenizer)
        )

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        return {"[CLS]", "[SEP]"} <= tokens

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.txt, with "prefix-" before its name, and return its path."""
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs an existing folder, got {save_directory}")
        path = Path(save_directory) / (f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt")
        tokens = {i: token for token, i in self._backend.get_vocab(with_added_tokens=False).items()}
        with open(path, "w", encoding="utf-8") as file:
            # an id without a token, since a token occurred twice in the file that was read, keeps an empty line
            file.writelines(tokens.get(i, "") + "\n" for i in range(max(tokens) + 1))
        return (str(path),)

    def _update_post_processor(self) -> None:
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


def _read_backend(
    vocab_file: str | os.PathLike | None,
    tokenizer_file: str | os.PathLike | None,
    basic: BasicTokenization,
    unk_token: str,
) -> tokenizers.Tokenizer:
    """Read a vocabulary or a tokenizer.json, without a post-processor.

    Only the vocabulary and the added tokens of a tokenizer.json are used. `basic` replaces its normalizer and
    pre-tokenizer, as in transformers.

    Raises:
      ValueError: the tokenizer.json is not BERT's, or the vocabulary lacks unk_token.
    """
    if (vocab_file is None) == (tokenizer_file is None):
        raise ValueError("pass tokenizer_file alone, or vocab_file alone")
    path = vocab_file if vocab_file is not None else tokenizer_file
    if path is None or not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    source = None if tokenizer_file is None else _read_bert_json(path, basic)
    model = models.WordPiece(_read_vocabulary(path)) if source is None else source.model
    if model.token_to_id(unk_token) is None:
        raise ValueError(f"{path} has no token {unk_token!r}, which represents unknown words: pass unk_token")
    model.unk_token = unk_token
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = basic.normalizer()
    backend.pre_tokenizer = basic.pre_tokenizer()
    # cleaning up is optional and is done by the tokenizer's own `decode`
    backend.decoder = decoders.WordPiece(prefix=model.continuing_subword_prefix, cleanup=False)
    for word in basic.never_split:
        if model.token_to_id(word) is None or backend.normalizer.normalize_str(word) != word:
            raise ValueError(
                f"never_split: {word!r} is not a token of the vocabulary, or normalization changes it: use "
                "tok.add_tokens instead"
            )
    if source is not None:
        backend.add_tokens([token for _, token in sorted(source.get_added_tokens_decoder().items())])
    return backend


def _read_vocabulary(path: str | os.PathLike) -> dict[str, int]:
    try:
        with open(path, encoding="utf-8") as lines:
            return {line.rstrip("\n"): i for i, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a vocabulary in UTF-8: {error}") from error


def _read_bert_json(path: str | os.PathLike, basic: BasicTokenization) -> tokenizers.Tokenizer:
    source = read_tokenizer_json(path, "BERT's WordPiece", BertTokenizer.JSON_PARTS)
    normalizer, pre_tokenizer = _state(source.normalizer), _state(source.pre_tokenizer)
    original = _is_original(normalizer, pre_tokenizer)
    if not original and not _is_saved_here(normalizer, pre_tokenizer):
        raise ValueError(
            f"{path} is WordPiece, but does not prepare texts as BERT does: its normalizer is {brief(normalizer)}, its "
            f"pre-tokenizer {brief(pre_tokenizer)}"
        )
    if original and normalizer["lowercase"] != basic.do_lower_case:
        lowercase = normalizer["lowercase"]
        warnings.warn(
            f"{path} has lowercase={lowercase}, but do_lower_case={basic.do_lower_case} takes precedence, as in "
            f"transformers: pass do_lower_case={lowercase} unless this is intended",
            stacklevel=2,
        )
    return source


def _is_original(normalizer: Any, pre_tokenizer: Any) -> bool:
    """Whether the normalizer and pre-tokenizer of a tokenizer.json are those of transformers' BERT."""
    types = [part.get("type") if isinstance(part, dict) else None for part in (normalizer, pre_tokenizer)]
    return types == ["BertNormalizer", "BertPreTokenizer"]


def _is_saved_here(normalizer: Any, pre_tokenizer: Any) -> bool:
    """Whether the normalizer and pre-tokenizer of a tokenizer.json are those of `BasicTokenization`."""
    return _first(normalizer, "normalizers") in ([], [_state(CLEAN)]) and _first(pre_tokenizer, "pretokenizers") == [
        _state(WORDS)
    ]


def _first(part: Any, sequence_key: str) -> list[Any]:
    parts = part.get(sequence_key) if isinstance(part, dict) else None
    return parts[:1] if isinstance(parts, list) else []


def _state(part: Any) -> dict[str, Any]:
    return {} if part is None else json.loads(part.__getstate__())


def basic_tokenization_settings(path: str | os.PathLike) -> dict[str, bool | None]:
    """Return the options of a tokenizer.json with BERT's original normalizer; {} for others."""
    normalizer = download.read_json(Path(path)).get("normalizer") or {}
    names = {
        "lowercase": "do_lower_case",
        "handle_chinese_chars": "tokenize_chinese_chars",
        "strip_accents": "strip_accents",
    }
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return {}
    return {option: normalizer[key] for key, option in names.items() if key in normalizer}
