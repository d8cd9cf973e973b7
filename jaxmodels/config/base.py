"""`Config`, the base class of the model configurations.

Arguments of a call (`Config(...)`, `replace`, the overrides of `jm.load`) are strict: an unknown key or one without
effect raises an error that says what to write instead. A config.json is read leniently: keys that are unknown or have
no effect are stored in `extra` and saved again. Run options (dtypes, attention implementation, remat) are attributes of
the models, not of the configuration.
"""

import dataclasses
import difflib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, Union

import jax
import numpy as np
from flax.core import FrozenDict

from jaxmodels.config.fields import (
    JSON,
    ConfigFields,
    FloatDType,
    Index,
    InvalidValueError,
    NonNegativeInt,
    NumLabels,
    TokenId,
    Validator,
    thaw,
)
from jaxmodels.config.files import (
    CONFIG_FILES,
    GENERATION_KEYS,
    NO_EFFECT,
    OLD_SETTINGS,
    SPECIAL_TOKEN_IDS,
    read_configs,
    to_json,
    write_configs,
)
from jaxmodels.download import HubToken, local_folder
from jaxmodels.messages import brief, truncate

# `max_tokens` of a family without a table of positions.
NO_LIMIT = 2**31 - 1

# Values that a call may pass for a key: JSON values, NumPy and JAX scalars, and the configurations of the parts of RAG.
ConfigValue: TypeAlias = Union[
    None, bool, int, float, str, np.generic, jax.Array, Sequence["ConfigValue"], Mapping[Any, "ConfigValue"], "Config"
]


