"""Byte-level BPE tokenizers: GPT-2, RoBERTa, BART and LED. Their vocabularies represent each byte by a character."""

import functools
import json
import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Unpack

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from jaxmodels import download
from jaxmodels.tokenization.arguments import AllCommonOptions, CommonOptionsWithTokens, Token
from jaxmodels.tokenization.backend import check_ids, library_errors, read_tokenizer_json
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.decoding import to_strings
from jaxmodels.tokenization.special_tokens import token_content
from jaxmodels.tokenization.validation import validate_setting


def _byte_characters() -> dict[str, int]:
    """Return {character: byte}: printable Latin-1 represents itself, U+0100 and following the other bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(alphabet[len(printable) :], others, strict=True))


BYTES = _byte_characters()


class ByteLevelTokenizer(Tokenizer):
    """Base class of the byte-level BPE tokenizers.

    Args:
      backend: the library's tokenizer.
      errors: how to decode bytes that are not UTF-8, such as a truncated character at the end of a generation:
        "replace" (U+FFFD), "ignore", "strict" (UnicodeDecodeError), or another error handler of `bytes.decode`.
      add_prefix_space: prepend a space to a text that does not begin with one, so that its first word is tokenized like
        the others. (transformers' slow tokenizers also prepend one to a space; its fast tokenizers and this do not.)
      common: arguments of `Tokenizer`.
    """

    VOCABULARY_FILES: ClassVar = {
        "vocab_file": ("vocab.json", "encoder.json"),
        "merges_file": ("merges.txt", "vocab.bpe"),
    }
    JSON_PARTS: ClassVar = {"model": "BPE", "decoder": "ByteLevel"}
    OPTIONS: ClassVar[tuple[str, ...]] = ("errors", "add_prefix_space")

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        /,
        *,
        errors: str,
        add_prefix_space: bool,
        **common: Unpack[AllCommonOptions],
    ):
        self.errors: str = validate_setting("errors", errors)
        self._add_prefix_space: bool = validate_setting("add_prefix_space", add_prefix_space)
        _set_prefix_space(backend, self._add_prefix_space)
        super().__init__(backend, **common)

    @property
    def add_prefix_space(self) -> bool:
        """Whether a space is prepended to texts."""
        return self._add_prefix_space

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens; `errors` applies to bytes that are not UTF-8."""
        # the characters of added tokens do not represent bytes
        added = self.get_added_vocab()
        parts = [token.encode() if token in added else _token_bytes(token) for token in to_strings(tokens)]
        return b"".join(parts).decode(errors=self.errors)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json and merges.txt, with "prefix-" before their names, and return their paths."""
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs an existing folder, got {save_directory}")
        return tuple(self._backend.model.save(str(save_directory), filename_prefix))

    def _check_pretokenized(self) -> None:
        if not self.add_prefix_space:
            raise ValueError(
                "is_split_into_words=True needs a tokenizer with add_prefix_space=True, since words are encoded with a "
                "leading space: jm.load_tokenizer(folder, add_prefix_space=True)"
            )


class GPT2Tokenizer(ByteLevelTokenizer):
    """GPT-2's tokenizer: byte-level BPE with <|endoftext|> as its only special token.

    From Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; transformers 4.37.2,
    tokenization_gpt2.py and tokenization_gpt2_fast.py.

    Args:
      vocab_file, merges_file: vocab.json and merges.txt.
      tokenizer_file: a tokenizer.json, instead of these.
      errors, add_prefix_space: see `ByteLevelTokenizer`.
      unk_token, bos_token, eos_token: special tokens.
      pad_token: None by default; `tok.pad_token = tok.eos_token` is the usual choice.
      add_bos_token: prepend bos_token to each text, including both texts of a pair. False keeps the post-processor of a
        tokenizer.json. (transformers' fast tokenizer ignores the option; this follows the slow one.)
      common: arguments of `Tokenizer`.
    """

    MODEL_TYPES: ClassVar = ("gpt2", "gpt_neo")
    OPTIONS: ClassVar = (*ByteLevelTokenizer.OPTIONS, "add_bos_token")
    DEFAULT_CHAT_TEMPLATE: ClassVar = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        merges_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        *,
        errors: str = "replace",
        unk_token: Token | None = "<|endoftext|>",
        bos_token: Token | None = "<|endoftext|>",
        eos_token: Token | None = "<|endoftext|>",
        pad_token: Token | None = None,
        sep_token: Token | None = None,
        cls_token: Token | None = None,
        mask_token: Token | None = None,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        **common: Unpack[CommonOptionsWithTokens],
    ):
        self._add_bos_token: bool = validate_setting("add_bos_token", add_bos_token)
        backend = _read_backend(vocab_file, merges_file, tokenizer_file, unk_token)
        if tokenizer_file is None:
            # offsets include the space before a word, as in transformers
            backend.post_processor = processors.ByteLevel(trim_offsets=False)
        super().__init__(
            backend,
            errors=errors,
            add_prefix_space=add_prefix_space,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            sep_token=sep_token,
            cls_token=cls_token,
            mask_token=mask_token,
            **common,
        )

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        # RoBERTa's vocabulary includes GPT-2's
        return "<|endoftext|>" in tokens and "<s>" not in tokens

    @property
    def add_bos_token(self) -> bool:
        """Whether bos_token is prepended to each text."""
        return self._add_bos_token

    def _update_post_processor(self) -> None:
        if not self._add_bos_token:
            return
        if self.bos_token is None:
            raise ValueError("add_bos_token=True needs a bos_token")
        self._backend.post_processor = processors.TemplateProcessing(
            single="bos:0 $A:0",
            pair="bos:0 $A:0 bos:1 $B:1",
            special_tokens=[{"id": "bos", "ids": [self.bos_token_id], "tokens": [self.bos_token]}],
        )


class RobertaTokenizer(ByteLevelTokenizer):
    """RoBERTa's tokenizer, which RoBERTa-PreLayerNorm uses too: <s> text </s> or <s> text </s></s> second text </s>.

    From Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach", section 4.4; transformers 4.37.2,
    tokenization_roberta.py and tokenization_roberta_fast.py. Token types are zeros and are returned on request.

    Args:
      vocab_file, merges_file: vocab.json and merges.txt.
      tokenizer_file: a tokenizer.json, instead of these.
      errors, add_prefix_space: see `ByteLevelTokenizer`.
      cls_token, sep_token: added around texts by a call.
      bos_token, eos_token, unk_token, pad_token: special tokens.
      mask_token: absorbs the space before it, so that it stands for a whole word, unless it is an AddedToken with
        another setting.
      trim_offsets: exclude the space that a token begins with from its offsets.
      common: arguments of `Tokenizer`.
    """

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("roberta-prelayernorm", "roberta")
    OPTIONS: ClassVar = (*ByteLevelTokenizer.OPTIONS, "trim_offsets")

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        merges_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        *,
        errors: str = "replace",
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        sep_token: Token | None = "</s>",
        cls_token: Token | None = "<s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        mask_token: Token | None = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        **common: Unpack[CommonOptionsWithTokens],
    ):
        if isinstance(mask_token, str):
            mask_token = AddedToken(mask_token, lstrip=True, normalized=False, special=True)
        self._trim_offsets: bool = validate_setting("trim_offsets", trim_offsets)
        super().__init__(
            _read_backend(vocab_file, merges_file, tokenizer_file, unk_token),
            errors=errors,
            add_prefix_space=add_prefix_space,
            bos_token=bos_token,
            eos_token=eos_token,
            sep_token=sep_token,
            cls_token=cls_token,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=mask_token,
            **common,
        )

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        return {"<s>", "</s>", "<mask>"} <= tokens

    @property
    def trim_offsets(self) -> bool:
        """Whether offsets exclude the space that a token begins with."""
        return self._trim_offsets

    def _update_post_processor(self) -> None:
        if self.cls_token is None or self.sep_token is None:
            name = type(self).__name__
            raise ValueError(f"a {name} needs a cls_token and a sep_token, got {self.special_tokens_map}")
        # positional, since the second argument's name depends on the release of tokenizers
        self._backend.post_processor = processors.RobertaProcessing(
            (self.sep_token, self.sep_token_id),
            (self.cls_token, self.cls_token_id),
            trim_offsets=self._trim_offsets,
            add_prefix_space=self.add_prefix_space,
        )


class BartTokenizer(RobertaTokenizer):
    """BART's tokenizer: RoBERTa's, for the encoder's texts and, as `text_target`, the decoder's.

    From Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training", section 2; transformers 4.37.2,
    tokenization_bart.py and tokenization_bart_fast.py. Arguments are those of `RobertaTokenizer`.
    """

    MODEL_TYPES: ClassVar = ("bart",)


class LEDTokenizer(BartTokenizer):
    """LED's tokenizer: BART's, whose `pad` also pads `global_attention_mask`, with -1, since 0 means local attention.

    From Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 7; transformers 4.37.2,
    tokenization_led.py and tokenization_led_fast.py. Arguments are those of `RobertaTokenizer`.

    A call does not return this mask; the caller sets it to 1 for tokens that attend to the whole text. It is padded
    also with return_attention_mask=False, where transformers leaves it unpadded.
    """

    MODEL_TYPES: ClassVar = ("led",)
    PADDING_VALUES: ClassVar = {**BartTokenizer.PADDING_VALUES, "global_attention_mask": -1}


def _read_backend(
    vocab_file: str | os.PathLike | None,
    merges_file: str | os.PathLike | None,
    tokenizer_file: str | os.PathLike | None,
    unk_token: Token | None,
) -> tokenizers.Tokenizer:
    """Read vocabulary and merges, without a post-processor, or a tokenizer.json.

    unk_token represents bytes that the vocabulary lacks; if the vocabulary lacks it too, such bytes are dropped. (So
    does transformers' slow tokenizer; its fast one always drops them.)
    """
    present = [path is not None for path in (tokenizer_file, vocab_file, merges_file)]
    if present not in ([True, False, False], [False, True, True]):
        raise ValueError("pass tokenizer_file alone, or vocab_file and merges_file")
    for path in (tokenizer_file, vocab_file, merges_file):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
    if tokenizer_file is not None:
        return read_tokenizer_json(tokenizer_file, "byte-level BPE", ByteLevelTokenizer.JSON_PARTS)
    assert vocab_file is not None
    # the library silently drops entries that are not numbers and wraps numbers beyond its integers
    check_ids(vocab_file, download.read_json(Path(vocab_file)))
    with library_errors(f"{vocab_file} and {merges_file} do not form a byte-level BPE vocabulary"):
        model = models.BPE.from_file(str(vocab_file), str(merges_file))
    if unk_token is not None:
        unk_token = token_content(unk_token)
        if model.token_to_id(unk_token) is not None:
            model.unk_token = unk_token
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


@functools.lru_cache(maxsize=100_000)
def _token_bytes(token: str) -> bytes:
    try:
        return bytes([BYTES[character] for character in token])
    except KeyError:  # ordinary text, which the library's decoder also returns unchanged
        return token.encode()


def _set_prefix_space(backend: tokenizers.Tokenizer, add_prefix_space: bool) -> None:
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer.add_prefix_space = add_prefix_space
        return
    state = json.loads(backend.to_str())["pre_tokenizer"] or {}
    for part in state.get("pretokenizers", []):
        if part["type"] == "ByteLevel" and part["add_prefix_space"] != add_prefix_space:
            raise ValueError(
                f"add_prefix_space={add_prefix_space} contradicts this tokenizer.json, whose pre-tokenizer is a "
                f"sequence with add_prefix_space={part['add_prefix_space']}"
            )
