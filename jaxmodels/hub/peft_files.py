"""Adapters in PEFT's files: what they change of a model's torch tensors.

The files have `lora_A` [rank, in] and `lora_B` [out, rank] for each torch module, and tensors that replace others.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.convert import LAYER, Rule, Table, WeightsError, torch_shapes
from jaxmodels.download import read_json
from jaxmodels.messages import brief
from jaxmodels.tensor_files import TensorEntry, open_tensors
from jaxmodels.tensor_files.atomic_save import FILE_SETS, FolderSnapshot

CONFIG, *WEIGHTS = FILE_SETS["adapter"]
PREFIX = "base_model.model."
MAX_ALPHA = 10**6
_FACTOR = re.compile(r"(.+)\.(?:lora|lora_embedding)_([AB])(?:\.weight)?")
# Options of PEFT by which an adapter is more than a product of two matrices, or belongs to a changed base model.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "kasa_config", "monteclora_config", "arrow_config"),
    *("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
)
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")


class Change(NamedTuple):
    """What an adapter changes of a torch tensor.

    Attributes:
      whole: the tensor that replaces it, or None.
      a: [rank, in], or None.
      b: [out, rank], or None.
      scale: factor of b @ a.
    """

    whole: TensorEntry | None = None
    a: TensorEntry | None = None
    b: TensorEntry | None = None
    scale: float = 1.0

    def shape(self, inputs_first: bool) -> tuple[int, ...] | None:
        """Shape of the tensor that is changed; None if the factors do not fit together."""
        if self.whole is not None and self.a is None and self.b is None:
            return self.whole.shape
        if self.a is None or self.b is None or not len(self.a.shape) == len(self.b.shape) == 2:
            return None
        (rank, inputs), (outputs, also) = self.a.shape, self.b.shape
        return None if rank != also else (inputs, outputs) if inputs_first else (outputs, inputs)

    def apply(self, tensor: np.ndarray, inputs_first: bool) -> np.ndarray:
        result = tensor if self.whole is None else self.whole.read()
        if self.a is None or self.b is None:
            return result
        product = self.scale * (self.b.read().astype(np.float32) @ self.a.read().astype(np.float32))
        return result.astype(np.float32) + (product.T if inputs_first else product)


class Adapter(NamedTuple):
    """An adapter's folder, the content of adapter_config.json, and the tensors without PEFT's prefix."""

    folder: str
    config: dict[str, Any]
    entries: dict[str, TensorEntry]

    def changes(self, model: Model, flat: Mapping[str, Any]) -> dict[str, Change]:
        """Returns what changes, by the names of torch tensors.

        Raises:
          WeightsError: the adapter does not match the model.
        """
        known = {
            model.table.short_name(name): (name, rule, shape)
            for path, array in flat.items()
            for name, rule, shape in torch_names(model.table, path, array)
        }
        changes: dict[str, Change] = {}
        unknown = []
        for name, entry in self.entries.items():
            match = _FACTOR.fullmatch(name)
            short = model.table.short_name(f"{match[1]}.weight" if match else name.replace(".base_layer.", "."))
            if short not in known:
                unknown.append(PREFIX + name)
                continue
            change = changes.get(known[short][0], Change())
            if match:
                part = {match[2].lower(): entry}
                scale = self._scale(match[1], max(1, *entry.shape[:1])) if match[2] == "A" else change.scale
                changes[known[short][0]] = change._replace(**part, scale=scale)
            else:
                changes[known[short][0]] = change._replace(whole=entry)
        found = {name: changes[name].shape(rule.inputs_first) for name, rule, _ in known.values() if name in changes}
        mismatched = [
            f"{name}: {found[name] or 'half of an adapter'} in the file, {shape} in the model"
            for name, _, shape in known.values()
            if name in found and found[name] != shape
        ]
        if unknown or mismatched or not changes:
            base = self.config.get("base_model_name_or_path")
            hint = f"The adapter was trained on {brief(base)}, with its head: load that with jm.load."
            raise WeightsError(f"the adapter {self.folder} ({type(model).__name__})", unknown, [], mismatched, hint)
        return changes

    def _scale(self, module: str, rank: int) -> float:
        patterns = self.config.get("alpha_pattern") or {}
        own = (alpha for key, alpha in patterns.items() if f".{module}".endswith(f".{key}"))
        alpha = next(own, self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def read_adapter(folder: FolderSnapshot) -> Adapter:
    if not (folder / CONFIG).is_file():
        found = ", ".join(folder.names()[:20]) or "nothing"
        raise FileNotFoundError(f"{folder} has no {CONFIG}, so it is no adapter in PEFT's format; it contains {found}")
    config = read_json(folder / CONFIG)
    _check_config(folder, config)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has none of {', '.join(WEIGHTS)}")
    return Adapter(str(folder), config, {n.removeprefix(PREFIX): entry for n, entry in open_tensors(file).items()})


def _check_config(folder: FolderSnapshot, config: dict[str, Any]) -> None:
    """Raises ValueError for an adapter that is not LoRA as described above."""
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder / CONFIG}: peft_type is {brief(config.get('peft_type'))}, only LORA can be merged here"
        )
    remedy = "merge it with peft's merge_and_unload, save the model, and load that with jm.load"
    for name in _UNSUPPORTED:
        if config.get(name):
            raise ValueError(f"{folder / CONFIG}: {name} is not supported; {remedy}")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise ValueError(
            f"{folder / CONFIG}: init_lora_weights={brief(start)} trains with another base model; save it in peft with "
            "path_initial_model_for_weight_conversion, which gives a plain LoRA"
        )
    patterns = config.get("alpha_pattern") or {}
    numbers = [config.get("lora_alpha"), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    if not all(type(number) in (int, float) and abs(number) <= MAX_ALPHA for number in numbers):
        raise ValueError(
            f"{folder / CONFIG}: lora_alpha and those of alpha_pattern must be numbers up to {MAX_ALPHA}, got "
            f"{brief(numbers)}"
        )
    if special := [key for key in patterns if not re.fullmatch(r"[\w.]+", key)]:
        raise ValueError(f"{folder / CONFIG}: alpha_pattern has the regular expression {brief(special[0])}; {remedy}")


def torch_names(table: Table, path: str, array: Any) -> Iterator[tuple[str, Rule, tuple[int, ...]]]:
    """Yields the names of the torch tensors of a parameter, each with the rule and the tensor's shape."""
    rule, prefix, shape = table.rule(path), table.prefix(path), np.shape(array)
    shapes = torch_shapes(rule, shape[1:] if rule.per_layer else shape)
    for i in range(shape[0] if rule.per_layer else 1):
        for name, each in zip(rule.sources, shapes, strict=True):
            yield prefix + name.replace(LAYER, str(i)), rule, each


def torch_tensors(table: Table, path: str, array: np.ndarray) -> Iterator[tuple[str, Rule, np.ndarray]]:
    """Yields the torch tensors of a parameter, each with its name and the rule."""
    rule = table.rule(path)
    tensors = [t for layer in (array if rule.per_layer else [array]) for t in rule.to_torch(layer).values()]
    for (name, *_), tensor in zip(torch_names(table, path, array), tensors, strict=True):
        yield name, rule, tensor


def changed(table: Table, path: str, array: np.ndarray, changes: Mapping[str, Change]) -> np.ndarray:
    """Returns a parameter with the changes of its torch tensors."""
    rule, result = table.rule(path), np.array(array)
    layers = result if rule.per_layer else [result]
    named = [
        changes[name].apply(tensor, rule.inputs_first) if name in changes else tensor
        for name, _, tensor in torch_tensors(table, path, array)
    ]
    count = len(rule.sources)
    for i, layer in enumerate(layers):
        layer[...] = rule.from_torch(named[i * count : (i + 1) * count], layer.shape)
    return result
