"""SentencePiece: its model files, and the base class of the tokenizers that use them (T5, Llama).

From Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer and detokenizer for
Neural Text Processing"; transformers 4.57.6, convert_slow_tokenizer.py.
"""

import json
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import tokenizers
from tokenizers import AddedToken, models

from jaxmodels.messages import truncate
from jaxmodels.tokenization.arguments import AllCommonOptions
from jaxmodels.tokenization.backend import library_errors
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.validation import validate_setting

SPACE = "\u2581"  # represents a space in a piece
# Characters of a piece; trained models have at most a few dozen. The merges of BPE take quadratic time.
MAX_PIECE = 1000


class Spacing(NamedTuple):
    """Where a space is prepended to a text.

    Attributes:
      legacy: also after each special token in it.
      add_prefix_space: False prepends no space at all.
    """

    legacy: bool
    add_prefix_space: bool


class SentencePieceTokenizer(Tokenizer):
    """Base class of the tokenizers that are trained by SentencePiece.

    Args:
      backend: the library's tokenizer.
      vocab_file: the model file, which `save_vocabulary` writes, or None.
      tokenizer_file: the tokenizer.json that `backend` was read from, or None.
      legacy: prepend a space after each special token as at the beginning of a text (True), or only at the beginning
        (False). None means the setting of the tokenizer.json, or True.
      add_prefix_space: False prepends no space at all. None means the setting of the tokenizer.json, or True. The
        attribute is the value that was passed. (Added to transformers after 4.37.2.)
      sp_model_kwargs: must be empty; it configures sampling of tokenizations, which is not supported.
      common: arguments of `Tokenizer`.
    """

    FILES_BESIDE_JSON: ClassVar = ("vocab_file",)
    OPTIONS: ClassVar[tuple[str, ...]] = ("legacy", "add_prefix_space", "sp_model_kwargs")

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        /,
        *,
        vocab_file: str | os.PathLike | None,
        tokenizer_file: str | os.PathLike | None,
        legacy: bool | None,
        add_prefix_space: bool | None,
        sp_model_kwargs: Mapping[str, Any] | None,
        **common: Unpack[AllCommonOptions],
    ):
        validate_setting("sp_model_kwargs", sp_model_kwargs)
        self._legacy: bool | None = validate_setting("legacy", legacy)
        if add_prefix_space is not None:
            add_prefix_space = validate_setting("add_prefix_space", add_prefix_space)
        self._add_prefix_space = add_prefix_space
        self._model_file = None if vocab_file is None else Path(vocab_file).read_bytes()
        found = self._find_spacing(backend, tokenizer_file)
        if found is not None:
            self._legacy = found.legacy if legacy is None else self._legacy
            prepend = found.add_prefix_space if add_prefix_space is None else add_prefix_space
            wanted = Spacing(bool(self._legacy), prepend)
            if wanted != found:
                self._set_spacing(backend, wanted)
        elif legacy is not None or add_prefix_space is not None:
            raise ValueError(
                f"legacy and add_prefix_space need a tokenizer.json that replaces spaces as SentencePiece does, and "
                f"the pre-tokenizer of {tokenizer_file} is {truncate(str(backend.pre_tokenizer))}: omit them"
            )
        super().__init__(backend, **common)

    @property
    def legacy(self) -> bool | None:
        """Whether a space is prepended after each special token; None if texts are not split as by SentencePiece."""
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
    def _find_spacing(cls, backend: tokenizers.Tokenizer, path: str | os.PathLike | None) -> Spacing | None:
        """Return where a tokenizer prepends spaces, or None if it does not replace spaces as SentencePiece does."""
        raise NotImplementedError

    @classmethod
    def _set_spacing(cls, backend: tokenizers.Tokenizer, spacing: Spacing) -> None:
        """Set what a tokenizer does before and after its model."""
        raise NotImplementedError

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the model file (spiece.model, tokenizer.model), with "prefix-" before its name, and return its path.

        Raises:
          ValueError: the tokenizer was made from a tokenizer.json alone, which does not contain all of it.
        """
        name = self.VOCABULARY_FILES["vocab_file"][0]
        if self._model_file is None:
            raise ValueError(
                f"this tokenizer was made from a tokenizer.json without {name}, so it cannot write one: pass "
                "vocab_file, too, or use save_pretrained, which writes the tokenizer.json"
            )
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs an existing folder, got {save_directory}")
        path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
        path.write_bytes(self._model_file)
        return (str(path),)

    def _write_vocabulary(self, folder: Path) -> None:
        if self._model_file is not None:
            self.save_vocabulary(folder)


def check_files(vocab_file: str | os.PathLike | None, tokenizer_file: str | os.PathLike | None) -> None:
    """Raise an error unless one of the files is passed and those that are exist.

    Raises:
      ValueError: neither is passed.
      FileNotFoundError: there is no such file.
    """
    if vocab_file is None and tokenizer_file is None:
        raise ValueError("pass tokenizer_file, or vocab_file, or both")
    for path in (vocab_file, tokenizer_file):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")


def read_model(path: str | os.PathLike) -> Any:
    """Return the ModelProto of a model file, with the pieces, their scores, and the normalization.

    Raises:
      ImportError: the packages sentencepiece and protobuf are not installed.
      ValueError: the file is damaged, or has no pieces or one of them twice.
    """
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
    pieces = [piece.piece for piece in proto.pieces]
    if not pieces or len(set(pieces)) < len(pieces) or max(map(len, pieces)) > MAX_PIECE:
        raise ValueError(
            f"{path} is not a SentencePiece model with distinct pieces of at most {MAX_PIECE} characters: it has "
            f"{len(pieces)} pieces, {len(set(pieces))} of them distinct"
        )
    return proto


def read_pieces(path: Path) -> set[str]:
    """Return the pieces of a model file."""
    return {piece.piece for piece in read_model(path).pieces}


def build_backend(
    proto: Any, path: str | os.PathLike, more_tokens: Sequence[str] = (), byte_fallback: bool = False
) -> tokenizers.Tokenizer:
    """Build the library's tokenizer of a ModelProto, without what precedes and follows the model.

    Args:
      proto: the content of the model file.
      path: its path, for errors.
      more_tokens: tokens whose ids follow those of the pieces.
      byte_fallback: represent unknown characters by the pieces <0x00>, ..., <0xFF>.

    Raises:
      ValueError: the model is neither a unigram model nor BPE, or is damaged.
    """
    spec = proto.trainer_spec
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces] + [(token, 0.0) for token in more_tokens]
    model: Any
    with library_errors(f"{path} does not form a vocabulary"):
        if spec.model_type == spec.UNIGRAM:
            model = models.Unigram(vocabulary, spec.unk_id, byte_fallback)
        elif spec.model_type == spec.BPE:
            ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
            options = {"unk_token": spec.unk_piece, "fuse_unk": True, "byte_fallback": byte_fallback}
            model = models.BPE(ids, make_merges(vocabulary, ids), **options)
        else:
            raise ValueError("its model type is neither unigram nor BPE")
        backend = tokenizers.Tokenizer(model)
    control, user_defined = proto.SentencePiece.CONTROL, proto.SentencePiece.USER_DEFINED
    unsplit = [piece for piece in proto.pieces if piece.type in (control, user_defined)]
    backend.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == control) for piece in unsplit])
    return backend


def make_merges(vocabulary: Sequence[tuple[str, float]], ids: Container[str]) -> list[tuple[str, str]]:
    """Return the merges that make each piece of two others, those of high scores first.

    SentencePiece merges the pair whose piece has the highest score; `tokenizers` the pair that comes first. The order
    among equal scores is that of transformers' generate_merges.
    """
    scored: list[tuple[float, str, str]] = []
    for piece, score in vocabulary:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        scored += [(score, left, right) for left, right in splits if left in ids and right in ids]
    scored.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(left, right) for _, left, right in scored]


def prepend_scheme(spacing: Spacing) -> str:
    """Return the scheme of a Metaspace pre-tokenizer: "always" (also after special tokens), "first" or "never"."""
    if not spacing.add_prefix_space:
        return "never"
    return "always" if spacing.legacy else "first"


def part_states(part: Any, sequence_key: str) -> list[dict[str, Any]]:
    """Return the state of a normalizer, pre-tokenizer or decoder, or of each one in a sequence; [] for None."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state.get(sequence_key, [state])
