"""Base class of all tokenizers: calls, padding, chat templates and saving, on top of the `tokenizers` library."""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, Self, Unpack, overload

import jax
import numpy as np
import tokenizers

from jaxmodels.messages import reject_unsupported
from jaxmodels.tokenization import files, unsupported
from jaxmodels.tokenization.arguments import (
    EncodeKwargs,
    EncodeOptions,
    Example,
    ListEncodeKwargs,
    TextInput,
    Token,
    resolve_lengths,
    to_batch,
)
from jaxmodels.tokenization.backend import Backend, Padding, Truncation
from jaxmodels.tokenization.decoding import Decoding
from jaxmodels.tokenization.encoding import BatchEncoding, collect_fields, pad_batch
from jaxmodels.tokenization.special_tokens import ADDITIONAL, SPECIAL_TOKENS, parse_added_tokens, token_list
from jaxmodels.tokenization.validation import boolean, validate_setting


class Tokenizer(Decoding):
    """Converts text to ids and back. Subclasses read vocabulary files into a tokenizer of the `tokenizers` library.

    Behaviour, names and defaults are those of transformers' fast tokenizers (transformers 4.37.2,
    tokenization_utils_base.py and tokenization_utils_fast.py).

    Args:
      backend: the library's tokenizer. Constructors of subclasses take vocabulary files instead.
      model_max_length: maximum number of tokens of the model's input, None for no limit.
      padding_side, truncation_side: "right" or "left".
      clean_up_tokenization_spaces: remove English spacing (" ." -> ".") after decoding.
      split_special_tokens: tokenize special tokens in a text as ordinary text.
      chat_template: a Jinja template, or several by name.
      model_input_names: the fields that a call returns by default.
      added_tokens_decoder: {id: token}, as in tokenizer_config.json.
      additional_special_tokens: special tokens without a name.
      extra_special_tokens: {name: token} with nonstandard names, which become attributes; or a list, which is
        equivalent to additional_special_tokens.
      special_tokens: bos_token, eos_token, unk_token, sep_token, pad_token, cls_token and mask_token, as str or
        `tokenizers.AddedToken`. Tokens that the vocabulary lacks are added at its end.

    Raises:
      TypeError: an unknown option; the message names the replacement.
      ValueError: an invalid value.
    """

    VOCABULARY_FILES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Constructor argument -> possible names of its file in a folder."""
    FILES_BESIDE_JSON: ClassVar[tuple[str, ...]] = ()
    """Those of VOCABULARY_FILES that are passed in addition to a tokenizer.json."""
    JSON_PARTS: ClassVar[Mapping[str, str]] = {}
    """Classes of the parts of a tokenizer.json that the tokenizer requires, such as {"model": "BPE"}."""
    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    """Values of `model_type` in config.json that this tokenizer belongs to."""
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments of the class that are also attributes and are saved."""
    SAVED_CLASS: ClassVar[str | None] = None
    """`tokenizer_class` of a saved tokenizer_config.json; None for the name of the class."""
    MODEL_INPUT_NAMES: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    PADDING_VALUES: ClassVar[Mapping[str, int]] = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    """Padding values of the fields besides input_ids."""
    DEFAULT_CHAT_TEMPLATE: ClassVar[str | None] = None

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        /,
        *,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = True,
        split_special_tokens: bool = False,
        chat_template: str | Mapping[str, str] | None = None,
        model_input_names: Sequence[str] | None = None,
        added_tokens_decoder: Mapping[int, tokenizers.AddedToken] | None = None,
        additional_special_tokens: Sequence[Token] | None = None,
        extra_special_tokens: Mapping[str, Token] | Sequence[Token] | None = None,
        **special_tokens: Token | None,
    ):
        named = self._reject_options(special_tokens)
        self._engine = Backend(backend)
        self._warned: set[str] = set()
        length = validate_setting("model_max_length", model_max_length)
        self.model_max_length: int = int(1e30) if length is None else length
        self.padding_side: str = validate_setting("padding_side", padding_side)
        self.truncation_side: str = validate_setting("truncation_side", truncation_side)
        clean_up = validate_setting("clean_up_tokenization_spaces", clean_up_tokenization_spaces)
        self.clean_up_tokenization_spaces: bool = clean_up
        self.split_special_tokens: bool = validate_setting("split_special_tokens", split_special_tokens)
        self.chat_template: str | dict[str, str] | None = validate_setting("chat_template", chat_template)
        names = validate_setting("model_input_names", model_input_names)
        self.model_input_names: list[str] = list(self.MODEL_INPUT_NAMES) if names is None else names
        additional = list(token_list(ADDITIONAL, additional_special_tokens or ()))
        extra: Mapping[str, Token] = {}
        if isinstance(extra_special_tokens, Mapping):
            extra = extra_special_tokens
        else:
            listed = token_list("extra_special_tokens", extra_special_tokens or ())
            additional += [token for token in listed if token not in additional]
        self._init_special_tokens(parse_added_tokens(added_tokens_decoder or {}), named, additional, extra)
        self._update_post_processor()

    def _reject_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the special tokens among `options`; raise TypeError for other options unless they have no effect."""
        others = {name: value for name, value in options.items() if name not in SPECIAL_TOKENS}
        known = (*files.ARGUMENTS, *self.OPTIONS)
        reject_unsupported(f"{type(self).__name__} has no option", others, known, unsupported.LOAD)
        return {name: value for name, value in options.items() if name not in others}

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike, *, subfolder: str | None = None, **options: Any
    ) -> Self:
        """Load the tokenizer of a folder or of a model on the Hugging Face Hub as this class.

        Arguments and errors are those of `jm.load_tokenizer`, which selects the class itself.
        """
        hub, options = files.split_hub_options(options)
        folder = files.find_folder(name_or_folder, files.file_names([cls]), subfolder, hub)
        loaded = files.load_folder(folder, lambda _: cls, options)
        assert isinstance(loaded, cls)
        return loaded

    @classmethod
    def resolve_arguments(
        cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Adjust a folder's arguments if its tokenizer.json and tokenizer_config.json may contradict each other."""
        if files.is_transformers_5(config):  # there it is off by default
            arguments = {"clean_up_tokenization_spaces": False} | arguments
        return arguments

    @classmethod
    def accepts_json(cls, state: Mapping[str, Any]) -> bool:
        """Whether a tokenizer.json, whose content is `state`, has the parts that this class requires."""
        for name, required in cls.JSON_PARTS.items():
            part = state.get(name)
            actual = part.get("type") if isinstance(part, Mapping) else None
            if actual != required and not (name == "model" and actual is None):  # old files lack the model's type
                return False
        return True

    @classmethod
    def matches_vocabulary(cls, tokens: AbstractSet[str]) -> bool:
        """Whether a folder without any config belongs to this class, judging by the tokens of its vocabulary."""
        raise NotImplementedError

    def __call__(
        self,
        text: TextInput | None = None,
        text_pair: TextInput | None = None,
        *,
        text_target: TextInput | None = None,
        text_pair_target: TextInput | None = None,
        **options: Unpack[EncodeKwargs],
    ) -> BatchEncoding:
        """Encode a text, a pair of texts, or a batch of them.

        For arrays of the same shape in every call, as compiled functions need them, use
        `tok(texts, padding="max_length", truncation=True, max_length=T)`.

        Args:
          text: a str; or a batch, which is a list, tuple or NumPy array of B str. With is_split_into_words a text is a
            list of words. A list of 2-tuples is a batch of pairs.
          text_pair: the second text of each pair.
          text_target, text_pair_target: encoded in the same way and returned as `labels`.
          options: the fields of `EncodeOptions`.

        Returns:
          Fields [T] for a text and [B, T] for a batch, int32. Fields of a batch whose sequences have different lengths
          are lists of B arrays.

        Raises:
          TypeError: an unknown option, or an input that is not text.
          ValueError: contradictory options, padding without a padding token, or a text that is not valid Unicode.
        """
        parsed = EncodeOptions.from_kwargs("a tokenizer call", options)
        if text is None and text_target is None:
            raise ValueError("nothing to encode: pass text, text_target, or both")
        if text is None and text_pair is not None or text_target is None and text_pair_target is not None:
            raise ValueError("text_pair needs text, and text_pair_target needs text_target")
        targets = None if text_target is None else (text_target, text_pair_target)
        if text is None:
            assert targets is not None
            return self._encode(*targets, parsed)
        encoded = self._encode(text, text_pair, parsed)
        if targets is not None:
            encoded["labels"] = self._encode(*targets, parsed)["input_ids"]
        return encoded

    def _encode(self, text: TextInput, pair: TextInput | None, options: EncodeOptions) -> BatchEncoding:
        examples, batched = to_batch(text, pair, options.is_split_into_words)
        if options.is_split_into_words:
            self._check_pretokenized()
        encodings = self._encode_batch(examples, options)
        if options.max_length is None and options.verbose:
            self._check_length(max(map(len, encodings), default=0), remedy="truncation=True")
        return collect_fields(encodings, options, self.model_input_names, batched)

    def _encode_batch(self, examples: Sequence[Example], options: EncodeOptions) -> list[tokenizers.Encoding]:
        lengths = resolve_lengths(self, options)
        truncation: Truncation | None = None
        padding: Padding | None = None
        if lengths.truncation and lengths.max_length is not None:
            truncation = {
                "max_length": lengths.max_length,
                "stride": options.stride if options.return_overflowing_tokens else 0,
                "strategy": lengths.truncation,
                "direction": self.truncation_side,
            }
        pad_token, pad_token_id = self.pad_token, self.pad_token_id
        if lengths.padding and pad_token is not None and pad_token_id is not None:
            padding = {
                "length": lengths.max_length if lengths.padding == "max_length" else None,
                "pad_to_multiple_of": options.pad_to_multiple_of,
                "direction": options.padding_side or self.padding_side,
                "pad_id": pad_token_id,
                "pad_token": pad_token,
            }
        split = options.split_special_tokens
        return self._engine.encode(
            examples,
            is_pretokenized=options.is_split_into_words,
            add_special_tokens=options.add_special_tokens,
            split_special_tokens=self.split_special_tokens if split is None else split,
            truncation=truncation,
            padding=padding,
        )

    def _check_length(self, longest: int, remedy: str) -> None:
        if longest > self.model_max_length:
            self.warn_once(
                "too long",
                f"a text has {longest} tokens, but the model takes {self.model_max_length}: pass {remedy}, or its "
                "positions will exceed the model's position table",
            )

    def _check_pretokenized(self) -> None:
        """Hook for classes that cannot encode lists of words with every setting."""

    @overload
    def encode(
        self,
        text: TextInput,
        text_pair: TextInput | None = None,
        *,
        return_tensors: None = None,
        **options: Unpack[ListEncodeKwargs],
    ) -> list[int]: ...

    @overload
    def encode(
        self,
        text: TextInput,
        text_pair: TextInput | None = None,
        *,
        return_tensors: Literal["np", "jax"],
        **options: Unpack[ListEncodeKwargs],
    ) -> np.ndarray | jax.Array: ...

    def encode(self, text: TextInput, text_pair: TextInput | None = None, **options: Any) -> Any:
        """Return the ids of a text or pair as a list, or as an array [1, T] with return_tensors.

        Options are the fields of `EncodeOptions`.
        """
        parsed = EncodeOptions.from_kwargs("encode()", options)
        # not self(...), since subclasses may take other inputs there
        return self._ids(self._encode(text, text_pair, parsed), parsed)

    @staticmethod
    def _ids(encoded: BatchEncoding, options: EncodeOptions) -> Any:
        ids = encoded["input_ids"]
        if options.return_tensors:
            return ids
        return [sequence.tolist() for sequence in ids] if isinstance(ids, list) else ids.tolist()

    def encode_plus(
        self, text: TextInput, text_pair: TextInput | None = None, **options: Unpack[EncodeKwargs]
    ) -> BatchEncoding:
        """Encode a text or a pair. An older name of `__call__`."""
        return Tokenizer.__call__(self, text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: TextInput, **options: Unpack[EncodeKwargs]) -> BatchEncoding:
        """Encode a batch of texts or of pairs. An older name of `__call__`."""
        return Tokenizer.__call__(self, batch_text_or_text_pairs, **options)

    def tokenize(
        self, text: TextInput, pair: TextInput | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Return the tokens of a text or pair as strings; options are the other fields of `EncodeOptions`."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens that a call adds to a text or to a pair."""
        return self._backend.num_special_tokens_to_add(boolean("pair", pair))

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Literal["np", "jax"] | None = None,
        **other_options: object,
    ) -> BatchEncoding:
        """Pad inputs that are already encoded.

        Pads input_ids, attention_mask (created if missing) and the other fields of `PADDING_VALUES`; all other fields
        are stacked unpadded as int32 or float32.

        Args:
          encoded_inputs: a list of examples {name: [T]}, a batch {name: B sequences}, or one example.
          padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, return_tensors: as in a call.
          other_options: raise TypeError; the message names the replacement.

        Raises:
          ValueError: an invalid option, or fields that are not numbers or have different batch sizes.
        """
        options = EncodeOptions(
            padding=padding,
            truncation=False,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )
        reject_unsupported("pad() has no option", other_options, (), unsupported.PAD)
        lengths, with_mask = resolve_lengths(self, options), options.return_attention_mask
        pad_id = self.pad_token_id
        return pad_batch(
            encoded_inputs,
            strategy=lengths.padding,
            max_length=lengths.max_length,
            pad_to_multiple_of=options.pad_to_multiple_of,
            padding_side=options.padding_side or self.padding_side,
            padding_values={"input_ids": 0 if pad_id is None else pad_id, **self.PADDING_VALUES},  # None: no padding
            return_attention_mask="attention_mask" in self.model_input_names if with_mask is None else with_mask,
            return_tensors=options.return_tensors,
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Render a conversation [{"role", "content"}, ...], or a list of them, as the model's prompt.

        Args:
          conversation: the messages.
          chat_template: a Jinja template, or the name of one of several; None for the tokenizer's.
          add_generation_prompt: end the prompt with the beginning of the assistant's message.
          continue_final_message: end the prompt with the final message, without the template's text after it.
          tokenize: return ids instead of the text.
          return_dict: return a BatchEncoding instead of ids.
          tokenizer_kwargs: fields of `EncodeOptions`.
          options: further fields of `EncodeOptions`, and variables of the template (tools, documents, ...). Special
            tokens are not added by default, since the template contains them.

        Returns:
          A list of ids (arrays with return_tensors), the text with tokenize=False, or a BatchEncoding with return_dict.

        Raises:
          ImportError: jinja2 is not installed.
          ValueError: an invalid conversation, or a template that fails or refuses the conversation.
          TypeError: an option that is neither of `EncodeOptions` nor a variable of the template.
        """
        generation = boolean("add_generation_prompt", add_generation_prompt)
        final = boolean("continue_final_message", continue_final_message)
        if final and generation:
            raise ValueError("continue_final_message and add_generation_prompt are mutually exclusive")
        chat = _import_chat()
        template = chat.select_template(self.chat_template or self.DEFAULT_CHAT_TEMPLATE, chat_template)
        # the call's options take precedence over variables of the same name
        others = {name: value for name, value in options.items() if not EncodeOptions.has(name)}
        variables = chat.template_variables(template, others)
        call_options = {name: value for name, value in options.items() if name not in variables}
        parsed = EncodeOptions.from_kwargs(
            "apply_chat_template()", {"add_special_tokens": False, **(tokenizer_kwargs or {}), **call_options}
        )
        common = {"add_generation_prompt": generation, **self.special_tokens_map}
        prompt = chat.render_batch(template, conversation, common | variables, final)
        if not boolean("tokenize", tokenize):
            return prompt
        encoded = self._encode(prompt, None, parsed)
        return encoded if boolean("return_dict", return_dict) else self._ids(encoded, parsed)

    def save_pretrained(self, save_directory: str | os.PathLike, **other_options: object) -> tuple[str, ...]:
        """Write the tokenizer's files, which `jm.load_tokenizer` and transformers can load, and return their paths.

        Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and the class's vocabulary files.
        """
        reject_unsupported("save_pretrained() has no option", other_options, (), unsupported.SAVE)
        return files.save_folder(self, save_directory)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the class's vocabulary files, without added tokens, and return their paths."""
        raise NotImplementedError

    def _write_vocabulary(self, folder: Path) -> None:
        """Write the vocabulary files for `save_pretrained`; a subclass may lack them."""
        self.save_vocabulary(folder)

    def warn_once(self, key: str, message: str) -> None:
        """Emit a warning the first time that this tokenizer is called with `key`."""
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(vocab_size={self.vocab_size}, len={len(self)}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )


def _import_chat() -> ModuleType:
    try:
        from jaxmodels.tokenization import chat
    except ImportError as error:
        raise ImportError("chat templates need jinja2, which is not installed: pip install jinja2") from error
    return chat
