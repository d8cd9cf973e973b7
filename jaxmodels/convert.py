"""Two-way weight tables: torch name <-> our path, with the rearrangement between them. Knows no architecture.

A rule is documentation, action and inverse at once:

    Rule("h.{i}.attn.c_attn.weight", "h/layers/attention/qkv/kernel", "d (n h k) -> d n h k")

reads one torch tensor per layer i, splits its columns into 3 x heads x width, and stacks the layers. The same text read
backwards writes the file. The axis `h` is the heads that pruning removes.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from einops import rearrange

from jaxmodels.tensor_files import TensorEntry

LAYER = "{i}"
# Of XLA's CPU buffers, in bytes.
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter of ours and where it stands in a torch file.

    Attributes:
      names: the torch name, `{i}` for the layer; several names are stacked on a first axis of the pattern's left side.
      path: ours, "/" between keys.
      pattern: einops text, torch -> ours (one layer of it); empty: as it is.
    """

    names: str | tuple[str, ...]
    path: str
    pattern: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.names,) if isinstance(self.names, str) else self.names

    @property
    def per_layer(self) -> bool:
        return LAYER in self.sources[0]

    @property
    def _sides(self) -> tuple[str, str]:
        left, _, right = self.pattern.partition("->")
        return left.strip(), right.strip()

    @property
    def _reshapes_only(self) -> bool:
        """The bytes stand in the same order on both sides."""
        left, right = self._sides
        return re.sub(r"[()]", "", left).split() == right.split()

    def _heads(self, kept: list[int]) -> tuple:
        """Index of the heads that pruning left, in one layer of our array."""
        axes = self._sides[1].split()
        return (slice(None),) * axes.index("h") + (kept,) if "h" in axes else ()

    def to_torch(self, array: np.ndarray, kept: list[int] | None = None) -> dict[str, np.ndarray]:
        """One layer of our array as torch tensors; without the pruned heads, where some heads are kept only."""
        if kept is not None:
            array = array[self._heads(kept)]
        if self.pattern:
            left, right = self._sides
            array = rearrange(array, f"{right} -> {left}")
        return dict(zip(self.sources, (array,) if isinstance(self.names, str) else array, strict=True))

    def fill(self, out: np.ndarray, entries: Iterable[TensorEntry], kept: list[int] | None = None) -> None:
        """Reads one layer into `out`; where file and tree agree in order and type, without a copy in between."""
        if kept is not None:
            some = np.empty(out[self._heads(kept)].shape, out.dtype)  # in C order, so that it is filled in place
            self.fill(some, entries)
            out[...] = 0
            out[self._heads(kept)] = some
            return
        entries, (left, right) = list(entries), self._sides
        if self._reshapes_only and all(entry.dtype == out.dtype for entry in entries):
            inverse = rearrange(out, f"{right} -> {left}") if self.pattern else out
            for part, entry in zip((inverse,) if isinstance(self.names, str) else inverse, entries, strict=True):
                entry.read(out=part)
            return
        tensors = [entry.read() for entry in entries]
        tensor = tensors[0] if isinstance(self.names, str) else np.stack(tensors)
        if self.pattern:
            tensor = rearrange(tensor, self.pattern, **dict(zip(right.split(), out.shape, strict=True)))
        out[...] = tensor


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of one family.

    Attributes:
      base: name of the base model inside the models with a head, in torch's names and, with "/", in our tree.
      other_bases: names that it has in files of other classes, which are read as well.
      rules: the base model's, without that prefix.
      heads: those of all the family's heads, and of parts that are often added to a base checkpoint.
      ignored: regular expressions of names that carry no weights, with the reason.
      foreign: the same of weights that no class here takes; loading says that they are unused.
      silent: paths of parameters that a file may lack without a word; they keep their first value.
      tied: names that repeat another parameter where the config ties the word embeddings, and whose.
      repeats: names that repeat another parameter wherever the model has none of its own under them, and whose.
      old_names: regular expressions of parts of names that files once had -> today's.
    """

    base: str
    rules: tuple[Rule, ...]
    heads: tuple[Rule, ...] = ()
    other_bases: tuple[str, ...] = ()
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    foreign: Mapping[str, str] = dataclasses.field(default_factory=dict)
    silent: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    old_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def short(self, name: str) -> str:
        """A torch name as the rules have it: without the base model's prefix, which files of base models lack."""
        for old, new in self.old_names.items():
            name = re.sub(old, new, name)
        prefix = next((base for base in (self.base, *self.other_bases) if name.startswith(f"{base}.")), None)
        return name if prefix is None else name.removeprefix(f"{prefix}.")

    def short_path(self, path: str) -> str:
        """The same of a path of ours."""
        return path.removeprefix(self.base.replace(".", "/") + "/")

    def by_path(self) -> dict[str, Rule]:
        return {rule.path: rule for rule in self.rules + self.heads}

    def recognises(self, name: str) -> bool:
        """Some class of the family, or none on purpose, takes this (short) name."""
        sources = [source for rule in self.rules + self.heads for source in rule.sources]
        patterns = [re.escape(source).replace(re.escape(LAYER), r"\d+") for source in sources]
        return name in {**self.tied, **self.repeats} or any(
            re.fullmatch(pattern, name) for pattern in (*patterns, *self.ignored, *self.foreign)
        )

    def copies(self, tied: bool) -> dict[str, str]:
        """Names that may repeat another parameter, and whose; `tied` as the config has it."""
        return {**self.repeats, **(self.tied if tied else {})}


