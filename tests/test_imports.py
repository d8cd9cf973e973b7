"""Imports only point down (CONTRIBUTING.md, "Repository layout"), and the library never needs torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmodels import architectures

ROOT = Path(__file__).resolve().parents[1]

# The parts of the library that each part may import, besides itself.
BELOW = {
    "pallas_kernels": set(),
    "batching": set(),
    "arrays": set(),
    "messages": set(),
    "chips": set(),
    "tensor_files": set(),
    "download": set(),
    "processes": set(),
    "config": {"download", "tensor_files"},
    "parameters": set(),
    "tokenization": {"config", "download", "tensor_files"},
    "layers": {"pallas_kernels"},
    "outputs": {"layers"},
    "convert": {"tensor_files"},
    "sharding": {"parameters"},
    "initialise": {"parameters", "sharding"},
    "surgery": {"initialise", "parameters"},
    "architectures": {"config", "convert", "layers", "outputs", "pallas_kernels", "parameters"},
    "serialization": {"architectures", "layers", "outputs"},
    "generation": {"architectures", "config", "download", "layers", "outputs", "parameters", "sharding"}
    | {"pallas_kernels", "tensor_files"},
    "retrieval": {"architectures", "config", "download", "layers", "parameters", "processes", "sharding"}
    | {"tensor_files", "tokenization"},
    "inference": {"architectures", "batching", "layers", "tokenization"},
    "training": {"layers", "parameters", "sharding"},
    "hub": {"architectures", "config", "convert", "download", "parameters", "processes", "sharding"}
    | {"layers", "tensor_files"},
    "estimate": {"architectures", "chips", "generation", "layers", "pallas_kernels", "parameters", "sharding"}
    | {"training"},
    "lm_eval": {"architectures", "batching", "generation", "hub", "inference", "tokenization"},
    "commands": {"architectures", "chips", "convert", "download", "estimate", "generation", "hub", "parameters"}
    | {"layers", "retrieval", "sharding", "tensor_files", "tokenization", "training"},
}
# Error messages and array types, used by every part.
EVERYWHERE = {"arrays", "messages"}
# The public API and the command line may import every part.
FACES = {"__init__", "__main__"}
# A folder of its own in a checkout.
ELSEWHERE = {"experiments"}
# Model families that other families may import.
FAMILIES = {"rag": {"bart", "dpr", "t5"}, "led": {"bart"}, "roberta_prelayernorm": {"roberta"}}
# pallas_kernels takes arrays, not modules; torch belongs to tests and benchmarks.
FOREIGN = {"pallas_kernels": {"flax", "jaxmodels", "optax"}}
NOWHERE = {"torch", "transformers", "tensorflow"}
# Imported where they are needed: slow to import, or in an extra.
LATER = {"huggingface_hub", "requests", "httpx", "orbax", "tensorstore", "matplotlib", "grain", "absl"}
LATER |= {"ml_collections", "faiss", "onnx", "pyarrow", "sentencepiece", "google.protobuf", "jinja2", "sklearn"} | {
    "jax.experimental.pallas"
}


def modules(*folders) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(source: str, folder: tuple[str, ...]) -> set[str]:
    """Return the full names of all imports of a file in `folder`, including local imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(name: str) -> str:
    """Return the part of the library to which a full name belongs, or ""."""
    head, *rest = name.split(".")
    if head == "pallas_kernels":
        return head
    return (rest or ["__init__"])[0] if head == "jaxmodels" else ""


def family_of(name: str) -> str:
    words = name.split(".")
    return words[2] if words[:2] == ["jaxmodels", "architectures"] and len(words) > 2 else ""


