"""Names and layouts of Flax modules to those of the same modules in torch."""

from .entry import TensorEntry
from .errors import SAVE_AGAIN, Malformed, described


def to_torch(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Renames `kernel`, `embedding` and `scale` to `weight`, and transposes matrices named `kernel`.

    Flax stores a Dense kernel as [in, out], torch a Linear weight as [out, in]. Hugging Face's Flax Conv1D stores
    [out, in] and torch's [in, out], so the same transposition serves both. (transformers:
    modeling_flax_pytorch_utils.py)
    """
    renamed: dict[str, TensorEntry] = {}
    for entry in map(_to_torch, entries.values()):
        if entry.name in renamed:
            raise Malformed("a different torch name for each tensor", f"{described(entry.name)} twice", SAVE_AGAIN)
        renamed[entry.name] = entry
    return renamed


def _to_torch(entry: TensorEntry) -> TensorEntry:
    module, dot, last = entry.name.rpartition(".")
    if last == "kernel" and len(entry.shape) == 2:
        return entry.transposed().renamed(f"{module}{dot}weight")
    if last in ("embedding", "scale"):
        return entry.renamed(f"{module}{dot}weight")
    return entry
