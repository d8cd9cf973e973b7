"""Check that a checkpoint is intact, or that two checkpoints hold the same model.

Checks the config, the names and shapes of all tensors, that all numbers are finite, that saving reproduces the files
bit by bit, and a forward pass. Saving uses the folder for temporary files ($TMPDIR). The exit status is 0 if all checks
pass, else 2.
"""

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.commands.convert import Checkpoint, load_checkpoint
from jaxmodels.convert import WeightsError
from jaxmodels.download import read_json
from jaxmodels.hub import save
from jaxmodels.parameters import flatten
from jaxmodels.tensor_files import TensorEntry, open_folder

HELP = "check that a checkpoint is intact, or that two hold the same model"
MAX_NAMES = 20  # names of a list that are printed
LENGTH = 8  # tokens of the forward pass
# Fields that saving sets, or writes to another file.
SET_BY_SAVING: dict[str, Any] = {"architectures": None, "torch_dtype": None, "generation": {}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", help="folder or Hub id of the checkpoint to check")
    parser.add_argument("other", nargs="?", help="folder or Hub id of a checkpoint to compare with")
    parser.add_argument(
        "--class", dest="cls", metavar="CLASS", help="model class or auto class (default: from the config)"
    )
    parser.add_argument(
        "--tolerance", type=float, help="maximum absolute difference from OTHER in parameters and outputs (default: 0)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for the input of the forward pass (default: 0)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints a line for each check.

    Raises:
      ValueError: a check has failed; and see `load`.
    """
    if arguments.tolerance is not None and arguments.other is None:
        raise ValueError("--tolerance is for comparisons: pass OTHER, the checkpoint to compare with, or leave it out")
    tolerance = arguments.tolerance or 0.0
    if not tolerance >= 0:
        raise ValueError(f"--tolerance must be at least 0, got {tolerance}")
    found = _load(arguments.folder, arguments.cls)
    with tempfile.TemporaryDirectory() as folder:
        save(folder, found.model, found.params)
        check_tensors(found, folder)
    outputs = _forward(found, arguments.seed)
    if arguments.other is not None:
        other = _load(arguments.other, arguments.cls)
        _same_tree(found, other)
        differences = [
            _difference("parameters", flatten(found.params), flatten(other.params)),
            _difference("outputs", outputs, _forward(other, arguments.seed)),
        ]
        # NaN if one of them is.
        largest = float(np.max(differences))
        if not largest <= tolerance:
            raise ValueError(
                f"{arguments.folder} and {arguments.other} differ by up to {largest:.3g}, but --tolerance is "
                f"{tolerance:g}"
            )


def _print_line(name: str, text: str) -> None:
    print(f"{name:11} {text}", flush=True)


def _load(source: str, cls: str | None) -> Checkpoint:
    """Loads a checkpoint; prints lines about its config and its coverage of the model's weights."""
    _print_line("checkpoint", source)
    try:
        found = load_checkpoint(source, cls=cls)
    except WeightsError as error:
        for what, names in _coverage(error.unknown, error.missing, error.mismatched, error.apart):
            _print_line("coverage", f"{len(names)} {what}")
            for name in (*names[:MAX_NAMES], *(["..."] if len(names) > MAX_NAMES else [])):
                _print_line("", name)
        raise ValueError(f"the weights of {source} do not match the model of its config") from error
    _print_line("config", f"{type(found.model.config).__name__}, class {type(found.model).__name__}")
    _print_line("coverage", ", ".join(f"0 {what}" for what, _ in _coverage([], [], [], [])))
    for note in found.notes:
        _print_line("note", note)
    return found


def _coverage(*lists: list[str]) -> tuple[tuple[str, list[str]], ...]:
    """Names the lists of `WeightsError`, in its order."""
    titles = "unused tensors", "missing parameters", "shape mismatches", "conflicting copies"
    return tuple(zip(titles, lists, strict=True))


def check_tensors(found: Checkpoint, again: str | Path) -> None:
    """Checks that all numbers are finite, and that the folder `again`, where it was saved, holds the same bits.

    Raises:
      ValueError: a check has failed.
    """
    table, config = found.model.table, found.model.config
    source = {table.short_name(name): entry for name, entry in found.entries.items()}
    saved = {table.short_name(name): entry for name, entry in open_folder(again).items()}
    bad = [name for name in saved if name in source and not _finite(source[name])]
    changed = [name for name in saved if name in source and not _same_bits(source[name], saved[name])]
    written = type(config).from_dict(read_json(Path(again) / "config.json"))
    if written.replace(**SET_BY_SAVING) != config.replace(**SET_BY_SAVING):
        changed.append("config.json")
    copies = [name for name in table.copies(config.tie_word_embeddings) if name in source and name not in saved]
    count = sum(name in source for name in saved)
    dtypes = sorted({str(source[name].dtype) for name in saved if name in source})
    _print_line("tensors", f"{count:,} of {', '.join(dtypes)}: {_verdict(bad, 'all finite', 'with infinities or NaN')}")
    if copies:
        _print_line("copies", f"{len(copies)} of tied tensors: equal")  # otherwise loading would have failed
    _print_line(
        "round trip", _verdict(changed, "bitwise equal after loading and saving", "changed by loading and saving")
    )
    if bad or changed:
        raise ValueError(f"{found.folder} is not intact: {', '.join([*bad, *changed][:MAX_NAMES])}")


def _verdict(failed: list[str], success: str, failure: str) -> str:
    return f"{len(failed)} {failure}" if failed else success


def _finite(entry: TensorEntry) -> bool:
    return bool(np.isfinite(entry.read().astype(np.float32)).all())


def _same_bits(entry: TensorEntry, other: TensorEntry) -> bool:
    """Compares in the dtype of `other`, which can represent all values of the first."""
    return entry.read().astype(other.dtype).tobytes() == other.read().tobytes()


def _forward(found: Checkpoint, seed: int) -> dict[str, jax.Array]:
    """Returns the float32 outputs for a random input, by name; prints their shapes.

    Raises:
      ValueError: an output is not finite.
    """
    model = found.model.clone(dtype=jnp.float32)
    outputs = _outputs(model, found.params, _inputs(model, seed))
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    bad = [name for name, array in outputs.items() if not jnp.isfinite(array).all()]
    _print_line("forward", f"{shapes}: {_verdict(bad, 'all finite', 'with infinities or NaN')}")
    if bad:
        raise ValueError(f"{found.folder} produces infinities or NaN: {', '.join(bad)}")
    return outputs


@partial(jax.jit, static_argnums=0)
def _outputs(model: Model, params: dict[str, Any], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves_with_path(model.apply({"params": params}, **inputs))
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves if jnp.issubdtype(leaf, jnp.floating)}


def _inputs(model: Model, seed: int) -> dict[str, jax.Array]:
    """Returns random inputs, named as the dummy inputs of initialisation but longer."""
    rng, config = np.random.default_rng(seed), model.config
    sizes = [part.vocab_size for part in (config, getattr(config, "question_encoder", config))]
    length = LENGTH * (config.chunk_size_feed_forward or 1)
    inputs = {}
    for name, array in model.dummy_inputs().items():
        shape = (*array.shape[:-1], length)
        if name.endswith("ids"):
            inputs[name] = jnp.asarray(rng.integers(0, min(sizes), shape), jnp.int32)
        else:
            ones = name.endswith("mask")
            inputs[name] = (
                jnp.ones(shape, jnp.int32) if ones else jnp.asarray(rng.normal(size=array.shape), jnp.float32)
            )
    return inputs


def _same_tree(found: Checkpoint, other: Checkpoint) -> None:
    """Raises ValueError if the parameters of the two differ in names or shapes."""
    shapes, others = ({path: leaf.shape for path, leaf in flatten(each.params).items()} for each in (found, other))
    if shapes != others:
        path = next(path for path in (*shapes, *others) if shapes.get(path) != others.get(path))
        names = [type(each.model).__name__ for each in (found, other)]
        raise ValueError(
            f"a {names[0]} and a {names[1]} with different parameters cannot be compared: {path} has shape "
            f"{shapes.get(path)} and {others.get(path)}; --class loads both as the same class"
        )


def _difference(what: str, first: Mapping[str, jax.Array], second: Mapping[str, jax.Array]) -> float:
    """Returns the largest absolute difference; prints it with its location."""
    differences = {}
    for name, array in first.items():
        left, right = (np.asarray(each).astype(np.float32) for each in (array, second[name]))
        differences[name] = float(np.abs(left - right).max(initial=0.0))
    where = max(differences, key=lambda name: (np.isnan(differences[name]), differences[name]))
    largest = differences[where]
    _print_line(what, f"largest difference {largest:.3g}" + (f", in {where}" if largest else ""))
    return largest
