"""The tokenizer that the five families share: calls, padding, decoding, saving, on the `tokenizers` library."""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Self

import tokenizers

from jaxmodels.names import refuse_foreign
from jaxmodels.tokenization import chat, conversations, files, folders, refusals, saving
from jaxmodels.tokenization.decoding import Decoding
from jaxmodels.tokenization.encoding import BatchEncoding, as_array, stack
from jaxmodels.tokenization.engine import Engine
from jaxmodels.tokenization.inputs import as_batch
from jaxmodels.tokenization.kinds import boolean, refused
from jaxmodels.tokenization.options import EncodeOptions, bounds
from jaxmodels.tokenization.padding import pad_fields
from jaxmodels.tokenization.settings import check
from jaxmodels.tokenization.special_tokens import (
    ADDITIONAL,
    SPECIAL_TOKENS,
    SpecialTokens,
    as_added_token,
    as_id,
    as_tokens,
)


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
    extra_special_tokens: {name: token} with further names, which are then attributes; or a list, which is the same as
      additional_special_tokens.

    Constructors raise TypeError for an option that is not here, with what to write instead, and ValueError for a value
    of the wrong kind.
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
        additional_special_tokens: Sequence[str | tokenizers.AddedToken] | None = None,
        extra_special_tokens: Mapping | Sequence | None = None,
        **special_tokens,
    ):
        self._refuse_options(special_tokens)
        self._engine = Engine(backend)
        self._warned: set[str] = set()
        length = check("model_max_length", model_max_length)
        self.model_max_length = int(1e30) if length is None else length
        self.padding_side = check("padding_side", padding_side)
        self.truncation_side = check("truncation_side", truncation_side)
        self.clean_up_tokenization_spaces = check("clean_up_tokenization_spaces", clean_up_tokenization_spaces)
        self.split_special_tokens = check("split_special_tokens", split_special_tokens)
        self.chat_template = check("chat_template", chat_template)
        names = check("model_input_names", model_input_names)
        self.model_input_names = list(self.MODEL_INPUT_NAMES) if names is None else names
        listed = list(as_tokens(ADDITIONAL, additional_special_tokens or ()))
        if not isinstance(extra_special_tokens, Mapping):
            listed += [
                each for each in as_tokens("extra_special_tokens", extra_special_tokens or ()) if each not in listed
            ]
            extra_special_tokens = {}
        self._set_up_tokens(_listed(added_tokens_decoder or {}), special_tokens, listed, extra_special_tokens)
        self._special_tokens_changed()

    def _refuse_options(self, given: Mapping):
        known = (*files.ARGUMENTS, *self.OPTIONS)
        others = {name: value for name, value in given.items() if name not in SPECIAL_TOKENS}
        refuse_foreign(f"{type(self).__name__} has no option", others, known, refusals.LOAD)
        for name in others:
            del given[name]

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike, *, subfolder: str | None = None, **options) -> Self:
        """The tokenizer of a folder, or of a model on the Hugging Face Hub, for this class.

        Arguments and errors: `jm.load_tokenizer`, which finds the class itself.
        """
        hub, options = folders.hub_options(options)
        folder = folders.find(name_or_folder, folders.patterns([cls]), subfolder, hub)
        return folders.load(folder, lambda _: cls, options)

    @classmethod
    def settle(cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        """A folder's arguments, where its tokenizer.json and its tokenizer_config.json may contradict each other."""
        if files.written_by_5(config):  # where it is off unless it says otherwise
            arguments = {"clean_up_tokenization_spaces": False} | arguments
        return arguments

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
        options = EncodeOptions.of("a tokenizer call", options)
        if text is None and text_target is None:
            raise ValueError("nothing to encode: give text, text_target, or both")
        if text is None and text_pair is not None or text_target is None and text_pair_target is not None:
            raise ValueError("text_pair is a second text beside text, and text_pair_target one beside text_target")
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
        if options.max_length is None and options.verbose:
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
        limits = bounds(self, options)
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
        split = options.split_special_tokens
        return self._engine.encode(
            rows,
            words=options.is_split_into_words,
            add_special_tokens=options.add_special_tokens,
            split_special_tokens=self.split_special_tokens if split is None else split,
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
        chosen = EncodeOptions.of("encode()", options)
        return self._ids(self._encode(text, text_pair, chosen), chosen)

    @staticmethod
    def _ids(encoded: BatchEncoding, options: EncodeOptions):
        ids = encoded["input_ids"]
        if options.return_tensors:
            return ids
        return [row.tolist() for row in ids] if isinstance(ids, list) else ids.tolist()

    def encode_plus(self, text, text_pair=None, **options) -> BatchEncoding:
        """An older name of the call with a text or a pair; see there."""
        return Tokenizer.__call__(self, text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs, **options) -> BatchEncoding:
        """An older name of the call with a batch of texts or of pairs; see there."""
        return Tokenizer.__call__(self, batch_text_or_text_pairs, **options)

    def tokenize(self, text, pair=None, add_special_tokens: bool = False, **options) -> list[str]:
        """The tokens of one text or pair as strings."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call puts around a text, or around a pair."""
        return self._backend.num_special_tokens_to_add(boolean("pair", pair))

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
        **foreign,
    ) -> BatchEncoding:
        """Pad ids encoded before: a list of examples {name: [T]}, a batch {name: B rows}, or one example.

        Pads input_ids, attention_mask (made where missing) and what else `PADDING_VALUES` names; other fields are
        stacked as they are, int32 or float32. Options as in a call.

        Raises:
          ValueError: an option's value as in a call, a field of something else than numbers, or rows that do not fit.
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
        refuse_foreign("pad() has no option", foreign, (), refusals.PAD)
        limits, asked = bounds(self, options), options.return_attention_mask
        return pad_fields(
            encoded_inputs,
            strategy=limits.padding,
            max_length=limits.max_length,
            multiple=options.pad_to_multiple_of,
            side=options.padding_side or self.padding_side,
            fill={"input_ids": self.pad_token_id, **self.PADDING_VALUES},
            return_attention_mask="attention_mask" in self.model_input_names if asked is None else asked,
            return_tensors=options.return_tensors,
        )

    def apply_chat_template(
        self,
        conversation: Sequence,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        tokenizer_kwargs: Mapping | None = None,
        **options,
    ):
        """A conversation [{"role", "content"}, ...], or a list of them, as the model's prompt.

        -> list of ids (arrays with return_tensors), the text with tokenize=False, a BatchEncoding with return_dict.
        chat_template: a Jinja template, or the name of one of several; None is the tokenizer's own.
        continue_final_message: the prompt ends in the last message, without what a template puts behind it.
        options: the fields of `EncodeOptions` (tokenizer_kwargs may hold them, too), and variables that the template
          speaks of (tools, documents, ...); special tokens other than the template's are not added by default.

        Raises:
          ValueError: a conversation that is none, a template that is no Jinja program, or that refuses the messages.
          TypeError: an option that is not here and that the template does not speak of.
        """
        template = chat.choose(self.chat_template or self.DEFAULT_CHAT_TEMPLATE, chat_template)
        generation = boolean("add_generation_prompt", add_generation_prompt)
        final = boolean("continue_final_message", continue_final_message)
        if final and generation:
            raise ValueError("continue_final_message ends in the last message, so it takes no generation prompt")
        # a call's own option is that, though the template has the word, too
        others = {name: value for name, value in options.items() if not EncodeOptions.has(name)}
        read = conversations.variables(template, others)
        chosen = EncodeOptions.of(
            "apply_chat_template()",
            {
                "add_special_tokens": False,
                **(tokenizer_kwargs or {}),
                **{name: value for name, value in options.items() if name not in read},
            },
        )
        variables = {**self.special_tokens_map, **read}
        batched = conversations.is_batch(conversation)
        texts = []
        for messages in conversation if batched else [conversation]:
            text = chat.render(template, messages, generation, variables)
            texts.append(conversations.ending_in(messages[-1:], text) if final else text)
        prompt = texts if batched else texts[0]
        if not boolean("tokenize", tokenize):
            return prompt
        encoded = self._encode(prompt, None, chosen)
        return encoded if boolean("return_dict", return_dict) else self._ids(encoded, chosen)

    def save_pretrained(self, save_directory: str | os.PathLike, **foreign) -> tuple[str, ...]:
        """Write the tokenizer's files, which `jm.load_tokenizer` and transformers' tokenizers read; -> their paths.

        tokenizer.json, tokenizer_config.json, special_tokens_map.json, and the family's vocabulary files.
        """
        refuse_foreign("save_pretrained() has no option", foreign, (), refusals.SAVE)
        return saving.write(self, save_directory)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
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

    def __getattr__(self, name: str):
        # copy and pickle look attributes up before there are any
        held = vars(self).get("_extra", ())
        if name in held:
            return self._special.get(name)
        if name.removesuffix("_id") in held:
            return self._backend.token_to_id(self._special[name.removesuffix("_id")])
        raise refusals.missing(type(self).__name__, name, dir(type(self)))


def _listed(tokens: Mapping) -> dict[int, tokenizers.AddedToken]:
    """added_tokens_decoder, with ids and tokens in the forms that files have, too."""
    if not isinstance(tokens, Mapping):
        raise refused("added_tokens_decoder", "a dict of ids and tokens", tokens)
    return {
        as_id("added_tokens_decoder", i): as_added_token(token, special=False, name=f"added_tokens_decoder[{i}]")
        for i, token in tokens.items()
    }
