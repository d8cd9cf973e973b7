"""Conversion tables between torch checkpoints and parameter trees. Independent of any architecture.

A rule documents and performs the conversion of one parameter, in both directions:

    Rule("h.{i}.attn.c_attn.weight", "h/layers/attention/qkv/kernel", "d (n h k) -> d n h k")

reads one torch tensor per layer i, splits its columns into 3 x heads x head_dim, and stacks the layers. The reversed
pattern writes the tensor. The axis `h` is the axis of attention heads, which can be pruned.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from jaxmodels.tensor_files import TensorEntry

LAYER = "{i}"
ALIGNMENT = 64  # bytes; alignment of XLA's CPU buffers


@dataclasses.dataclass(frozen=True)
class Rule:
    """Conversion of one parameter.

    Attributes:
      names: name of the torch tensor, with `{i}` for the layer; several tensors are stacked on the first axis of the
        left side of the pattern.
      path: path of the parameter, with "/" between keys.
      pattern: einops pattern, torch -> parameter (of one layer); empty if the arrays are identical.
    """

    names: str | tuple[str, ...]
    path: str
    pattern: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """`names` as a tuple."""
        return (self.names,) if isinstance(self.names, str) else self.names

    @property
    def per_layer(self) -> bool:
        """Whether there is one torch tensor per layer."""
        return LAYER in self.sources[0]

    @property
    def _sides(self) -> tuple[str, str]:
        left, _, right = self.pattern.partition("->")
        return left.strip(), right.strip()

    @property
    def _is_reshape(self) -> bool:
        """Whether the elements have the same order on both sides."""
        left, right = self._sides
        return re.sub(r"[()]", "", left).split() == right.split()

    @property
    def inputs_first(self) -> bool:
        """Whether the torch tensor of a kernel is [in, out], as in `Conv1D` and embeddings, not [out, in]."""
        left, right = ([axis.strip("()") for axis in side.split()] for side in self._sides)
        return not self.pattern or left[len(self.sources) > 1] == right[0]

    def _head_index(self, heads: list[int]) -> tuple:
        """Index that selects heads from one layer of the parameter."""
        axes = self._sides[1].split()
        return (slice(None),) * axes.index("h") + (heads,) if "h" in axes else ()

    def to_torch(self, array: np.ndarray, heads: list[int] | None = None) -> dict[str, np.ndarray]:
        """Converts one layer of the parameter to torch tensors.

        Args:
          array: one layer of the parameter.
          heads: the heads that remain after pruning; None: all.

        Returns:
          The tensors by name; `{i}` is not replaced.
        """
        if heads is not None:
            array = array[self._head_index(heads)]
        if self.pattern:
            left, right = self._sides
            array = rearrange(array, f"{right} -> {left}")
        return dict(zip(self.sources, (array,) if isinstance(self.names, str) else array, strict=True))

    def from_torch(self, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Converts torch tensors, in the order of `sources`, to one layer of the parameter, which has this shape."""
        tensor = tensors[0] if isinstance(self.names, str) else np.stack(tensors)
        if not self.pattern:
            return tensor
        return rearrange(tensor, self.pattern, **dict(zip(self._sides[1].split(), shape, strict=True)))

    def fill(self, out: np.ndarray, entries: Iterable[TensorEntry], heads: list[int] | None = None) -> None:
        """Reads one layer of the parameter into `out`, without an intermediate copy if order and dtype agree.

        Args:
          out: one layer of the parameter.
          entries: the torch tensors, in the order of `sources`.
          heads: the heads that remain after pruning, which are all that the file contains; None: all.
        """
        if heads is not None:
            remaining = np.empty(out[self._head_index(heads)].shape, out.dtype)  # C order, so it can be filled in place
            self.fill(remaining, entries)
            out[...] = 0
            out[self._head_index(heads)] = remaining
            return
        entries, (left, right) = list(entries), self._sides
        if self._is_reshape and all(entry.dtype == out.dtype for entry in entries):
            view = rearrange(out, f"{right} -> {left}") if self.pattern else out
            for part, entry in zip((view,) if isinstance(self.names, str) else view, entries, strict=True):
                entry.read(out=part)
            return
        tensors = [entry.read() for entry in entries]
        out[...] = self.from_torch(tensors, out.shape)


