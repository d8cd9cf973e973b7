"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): merging, and PEFT's format in both directions.

Adapters here are those of qwix: beside a kernel of a stack of layers, in x out, are `kernel_lora_a` [L, in, rank] and
`kernel_lora_b` [L, rank, out], and the model computes with kernel + alpha / rank * a @ b.

PEFT's files have `lora_A` [rank, in] and `lora_B` [out, rank] for each torch module. A kernel of several modules, such
as qkv, has one `a`, which all of its modules get, and a part of `b` for each.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.convert import LAYER, Rule, Table, WeightsError, torch_shapes
from jaxmodels.download import HubToken, local_folder, read_json
from jaxmodels.hub.save import check_params, to_host
from jaxmodels.messages import brief, reject_unknown_keywords, unknown_name
from jaxmodels.parameters import check_tree, flatten, unflatten
from jaxmodels.processes import on_first_process
from jaxmodels.tensor_files import TensorEntry, open_tensors
from jaxmodels.tensor_files.atomic_save import FILE_SETS, FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tensor_files.safetensors_file import write_tensors

CONFIG, *WEIGHTS = FILE_SETS["adapter"]
A, B = "_lora_a", "_lora_b"
PREFIX = "base_model.model."
MAX_ALPHA = 10**6
_FACTOR = re.compile(r"(.+)\.(?:lora|lora_embedding)_([AB])(?:\.weight)?")
# Options of PEFT by which an adapter is more than a product of two matrices, or belongs to a changed base model.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "kasa_config", "monteclora_config", "arrow_config"),
    *("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
)
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")
# Suffixes of class names -> PEFT's task types.
_TASKS = {
    "LMHeadModel": "CAUSAL_LM",
    "ForCausalLM": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def merge_adapter(params: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """Merges adapters into the kernels: returns the parameters of the model without adapters. Can be traced.

    Args:
      params: parameters of a model with qwix's LoRA, with `kernel_lora_a` and `kernel_lora_b` beside some kernels.
      alpha: alpha of the LoRA; the products are multiplied by alpha / rank.

    Raises:
      ValueError: there are no adapters, or one without its other half.
      TypeError: no parameter tree.

    Examples:
      >>> import qwix
      >>> model, params = jm.load("openai-community/gpt2")
      >>> rules = qwix.LoraProvider(module_path=".*/layers/.*", rank=8, alpha=16.0)
      >>> lora = jm.init(qwix.apply_lora_to_model(model, rules), jax.random.key(0))  # in training, beside `params`
      >>> merged = jm.merge_adapter(lora, alpha=16.0)
      >>> sorted(merged) == sorted(params)
      True
    """
    flat = _flat(params)
    factors = _factors(flat)
    merged = {path: array for path, array in flat.items() if not path.endswith((A, B))}
    for path, (a, b) in factors.items():
        kernel = merged[path]
        merged[path] = kernel + (alpha / a.shape[-1] * (a @ b)).reshape(kernel.shape).astype(kernel.dtype)
    return unflatten(merged)


@reject_unknown_keywords(
    {
        "save_directory": "it is called folder=",
        "lora_alpha": "it is called alpha=",
        "modules_to_save": "it is called whole=",
        "base_model_name_or_path": "it is called base=",
    }
)
def save_adapter(
    folder: str | Path,
    model: Model,
    params: Mapping[str, Any],
    *,
    alpha: float,
    whole: Iterable[str] = (),
    base: str | Path = "",
) -> None:
    """Saves the adapters of a model in PEFT's format: adapter_config.json and adapter_model.safetensors.

    peft loads them onto the torch model, and `load_adapter` onto parameters. With several processes, all must call this
    function; the first one writes.

    Args:
      folder: is created if needed.
      model: the model, with or without qwix's LoRA.
      params: parameters with `kernel_lora_a` and `kernel_lora_b` beside some kernels; of the others only those of
        `whole` are saved.
      alpha: alpha of the LoRA.
      whole: paths of parameters or modules that were trained without an adapter, such as "classifier"; PEFT's
        modules_to_save.
      base: folder or Hub id of the model to which the adapters belong, for PEFT's AutoPeftModel classes.

    Raises:
      ValueError: there are no adapters, adapters of several ranks or of something else than a kernel, a path in `whole`
        that does not exist, or a model with pruned heads.
      TypeError: no parameter tree, or an argument of the wrong type.
      OSError: writing failed.

    Examples:
      >>> import qwix
      >>> model, params = jm.load("openai-community/gpt2")
      >>> rules = qwix.LoraProvider(module_path=".*/layers/.*", rank=8, alpha=16.0)
      >>> lora = jm.init(qwix.apply_lora_to_model(model, rules), jax.random.key(0))  # in training, beside `params`
      >>> jm.save_adapter("adapter", model, lora, alpha=16.0, base="openai-community/gpt2")
    """
    flat = _flat(params)
    _check_not_pruned(model)
    factors = _factors(flat)
    ranks = {a.shape[-1] for a, _ in factors.values()}
    if len(ranks) > 1:
        raise ValueError(f"the adapters have ranks {sorted(ranks)}; PEFT's format is written for one rank")
    kept, modules = _whole(model.table, {p: a for p, a in flat.items() if not p.endswith((A, B))}, whole)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for path, (a, b) in factors.items():
            yield from _to_peft(model.table, path, flat[path].shape, to_host(a), to_host(b))
        for path in kept:
            for name, _, tensor in _named(model.table, path, to_host(flat[path])):
                yield PREFIX + name, tensor

    rules = [model.table.rule(path) for path in factors]
    adapted = {name.removesuffix(".weight") for path in factors for name, *_ in _names(model.table, path, flat[path])}
    config = {
        "peft_type": "LORA",
        "task_type": next((task for end, task in _TASKS.items() if type(model).__name__.endswith(end)), None),
        "base_model_name_or_path": str(base) or None,
        "r": ranks.pop(),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapted),
        "modules_to_save": modules or None,
        "fan_in_fan_out": any(rule.inputs_first for rule in rules),
        "bias": "none",
        "inference_mode": True,
    }
    found = tensors()

    def write() -> None:
        with atomic_save(Path(folder), "adapter") as staging:
            arrays = {name: np.ascontiguousarray(tensor) for name, tensor in found}
            write_tensors(staging / "adapter_model.safetensors", arrays, metadata={"format": "pt"})
            (staging / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    on_first_process(write, found)


@reject_unknown_keywords({"model_id": "it is called name=", "adapter_name": "adapters are merged; leave it out"})
def load_adapter(
    name: str | Path,
    model: Model,
    params: Mapping[str, Any],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: HubToken = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
) -> dict[str, Any]:
    """Loads a LoRA adapter in PEFT's format and merges it into the parameters of its base model.

    Supports rank and alpha of each module, rank-stabilised scaling, adapters of embeddings, trained biases and whole
    modules (`modules_to_save`). Does not need torch or peft.

    Args:
      name: folder or Hub id of the adapter.
      model: the model.
      params: parameters of the base model; are not changed.
      subfolder: subfolder of the folder or the Hub repository.
      revision, token, cache_dir, local_files_only, force_download: passed to huggingface_hub.

    Returns:
      The parameters with the adapter merged, with the dtypes and shardings of `params`.

    Raises:
      FileNotFoundError: the folder or repository does not exist, or has no adapter.
      WeightsError: the adapter is of another model; lists all names.
      TensorFileError: a damaged or malicious file.
      ValueError: an unsupported kind of adapter, or a model with pruned heads.
      TypeError: an argument of the wrong type.

    Examples:
      >>> import qwix
      >>> model, params = jm.load("openai-community/gpt2")
      >>> rules = qwix.LoraProvider(module_path=".*/layers/.*", rank=8, alpha=16.0)
      >>> lora = jm.init(qwix.apply_lora_to_model(model, rules), jax.random.key(0))  # in training, beside `params`
      >>> jm.save_adapter("adapter", model, lora, alpha=16.0, base="openai-community/gpt2")
      >>> params = jm.load_adapter("adapter", model, params)
    """
    flat = _flat(params)
    _check_not_pruned(model)
    check_params("the parameters for the adapter", model, flat)
    folder = local_folder(
        name,
        FILE_SETS["adapter"],
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    adapter = read_snapshot(folder, _read)
    changes = adapter.changes(model, flat)
    merged = dict(flat)
    for path in [path for path in flat if any(name in changes for name, *_ in _names(model.table, path, flat[path]))]:
        merged[path] = _placed_like(flat[path], _changed(model.table, path, to_host(flat[path]), changes))
    return unflatten(merged)


class _Change(NamedTuple):
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


class _Adapter(NamedTuple):
    """An adapter's folder, the content of adapter_config.json, and the tensors without PEFT's prefix."""

    folder: str
    config: dict[str, Any]
    entries: dict[str, TensorEntry]

    def changes(self, model: Model, flat: Mapping[str, Any]) -> dict[str, _Change]:
        """Returns what changes, by the names of torch tensors.

        Raises:
          WeightsError: the adapter does not match the model.
        """
        known = {
            model.table.short_name(name): (name, rule, shape)
            for path, array in flat.items()
            for name, rule, shape in _names(model.table, path, array)
        }
        changes: dict[str, _Change] = {}
        unknown = []
        for name, entry in self.entries.items():
            match = _FACTOR.fullmatch(name)
            short = model.table.short_name(f"{match[1]}.weight" if match else name.replace(".base_layer.", "."))
            if short not in known:
                unknown.append(PREFIX + name)
                continue
            change = changes.get(known[short][0], _Change())
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


def _read(folder: FolderSnapshot) -> _Adapter:
    if not (folder / CONFIG).is_file():
        found = ", ".join(folder.names()[:20]) or "nothing"
        raise FileNotFoundError(f"{folder} has no {CONFIG}, so it is no adapter in PEFT's format; it contains {found}")
    config = read_json(folder / CONFIG)
    _check_config(folder, config)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has none of {', '.join(WEIGHTS)}")
    return _Adapter(str(folder), config, {n.removeprefix(PREFIX): entry for n, entry in open_tensors(file).items()})


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


def _flat(params: Any) -> dict[str, Any]:
    check_tree("params", params)
    return flatten(params)


def _factors(flat: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the adapters by the path of their kernel.

    Raises:
      ValueError: there are none, or one lacks its kernel or its other half.
    """
    paths = list(dict.fromkeys(path.removesuffix(A).removesuffix(B) for path in flat if path.endswith((A, B))))
    if not paths:
        raise ValueError(f"the parameters have no adapters, such as .../kernel{A} and .../kernel{B} of qwix")
    for path in paths:
        if missing := [name for name in (path, path + A, path + B) if name not in flat]:
            raise ValueError(f"the parameters have a part of an adapter, but not {missing[0]}")
    return {path: (flat[path + A], flat[path + B]) for path in paths}


def _names(table: Table, path: str, array: Any) -> Iterator[tuple[str, Rule, tuple[int, ...]]]:
    """Yields the names of the torch tensors of a parameter, each with the rule and the tensor's shape."""
    rule, prefix, shape = table.rule(path), table.prefix(path), np.shape(array)
    shapes = torch_shapes(rule, shape[1:] if rule.per_layer else shape)
    for i in range(shape[0] if rule.per_layer else 1):
        for name, each in zip(rule.sources, shapes, strict=True):
            yield prefix + name.replace(LAYER, str(i)), rule, each


def _named(table: Table, path: str, array: np.ndarray) -> Iterator[tuple[str, Rule, np.ndarray]]:
    """Yields the torch tensors of a parameter, each with its name and the rule."""
    rule = table.rule(path)
    tensors = [t for layer in (array if rule.per_layer else [array]) for t in rule.to_torch(layer).values()]
    for (name, *_), tensor in zip(_names(table, path, array), tensors, strict=True):
        yield name, rule, tensor


def _to_peft(
    table: Table, path: str, shape: tuple[int, ...], a: np.ndarray, b: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields lora_A and lora_B of every torch module of a kernel.

    Each factor gets the axes of the kernel, with axes of size 1 for those that it lacks, and is converted as a kernel.
    """
    rule = table.rule(path)
    axes = shape[rule.per_layer :]
    inputs = next(n for n in range(1, len(axes) + 1) if np.prod(axes[:n]) == a.shape[-2])
    # Of the output axes, `a` keeps that of the modules, along which it is repeated, and the last one for the rank.
    modules = len(rule.sources)
    ones = (1,) * (len(axes) - inputs - 1)
    repeated = (modules, *ones[1:]) if modules > 1 else ones
    lead, rank = a.shape[:-2], a.shape[-1]
    a = np.broadcast_to(a.reshape(*lead, *axes[:inputs], *ones, rank), (*lead, *axes[:inputs], *repeated, rank))
    b = b.reshape(*lead, rank, *(1,) * (inputs - 1), *axes[inputs:])
    for part, array in (("A", a), ("B", b)):
        for name, _, tensor in _named(table, path, array):
            module = name.removesuffix(".weight")
            yield f"{PREFIX}{module}.lora_{part}.weight", tensor.T if rule.inputs_first else tensor


def _changed(table: Table, path: str, array: np.ndarray, changes: Mapping[str, _Change]) -> np.ndarray:
    """Returns a parameter with the changes of its torch tensors."""
    rule, result = table.rule(path), np.array(array)
    layers = result if rule.per_layer else [result]
    named = [
        changes[name].apply(tensor, rule.inputs_first) if name in changes else tensor
        for name, _, tensor in _named(table, path, array)
    ]
    count = len(rule.sources)
    for i, layer in enumerate(layers):
        layer[...] = rule.from_torch(named[i * count : (i + 1) * count], layer.shape)
    return result


def _placed_like(old: Any, new: np.ndarray) -> Any:
    if not isinstance(old, jax.Array):
        return new
    return jax.make_array_from_callback(new.shape, old.sharding, lambda index: new[index])


def _whole(table: Table, flat: Mapping[str, Any], whole: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the paths of the parameters in all torch modules of `whole`, and the names of these modules.

    A head is one module, because PEFT adds those that it knows, such as "classifier", to the modules by itself.
    """
    chosen: set[str] = set()
    for name in whole:
        found = {path for path in flat if path == name or path.startswith(f"{name}/")}
        if not found:
            raise ValueError(unknown_name("whole has no parameter or module", name, flat))
        chosen |= found
    modules = {path: {n.rpartition(".")[0] for n, *_ in _names(table, path, flat[path])} for path in flat}
    tops = {path: table.rule(path).sources[0].partition(".")[0] for path in flat}
    covered = {module for path in chosen for module in modules[path]}
    kept = [path for path in flat if modules[path] <= covered]
    names: set[str] = set()
    for path in kept:
        is_whole = all(other in kept for other in flat if tops[other] == tops[path])
        names |= {tops[path]} if is_whole else modules[path]
    return kept, sorted(names)


def _check_not_pruned(model: Model) -> None:
    if any(model.config.pruned_heads.values()):
        raise ValueError("adapters of models with pruned heads are not supported; merge them before heads are pruned")
