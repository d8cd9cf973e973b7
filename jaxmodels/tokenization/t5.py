"""T5's tokenizer: SentencePiece's unigram model.

From Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section
3.1.3.
"""

import base64
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Unpack

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from jaxmodels.messages import truncate
from jaxmodels.tokenization.arguments import CommonOptions, Token
from jaxmodels.tokenization.backend import read_tokenizer_json
from jaxmodels.tokenization.files import is_transformers_5
from jaxmodels.tokenization.sentencepiece import (
    SPACE,
    SentencePieceTokenizer,
    Spacing,
    build_backend,
    check_files,
    part_states,
    prepend_scheme,
    read_model,
)
from jaxmodels.tokenization.special_tokens import token_content, token_list
from jaxmodels.tokenization.validation import validate_setting

SENTINEL = re.compile(r"<extra_id_\d+>")


class T5Tokenizer(SentencePieceTokenizer):
    """T5's tokenizer: SentencePiece's unigram model with text </s> and text </s> second text </s>.

    Ids are those of transformers' fast tokenizer (transformers 4.37.2, tokenization_t5_fast.py and the T5Converter of
    convert_slow_tokenizer.py), except that legacy and add_prefix_space also override a tokenizer.json, where the fast
    one ignores the former. The slow one (tokenization_t5.py) differs for texts that end in </s>, to which it adds no
    second one, and drops spaces around tokens of `add_tokens` and, with legacy=False, after a sentinel. Token types are
    zeros and are returned on request.

    Args:
      vocab_file: a spiece.model, which needs the packages of the extra `t5`.
      tokenizer_file: a tokenizer.json. With both, the tokenizer is read from this one, and `save_vocabulary` writes the
        spiece.model.
      eos_token: added after texts by a call.
      unk_token, pad_token, bos_token, sep_token, cls_token, mask_token: further special tokens.
      extra_ids: number of sentinels <extra_id_0>, ... that represent spans of text; <extra_id_0> has the highest id.
      additional_special_tokens: further special tokens. They come before the sentinels unless they include these; then
        there must be extra_ids of them.
      legacy, add_prefix_space, sp_model_kwargs: see `SentencePieceTokenizer`.
      common: arguments of `Tokenizer`.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": ("spiece.model",)}
    JSON_PARTS: ClassVar = {"model": "Unigram", "decoder": "Metaspace"}
    MODEL_TYPES: ClassVar = ("t5",)
    OPTIONS: ClassVar = ("extra_ids", *SentencePieceTokenizer.OPTIONS)

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        *,
        eos_token: Token | None = "</s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        bos_token: Token | None = None,
        sep_token: Token | None = None,
        cls_token: Token | None = None,
        mask_token: Token | None = None,
        extra_ids: int = 100,
        additional_special_tokens: Sequence[Token] | None = None,
        legacy: bool | None = None,
        add_prefix_space: bool | None = None,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        **common: Unpack[CommonOptions],
    ):
        self._extra_ids: int = validate_setting("extra_ids", extra_ids)
        sentinels = [f"<extra_id_{i}>" for i in range(self._extra_ids)]
        check_files(vocab_file, tokenizer_file)
        if tokenizer_file is not None:
            backend = read_tokenizer_json(tokenizer_file, "T5's unigram model", self.JSON_PARTS)
        else:
            assert vocab_file is not None
            backend = _from_spiece(vocab_file, sentinels)
        super().__init__(
            backend,
            vocab_file=vocab_file,
            tokenizer_file=tokenizer_file,
            legacy=legacy,
            add_prefix_space=add_prefix_space,
            sp_model_kwargs=sp_model_kwargs,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            bos_token=bos_token,
            sep_token=sep_token,
            cls_token=cls_token,
            mask_token=mask_token,
            additional_special_tokens=_add_sentinels(additional_special_tokens, sentinels),
            **common,
        )

    @property
    def extra_ids(self) -> int:
        """Number of sentinels."""
        return self._extra_ids

    @classmethod
    def resolve_arguments(
        cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        arguments = super().resolve_arguments(arguments, tokenizer_file, config)
        if is_transformers_5(config):  # it copies these settings without applying them
            arguments = {key: value for key, value in arguments.items() if key not in ("legacy", "add_prefix_space")}
        return arguments

    @classmethod
    def accepts_json(cls, state: Mapping[str, Any]) -> bool:
        pre_tokenizer = state.get("pre_tokenizer")
        parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
        has_metaspace = isinstance(parts, list) and any(
            isinstance(part, dict) and part.get("type") == "Metaspace" for part in parts
        )
        return super().accepts_json(state) and has_metaspace

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        return "<extra_id_0>" in tokens or ({SPACE, "<pad>", "</s>", "<unk>"} <= tokens and "<s>" not in tokens)

    def get_sentinel_tokens(self) -> list[str]:
        """Return the special tokens <extra_id_...>, in the order of `additional_special_tokens`.

        (transformers returns all additional special tokens, in arbitrary order.)
        """
        return [token for token in self.additional_special_tokens if SENTINEL.fullmatch(token)]

    def get_sentinel_token_ids(self) -> list[int]:
        """Return the ids of `get_sentinel_tokens`."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())

    @classmethod
    def _find_spacing(cls, backend: tokenizers.Tokenizer, path: str | os.PathLike | None) -> Spacing:
        for part in part_states(backend.pre_tokenizer, "pretokenizers"):
            if part.get("type") == "Metaspace":
                scheme = part["prepend_scheme"]
                return Spacing(legacy=scheme != "first", add_prefix_space=scheme != "never")
        raise ValueError(
            f"{path} does not split texts as T5 does: its pre-tokenizer is {truncate(str(backend.pre_tokenizer))}"
        )

    @classmethod
    def _set_spacing(cls, backend: tokenizers.Tokenizer, spacing: Spacing) -> None:
        _set_text_processing(backend, _charsmaps(backend), spacing)

    def _update_post_processor(self) -> None:
        if self.eos_token is None:
            raise ValueError(f"a T5Tokenizer needs an eos_token, which ends every text, got {self.special_tokens_map}")
        self._backend.post_processor = processors.TemplateProcessing(
            single="$A:0 eos:0",
            pair="$A:0 eos:0 $B:0 eos:0",
            special_tokens=[{"id": "eos", "ids": [self.eos_token_id], "tokens": [self.eos_token]}],
        )