@dataclasses.dataclass(frozen=True)
class Table:
    """The conversion rules of one model type.

    Attributes:
      base: prefix of the base model inside models with a head, in torch names; with "/" instead of "." in paths.
      other_bases: further prefixes of the base model that are accepted in files.
      rules: rules of the base model, without the prefix.
      heads: rules of all heads of the model type, and of parts that are often added to a base checkpoint.
      ignored: regular expressions of names without weights -> reason.
      unused: regular expressions of weights that no class here uses -> reason; loading warns about them.
      silent: paths of parameters that are initialised without a warning if the file lacks them.
      tied: names that repeat another parameter if the config ties the word embeddings -> name of that parameter.
      repeats: names that repeat another parameter unless the model has a separate one for them -> name of that
        parameter.
      old_names: regular expressions of parts of names in older files -> current spelling.
    """

    base: str
    rules: tuple[Rule, ...]
    heads: tuple[Rule, ...] = ()
    other_bases: tuple[str, ...] = ()
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    silent: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    old_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def short_name(self, name: str) -> str:
        """The torch name as in the rules: current spelling, without the prefix of the base model."""
        for old, new in self.old_names.items():
            name = re.sub(old, new, name)
        prefix = next((base for base in (self.base, *self.other_bases) if name.startswith(f"{base}.")), None)
        return name if prefix is None else name.removeprefix(f"{prefix}.")

    def short_path(self, path: str) -> str:
        """The path as in the rules: without the prefix of the base model."""
        return path.removeprefix(self.base.replace(".", "/") + "/")

    def prefix(self, path: str) -> str:
        """The prefix of the torch names of the parameter at a path."""
        return f"{self.base}." if self.short_path(path) != path else ""

    @functools.cached_property
    def _by_path(self) -> dict[str, Rule]:
        return {rule.path: rule for rule in self.rules + self.heads}

    def rule(self, path: str) -> Rule:
        """The rule of the parameter at a path.

        Raises:
          ValueError: there is none.
        """
        short = self.short_path(path)
        if short not in self._by_path:
            raise ValueError(
                f"the weight table has no rule for the parameter {path}; add Rule(<name in torch>, {short!r}) to its "
                "rules or heads"
            )
        return self._by_path[short]

    def is_known(self, name: str) -> bool:
        """Whether a class of the model type reads this (short) name, or it is ignored or unused on purpose."""
        sources = [source for rule in self.rules + self.heads for source in rule.sources]
        patterns = [re.escape(source).replace(re.escape(LAYER), r"\d+") for source in sources]
        return name in {**self.tied, **self.repeats} or any(
            re.fullmatch(pattern, name) for pattern in (*patterns, *self.ignored, *self.unused)
        )

    def copies(self, tied: bool) -> dict[str, str]:
        """Names that may repeat another parameter -> name of that parameter.

        Args:
          tied: whether the config ties the word embeddings.
        """
        return {**self.repeats, **(self.tied if tied else {})}


class WeightsError(ValueError):
    """A checkpoint and a model do not match.

    The message and the attributes list every name.

    Attributes:
      unknown: tensors of the file that no parameter corresponds to.
      missing: parameters that the file lacks.
      mismatched: tensors of a different shape.
      apart: tensors that must be equal, because the model has one parameter for them, but differ.
    """

    def __init__(
        self,
        where: str,
        unknown: list[str],
        missing: list[str],
        mismatched: list[str],
        hint: str = "",
        apart: list[str] | None = None,
    ):
        self.unknown, self.missing, self.mismatched, self.apart = unknown, missing, mismatched, apart or []
        parts = [f"{where} does not match the model."]
        for title, names in (
            ("unexpected", unknown),
            ("missing", missing),
            ("different shape", mismatched),
            *([("different values for one parameter", apart)] if apart else []),
        ):
            parts.append(f"  {title}: {len(names)}" + "".join(f"\n    {name}" for name in names))
        super().__init__("\n".join(parts) + (f"\n{hint}" if hint else ""))


@dataclasses.dataclass(frozen=True)
class LoadPlan:
    """How the parameters of a model are read from a file.

    Attributes:
      sources: path of the parameter -> its rule, and for each layer the entries to read.
      missing: paths of parameters that the file lacks.
      mismatched: path -> description of the mismatch of shapes.
      unused: names that other classes of the model type read.
      unknown: names that no class reads.
    """

    sources: dict[str, tuple[Rule, list[list[TensorEntry]]]]
    missing: list[str]
    mismatched: dict[str, str]
    unused: list[str]
    unknown: list[str]


def plan_loading(
    table: Table,
    entries: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
    remaining_heads: Mapping[int, list[int]],
    tied: bool,
) -> LoadPlan:
    """Matches the tensors of a file with the parameters of a model.

    Reads no data except to compare tensors that must be equal.

    Args:
      table: rules of the model type.
      entries: tensors of the file, by torch name.
      shapes: shapes of the parameters, by path.
      remaining_heads: layer -> heads that remain, for layers with pruned heads.
      tied: whether the config ties the word embeddings.

    Raises:
      WeightsError: the file has different values for one parameter.
    """
    parameters: dict[str, tuple[Rule, list[list[str]]]] = {}
    for path, shape in shapes.items():
        rule = table.rule(path)
        count = shape[0] if rule.per_layer else 1
        parameters[path] = rule, [[name.replace(LAYER, str(i)) for name in rule.sources] for i in range(count)]
    required = {name for _, layers in parameters.values() for names in layers for name in names}
    copies = table.copies(tied)
    found, conflicts = _by_short_name(table, entries, {*required, *copies})
    conflicts += _fill_from_copies(found, copies, required, table, tied)
    if conflicts:
        raise WeightsError(str(next(iter(entries.values())).path.parent), [], [], [], apart=conflicts)
    sources: dict[str, tuple[Rule, list[list[TensorEntry]]]] = {}
    missing: list[str] = []
    mismatched: dict[str, str] = {}
    for path, (rule, layers) in parameters.items():
        shape = shapes[path]
        if any(name not in found for names in layers for name in names):
            missing.append(path)
            continue
        sources[path] = (rule, [[found[name] for name in names] for names in layers])
        for i, names in enumerate(layers):
            expected = torch_shapes(rule, shape[1:] if rule.per_layer else shape, remaining_heads.get(i))
            for name, torch_shape in zip(names, expected, strict=True):
                if found[name].shape != torch_shape:
                    mismatched.setdefault(path, f"{name}: {found[name].shape} in the file, {torch_shape} in the model")
    rest = [name for name in found if name not in required]
    unknown = [name for name in rest if not table.is_known(name) or _is_extra_layer(name, table, required)]
    silent = [*table.ignored, *map(re.escape, copies)]
    unused = [n for n in rest if n not in unknown and not any(re.fullmatch(pattern, n) for pattern in silent)]
    return LoadPlan(sources, missing, mismatched, unused, unknown)


def _by_short_name(
    table: Table, entries: Mapping[str, TensorEntry], read: set[str]
) -> tuple[dict[str, TensorEntry], list[str]]:
    """Returns tensors by short name, and names in `read` that the file has twice with different values."""
    found: dict[str, TensorEntry] = {}
    conflicts = []
    for name, entry in entries.items():
        short = table.short_name(name)
        first = found.setdefault(short, entry)
        if first is not entry and short in read and not first.same_values(entry):
            conflicts.append(f"{first.name} and {name}")
    return found, conflicts


def _fill_from_copies(
    found: dict[str, TensorEntry], copies: Mapping[str, str], required: set[str], table: Table, tied: bool
) -> list[str]:
    """Adds to `found` tensors that the file has under another name; returns descriptions of copies that differ.

    Files contain equal tensors under one name or several. Tensors that differ are accepted if each has a separate
    parameter and no missing parameter could be a copy of any of them.
    """
    conflicts = []
    sources = {source for rule in table.rules + table.heads for source in rule.sources}
    for original in dict.fromkeys(copies.values()):
        group = [original, *(name for name, other in copies.items() if other == original)]
        present = [name for name in group if name in found]
        lacking = [name for name in group if name in required and name not in found]
        if not present:
            continue
        if not lacking and required.issuperset(present):
            continue
        if different := [name for name in present[1:] if not found[present[0]].same_values(found[name])]:
            names = [present[0], *different]
            if required.issuperset(names):
                hint = f"each has a parameter, but {', '.join(lacking)} could be a copy of either: add it to the file"
            elif tied and all(name in sources for name in names):
                hint = "tie_word_embeddings=False loads each into a separate parameter"
            else:
                hint = "leave the right one in the file"
            conflicts.append(f"{', '.join(names)}: {hint}")
        found |= dict.fromkeys(lacking, found[present[0]])
    return conflicts


def torch_shapes(rule: Rule, shape: tuple[int, ...], heads: list[int] | None = None) -> list[tuple[int, ...]]:
    """Returns the shapes of the torch tensors of one layer of a parameter, in the order of `sources`."""
    # A broadcast zero takes no memory, whatever the shape. Rearranging copies it, but an int8 layer is small.
    return [part.shape for part in rule.to_torch(np.broadcast_to(np.int8(0), shape), heads).values()]


def _is_extra_layer(name: str, table: Table, required: set[str]) -> bool:
    """Whether the name is of a layer of the base model beyond the number of layers in the config."""
    for source in (source for rule in table.rules if rule.per_layer for source in rule.sources):
        match = re.fullmatch(re.escape(source).replace(re.escape(LAYER), r"(\d+)"), name)
        if match and source.replace(LAYER, "0") in required:
            return True
    return False


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Like `np.empty`, aligned so that a CPU device can use the buffer without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def assemble(
    rule: Rule,
    layers: list[list[TensorEntry]],
    shape: tuple[int, ...],
    dtype: Any,
    remaining_heads: Mapping[int, list[int]],
) -> np.ndarray:
    """Reads a whole parameter into a host array.

    Args:
      rule: rule of the parameter.
      layers: for each layer, the tensors to read.
      shape, dtype: of the result.
      remaining_heads: layer -> heads that remain, for layers with pruned heads.
    """
    out = aligned_empty(shape, dtype)
    for i, entries in enumerate(layers):
        rule.fill(out[i] if rule.per_layer else out, entries, remaining_heads.get(i) if rule.per_layer else None)
    return out


def export(
    table: Table, arrays: Iterable[tuple[str, np.ndarray]], remaining_heads: Mapping[int, list[int]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Converts a parameter tree to torch tensors, one parameter at a time.

    Args:
      table: rules of the model type.
      arrays: (path, host array) of all parameters.
      remaining_heads: layer -> heads that remain, for layers with pruned heads.

    Yields:
      (torch name, array).
    """
    for path, array in arrays:
        rule, prefix = table.rule(path), table.prefix(path)
        for i in range(array.shape[0] if rule.per_layer else 1):
            layer = array[i] if rule.per_layer else array
            heads = remaining_heads.get(i) if rule.per_layer else None
            for name, tensor in rule.to_torch(layer, heads).items():
                yield prefix + name.replace(LAYER, str(i)), tensor
