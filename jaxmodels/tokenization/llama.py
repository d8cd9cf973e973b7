"""Llama's tokenizer: SentencePiece's BPE, which represents unknown characters by their bytes.

From Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.1.
"""

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Unpack

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from jaxmodels.tokenization.arguments import CommonOptionsWithPadding, Token
from jaxmodels.tokenization.backend import library_errors, read_tokenizer_json, stored_settings
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
from jaxmodels.tokenization.special_tokens import token_content
from jaxmodels.tokenization.validation import validate_setting


class LlamaTokenizer(SentencePieceTokenizer):
    """Llama's tokenizer: <s> text, or <s> text <s> second text.

    Ids are those of transformers' fast tokenizer (transformers 4.57.6, tokenization_llama_fast.py and the
    LlamaConverter of convert_slow_tokenizer.py). Like that, it takes any tokenizer.json, such as the byte-level ones of
    models that name this class, and replaces its post-processor. Token types, 0 and 1, are returned on request.

    Args:
      vocab_file: a tokenizer.model of SentencePiece, which needs the packages of the extra `t5`.
      tokenizer_file: a tokenizer.json. With both, the tokenizer is read from this one, and `save_vocabulary` writes the
        tokenizer.model.
      unk_token, bos_token, eos_token: special tokens.
      add_bos_token, add_eos_token: whether a call adds bos_token before each text, including both texts of a pair, and
        eos_token after it. None means what the post-processor of the tokenizer.json does. They can also be set.
      legacy, add_prefix_space, sp_model_kwargs: see `SentencePieceTokenizer`. In a folder with a tokenizer.json,
        tokenizer_config.json sets them only if it has an add_prefix_space. (transformers then needs a tokenizer.model.)
      common: arguments of `Tokenizer`, with padding_side="left" and clean_up_tokenization_spaces=False by default and
        no pad_token; `tok.pad_token = tok.eos_token` is the usual choice. Defaults of pad_token, padding_side and
        truncation_side are those of the padding and truncation stored in the tokenizer.json, if any.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: a tokenizer.model without the packages that read it.
      ValueError: a damaged file, an invalid argument, or no bos_token or eos_token to add.
    """

    VOCABULARY_FILES: ClassVar = {"vocab_file": ("tokenizer.model",)}
    MODEL_TYPES: ClassVar = ("llama",)
    OPTIONS: ClassVar = ("add_bos_token", "add_eos_token", *SentencePieceTokenizer.OPTIONS)

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        *,
        unk_token: Token | None = "<unk>",
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        add_bos_token: bool | None = True,
        add_eos_token: bool | None = False,
        legacy: bool | None = None,
        add_prefix_space: bool | None = None,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        **common: Unpack[CommonOptionsWithPadding],
    ):
        check_files(vocab_file, tokenizer_file)
        if tokenizer_file is not None:
            backend = read_tokenizer_json(tokenizer_file, "a tokenizer", {})
        else:
            assert vocab_file is not None
            backend = build_backend(read_model(vocab_file), vocab_file, byte_fallback=True)
            self._set_spacing(backend, Spacing(legacy=True, add_prefix_space=True))
        options: CommonOptionsWithPadding = {"padding_side": "left", "clean_up_tokenization_spaces": False}
        options.update(stored_settings(backend))
        options.update(common)
        if add_bos_token is None or add_eos_token is None:
            with library_errors(f"{tokenizer_file}: the post-processor is invalid"):
                adds_bos, adds_eos = _added_tokens(backend, bos_token, eos_token)
            add_bos_token = adds_bos if add_bos_token is None else add_bos_token
            add_eos_token = adds_eos if add_eos_token is None else add_eos_token
        self._add_bos_token: bool = validate_setting("add_bos_token", add_bos_token)
        self._add_eos_token: bool = validate_setting("add_eos_token", add_eos_token)
        super().__init__(
            backend,
            vocab_file=vocab_file,
            tokenizer_file=tokenizer_file,
            legacy=legacy,
            add_prefix_space=add_prefix_space,
            sp_model_kwargs=sp_model_kwargs,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            **options,
        )

    @property
    def add_bos_token(self) -> bool:
        """Whether a call adds bos_token before each text."""
        return self._add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos_token = validate_setting("add_bos_token", value)
        self._update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether a call adds eos_token after each text."""
        return self._add_eos_token

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos_token = validate_setting("add_eos_token", value)
        self._update_post_processor()

    @classmethod
    def resolve_arguments(
        cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        arguments = super().resolve_arguments(arguments, tokenizer_file, config)
        if is_transformers_5(config):  # there the post-processor counts, unless the config has these settings
            arguments = {"add_bos_token": None, "add_eos_token": None} | arguments
        if config.get("tokenizer_class") == "TokenizersBackend":  # which has another default
            arguments = {"padding_side": "right"} | arguments
        # Published folders say legacy=false beside a tokenizer.json that does the opposite; the reference follows that
        # unless there is an add_prefix_space. Release 5 copies both without applying them.
        if is_transformers_5(config) or "add_prefix_space" not in arguments:
            arguments = {key: value for key, value in arguments.items() if key not in ("legacy", "add_prefix_space")}
        return arguments

    @classmethod
    def accepts_json(cls, state: Mapping[str, Any]) -> bool:
        decoder = state.get("decoder")
        steps = decoder.get("decoders") if isinstance(decoder, dict) else None
        return isinstance(steps, list) and {"type": "ByteFallback"} in steps

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        return {"<0x0A>", "<s>", "</s>"} <= tokens

    @classmethod
    def _find_spacing(cls, backend: tokenizers.Tokenizer, path: str | os.PathLike | None) -> Spacing | None:
        for part in part_states(backend.pre_tokenizer, "pretokenizers"):
            if part["type"] == "Metaspace":
                scheme = part["prepend_scheme"]
                return Spacing(legacy=scheme == "always", add_prefix_space=scheme != "never")
        steps = part_states(backend.normalizer, "normalizers")
        if not any(step["type"] == "Replace" and step["content"] == SPACE for step in steps):
            return None
        return Spacing(legacy=True, add_prefix_space=any(step["type"] == "Prepend" for step in steps))

    @classmethod
    def _set_spacing(cls, backend: tokenizers.Tokenizer, spacing: Spacing) -> None:
        """Set what SentencePiece does before and after its model, as transformers' converter does."""
        prepend = spacing.add_prefix_space
        normalizer: Any = None
        pre_tokenizer: Any = None
        if spacing.legacy:
            steps = [normalizers.Prepend(SPACE)] if prepend else []
            normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
        else:
            pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme(spacing), split=False)
        backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
        strip = [decoders.Strip(" ", left=1)] if prepend else []
        backend.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )

    def _update_post_processor(self) -> None:
        bos, eos = ["bos"] * self._add_bos_token, ["eos"] * self._add_eos_token
        special_tokens = []
        for name in (*bos, *eos):
            token = self._special.get(f"{name}_token")
            if token is None:
                raise ValueError(f"add_{name}_token=True needs an {name}_token")
            special_tokens.append({"id": name, "ids": [self._backend.token_to_id(token)], "tokens": [token]})
        single, second = [*bos, "$A", *eos], [*bos, "$B", *eos]
        self._backend.post_processor = processors.TemplateProcessing(
            single=[f"{part}:0" for part in single],
            pair=[*(f"{part}:0" for part in single), *(f"{part}:1" for part in second)],
            special_tokens=special_tokens,
        )


def _added_tokens(backend: tokenizers.Tokenizer, bos_token: Token | None, eos_token: Token | None) -> tuple[bool, bool]:
    """Return whether a post-processor adds bos_token before a text and eos_token after it."""
    backend.no_truncation()
    backend.no_padding()
    ids = backend.encode("a").ids

    def is_token(token: Token | None, index: int) -> bool:
        return token is not None and ids[index : index + 1 or None] == [backend.token_to_id(token_content(token))]

    return is_token(bos_token, 0), is_token(eos_token, -1)
