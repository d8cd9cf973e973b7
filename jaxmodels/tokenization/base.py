"""The tokenizer that the five families share: calls, padding, decoding, saving, on the `tokenizers` library."""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar

import tokenizers

from jaxmodels.tokenization import chat, files
from jaxmodels.tokenization.decoding import Decoding
from jaxmodels.tokenization.encoding import BatchEncoding, as_array, stack
from jaxmodels.tokenization.engine import Engine
from jaxmodels.tokenization.inputs import as_batch
from jaxmodels.tokenization.options import EncodeOptions, bounds, check_choice
from jaxmodels.tokenization.padding import pad_fields
from jaxmodels.tokenization.special_tokens import ADDITIONAL, SPECIAL_TOKENS, SpecialTokens


class Tokenizer(SpecialTokens, Decoding):
    """Text to ids and back. A family's class reads its vocabulary files and hands the library's tokenizer to this one.

    Behaviours, names and defaults are those of Hugging Face's fast tokenizers (transformers 4.37.2,
    tokenization_utils_base.py and tokenization_utils_fast.py). Arguments that every family takes:

    model_max_length: tokens the model can take, None for no limit.
    padding_side, truncation_side: "right" or "left".
    clean_up_tokenization_spaces: undo English spacing (" ." -> ".") after decoding.
    split_special_tokens: treat special tokens in a text as ordinary text.
    chat_template: a Jinja template, or several by name.
    model_input_names: the fields that a call returns by default.
    added_tokens_decoder: {id: token}, as in tokenizer_config.json.
    bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token, additional_special_tokens: special
      tokens, str or `tokenizers.AddedToken`; those that the vocabulary lacks are added at its end.
    """

    VOCABULARY_FILES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Constructor argument -> the names its file goes by in a folder."""
    BESIDE_JSON: tuple[str, ...] = ()
    """Those of these arguments that are given beside a tokenizer.json, too, since it does not hold all that they do."""
    MODEL_TYPES: tuple[str, ...] = ()
    """`model_type` of the config.json that this tokenizer belongs to."""
    OPTIONS: tuple[str, ...] = ()
    """Constructor arguments of the family that are attributes, too, and are saved."""
    MODEL_INPUT_NAMES = ("input_ids", "attention_mask")
    PADDING_VALUES: ClassVar[Mapping[str, int]] = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    """What `pad` pads fields with, beside the ids."""
    DEFAULT_CHAT_TEMPLATE: str | None = None

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = True,
        split_special_tokens: bool = False,
        chat_template: str | Mapping[str, str] | None = None,
        model_input_names: Sequence[str] | None = None,
        added_tokens_decoder: Mapping[int, tokenizers.AddedToken] | None = None,
        **special_tokens,
    ):
        unknown = sorted(set(special_tokens) - {*SPECIAL_TOKENS, ADDITIONAL})
        if unknown:
            raise TypeError(f"{type(self).__name__}() got unexpected keyword arguments: {', '.join(unknown)}")
        check_choice("padding_side", padding_side, ["right", "left"])
        check_choice("truncation_side", truncation_side, ["right", "left"])
        self._engine = Engine(backend)
        self._warned = set()
        self.model_max_length = int(1e30) if model_max_length is None else model_max_length
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.split_special_tokens = split_special_tokens
        self.chat_template = chat_template
        self.model_input_names = list(self.MODEL_INPUT_NAMES if model_input_names is None else model_input_names)
        self._set_up_tokens(added_tokens_decoder or {}, special_tokens)
        self._special_tokens_changed()

    @classmethod
    def recognises(cls, tokens: AbstractSet[str]) -> bool:
        """Whether a folder without any config is this family's, by the tokens of its vocabulary."""
        raise NotImplementedError

    @property
    def _backend(self) -> tokenizers.Tokenizer:
        return self._engine.tokenizer

    def __call__(
        self, text=None, text_pair=None, *, text_target=None, text_pair_target=None, **options
    ) -> BatchEncoding:
        """Encode a text or a batch, with `text_pair` pairs; `options` are the fields of `EncodeOptions`.

        text: str -> fields [T]; list, tuple or numpy array of B str -> fields [B, T] int32, or lists of B arrays where
        rows have different lengths. A list of 2-tuples is a batch of pairs. With is_split_into_words a text is a list
        of words. `text_target` is encoded the same way and becomes `labels`.

        For arrays of one shape in every call, as a compiled function wants them:
        `tok(texts, padding="max_length", truncation=True, max_length=T)`.

        Raises TypeError for an unknown option and for what is not text, ValueError for options that contradict each
        other, for padding without a pad token, and for text that is not valid Unicode.
        """
        options = EncodeOptions(**options)
        if text is None and text_target is None:
            raise ValueError("nothing to encode: give text, text_target, or both")
        if text is None:
            return self._encode(text_target, text_pair_target, options)
        encoded = self._encode(text, text_pair, options)
        if text_target is not None:
            encoded["labels"] = self._encode(text_target, text_pair_target, options)["input_ids"]
        return encoded

    def _encode(self, text, pair, options: EncodeOptions) -> BatchEncoding:
        rows, batched = as_batch(text, pair, options.is_split_into_words)
        if options.is_split_into_words:
            self._check_words()
        encodings = self._run(rows, options)
        if options.max_length is None:
            self._check_length(max(map(len, encodings), default=0), remedy="truncation=True")
        sample = range(len(encodings))
        if options.return_overflowing_tokens:
            sample = [i for i, row in enumerate(encodings) for _ in range(1 + len(row.overflowing))]
            encodings = [part for row in encodings for part in (row, *row.overflowing)]
        wanted = {
            "input_ids": ("ids", True),
            "token_type_ids": ("type_ids", options.return_token_type_ids),
            "attention_mask": ("attention_mask", options.return_attention_mask),
            "special_tokens_mask": ("special_tokens_mask", options.return_special_tokens_mask),
            "offset_mapping": ("offsets", options.return_offsets_mapping),
        }
        fields = {}
        for name, (source, asked) in wanted.items():
            if name in self.model_input_names if asked is None else asked:
                width = (2,) if source == "offsets" else ()
                columns = [as_array(getattr(row, source)).reshape(-1, *width) for row in encodings]
                fields[name] = stack(columns, options.return_tensors)
        if not (batched or options.return_tensors or options.return_overflowing_tokens):
            fields = {name: value[0] for name, value in fields.items()}
        if options.return_length:
            fields["length"] = as_array([len(row) for row in encodings], options.return_tensors)
        if options.return_overflowing_tokens:
            fields["overflow_to_sample_mapping"] = as_array(sample, options.return_tensors)
        return BatchEncoding(fields, encodings)

    def _run(self, rows: list, options: EncodeOptions) -> list[tokenizers.Encoding]:
        limits = bounds(self, options.padding, options.truncation, options.max_length, options.pad_to_multiple_of)
        truncation = limits.truncation and {
            "max_length": limits.max_length,
            "stride": options.stride if options.return_overflowing_tokens else 0,
            "strategy": limits.truncation,
            "direction": self.truncation_side,
        }
        padding = limits.padding and {
            "length": limits.max_length if limits.padding == "max_length" else None,
            "pad_to_multiple_of": options.pad_to_multiple_of,
            "direction": options.padding_side or self.padding_side,
            "pad_id": self.pad_token_id,
            "pad_token": self.pad_token,
        }
        return self._engine.encode(
            rows,
            words=options.is_split_into_words,
            add_special_tokens=options.add_special_tokens,
            split_special_tokens=self.split_special_tokens,
            truncation=truncation,
            padding=padding,
        )

    def _check_length(self, longest: int, remedy: str):
        if longest > self.model_max_length:
            self.warn_once(
                "too long",
                f"a text has {longest} tokens and the model takes {self.model_max_length}: pass {remedy}, "
                "or the model will read past its position table",
            )

    def _check_words(self):
        """For a family that cannot encode texts split into words as it is set up."""

    def encode(self, text, text_pair=None, **options) -> list[int]:
        """The ids of one text or pair as a list, or as an array [1, T] with return_tensors."""
        # not a family's own call, which may take other texts
        ids = Tokenizer.__call__(self, text, text_pair, **options)["input_ids"]
        if options.get("return_tensors"):
            return ids
        return [row.tolist() for row in ids] if isinstance(ids, list) else ids.tolist()

    def tokenize(self, text, pair=None, add_special_tokens: bool = False, **options) -> list[str]:
        """The tokens of one text or pair as strings."""
        return Tokenizer.__call__(self, text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call puts around a text, or around a pair."""
        return self._backend.num_special_tokens_to_add(pair)

    def pad(
        self,
        encoded_inputs: Mapping | Sequence[Mapping],
        padding: bool | str = True,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad ids encoded before: a list of examples {name: [T]}, a batch {name: B rows}, or one example.

        Pads input_ids, attention_mask (made where missing) and what else `PADDING_VALUES` names; other fields are
        stacked as they are. Options as in a call.
        """
        limits = bounds(self, padding, False, max_length, pad_to_multiple_of)
        asked = return_attention_mask
        return pad_fields(
            encoded_inputs,
            strategy=limits.padding,
            max_length=limits.max_length,
            multiple=pad_to_multiple_of,
            side=padding_side or self.padding_side,
            fill={"input_ids": self.pad_token_id, **self.PADDING_VALUES},
            return_attention_mask="attention_mask" in self.model_input_names if asked is None else asked,
            return_tensors=return_tensors,
        )

    def apply_chat_template(
        self,
        conversation: Sequence,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        **options,
    ):
        """A conversation [{"role", "content"}, ...], or a list of them, as the model's prompt.

        -> list of ids (arrays with return_tensors), the text with tokenize=False, a BatchEncoding with return_dict.
        chat_template: a Jinja template, or the name of one of several; None is the tokenizer's own.
        options: the fields of `EncodeOptions`; special tokens other than the template's are not added by default.
        """
        template = chat.choose(self.chat_template or self.DEFAULT_CHAT_TEMPLATE, chat_template)
        batched = len(conversation) > 0 and not isinstance(conversation[0], Mapping)
        texts = [
            chat.render(template, messages, add_generation_prompt, self.special_tokens_map)
            for messages in (conversation if batched else [conversation])
        ]
        prompt = texts if batched else texts[0]
        if not tokenize:
            return prompt
        options = {"add_special_tokens": False, **options}
        return self(prompt, **options) if return_dict else self.encode(prompt, **options)

    def save_pretrained(self, folder: str | os.PathLike) -> tuple[str, ...]:
        """Write the tokenizer's files, which `jm.load_tokenizer` and transformers' tokenizers read; -> their paths.

        tokenizer.json, tokenizer_config.json, special_tokens_map.json, and the family's vocabulary files.
        """
        return files.write(self, folder)

    def save_vocabulary(self, folder: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the family's vocabulary files alone, without added tokens; -> their paths."""
        raise NotImplementedError

    def _write_vocabulary(self, folder: Path):
        """The part of `save_pretrained` for which a family's tokenizer may lack the files."""
        self.save_vocabulary(folder)

    def warn_once(self, kind: str, message: str):
        """Give a kind of warning once in the life of this tokenizer."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without the added ones that it lacks."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """{token: id}, with the added tokens."""
        return self._backend.get_vocab(with_added_tokens=True)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(vocab_size={self.vocab_size}, len={len(self)}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )
