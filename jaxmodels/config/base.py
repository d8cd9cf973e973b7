"""The base of the configs: facts by name, each checked by its field's declaration, and files of them.

A call (`Config(...)`, `replace`, the changes of `jm.load`) and a file are two things. In a call every key is used or
refused, with what to write instead. A file may hold anything: what nobody knows, and what changes nothing here, is
kept in `extra` and saved again. Choices of a run (types, attention kernel, remat) are attributes of the models.
"""

import dataclasses
import difflib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, dataclass_transform

from flax.core import FrozenDict

from jaxmodels.config.fields import (
    JSON,
    CountOrZero,
    Declared,
    FloatType,
    Index,
    Labels,
    Reader,
    TokenId,
    UnfitError,
    declared,
    thaw,
)
from jaxmodels.config.files import (
    CONFIG_FILES,
    GENERATION_KEYS,
    NO_EFFECT,
    OLD_SETTINGS,
    TEXT_IDS,
    read_configs,
    to_json,
    write_configs,
)
from jaxmodels.download import HUB_OPTIONS, local_folder
from jaxmodels.messages import brief, truncate

_as_dataclass = dataclasses.dataclass(init=False, eq=False, repr=False)


@dataclass_transform(frozen_default=True, kw_only_default=True)
@_as_dataclass
class Config:
    """Base of the configs; a subclass lists its fields with Hugging Face's names and defaults.

    Class attributes of a subclass:
      model_type: as in config.json.
      relatives: model types of other families whose config.json it reads too.
      aliases: other names of its fields (the reference's `attribute_map`), accepted and readable.
      generation_defaults: generation settings that the family's configs have unless they say otherwise.
      no_effect: further keys that files hold, but that change nothing, with the reason.

    Attributes:
      generation: settings for `jm.generate`, as config.json or generation_config.json has them.
      extra: keys of the file that change nothing here; saved again. Notes for a file to be written go here, too.

    Raises:
      ValueError: an unknown key (with the nearest known one) or one without effect (with what to write instead), a
        value that its field cannot have, or values that contradict each other.
    """

    model_type: ClassVar[str]
    relatives: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}
    no_effect: ClassVar[Mapping[str, str]] = {}
    generation_defaults: ClassVar[Mapping[str, Any]] = {}
    _declared: ClassVar[Declared]

    architectures: tuple[str, ...] | None = None
    torch_dtype: FloatType | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    num_labels: Labels | None = None
    id2label: Mapping[Index, str] | None = None
    label2id: Mapping[str, Index] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    pruned_heads: Mapping[Index, tuple[Index, ...]] = FrozenDict()
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = False
    is_decoder: bool = False
    add_cross_attention: bool = False
    chunk_size_feed_forward: CountOrZero = 0
    prefix: str | None = None
    bos_token_id: TokenId | None = None
    pad_token_id: TokenId | None = None
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    decoder_start_token_id: TokenId | None = None
    generation: Mapping[str, Any] = FrozenDict()
    extra: Mapping[str, Any] = FrozenDict()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _as_dataclass(cls)
        cls._declared = declared(cls, {"dtype": "torch_dtype", **cls.aliases})

    def __init__(self, **values):
        self._fill(self._with({}, values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changes) -> Self:
        """From the contents of a config.json.

        Args:
          changes: values that count instead of the file's; as in a call.

        Raises:
          ValueError: see the class; of another family.
        """
        return cls.from_files(values, None, changes)

    @classmethod
    def from_files(cls, values: Mapping[str, Any], settings: Mapping[str, Any] | None, changes: Mapping) -> Self:
        """From the contents of config.json and of generation_config.json (None: there is none); see `from_dict`.

        As in the reference, settings that were made from config.json count only where that states none itself; all
        others take the place of those in config.json, and of those that the family has by default.
        """
        if unknown := cls.unknown_keys(values):
            known = [*cls._declared.defaults, *cls.aliases, *GENERATION_KEYS]
            near = {key: difflib.get_close_matches(key, known, n=1, cutoff=0.8) for key in unknown if "." not in key}
            named = [f"{key} (did you mean {near[key][0]}?)" if near.get(key) else key for key in unknown]
            warnings.warn(
                f"{cls.__name__}: the file has keys that nobody knows; they change nothing, and are kept in "
                f"config.extra and saved again: {', '.join(named)}",
                stacklevel=4,
            )
        config = cls.of_file(values, changes)
        if settings is None:
            return config
        settings = cls._read("generation", settings, cls._declared.readers["generation"])
        own = {key: JSON.read(values[key]) for key in OLD_SETTINGS if key in values and key not in changes}
        stated = any(
            value not in (None, OLD_SETTINGS[key], cls.generation_defaults.get(key)) for key, value in own.items()
        )
        older: Mapping = dict.fromkeys(cls.generation_defaults)
        if settings.get("_from_model_config"):
            if stated:
                return config
            older = {key: config.generation[key] for key in cls.generation_defaults}
        # Ids that say nothing new, or that a call gives, are left to the config, so that a change of it counts.
        new = {
            key: value
            for key, value in settings.items()
            if not (key in TEXT_IDS and (key in changes or value == getattr(config, key)))
        }
        given = {key: config.generation[key] for key in changes if key in GENERATION_KEYS}
        return config.replace(generation={**older, **new, **given})

    @classmethod
    def of_file(cls, values: Mapping[str, Any], changes: Mapping[str, Any] = FrozenDict()) -> Self:
        """As `from_dict`, without a word on keys that nobody knows."""
        names = cls._declared.keys
        changed = {names.get(key, key) for key in changes}
        values = {key: value for key, value in cls.modern(values).items() if names.get(key, key) not in changed}
        facts, own, rest = cls._sorted(values)
        kept = {key: cls._read(key, value, JSON) for key, value in rest.items()}
        config = object.__new__(cls)
        config._fill(cls._with(facts | {"generation": own, "extra": FrozenDict(kept)}, changes))
        return config

    @classmethod
    def from_pretrained(cls, name: str | Path, *, subfolder: str | None = None, **options) -> Self:
        """From config.json and generation_config.json of a folder or a Hub id; weights are left where they are.

        Args:
          options: those of `jaxmodels.download.local_folder` for the Hub (revision, token, cache_dir, ...); all else
            are values that count instead of the file's.

        Raises:
          FileNotFoundError: no such folder or repository, or no config.json in it. ValueError: see `from_dict`.
        """
        hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
        return cls.from_files(*read_configs(local_folder(name, CONFIG_FILES, subfolder=subfolder, **hub)), options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, and generation_config.json where there are generation settings, in one step."""
        write_configs(Path(folder), *self.to_files())

    @classmethod
    def modern(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """A file's contents, with what other releases name otherwise under today's names."""
        if values.get("dtype") is not None:  # release 5 has this name, and reads the older one where it is missing
            values = {**values, "torch_dtype": values["dtype"]}
        values = {key: value for key, value in values.items() if key != "dtype"}
        if isinstance(kind := values.get("torch_dtype"), str):
            values["torch_dtype"] = kind.removeprefix("torch.")
        return values

    @classmethod
    def unknown_keys(cls, values: Mapping[str, Any]) -> list[str]:
        """Keys of a file that are neither facts, nor generation settings, nor known to have no effect."""
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise TypeError(f"{cls.__name__} is read from a mapping with names as keys, got {brief(values)}")
        known = {"model_type", *cls._declared.keys, *GENERATION_KEYS, *NO_EFFECT, *cls.no_effect}
        return sorted(values.keys() - known)

    @classmethod
    def _with(cls, values: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
        """Facts by field, and those of a call over them."""
        named = [name for name in ("generation", "extra") if name in call]
        given = {name: cls._read(name, call[name], cls._declared.readers[name]) for name in named}
        facts, settings, rest = cls._sorted({key: value for key, value in call.items() if key not in given})
        for key in rest:
            raise ValueError(cls._refusal(key))
        for key in given.get("extra", {}):
            if key in cls._declared.keys or key in GENERATION_KEYS or key == "model_type":
                raise ValueError(f"{cls.__name__}: extra holds what changes nothing, and {key!r} does; give it by name")
        values = dict(values)
        # A new number of labels gets fresh label names.
        if "id2label" in facts:
            values |= {"num_labels": None, "label2id": None}
        elif "num_labels" in facts:
            values |= {"id2label": None, "label2id": None}
        values |= given | facts
        return values | {"generation": {**values.get("generation", {}), **settings}}

    @classmethod
    def _sorted(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Facts by field, generation settings, and the rest."""
        facts: dict[str, Any] = {}
        settings, rest, known = {}, {}, cls._declared.keys
        for key, value in values.items():
            name = known.get(key)
            if key == "model_type":
                if value is not None and not (isinstance(value, str) and value in (cls.model_type, *cls.relatives)):
                    raise ValueError(f"{cls.__name__} is for model_type {cls.model_type!r}, not for {brief(value)}")
            elif name is not None:
                value = cls._read(key, value, cls._declared.readers[name])
                if facts.setdefault(name, value) != value:
                    raise ValueError(f"{cls.__name__}: {key!r} and another name of {name!r} were given as {value!r} "
                                     f"and {facts[name]!r}")  # fmt: skip
            elif key in GENERATION_KEYS:
                settings[key] = cls._read(key, value, JSON)
            else:
                rest[key] = value
        return facts, settings, rest

    @classmethod
    def _read(cls, key: str, value: Any, reader: Reader) -> Any:
        """The value that stands at a key, frozen."""
        try:
            return reader.read(value)
        except UnfitError:
            raise ValueError(f"{cls.__name__}: {key} is {reader.expected}, got {brief(value)}") from None

    @classmethod
    def _refusal(cls, key: str) -> str:
        """Why a call may not have that key, and what to write instead."""
        name = cls.__name__
        if reason := cls.no_effect.get(key) or NO_EFFECT.get(key):
            return (
                f"{name}: {key!r} changes nothing here: {reason}. Leave it out; {name}.from_dict takes what a "
                "config.json holds"
            )
        near = difflib.get_close_matches(truncate(key), [*cls._declared.keys, *GENERATION_KEYS], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        there = truncate(", ".join(sorted(cls._declared.defaults)), 300)
        return f"{name} has no key {brief(key)}; {hint}It has {there}"

    @classmethod
    def derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Facts by field, and what follows from them where it was not given."""
        return values

    def _fill(self, values: dict[str, Any]) -> None:
        values = self.derive(values | {"generation": {**self.generation_defaults, **values["generation"]}})
        for name, default in self._declared.defaults.items():
            object.__setattr__(self, name, values.get(name, default))
        object.__setattr__(self, "generation", FrozenDict(self.generation))
        self._settle_labels()
        pruned = {layer: tuple(sorted(set(heads))) for layer, heads in self.pruned_heads.items()}
        object.__setattr__(self, "pruned_heads", FrozenDict(pruned))
        if self.eos_token_id == ():
            raise ValueError(f"{type(self).__name__}: eos_token_id is an id, some, or None for none, got []")
        self._check_size()
        self.validate()

    def _settle_labels(self):
        """`num_labels`, `id2label` and `label2id` from any of them (reference: configuration_utils.py)."""
        labels = self.id2label
        if labels is None:
            labels = FrozenDict({i: f"LABEL_{i}" for i in range(2 if self.num_labels is None else self.num_labels)})
        if not labels:
            raise ValueError(f"{type(self).__name__}: id2label names no label; leave it out, or name one")
        object.__setattr__(self, "id2label", labels)
        object.__setattr__(self, "num_labels", len(labels))
        if self.label2id is None or set(self.label2id.values()) != set(labels):
            object.__setattr__(self, "label2id", FrozenDict({name: i for i, name in labels.items()}))

    def widths(self) -> Iterable[int]:
        """Of the states, and of all that they are projected to."""
        return [value for name in self._declared.widths if (value := getattr(self, name)) is not None]

    def _check_size(self) -> None:
        """Refuses more than 2**53 parameters, whose bytes the size of no array could count."""
        widest = max(self.widths(), default=1)
        layers = sum(getattr(self, name) or 0 for name in self._declared.layers)
        rows = max((getattr(self, name) or 0 for name in self._declared.rows), default=0)
        if layers * widest**2 + rows * widest > 2**53:
            raise ValueError(
                f"{type(self).__name__}: {layers} layers up to {widest} wide and a table of {rows} rows make more than "
                "2**53 parameters, which no machine holds"
            )

    def validate(self) -> None:
        """Checks that the facts fit together; ValueError says which do not."""

    def __getattr__(self, name: str):
        if name in type(self).aliases:
            return getattr(self, type(self).aliases[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any):
        cls = type(self)
        if name not in cls._declared.keys and name not in GENERATION_KEYS:
            raise dataclasses.FrozenInstanceError(cls._refusal(name))
        raise dataclasses.FrozenInstanceError(
            f"a config is not changed in place. Write config = config.replace({name}={brief(value)}); for a model, "
            f"model = model.clone(config=model.config.replace({name}={brief(value)})), or load it with "
            f"jm.load(..., {name}={brief(value)})"
        )

    def __delattr__(self, name: str):
        raise dataclasses.FrozenInstanceError(
            f"{type(self).__name__}: {name!r} cannot be deleted, a config is not changed in place; "
            "config.replace(...) makes another one"
        )

    def replace(self, **changes) -> Self:
        """A copy with other values; a new number of labels gets fresh label names."""
        other = object.__new__(type(self))
        other._fill(self._with({name: getattr(self, name) for name in self._declared.defaults}, changes))
        return other

    def to_dict(self) -> dict[str, Any]:
        """As in config.json: plain lists and dicts, Hugging Face's key names.

        Generation settings that only generation_config.json may hold are left out.
        """
        values = self._values()
        generation, extra = values.pop("generation"), values.pop("extra")
        del values["num_labels"]  # id2label carries it
        settings = {key: value for key, value in generation.items() if key in GENERATION_KEYS}
        return {**extra, "model_type": self.model_type, **settings, **values}

    def to_files(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of config.json and of generation_config.json; {}: none is needed."""
        settings = thaw(self.generation)
        if settings:
            # Beside this file the reference does not look at the ids in config.json.
            ids = {name: value for name in TEXT_IDS if (value := thaw(getattr(self, name))) is not None}
            settings = {**ids, **settings}
        return self.replace(generation={}).to_dict(), settings

    def _values(self) -> dict[str, Any]:
        return {name: thaw(getattr(self, name)) for name in self._declared.defaults}

    def to_json(self) -> str:
        return to_json(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self._values(), sort_keys=True)))

    def __repr__(self):
        changed = {
            name: thaw(getattr(self, name))
            for name, default in self._declared.defaults.items()
            if getattr(self, name) != default and name not in ("id2label", "label2id", "generation", "extra")
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"
