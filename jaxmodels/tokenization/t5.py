"""T5's tokenizer: SentencePiece's unigram model.

From Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section
3.1.3.
"""

import base64
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Unpack

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxmodels.messages import truncate
from jaxmodels.tokenization.arguments import CommonOptions, Token
from jaxmodels.tokenization.backend import library_errors, read_tokenizer_json
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.files import is_transformers_5
from jaxmodels.tokenization.special_tokens import token_content, token_list
from jaxmodels.tokenization.validation import validate_setting

SPIECE = "spiece.model"
SPACE = "\u2581"  # represents a space in a piece
SENTINEL = re.compile(r"<extra_id_\d+>")


class T5Tokenizer(Tokenizer):
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
      legacy: prepend a space after each special token as at the beginning of a text (True), or only at the beginning
        (False). None means the setting of the tokenizer.json, or True.
      add_prefix_space: False prepends no space at all. None means the setting of the tokenizer.json, or True. The
        attribute is the value that was passed. (Added to transformers after 4.37.2.)
      sp_model_kwargs: must be empty; it configures sampling of tokenizations, which is not supported.
      common: arguments of `Tokenizer`.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": (SPIECE,)}
    FILES_BESIDE_JSON: ClassVar = ("vocab_file",)
    JSON_PARTS: ClassVar = {"model": "Unigram", "decoder": "Metaspace"}
    MODEL_TYPES: ClassVar = ("t5",)
    OPTIONS: ClassVar = ("extra_ids", "legacy", "add_prefix_space", "sp_model_kwargs")

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
        validate_setting("sp_model_kwargs", sp_model_kwargs)
        legacy, extra_ids = validate_setting("legacy", legacy), validate_setting("extra_ids", extra_ids)
        if add_prefix_space is not None:
            add_prefix_space = validate_setting("add_prefix_space", add_prefix_space)
        if vocab_file is None and tokenizer_file is None:
            raise ValueError("pass tokenizer_file, or vocab_file, or both")
        for path in (vocab_file, tokenizer_file):
            if path is not None and not os.path.isfile(path):
                raise FileNotFoundError(f"there is no file {path}")
        sentinels = [f"<extra_id_{i}>" for i in range(extra_ids)]
        if tokenizer_file is not None:
            backend = read_tokenizer_json(tokenizer_file, "T5's unigram model", self.JSON_PARTS)
        else:
            assert vocab_file is not None
            backend = _from_spiece(vocab_file, sentinels)
        self._extra_ids = extra_ids
        self._spiece = None if vocab_file is None else Path(vocab_file).read_bytes()
        found = _prepend_scheme(backend, tokenizer_file)
        self._legacy = found != "first" if legacy is None else legacy
        self._add_prefix_space = add_prefix_space
        prepend = found != "never" if add_prefix_space is None else add_prefix_space
        scheme = ("always" if self._legacy else "first") if prepend else "never"
        if scheme != found:
            _set_text_processing(backend, _charsmaps(backend), scheme)
        super().__init__(
            backend,
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

    @property
    def legacy(self) -> bool:
        """Whether a space is prepended after each special token."""
        return self._legacy

    @property
    def add_prefix_space(self) -> bool | None:
        """The argument of that name."""
        return self._add_prefix_space

    @property
    def sp_model_kwargs(self) -> dict[str, Any]:
        """Always empty."""
        return {}

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

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write spiece.model, with "prefix-" before its name, and return its path.

        Raises:
          ValueError: the tokenizer was made from a tokenizer.json alone, which does not contain all of it.
        """
        if self._spiece is None:
            raise ValueError(
                f"this tokenizer was made from a tokenizer.json without {SPIECE}, so it cannot write one: pass "
                "vocab_file, too, or use save_pretrained, which writes the tokenizer.json"
            )
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs an existing folder, got {save_directory}")
        path = Path(save_directory) / (f"{filename_prefix}-{SPIECE}" if filename_prefix else SPIECE)
        path.write_bytes(self._spiece)
        return (str(path),)

    def _write_vocabulary(self, folder: Path) -> None:
        if self._spiece is not None:
            self.save_vocabulary(folder)

    def _update_post_processor(self) -> None:
        if self.eos_token is None:
            raise ValueError(f"a T5Tokenizer needs an eos_token, which ends every text, got {self.special_tokens_map}")
        self._backend.post_processor = processors.TemplateProcessing(
            single="$A:0 eos:0",
            pair="$A:0 eos:0 $B:0 eos:0",
            special_tokens=[{"id": "eos", "ids": [self.eos_token_id], "tokens": [self.eos_token]}],
        )


def read_pieces(path: Path) -> set[str]:
    """Return the pieces of a spiece.model."""
    return {piece.piece for piece in _read_spiece(path).pieces}


def _add_sentinels(additional: Sequence[Token] | None, sentinels: list[str]) -> list[Token]:
    tokens = list(token_list("additional_special_tokens", additional or ()))
    num_included = sum("<extra_id_" in token_content(token) for token in tokens)
    if num_included and sentinels and num_included != len(sentinels):
        raise ValueError(
            f"additional_special_tokens has {num_included} tokens <extra_id_...> and extra_ids is {len(sentinels)}: "
            "omit them, or pass all of them"
        )
    return tokens if num_included else [*tokens, *sentinels]


def _read_spiece(path: str | os.PathLike) -> Any:
    """Return the ModelProto of a spiece.model, with the pieces, their scores, and the normalization."""
    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # built at import
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs sentencepiece and protobuf, which are not both installed: pip install sentencepiece "
            "protobuf, or provide a tokenizer.json"
        ) from error
    try:
        proto = ModelProto.FromString(Path(path).read_bytes())
    except Exception as error:
        raise ValueError(f"{path} is not a SentencePiece model: {truncate(str(error))}") from error
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise ValueError(f"{path} is not a SentencePiece unigram model with pieces, as T5 needs")
    return proto


def _from_spiece(path: str | os.PathLike, sentinels: list[str]) -> tokenizers.Tokenizer:
    proto = _read_spiece(path)
    if proto.trainer_spec.byte_fallback:
        warnings.warn(
            f"{path} represents unknown characters by bytes; here, as in transformers' fast tokenizer, they become "
            "unk_token",
            stacklevel=3,
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary = pieces + [(token, 0.0) for token in reversed(sentinels)]
    with library_errors(f"{path} does not form a unigram model"):
        backend = tokenizers.Tokenizer(models.Unigram(vocabulary, proto.trainer_spec.unk_id))
    control, user_defined = proto.SentencePiece.CONTROL, proto.SentencePiece.USER_DEFINED
    unsplit = [piece for piece in proto.pieces if piece.type in (control, user_defined)]
    backend.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == control) for piece in unsplit])
    charsmap = proto.normalizer_spec.precompiled_charsmap
    _set_text_processing(backend, [charsmap] if charsmap else [], "always")
    return backend


def _set_text_processing(backend: tokenizers.Tokenizer, charsmaps: list[bytes], prepend_scheme: str) -> None:
    """Set what SentencePiece does before and after its model, as transformers' converter does."""
    # repeated spaces are merged, and those at the end are removed
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(tokenizers.Regex(" {2,}"), SPACE)]
    backend.normalizer = normalizers.Sequence([*map(normalizers.Precompiled, charsmaps), *spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme)
    backend.decoder = decoders.Metaspace(SPACE, prepend_scheme)


def _parts(part: Any, sequence_key: str) -> list[dict[str, Any]]:
    """Return the state of a normalizer or pre-tokenizer, or of each one in a sequence."""
    state = json.loads(part.__getstate__()) if part is not None else {}
    return state.get(sequence_key, [state])


def _prepend_scheme(backend: tokenizers.Tokenizer, path: str | os.PathLike | None) -> str:
    """Return where the pre-tokenizer prepends a space: "always", "first" or "never"."""
    for part in _parts(backend.pre_tokenizer, "pretokenizers"):
        if part.get("type") == "Metaspace":
            return part["prepend_scheme"]
    raise ValueError(
        f"{path} does not split texts as T5 does: its pre-tokenizer is {truncate(str(backend.pre_tokenizer))}"
    )


def _charsmaps(backend: tokenizers.Tokenizer) -> list[bytes]:
    """Return SentencePiece's tables of equivalent characters: one, or none."""
    parts = _parts(backend.normalizer, "normalizers")
    return [base64.b64decode(part["precompiled_charsmap"]) for part in parts if part.get("type") == "Precompiled"]
