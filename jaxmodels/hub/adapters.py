"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): merging, and PEFT's format (`peft_files`) in both directions.

Adapters here are those of qwix: beside a kernel of a stack of layers, in x out, are `kernel_lora_a` [L, in, rank] and
`kernel_lora_b` [L, rank, out], and the model computes with kernel + alpha / rank * a @ b.

PEFT's files have `lora_A` [rank, in] and `lora_B` [out, rank] for each torch module. A kernel of several modules, such
as qkv, has one `a`, which all of its modules get, and a part of `b` for each.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.convert import Table
from jaxmodels.download import HubToken, local_folder
from jaxmodels.hub.peft_files import CONFIG, PREFIX, changed, read_adapter, torch_names, torch_tensors
from jaxmodels.hub.save import check_params, to_host
from jaxmodels.messages import reject_unknown_keywords, unknown_name
from jaxmodels.parameters import check_tree, flatten, unflatten
from jaxmodels.processes import on_first_process
from jaxmodels.tensor_files.atomic_save import FILE_SETS, atomic_save, read_snapshot
from jaxmodels.tensor_files.safetensors_file import write_tensors

A, B = "_lora_a", "_lora_b"
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
            for name, _, tensor in torch_tensors(model.table, path, to_host(flat[path])):
                yield PREFIX + name, tensor

    rules = [model.table.rule(path) for path in factors]
    adapted = {
        name.removesuffix(".weight") for path in factors for name, *_ in torch_names(model.table, path, flat[path])
    }
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
    adapter = read_snapshot(folder, read_adapter)
    changes = adapter.changes(model, flat)
    merged = dict(flat)
    for path in [
        path for path in flat if any(name in changes for name, *_ in torch_names(model.table, path, flat[path]))
    ]:
        merged[path] = _placed_like(flat[path], changed(model.table, path, to_host(flat[path]), changes))
    return unflatten(merged)


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
        for name, _, tensor in torch_tensors(table, path, array):
            module = name.removesuffix(".weight")
            yield f"{PREFIX}{module}.lora_{part}.weight", tensor.T if rule.inputs_first else tensor


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
    modules = {path: {n.rpartition(".")[0] for n, *_ in torch_names(table, path, flat[path])} for path in flat}
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
