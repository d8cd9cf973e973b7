"""T5's tokenizer (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 3.1.3): a unigram model."""

import base64
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxmodels.tokenization import library
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.files import written_by_5
from jaxmodels.tokenization.settings import check
from jaxmodels.tokenization.special_tokens import as_tokens, content
from jaxmodels.tokenization.tokenizer_json import read_tokenizer_json

SPIECE = "spiece.model"
SPACE = "\u2581"  # what stands for a space in a piece
SENTINEL = re.compile(r"<extra_id_\d+>")


class T5Tokenizer(Tokenizer):
    """SentencePiece's unigram model with text </s> and text </s> second text </s>, from a JSON or from spiece.model.

    vocab_file: a spiece.model, which takes the packages of the extra `t5` to read. tokenizer_file: a tokenizer.json.
      Where both are given the tokenizer is the JSON's, and `save_vocabulary` writes the spiece.model.
    extra_ids: the sentinels <extra_id_0>, ... that stand for spans of text; <extra_id_0> has the highest id.
    additional_special_tokens: further ones. They come before the sentinels, unless the sentinels are among them; then
      they must be as many as extra_ids says.
    legacy: what follows a special token gets a space before it, as the beginning of a text does (True), or only the
      beginning does (False). None is what the tokenizer.json does, or True.
    add_prefix_space: False puts a space before neither. None is what the tokenizer.json does, or True. The attribute is
      what was given. (Not in 4.37.2; 4.57 has it.)
    sp_model_kwargs: refused unless empty; it is for the sampling of tokenizations, which is not supported.

    Token types are zeros, where asked for. Further arguments: `Tokenizer`.

    Ids are those of the reference's fast tokenizer (transformers 4.37.2, tokenization_t5_fast.py and the T5Converter of
    convert_slow_tokenizer.py), but for legacy and add_prefix_space, which rule over a tokenizer.json, too; there the
    fast one ignores the former. The slow one (tokenization_t5.py) gives the same ids but for texts that end in </s>, to
    which it adds no second one, and for spaces that it drops: around a token of `add_tokens` and, with legacy=False,
    behind a sentinel.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": (SPIECE,)}
    BESIDE_JSON = ("vocab_file",)
    MODEL_TYPES = ("t5",)
    OPTIONS = ("extra_ids", "legacy", "add_prefix_space", "sp_model_kwargs")

    def __init__(
        self,
        vocab_file=None,
        tokenizer_file=None,
        *,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_ids: int = 100,
        additional_special_tokens: Sequence[str | AddedToken] | None = None,
        legacy: bool | None = None,
        add_prefix_space: bool | None = None,
        sp_model_kwargs: dict | None = None,
        **common,
    ):
        check("sp_model_kwargs", sp_model_kwargs)
        legacy, extra_ids = check("legacy", legacy), check("extra_ids", extra_ids)
        if add_prefix_space is not None:
            add_prefix_space = check("add_prefix_space", add_prefix_space)
        if vocab_file is None and tokenizer_file is None:
            raise ValueError("give tokenizer_file, or vocab_file, or both")
        for path in (vocab_file, tokenizer_file):
            if path is not None and not os.path.isfile(path):
                raise FileNotFoundError(f"there is no file {path}")
        sentinels = _sentinels(extra_ids)
        if tokenizer_file is None:
            backend = _from_spiece(vocab_file, sentinels)
        else:
            backend = read_tokenizer_json(tokenizer_file, "T5's unigram model", model="Unigram", decoder="Metaspace")
        self._extra_ids = extra_ids
        self._spiece = None if vocab_file is None else Path(vocab_file).read_bytes()
        found = _prepend_scheme(backend, tokenizer_file)
        self._legacy = found != "first" if legacy is None else legacy
        self._add_prefix_space = add_prefix_space
        prefix = found != "never" if add_prefix_space is None else add_prefix_space
        scheme = ("always" if self._legacy else "first") if prefix else "never"
        if scheme != found:
            _prepare_texts(backend, _charsmaps(backend), scheme)
        super().__init__(
            backend,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            additional_special_tokens=_with_sentinels(additional_special_tokens, sentinels),
            **common,
        )

    extra_ids = property(attrgetter("_extra_ids"))
    legacy = property(attrgetter("_legacy"))
    add_prefix_space = property(attrgetter("_add_prefix_space"))
    sp_model_kwargs = property(lambda self: {})

    @classmethod
    def settle(cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        arguments = super().settle(arguments, tokenizer_file, config)
        if written_by_5(config):  # which carries these settings along without a meaning
            arguments = {key: value for key, value in arguments.items() if key not in ("legacy", "add_prefix_space")}
        return arguments

    @classmethod
    def recognises(cls, tokens: AbstractSet[str]) -> bool:
        return "<extra_id_0>" in tokens or ({SPACE, "<pad>", "</s>", "<unk>"} <= tokens and "<s>" not in tokens)

    def get_sentinel_tokens(self) -> list[str]:
        """The special tokens <extra_id_...>, in the order of `additional_special_tokens`.

        (The reference gives all additional special tokens, in no order.)
        """
        return [token for token in self.additional_special_tokens if SENTINEL.fullmatch(token)]

    def get_sentinel_token_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write spiece.model, with "prefix-" before its name; -> its path.

        ValueError where the tokenizer was made from a tokenizer.json alone, which does not hold all of it.
        """
        if self._spiece is None:
            raise ValueError(
                f"this tokenizer was made from a tokenizer.json without {SPIECE}, so it has none to write: give "
                "vocab_file, too; save_pretrained writes the tokenizer.json without it"
            )
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs a folder that is there, got {save_directory}")
        path = Path(save_directory) / (f"{filename_prefix}-{SPIECE}" if filename_prefix else SPIECE)
        path.write_bytes(self._spiece)
        return (str(path),)

    def _write_vocabulary(self, folder: Path):
        if self._spiece is not None:
            self.save_vocabulary(folder)

    def _special_tokens_changed(self):
        if self.eos_token is None:
            raise ValueError(f"a T5Tokenizer needs an eos_token, which ends every text, got {self.special_tokens_map}")
        self._backend.post_processor = processors.TemplateProcessing(
            single="$A:0 eos:0",
            pair="$A:0 eos:0 $B:0 eos:0",
            special_tokens=[{"id": "eos", "ids": [self.eos_token_id], "tokens": [self.eos_token]}],
        )