def wrong_arrows(module: str, names: set[str]) -> list[str]:
    """Return the forbidden imports of a module, given its full name."""
    part, family, wrong = part_of(module), family_of(module), []
    for name in sorted(names):
        target, other = part_of(name), family_of(name)
        top = name.split(".")[0]
        upward = target and target != part and part not in FACES and target not in BELOW[part] | EVERYWHERE
        sideways = is_family(family) and is_family(other) and other not in {family, *FAMILIES.get(family, ())}
        # Shared code of all families must not depend on one of them; only the list of families imports all.
        shared = family and not is_family(family) and is_family(other)
        if upward or sideways or shared or top in NOWHERE | ELSEWHERE | FOREIGN.get(part, set()):
            wrong.append(f"{module} imports {name}")
    return wrong


def is_family(name: str) -> bool:
    """Whether this is a family, a folder or one file."""
    return f"jaxmodels.architectures.{name}" in {family.__name__ for family in architectures.FAMILIES}


def test_every_part_of_the_library_has_its_place():
    inside = {
        path.stem for path in (ROOT / "jaxmodels").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert inside - FACES - ELSEWHERE <= set(BELOW), "say in BELOW what the new part may import"


def test_imports_point_down_only():
    wrong = []
    for path in modules("jaxmodels", "pallas_kernels"):
        where = path.relative_to(ROOT).with_suffix("").parts
        wrong += wrong_arrows(".".join(where).removesuffix(".__init__"), imports(path.read_text(), where[:-1]))
    assert wrong == []


def test_the_table_has_no_cycle():
    order = list(BELOW)
    for part, below in BELOW.items():
        assert all(order.index(lower) < order.index(part) for lower in below), part


def test_nobody_imports_experiments_and_they_need_no_torch():
    for path in modules("experiments"):
        assert not {name.split(".")[0] for name in imports(path.read_text(), ())} & NOWHERE, path
    for path in modules("benchmarks"):
        assert not any(name.split(".")[0] == "experiments" for name in imports(path.read_text(), ())), path


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("jaxmodels.layers.attention", "jaxmodels.architectures.gpt2.GPT2Config"),
        ("jaxmodels.convert", "jaxmodels.architectures.base.Model"),
        ("jaxmodels.generation.loop", "jaxmodels.hub.load"),
        ("jaxmodels.sharding", "jaxmodels.architectures"),
        ("jaxmodels.parameters", "jaxmodels.architectures.base"),
        ("jaxmodels.architectures.base", "jaxmodels.architectures.gpt2"),
        ("jaxmodels.architectures.bert_like", "jaxmodels.architectures.dpr.config"),
        ("jaxmodels.architectures.dpr.model", "jaxmodels.architectures.roberta_prelayernorm"),
        ("jaxmodels.hub.save", "jaxmodels"),
        ("jaxmodels.training.step", "experiments.corpus"),
        ("jaxmodels.config", "torch.nn"),
        ("pallas_kernels.api", "flax.linen"),
        ("pallas_kernels.api", "jaxmodels.config"),
        ("jaxmodels.__main__", "transformers"),
    ],
)
def test_wrong_arrows_are_seen(module, name):
    assert wrong_arrows(module, {name}) == [f"{module} imports {name}"]


def test_relative_and_local_imports_are_seen():
    source = "from . import a\nfrom ..b import c\ndef f():\n    import torch\n    from x.y import z as w"
    assert imports(source, ("p", "q")) == {"p.q.a", "p.b.c", "torch", "x.y.z"}


def test_importing_the_library_adds_no_slow_package():
    """Neither torch, nor what is only needed later, unless JAX, Flax and Optax import it themselves."""
    code = "import sys, jax, flax, optax; before = set(sys.modules); import jaxmodels; print(*{*sys.modules} - before)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert "jaxmodels.hub.load" in imported
    assert imported & (NOWHERE | LATER) == set()


def test_one_module_asks_for_the_platform():
    """What depends on the platform is in one place (docs/how_to/add_a_family.md, "The base")."""
    asking = [
        str(path.relative_to(ROOT))
        for path in modules("jaxmodels")
        if any(
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("pallas_kernels")
            and any(alias.name == "platform" for alias in node.names)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    ]
    assert asking == ["jaxmodels/layers/platform.py"]
