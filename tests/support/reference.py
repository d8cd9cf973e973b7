"""A PyTorch model of the reference with random weights, and the same weights loaded here.

`pair(name, folder)` makes both; `agree` and `agree_in_training` run both on the same inputs and compare every output,
and every gradient. Eager attention, because the reference's fused attention silently ignores several options.
"""

import dataclasses
import inspect
from pathlib import Path

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
    """The same model twice, and the folder that both can be loaded from."""

    reference: transformers.PreTrainedModel
    model: Model
    params: dict
    folder: Path


def torch_model(name: str, seed: int = 0, **config) -> transformers.PreTrainedModel:
    """A model of the reference in evaluation mode; weights, biases, norms and the bias of the logits are random."""
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
    """Makes, saves and loads a model; `load` are further keywords of `jm.load`."""
    reference = torch_model(name, seed, **config)
    reference.save_pretrained(folder)
    model, params = jm.load(folder, cls=getattr(jm, name), **(load or {}))
    return Pair(reference, model, params, folder)


def as_torch(value):
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _split(inputs: dict) -> tuple[dict, dict]:
    arrays = {k: v for k, v in inputs.items() if isinstance(v, np.ndarray)}
    return arrays, {k: v for k, v in inputs.items() if k not in arrays}


def ours(pair: Pair, **inputs) -> Output:
    """Our output; arrays are traced, everything else is static."""
    arrays, static = _split(inputs)
    return jax.jit(lambda params, arrays: pair.model.apply({"params": params}, **arrays, **static))(pair.params, arrays)


def theirs(pair: Pair, **inputs):
    """The reference's output, without a cache unless `use_cache` says so."""
    if "use_cache" in inspect.signature(pair.reference.forward).parameters:
        inputs = {"use_cache": False, **inputs}
    return pair.reference(**{k: as_torch(v) for k, v in inputs.items()})


def agree(pair: Pair, *, only: np.ndarray | None = None, **inputs) -> None:
    """Every tensor of the reference's output is there, named the same, with the same numbers.

    only: bool [B,T], the positions to compare, for inputs with padding whose own states mean nothing.
    """
    compare(ours(pair, **inputs), theirs(pair, **inputs), only)


def compare(got, expected, only: np.ndarray | None = None) -> None:
    assert list(got.keys()) == list(expected.keys())
    for name, value in expected.items():
        layers = value if isinstance(value, tuple) else [value]
        stacked = got[name] if isinstance(value, tuple) else [got[name]]
        assert len(stacked) == len(layers), f"{name}: {len(stacked)} layers, expected {len(layers)}"
        for i, (mine, reference) in enumerate(zip(stacked, layers, strict=True)):
            if only is not None and "attentions" in name:  # [B,H,T,S]: the queries are the third axis
                mine, reference = np.moveaxis(np.asarray(mine), 1, 2), reference.transpose(1, 2)
            per_token = only is not None and reference.ndim >= 2 and reference.shape[:2] == only.shape
            close(mine, reference, f"{name}[{i}]", where=only if per_token else None)


def agree_in_training(pair: Pair, losses: tuple[str, ...] = ("loss",), **inputs) -> None:
    """Losses, logits, and the gradient of the summed losses with respect to every parameter."""
    arrays, static = _split(inputs)

    def total(params, arrays):
        out = pair.model.apply({"params": params}, **arrays, **static)
        return sum(out[name] for name in losses), out

    (_, got), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(pair.params, arrays)
    pair.reference.zero_grad()
    expected = theirs(pair, **inputs)
    sum(expected[name] for name in losses).backward()
    compare(got, expected)
    trees_agree(gradients, reference_gradients(pair))


def reference_gradients(pair: Pair) -> dict:
    """The reference's gradients in our tree: written like weights and loaded by the same table."""
    folder = pair.folder / "gradients"
    folder.mkdir(exist_ok=True)
    tensors = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).contiguous()
        for name, p in pair.reference.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((pair.folder / "config.json").read_text())
    return jm.load(folder, cls=type(pair.model))[1]