def read_pieces(path) -> set[str]:
    """The pieces of a spiece.model."""
    return {piece.piece for piece in _read_spiece(path).pieces}


def _sentinels(extra_ids: int) -> list[str]:
    return [f"<extra_id_{i}>" for i in range(extra_ids)]


def _with_sentinels(additional: Sequence[str | AddedToken] | None, sentinels: list[str]) -> list:
    additional = list(as_tokens("additional_special_tokens", additional or ()))
    given = sum("<extra_id_" in content(token) for token in additional)
    if given and sentinels and given != len(sentinels):
        raise ValueError(
            f"additional_special_tokens has {given} tokens <extra_id_...> and extra_ids is {len(sentinels)}: leave "
            "them to extra_ids, or give all of them"
        )
    return additional if given else [*additional, *sentinels]


def _read_spiece(path):
    """The ModelProto of a spiece.model: pieces, their scores, and how a text is normalised."""
    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ImportError as error:
        raise ImportError(
            f"reading {path} takes sentencepiece and protobuf, which are not both installed: pip install sentencepiece "
            "protobuf, or give a tokenizer.json"
        ) from error
    try:
        proto = ModelProto.FromString(Path(path).read_bytes())
    except Exception as error:
        raise ValueError(f"{path} is not a SentencePiece model: {error}") from error
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise ValueError(f"{path} is not a SentencePiece unigram model with pieces, as T5's is")
    return proto


def _from_spiece(path, sentinels: list[str]) -> tokenizers.Tokenizer:
    proto = _read_spiece(path)
    if proto.trainer_spec.byte_fallback:
        warnings.warn(
            f"{path} spells characters that it lacks by bytes; here, as in the reference's fast tokenizer, they are "
            "unknown",
            stacklevel=3,
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary = pieces + [(token, 0.0) for token in reversed(sentinels)]
    with library.errors(f"{path} does not make a unigram model"):
        backend = tokenizers.Tokenizer(models.Unigram(vocabulary, proto.trainer_spec.unk_id))
    control, whole = proto.SentencePiece.CONTROL, proto.SentencePiece.USER_DEFINED
    kept = [piece for piece in proto.pieces if piece.type in (control, whole)]
    backend.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == control) for piece in kept])
    charsmap = proto.normalizer_spec.precompiled_charsmap
    _prepare_texts(backend, [charsmap] if charsmap else [], "always")
    return backend


def _prepare_texts(backend: tokenizers.Tokenizer, charsmaps: list[bytes], prepend_scheme: str):
    """What SentencePiece does with a text before and after its model, as the reference's converter puts it."""
    # more than one space counts as one, and those at the end as none
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(tokenizers.Regex(" {2,}"), SPACE)]
    backend.normalizer = normalizers.Sequence([*map(normalizers.Precompiled, charsmaps), *spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme)
    backend.decoder = decoders.Metaspace(SPACE, prepend_scheme)


def _parts(part, several: str) -> list[dict]:
    """The settings of a normalizer or pre-tokenizer, or of each one in a sequence."""
    state = json.loads(part.__getstate__()) if part is not None else {}
    return state.get(several, [state])


def _prepend_scheme(backend: tokenizers.Tokenizer, path) -> str:
    """Before which parts of a text a space is put: "always", "first" or "never"."""
    for part in _parts(backend.pre_tokenizer, "pretokenizers"):
        if part.get("type") == "Metaspace":
            return part["prepend_scheme"]
    raise ValueError(f"{path} does not split a text as T5 does: its pre-tokenizer is {backend.pre_tokenizer}")


def _charsmaps(backend: tokenizers.Tokenizer) -> list[bytes]:
    """SentencePiece's tables of equivalent characters: one, or none."""
    parts = _parts(backend.normalizer, "normalizers")
    return [base64.b64decode(part["precompiled_charsmap"]) for part in parts if part.get("type") == "Precompiled"]