class Config(ConfigFields):
    """Base of the model configurations: frozen, hashable, with Hugging Face's field names and defaults.

    Class attributes of a subclass:
      model_type: as in config.json.
      compatible_model_types: other model types whose config.json the class reads as well.
      aliases: alternative names of fields (the reference's `attribute_map`), accepted in calls and readable. Type
        checkers know the fields only.
      generation_defaults: generation settings that differ from the defaults of `jm.generate`.
      no_effect: further keys that files may contain but that have no effect here -> the reason.

    Attributes:
      generation: settings of `jm.generate`, from config.json and generation_config.json.
      extra: keys of the file without effect here; saved again. Also the place for custom keys to be saved.

    Raises:
      ValueError: an unknown key (the message names the closest known one), a key without effect (the message says what
        to write instead), an invalid value, or values that contradict each other.
    """

    model_type: ClassVar[str]
    compatible_model_types: ClassVar[tuple[str, ...]] = ()
    no_effect: ClassVar[Mapping[str, str]] = {}
    generation_defaults: ClassVar[Mapping[str, Any]] = {}

    architectures: tuple[str, ...] | None = None
    torch_dtype: FloatDType | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    num_labels: NumLabels | None = None
    id2label: Mapping[Index, str] | None = None
    label2id: Mapping[str, Index] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    pruned_heads: Mapping[Index, tuple[Index, ...]] = FrozenDict()
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = False
    is_decoder: bool = False
    add_cross_attention: bool = False
    chunk_size_feed_forward: NonNegativeInt = 0
    prefix: str | None = None
    bos_token_id: TokenId | None = None
    pad_token_id: TokenId | None = None
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    decoder_start_token_id: TokenId | None = None
    generation: Mapping[str, Any] = FrozenDict()
    extra: Mapping[str, Any] = FrozenDict()

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **values):
            self._set_fields(self._merge_call({}, values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: ConfigValue) -> Self:
        """Creates a configuration from the contents of a config.json.

        Args:
          values: contents of the file.
          overrides: values that replace the file's; checked like the arguments of a call.

        Raises:
          ValueError: see the class; or the file is of another model type.
        """
        return cls.from_files(values, None, overrides)

    @classmethod
    def from_files(
        cls, values: Mapping[str, Any], generation: Mapping[str, Any] | None, overrides: Mapping[str, Any]
    ) -> Self:
        """Creates a configuration from the contents of both files, with a warning about unknown keys.

        As in the reference, settings of a generation_config.json that was derived from config.json apply only if
        config.json has no settings itself; all others take precedence over those in config.json, and over the defaults
        of the model type.

        Args:
          values: contents of config.json.
          generation: contents of generation_config.json, None if there is none.
          overrides: as in `from_dict`.

        Raises:
          ValueError: see `from_dict`.
        """
        if unknown := cls.unknown_keys(values):
            known = [*cls._field_table.defaults, *cls.aliases, *GENERATION_KEYS]
            close = {key: difflib.get_close_matches(key, known, n=1, cutoff=0.8) for key in unknown if "." not in key}
            named = [f"{key} (did you mean {close[key][0]}?)" if close.get(key) else key for key in unknown]
            warnings.warn(
                f"{cls.__name__}: the file has unknown keys; they have no effect, are stored in config.extra and saved "
                f"again: {', '.join(named)}",
                stacklevel=4,
            )
        config = cls.from_file_values(values, overrides)
        if generation is None:
            return config
        generation = cls._validate("generation", generation, cls._field_table.validators["generation"])
        in_config = {key: JSON.validate(values[key]) for key in OLD_SETTINGS if key in values and key not in overrides}
        config_has_settings = any(
            value not in (None, OLD_SETTINGS[key], cls.generation_defaults.get(key)) for key, value in in_config.items()
        )
        base: Mapping = dict.fromkeys(cls.generation_defaults)
        if generation.get("_from_model_config"):
            if config_has_settings:
                return config
            base = {key: config.generation[key] for key in cls.generation_defaults}
        # Token ids equal to the config's, or overridden by the call, are left to the config, so that replacing them
        # there has an effect.
        new = {
            key: value
            for key, value in generation.items()
            if not (key in SPECIAL_TOKEN_IDS and (key in overrides or value == getattr(config, key)))
        }
        overridden = {key: config.generation[key] for key in overrides if key in GENERATION_KEYS}
        return config.replace(generation={**base, **new, **overridden})

    @classmethod
    def from_file_values(cls, values: Mapping[str, Any], overrides: Mapping[str, Any] = FrozenDict()) -> Self:
        """Like `from_dict`, without the warning about unknown keys."""
        names = cls._field_table.keys
        overridden = {names.get(key, key) for key in overrides}
        values = {key: value for key, value in cls.normalize(values).items() if names.get(key, key) not in overridden}
        fields, generation, rest = cls._split_keys(values)
        extra = {key: cls._validate(key, value, JSON) for key, value in rest.items()}
        config = object.__new__(cls)
        config._set_fields(cls._merge_call(fields | {"generation": generation, "extra": FrozenDict(extra)}, overrides))
        return config

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: HubToken = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool | None = None,
        force_download: bool | None = None,
        **overrides: ConfigValue,
    ) -> Self:
        """Creates a configuration from the config.json and generation_config.json of a folder or a Hub repository.

        Weights are not downloaded.

        Args:
          name: folder, or Hub id such as "openai-community/gpt2".
          subfolder: subfolder of the folder or the repository.
          revision, token, cache_dir, local_files_only, force_download: passed to huggingface_hub.
          overrides: values that replace those of the files.

        Raises:
          FileNotFoundError: the folder or repository does not exist, or has no config.json.
          ValueError: see `from_dict`.
        """
        folder = local_folder(
            name,
            CONFIG_FILES,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls.from_files(*read_configs(folder), overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, and generation_config.json if there are generation settings, atomically."""
        write_configs(Path(folder), *self.to_files())

    @classmethod
    def normalize(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Converts keys and values of a file that other releases of the reference write differently."""
        if values.get("dtype") is not None:  # release 5 writes this key, and falls back to torch_dtype when reading
            values = {**values, "torch_dtype": values["dtype"]}
        values = {key: value for key, value in values.items() if key != "dtype"}
        if isinstance(dtype := values.get("torch_dtype"), str):
            values["torch_dtype"] = dtype.removeprefix("torch.")
        return values

    @classmethod
    def unknown_keys(cls, values: Mapping[str, Any]) -> list[str]:
        """The keys of a file that are neither fields, nor generation settings, nor known to have no effect."""
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise TypeError(f"{cls.__name__} must be read from a mapping with string keys, got {brief(values)}")
        known = {"model_type", *cls._field_table.keys, *GENERATION_KEYS, *NO_EFFECT, *cls.no_effect}
        return sorted(values.keys() - known)

    @classmethod
    def _merge_call(cls, values: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field, updated with the arguments of a call."""
        mappings = {
            name: cls._validate(name, call[name], cls._field_table.validators[name])
            for name in ("generation", "extra")
            if name in call
        }
        fields, generation, rest = cls._split_keys({key: value for key, value in call.items() if key not in mappings})
        for key in rest:
            raise ValueError(cls._invalid_key_message(key))
        for key in mappings.get("extra", {}):
            if key in cls._field_table.keys or key in GENERATION_KEYS or key == "model_type":
                raise ValueError(
                    f"{cls.__name__}: extra is for keys without effect, but {key!r} has one; pass it as an argument"
                )
        values = dict(values)
        # A new number of labels replaces the label names, and new label names the number.
        if "id2label" in fields:
            values |= {"num_labels": None, "label2id": None}
        elif "num_labels" in fields:
            values |= {"id2label": None, "label2id": None}
        values |= mappings | fields
        return values | {"generation": {**values.get("generation", {}), **generation}}

    @classmethod
    def _split_keys(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Splits keys and values into fields (validated), generation settings (validated), and the rest."""
        fields: dict[str, Any] = {}
        generation, rest, known = {}, {}, cls._field_table.keys
        for key, value in values.items():
            name = known.get(key)
            if key == "model_type":
                model_types = (cls.model_type, *cls.compatible_model_types)
                if value is not None and not (isinstance(value, str) and value in model_types):
                    raise ValueError(f"{cls.__name__} is for model_type {cls.model_type!r}, not for {brief(value)}")
            elif name is not None:
                value = cls._validate(key, value, cls._field_table.validators[name])
                if fields.setdefault(name, value) != value:
                    raise ValueError(
                        f"{cls.__name__}: {key!r} and another name of {name!r} have different values, {value!r} and "
                        f"{fields[name]!r}; pass one of them"
                    )
            elif key in GENERATION_KEYS:
                generation[key] = cls._validate(key, value, JSON)
            else:
                rest[key] = value
        return fields, generation, rest

    @classmethod
    def _validate(cls, key: str, value: Any, validator: Validator) -> Any:
        """The value of a key in its immutable form."""
        try:
            return validator.validate(value)
        except InvalidValueError:
            raise ValueError(f"{cls.__name__}: {key} must be {validator.expected}, got {brief(value)}") from None

    @classmethod
    def _invalid_key_message(cls, key: str) -> str:
        """Why a call cannot set this key, and what to write instead."""
        name = cls.__name__
        if reason := cls.no_effect.get(key) or NO_EFFECT.get(key):
            return (
                f"{name}: {key!r} has no effect here: {reason}. Leave it out; use {name}.from_dict to read the "
                "contents of a config.json"
            )
        close = difflib.get_close_matches(truncate(key), [*cls._field_table.keys, *GENERATION_KEYS], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = truncate(", ".join(sorted(cls._field_table.defaults)), 300)
        return f"{name} has no key {brief(key)}; {hint}Its keys are {known}"

    @classmethod
    def derive_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Adds values of fields that follow from others where they are not set."""
        return values

    def _set_fields(self, values: dict[str, Any]) -> None:
        values = self.derive_values(values | {"generation": {**self.generation_defaults, **values["generation"]}})
        for name, default in self._field_table.defaults.items():
            object.__setattr__(self, name, values.get(name, default))
        object.__setattr__(self, "generation", FrozenDict(self.generation))
        self._set_labels()
        pruned = {layer: tuple(sorted(set(heads))) for layer, heads in self.pruned_heads.items()}
        object.__setattr__(self, "pruned_heads", FrozenDict(pruned))
        if self.eos_token_id == ():
            raise ValueError(f"{type(self).__name__}: eos_token_id must be a token id, several, or None, got []")
        self._check_size()
        self.validate()

    def _set_labels(self) -> None:
        """Sets `num_labels`, `id2label` and `label2id` from any of them (reference: configuration_utils.py)."""
        labels = self.id2label
        if labels is None:
            labels = FrozenDict({i: f"LABEL_{i}" for i in range(2 if self.num_labels is None else self.num_labels)})
        if not labels:
            raise ValueError(f"{type(self).__name__}: id2label must have at least one label, got none; leave it out")
        object.__setattr__(self, "id2label", labels)
        object.__setattr__(self, "num_labels", len(labels))
        if self.label2id is None or set(self.label2id.values()) != set(labels):
            object.__setattr__(self, "label2id", FrozenDict({name: i for i, name in labels.items()}))

    def hidden_sizes(self) -> Iterable[int]:
        """The sizes of the hidden states and of everything that they are projected to."""
        return [value for name in self._field_table.hidden_sizes if (value := getattr(self, name)) is not None]

    def _check_size(self) -> None:
        """Rejects more than 2**53 parameters, whose byte counts would overflow."""
        largest = max(self.hidden_sizes(), default=1)
        layers = sum(getattr(self, name) or 0 for name in self._field_table.num_layers)
        embeddings = max((getattr(self, name) or 0 for name in self._field_table.num_embeddings), default=0)
        if layers * largest**2 + embeddings * largest > 2**53:
            raise ValueError(
                f"{type(self).__name__}: {layers} layers with a hidden size of up to {largest} and {embeddings} "
                "embeddings have more than 2**53 parameters, too many for any machine"
            )

    @property
    def max_tokens(self) -> int:
        """The longest sequence (of an encoder-decoder: the longest output), in tokens, or `NO_LIMIT`."""
        return self.max_position_embeddings

    @property
    def max_source_tokens(self) -> int:
        """The longest input of an encoder-decoder's encoder, in tokens."""
        return self.max_tokens

    @property
    def position_range(self) -> tuple[int, int]:
        """Position ids of the first real token of a sequence, and of padding in generation."""
        return 0, 1

    @property
    def cache_sizes(self) -> dict[str, int] | None:
        """Sizes of a key-value cache: layers, heads, head_dim; None for models that do not decode step by step."""
        return None

    def validate(self) -> None:
        """Checks values against each other; the ValueError names those that do not fit."""

    def __getattr__(self, name: str) -> Any:
        if name in type(self).aliases:
            return getattr(self, type(self).aliases[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name not in cls._field_table.keys and name not in GENERATION_KEYS:
            raise dataclasses.FrozenInstanceError(cls._invalid_key_message(name))
        raise dataclasses.FrozenInstanceError(
            f"a config is immutable. Write config = config.replace({name}={brief(value)}); for a model, "
            f"model = model.clone(config=model.config.replace({name}={brief(value)})), or load it with "
            f"jm.load(..., {name}={brief(value)})"
        )

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(
            f"{type(self).__name__}: {name!r} cannot be deleted, a config is immutable; create another one with "
            "config.replace(...)"
        )

    def replace(self, **changes: ConfigValue) -> Self:
        """Returns a copy with some values replaced; a new number of labels replaces the label names."""
        other = object.__new__(type(self))
        other._set_fields(self._merge_call({name: getattr(self, name) for name in self._field_table.defaults}, changes))
        return other

    def to_dict(self) -> dict[str, Any]:
        """Returns the contents of config.json: lists and dicts, with Hugging Face's keys.

        Generation settings that are valid only in generation_config.json are left out.
        """
        values = self._values()
        generation, extra = values.pop("generation"), values.pop("extra")
        del values["num_labels"]  # follows from id2label
        settings = {key: value for key, value in generation.items() if key in GENERATION_KEYS}
        return {**extra, "model_type": self.model_type, **settings, **values}

    def to_files(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the contents of config.json and of generation_config.json, {} if the latter is not needed."""
        generation = thaw(self.generation)
        if generation:
            # If this file exists, the reference ignores the token ids in config.json.
            ids = {name: value for name in SPECIAL_TOKEN_IDS if (value := thaw(getattr(self, name))) is not None}
            generation = {**ids, **generation}
        return self.replace(generation={}).to_dict(), generation

    def _values(self) -> dict[str, Any]:
        return {name: thaw(getattr(self, name)) for name in self._field_table.defaults}

    def to_json(self) -> str:
        return to_json(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self._values(), sort_keys=True)))

    def __repr__(self) -> str:
        changed = {
            name: thaw(getattr(self, name))
            for name, default in self._field_table.defaults.items()
            if getattr(self, name) != default and name not in ("id2label", "label2id", "generation", "extra")
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"
