"""`python -m jaxmodels verify FOLDER [OTHER]`: whether a checkpoint is sound, and whether two are the same model.

Checked are the config, that file and model have the same tensors of the same shapes, that all numbers are finite, that
saving gives back the file's bits, and a forward pass. Saving goes to the folder for temporary files ($TMPDIR). The exit
status is 0 if all is well, else 2.
"""

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.commands.reading import Checkpoint, read
from jaxmodels.convert import WeightsError
from jaxmodels.download import read_json
from jaxmodels.hub import save
from jaxmodels.parameters import flatten
from jaxmodels.tensor_files import TensorEntry, open_folder

HELP = "check a checkpoint, or whether two give the same parameters and outputs"
SHOWN = 20  # names of a list that are printed
LENGTH = 8  # tokens of the forward pass
# What saving sets anew, or puts into a file of its own.
SET_BY_SAVING = {"architectures": None, "torch_dtype": None, "generation": {}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder or Hub id")
    parser.add_argument("other", nargs="?", help="folder or Hub id of what should be the same model")
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="class or auto class; default: the config's own")
    parser.add_argument(
        "--tolerance", type=float, help="largest difference from OTHER that counts as none (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the forward pass' input (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Prints a row for each check.

    Raises:
      ValueError: a check has failed; and what `load` raises.
    """
    if arguments.tolerance is not None and arguments.other is None:
        raise ValueError("--tolerance is of a difference: give OTHER, the checkpoint to compare with, or leave it out")
    tolerance = arguments.tolerance or 0.0
    if not tolerance >= 0:
        raise ValueError(f"--tolerance is a number of at least 0, got {tolerance}")
    found = _covered(arguments.folder, arguments.cls)
    with tempfile.TemporaryDirectory() as folder:
        save(folder, found.model, found.params)
        check_tensors(found, folder)
    outputs = _forward(found, arguments.seed)
    if arguments.other is not None:
        other = _covered(arguments.other, arguments.cls)
        _same_tree(found, other)
        apart = [
            _difference("parameters", flatten(found.params), flatten(other.params)),
            _difference("outputs", outputs, _forward(other, arguments.seed)),
        ]
        # NaN where one of them is.
        worst = float(np.max(apart))
        if not worst <= tolerance:
            raise ValueError(
                f"{arguments.folder} and {arguments.other} differ by up to {worst:.3g}, and --tolerance is "
                f"{tolerance:g}"
            )


def _row(name: str, text: str) -> None:
    print(f"{name:11} {text}", flush=True)


def _covered(source: str, cls: str | None) -> Checkpoint:
    """Loads it; rows about its config and about what of the weight table it fills."""
    _row("checkpoint", source)
    try:
        found = read(source, cls=cls)
    except WeightsError as error:
        for what, names in _coverage(error.unknown, error.missing, error.mismatched, error.apart):
            _row("coverage", f"{len(names)} {what}")
            for name in (*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])):
                _row("", name)
        raise ValueError(f"the weights of {source} do not fit the model that its config describes") from error
    _row("config", f"{type(found.model.config).__name__}, class {type(found.model).__name__}")
    _row("coverage", ", ".join(f"0 {what}" for what, _ in _coverage([], [], [], [])))
    for note in found.notes:
        _row("note", note)
    return found


def _coverage(*lists: list[str]) -> tuple[tuple[str, list[str]], ...]:
    """The lists of `WeightsError`, in its order."""
    titles = "tensors that nothing takes", "parameters that nothing fills", "of another shape", "of two values for one"
    return tuple(zip(titles, lists, strict=True))


def check_tensors(found: Checkpoint, again: str | Path) -> None:
    """Rows: no infinity or NaN, copies, and the same bits in the folder `again`, where it was saved to.

    Raises:
      ValueError: one of them is not so.
    """
    table, config = found.model.table, found.model.config
    source = {table.short_name(name): entry for name, entry in found.entries.items()}
    saved = {table.short_name(name): entry for name, entry in open_folder(again).items()}
    bad = [name for name in saved if name in source and not _finite(source[name])]
    lost = [name for name in saved if name in source and not _same_bits(source[name], saved[name])]
    written = type(config).from_dict(read_json(Path(again) / "config.json"))
    if written.replace(**SET_BY_SAVING) != config.replace(**SET_BY_SAVING):
        lost.append("config.json")
    copies = [name for name in table.copies(config.tie_word_embeddings) if name in source and name not in saved]
    kept = sum(name in source for name in saved)
    kinds = sorted({str(source[name].dtype) for name in saved if name in source})
    _row("tensors", f"{kept:,} of {', '.join(kinds)}: {_verdict(bad, 'all finite', 'with infinities or NaN')}")
    if copies:
        _row("copies", f"{len(copies)} of tied tensors: equal")  # else loading would have failed
    _row("round trip", _verdict(lost, "loaded and saved, bit for bit the same", "changed by loading and saving"))
    if bad or lost:
        raise ValueError(f"{found.folder} is not sound: {', '.join([*bad, *lost][:SHOWN])}")


def _verdict(names: list[str], good: str, wrong: str) -> str:
    return f"{len(names)} {wrong}" if names else good


def _finite(entry: TensorEntry) -> bool:
    return bool(np.isfinite(entry.read().astype(np.float32)).all())


def _same_bits(entry: TensorEntry, other: TensorEntry) -> bool:
    """In the type of the other one, which holds all values of the first."""
    return entry.read().astype(other.dtype).tobytes() == other.read().tobytes()


def _forward(found: Checkpoint, seed: int) -> dict[str, jax.Array]:
    """The outputs for a random input in float32, by name; a row of their shapes.

    Raises:
      ValueError: they are not finite.
    """
    model = found.model.clone(dtype=jnp.float32)
    outputs = _outputs(model, found.params, _inputs(model, seed))
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    bad = [name for name, array in outputs.items() if not jnp.isfinite(array).all()]
    _row("forward", f"{shapes}: {_verdict(bad, 'all finite', 'with infinities or NaN')}")
    if bad:
        raise ValueError(f"{found.folder} gives infinities or NaN: {', '.join(bad)}")
    return outputs


@partial(jax.jit, static_argnums=0)
def _outputs(model: Model, params: dict, inputs: dict) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves_with_path(model.apply({"params": params}, **inputs))
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves if jnp.issubdtype(leaf, jnp.floating)}


def _inputs(model: Model, seed: int) -> dict[str, jax.Array]:
    """Those with which the model is initialised, longer and at random."""
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
    """Raises ValueError where the parameters of the two are not those of one class and size."""
    shapes, others = ({path: leaf.shape for path, leaf in flatten(each.params).items()} for each in (found, other))
    if shapes != others:
        path = next(path for path in (*shapes, *others) if shapes.get(path) != others.get(path))
        names = [type(each.model).__name__ for each in (found, other)]
        raise ValueError(
            f"a {names[0]} and a {names[1]} of other parameters cannot be compared: {path} is {shapes.get(path)} and "
            f"{others.get(path)}; --class reads both as one class"
        )


def _difference(what: str, first: Mapping[str, jax.Array], second: Mapping[str, jax.Array]) -> float:
    """The largest absolute difference; a row that says where it is."""
    apart = {}
    for name, array in first.items():
        left, right = (np.asarray(each).astype(np.float32) for each in (array, second[name]))
        apart[name] = float(np.abs(left - right).max(initial=0.0))
    where = max(apart, key=lambda name: (np.isnan(apart[name]), apart[name]))
    _row(what, f"largest difference {apart[where]:.3g}" + (f", in {where}" if apart[where] else ""))
    return apart[where]