def _add_sentinels(additional: Sequence[Token] | None, sentinels: list[str]) -> list[Token]:
    tokens = list(token_list("additional_special_tokens", additional or ()))
    num_included = sum("<extra_id_" in token_content(token) for token in tokens)
    if num_included and sentinels and num_included != len(sentinels):
        raise ValueError(
            f"additional_special_tokens has {num_included} tokens <extra_id_...> and extra_ids is {len(sentinels)}: "
            "omit them, or pass all of them"
        )
    return tokens if num_included else [*tokens, *sentinels]


def _from_spiece(path: str | os.PathLike, sentinels: list[str]) -> tokenizers.Tokenizer:
    proto = read_model(path)
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise ValueError(f"{path} is not a SentencePiece unigram model, as T5 needs")
    if proto.trainer_spec.byte_fallback:
        warnings.warn(
            f"{path} represents unknown characters by bytes; here, as in transformers' fast tokenizer, they become "
            "unk_token",
            stacklevel=3,
        )
    backend = build_backend(proto, path, sentinels[::-1])
    charsmap = proto.normalizer_spec.precompiled_charsmap
    _set_text_processing(backend, [charsmap] if charsmap else [], Spacing(legacy=True, add_prefix_space=True))
    return backend


def _set_text_processing(backend: tokenizers.Tokenizer, charsmaps: list[bytes], spacing: Spacing) -> None:
    """Set what SentencePiece does before and after its model, as transformers' converter does."""
    # repeated spaces are merged, and those at the end are removed
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(tokenizers.Regex(" {2,}"), SPACE)]
    backend.normalizer = normalizers.Sequence([*map(normalizers.Precompiled, charsmaps), *spaces])
    scheme = prepend_scheme(spacing)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme)
    backend.decoder = decoders.Metaspace(SPACE, scheme)


def _charsmaps(backend: tokenizers.Tokenizer) -> list[bytes]:
    """Return SentencePiece's tables of equivalent characters: one, or none."""
    states = part_states(backend.normalizer, "normalizers")
    return [base64.b64decode(state["precompiled_charsmap"]) for state in states if state.get("type") == "Precompiled"]
