"""Pairs of a PyTorch model of the reference with random weights, and the same model in jaxmodels.

`pair(name, folder)` creates both; `agree` and `agree_in_training` run both on the same inputs and compare all outputs
and gradients. The reference uses eager attention, because its fused attention silently ignores several options.
"""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from support.arrays import close, trees_agree
from support.tiny import sizes

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.outputs import Output


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same model in PyTorch and JAX, and the folder from which both can be loaded."""

    reference: transformers.PreTrainedModel
    model: Model
    params: dict
    folder: Path


def torch_model(name: str, seed: int = 0, **config) -> transformers.PreTrainedModel:
    """Create a reference model in evaluation mode with random weights, biases, norms and logits bias."""
    cls = getattr(transformers, name)
    values = cls.config_class(**{**sizes(name), "attn_implementation": "eager", **config})
    torch.manual_seed(seed)
    model = cls(values).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 1.0
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    return model


def pair(name: str, folder: Path, seed: int = 0, load: dict | None = None, **config) -> Pair:
    """Create, save and load a model; `load` are further arguments of `jm.load`."""
    reference = torch_model(name, seed, **config)
    reference.save_pretrained(folder)
    model, params = jm.load(folder, cls=getattr(jm, name), **(load or {}))
    return Pair(reference, model, params, folder)


def as_torch(value: Any) -> Any:
    """Convert NumPy arrays to tensors, and return other values unchanged."""
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _split(inputs: dict) -> tuple[dict, dict]:
    arrays = {k: v for k, v in inputs.items() if isinstance(v, np.ndarray)}
    return arrays, {k: v for k, v in inputs.items() if k not in arrays}


def actual_output(pair: Pair, **inputs) -> Output:
    """Run the JAX model; arrays are traced, all other inputs are static."""
    arrays, static = _split(inputs)
    return jax.jit(lambda params, arrays: pair.model.apply({"params": params}, **arrays, **static))(pair.params, arrays)


def reference_output(pair: Pair, **inputs: Any) -> Any:
    """Run the reference, without a KV cache unless `use_cache` is passed."""
    if "use_cache" in inspect.signature(pair.reference.forward).parameters:
        inputs = {"use_cache": False, **inputs}
    return pair.reference(**{k: as_torch(v) for k, v in inputs.items()})


def agree(pair: Pair, *, only: np.ndarray | None = None, **inputs) -> None:
    """Assert that both models return the same tensors under the same names.

    Args:
      pair: The models.
      only: Positions to compare, bool [B,T], for inputs with padding, whose states are meaningless.
      **inputs: Inputs of both models.
    """
    compare(actual_output(pair, **inputs), reference_output(pair, **inputs), only)


def compare(got: Any, expected: Any, only: np.ndarray | None = None) -> None:
    """Assert that two outputs have the same names and values."""
    assert list(got.keys()) == list(expected.keys())
    for name, value in expected.items():
        layers = value if isinstance(value, tuple) else [value]
        stacked = got[name] if isinstance(value, tuple) else [got[name]]
        assert len(stacked) == len(layers), f"{name}: {len(stacked)} layers, expected {len(layers)}"
        for i, (actual, reference) in enumerate(zip(stacked, layers, strict=True)):
            if only is not None and "attentions" in name:  # [B,H,T,S]: the queries are the third axis
                actual, reference = np.moveaxis(np.asarray(actual), 1, 2), reference.transpose(1, 2)
            per_token = only is not None and reference.ndim >= 2 and reference.shape[:2] == only.shape
            close(actual, reference, f"{name}[{i}]", where=only if per_token else None)


def agree_in_training(pair: Pair, losses: tuple[str, ...] = ("loss",), **inputs) -> None:
    """Compare outputs, and the gradient of the summed losses with respect to every parameter."""
    arrays, static = _split(inputs)

    def total(params, arrays):
        out = pair.model.apply({"params": params}, **arrays, **static)
        return sum(out[name] for name in losses), out

    (_, got), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(pair.params, arrays)
    pair.reference.zero_grad()
    expected = reference_output(pair, **inputs)
    sum(expected[name] for name in losses).backward()
    compare(got, expected)
    trees_agree(gradients, reference_gradients(pair))


def reference_gradients(pair: Pair) -> dict:
    """Return the gradients of the reference as a JAX tree, by saving them like weights and loading that file."""
    folder = pair.folder / "gradients"
    folder.mkdir(exist_ok=True)
    tensors = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).contiguous()
        for name, p in pair.reference.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((pair.folder / "config.json").read_text())
    return jm.load(folder, cls=type(pair.model))[1]