class WeightsError(ValueError):
    """A file and a model do not fit; lists every name, at once, in three lists, and a fourth where it is needed."""

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
        parts = [f"{where} does not fit the model."]
        for title, names in (
            ("in the file, but nothing takes them", unknown),
            ("in the model, but nothing fills them", missing),
            ("of another shape", mismatched),
            *([("one parameter here, with different values in the file", apart)] if apart else []),
        ):
            parts.append(f"  {title}: {len(names)}" + "".join(f"\n    {name}" for name in names))
        super().__init__("\n".join(parts) + (f"\n{hint}" if hint else ""))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How every parameter of a model is filled from a file.

    Attributes:
      sources: (path, rule, layers) with the entries of each layer; path is ours, with its prefix.
      missing: paths of parameters that the file lacks.
      mismatched: path -> a line that says which tensor has which shape.
      unused: names that other classes of the family take.
      unknown: names that nobody takes.
    """

    sources: dict[str, tuple[Rule, list[list[TensorEntry]]]]
    missing: list[str]
    mismatched: dict[str, str]
    unused: list[str]
    unknown: list[str]


def plan(
    table: Table,
    entries: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
    kept_heads: Mapping[int, list[int]],
    tied: bool,
) -> Plan:
    """Matches the file's tensors with the parameters; reads no data but that of tensors that ought to be equal.

    Args:
      entries: by torch name. shapes: of our parameters, by path.
      kept_heads: for each layer with pruned heads, those that are left.
      tied: the config ties what the table calls tied.

    Raises:
      WeightsError: the file has different values for one parameter.
    """
    by_path = table.by_path()
    places = {}
    for path, shape in shapes.items():
        rule = by_path[table.short_path(path)]
        count = shape[0] if rule.per_layer else 1
        places[path] = rule, [[name.replace(LAYER, str(i)) for name in rule.sources] for i in range(count)]
    taken = {name for _, layers in places.values() for names in layers for name in names}
    copies = table.copies(tied)
    found, apart = _found(table, entries, {*taken, *copies})
    apart += _share(found, copies, taken, table, tied)
    if apart:
        raise WeightsError(str(next(iter(entries.values())).path.parent), [], [], [], apart=apart)
    sources: dict[str, tuple[Rule, list[list[TensorEntry]]]] = {}
    missing: list[str] = []
    mismatched: dict[str, str] = {}
    for path, (rule, layers) in places.items():
        shape = shapes[path]
        if any(name not in found for names in layers for name in names):
            missing.append(path)
            continue
        sources[path] = (rule, [[found[name] for name in names] for names in layers])
        for i, names in enumerate(layers):
            expected = _torch_shapes(rule, shape[1:] if rule.per_layer else shape, kept_heads.get(i))
            for name, wanted in zip(names, expected, strict=True):
                if found[name].shape != wanted:
                    mismatched.setdefault(path, f"{name}: {found[name].shape} in the file, the model has {wanted}")
    rest = [name for name in found if name not in taken]
    unknown = [name for name in rest if not table.recognises(name) or _layer_beyond(name, table, taken)]
    silent = [*table.ignored, *map(re.escape, copies)]
    unused = [n for n in rest if n not in unknown and not any(re.fullmatch(pattern, n) for pattern in silent)]
    return Plan(sources, missing, mismatched, unused, unknown)


def _found(
    table: Table, entries: Mapping[str, TensorEntry], read: set[str]
) -> tuple[dict[str, TensorEntry], list[str]]:
    """The tensors by short name; and a line for each of `read` that the file has twice, with different values."""
    found: dict[str, TensorEntry] = {}
    apart = []
    for name, entry in entries.items():
        first = found.setdefault(table.short(name), entry)
        if first is not entry and table.short(name) in read and not first.same_values(entry):
            apart.append(f"{first.name} and {name}")
    return found, apart


def _share(
    found: dict[str, TensorEntry], copies: Mapping[str, str], taken: set[str], table: Table, tied: bool
) -> list[str]:
    """Fills parameters that the file lacks from their copies; lines about copies that are none.

    Files hold equal tensors under one name or several. Tensors that differ are taken where each has a parameter, and
    no parameter is left that might repeat any of them.
    """
    apart = []
    sources = {source for rule in table.rules + table.heads for source in rule.sources}
    for whose in dict.fromkeys(copies.values()):
        group = [whose, *(name for name, other in copies.items() if other == whose)]
        present = [name for name in group if name in found]
        lacking = [name for name in group if name in taken and name not in found]
        if not present:
            continue
        if not lacking and taken.issuperset(present):
            continue
        if different := [name for name in present[1:] if not found[present[0]].same_values(found[name])]:
            names = [present[0], *different]
            if taken.issuperset(names):
                way = f"each has a parameter, but {', '.join(lacking)} may repeat either: add it to the file"
            elif tied and all(name in sources for name in names):
                way = "tie_word_embeddings=False loads each into a parameter of its own"
            else:
                way = "leave the right one in the file"
            apart.append(f"{', '.join(names)}: {way}")
        found |= dict.fromkeys(lacking, found[present[0]])
    return apart


def _torch_shapes(rule: Rule, shape: tuple[int, ...], kept: list[int] | None) -> list[tuple[int, ...]]:
    # A zero broadcast to the shape: no memory, whatever the size; rearranging it copies, but int8 layers are small.
    return [part.shape for part in rule.to_torch(np.broadcast_to(np.int8(0), shape), kept).values()]


def _layer_beyond(name: str, table: Table, taken: set[str]) -> bool:
    """The base model's rules take this name, but for a layer that the config does not have."""
    for source in (source for rule in table.rules if rule.per_layer for source in rule.sources):
        match = re.fullmatch(re.escape(source).replace(re.escape(LAYER), r"(\d+)"), name)
        if match and source.replace(LAYER, "0") in taken:
            return True
    return False


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Like `np.empty`, at an address that a CPU device takes over as it is: no second copy of the model."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def assemble(rule: Rule, layers: list[list[TensorEntry]], shape, dtype, kept_heads: Mapping[int, list[int]]):
    """The whole parameter as one host array of `shape` and `dtype`."""
    out = aligned_empty(shape, dtype)
    for i, entries in enumerate(layers):
        rule.fill(out[i] if rule.per_layer else out, entries, kept_heads.get(i) if rule.per_layer else None)
    return out


def export(
    table: Table, arrays: Iterable[tuple[str, np.ndarray]], kept_heads: Mapping[int, list[int]]
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, host array) of a whole tree -> (torch name, array), one parameter at a time."""
    by_path = table.by_path()
    for path, array in arrays:
        short = table.short_path(path)
        prefix = f"{table.base}." if short != path else ""
        rule = by_path[short]
        for i in range(array.shape[0] if rule.per_layer else 1):
            layer = array[i] if rule.per_layer else array
            kept = kept_heads.get(i) if rule.per_layer else None
            for name, tensor in rule.to_torch(layer, kept).items():
                yield prefix + name.replace(LAYER, str(i)), tensor
