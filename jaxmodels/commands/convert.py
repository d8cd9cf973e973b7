"""Convert a checkpoint of any supported format to safetensors.

The source may hold safetensors, torch .bin (both formats) or Flax .msgpack, in one file or in shards. The target gets
config.json, safetensors and the tokenizer files of the source, in the layout of Hugging Face; torch can read it.
"""

import argparse
import contextlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import huggingface_hub
import jax
import jax.numpy as jnp

from jaxmodels.architectures.bart import BartModel
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.led import led_from_bart
from jaxmodels.hub import load, save
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.tensor_files import TensorEntry, open_folder
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tokenization import LEDTokenizer, files, load_tokenizer
from jaxmodels.tokenization.loading import RAG_FOLDERS, TOKENIZERS

HELP = "convert a checkpoint of any supported format to safetensors"
WRITTEN = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
VOCABULARIES = {name for cls in TOKENIZERS.values() for names in cls.VOCABULARY_FILES.values() for name in names}
TOKENIZER = (files.TOKENIZER, files.CONFIG, files.SPECIAL_MAP, files.ADDED, files.CHAT_TEMPLATE, *sorted(VOCABULARIES))
# A RAG model has two tokenizers in subfolders.
TOKENIZER_PATTERNS = (*TOKENIZER, *(f"{folder}/{name}" for folder in RAG_FOLDERS for name in TOKENIZER))


class Checkpoint(NamedTuple):
    """A loaded checkpoint, in the dtype that it is stored in.

    Attributes:
      folder: folder of the files.
      entries: tensors of the files, by torch name.
      model: the model.
      params: its parameters.
      notes: warnings about parameters that were initialised and tensors that were not used.
    """

    folder: Path
    entries: dict[str, TensorEntry]
    model: Model
    params: dict[str, Any]
    notes: list[str]


def load_checkpoint(
    source: str | Path,
    *,
    cls: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    ignore_mismatched_sizes: bool = False,
    key: jax.Array | None = None,
) -> Checkpoint:
    """Loads a folder or Hub id.

    Args:
      source: folder or Hub id.
      cls: see `load`.
      dtype: dtype of computation and parameters; by default that of the tensors, promoted if there are several.
      revision: see `load`.
      subfolder: see `load`.
      ignore_mismatched_sizes: see `load`.
      key: see `load`.

    Raises:
      Exceptions of `load`.
    """

    # Tensors and parameters must be of the same save.
    def read(snapshot: FolderSnapshot) -> Checkpoint:
        entries = open_folder(snapshot)
        stored = dtype or _stored_dtype(entries)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model, params = load(
                snapshot.path,
                cls=cls,
                dtype=stored,
                param_dtype=stored,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                key=key,
            )
        return Checkpoint(snapshot.path, entries, model, params, [str(warning.message) for warning in caught])

    return read_snapshot(checkpoint_folder(source, revision=revision, subfolder=subfolder), read)


def _stored_dtype(entries: dict[str, TensorEntry]) -> Any:
    # bfloat16 and float8 are of NumPy's kind V.
    dtypes = {entry.dtype for entry in entries.values() if entry.dtype.kind in "fV"}
    return jnp.result_type(*dtypes) if dtypes else jnp.float32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("source", help="folder or Hub id of the checkpoint to convert")
    parser.add_argument("target", type=Path, help="output folder; a checkpoint in it is replaced")
    parser.add_argument(
        "--class", dest="cls", metavar="CLASS", help="model class or auto class (default: from the config)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="output dtype (default: that of the source)"
    )
    parser.add_argument("--max-shard-size", default="5GB", help="maximum size of a weight file (default: %(default)s)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--subfolder", help="subfolder of the source")
    parser.add_argument(
        "--ignore-mismatched-sizes",
        action="store_true",
        help="initialise parameters of a different shape instead of failing",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed for initialised parameters (default: 0)")
    parser.add_argument("--to-led", action="store_true", help="convert a BART to an LED for long documents")
    parser.add_argument(
        "--attention-window", type=int, help="with --to-led: attention window in tokens (default: 1024)"
    )
    parser.add_argument("--max-positions", type=int, help="with --to-led: maximum input length (default: 16384)")


def run(arguments: argparse.Namespace) -> None:
    """Converts the checkpoint and prints a summary."""
    led = _led_options(arguments)
    found = load_checkpoint(
        arguments.source,
        revision=arguments.revision,
        subfolder=arguments.subfolder,
        cls=arguments.cls,
        dtype=arguments.dtype,
        ignore_mismatched_sizes=arguments.ignore_mismatched_sizes,
        key=jax.random.key(arguments.seed),
    )
    model, params, notes = found.model, found.params, found.notes
    if arguments.to_led:
        model, params = led_from_bart(cast(BartModel, model), params, **led)  # checks the class itself
        source_class = type(found.model).__name__
        notes = [*notes, f"converted from {source_class}: positions repeated, projections copied for global attention"]
    _download_tokenizer(arguments)
    with _replace_checkpoint(arguments.target, found.folder) as staging:
        save(staging[""], model, params, max_shard_size=arguments.max_shard_size)
        copied = [name for part, folder in staging.items() for name in copy_tokenizer(found.folder, folder, part)]
        if arguments.to_led and copied:
            positions = model.config.max_encoder_position_embeddings
            load_tokenizer(found.folder, LEDTokenizer, model_max_length=positions).save_pretrained(staging[""])
    print("\n".join(format_summary(found._replace(model=model, params=params, notes=notes), arguments.target, copied)))


@contextlib.contextmanager
def _replace_checkpoint(target: Path, source: Path) -> Iterator[dict[str, Path]]:
    """Yields staging folders that atomically replace the checkpoint in `target` at the end.

    "" is the target itself. The two tokenizers of a RAG model have subfolders, which are removed if they end up empty.
    """
    parts = [part for part in RAG_FOLDERS if (source / part).is_dir() or (target / part).is_dir()]
    with contextlib.ExitStack() as stack:
        staging = {"": stack.enter_context(atomic_save(target, "config", "weights", "former weights", "tokenizer"))}
        staging |= {part: stack.enter_context(atomic_save(target / part, "tokenizer")) for part in parts}
        yield staging
    for part in parts:
        with contextlib.suppress(OSError):  # not empty
            (target / part).rmdir()


def copy_tokenizer(source: Path, target: Path, part: str = "") -> list[str]:
    """Copies the tokenizer files of a folder, or of its subfolder `part`; returns their names."""
    if not (source / part).is_dir():
        return []
    names = read_snapshot(source / part, lambda snapshot: _copy_files(snapshot, target))
    return [f"{part}/{name}" if part else name for name in names]


def _copy_files(source: FolderSnapshot, target: Path) -> list[str]:
    found = {name: path for name in TOKENIZER if (path := source / name).is_file()}
    for name, path in found.items():
        shutil.copyfile(path, target / name)
    return list(found)


def format_summary(found: Checkpoint, target: Path, copied: Sequence[str]) -> list[str]:
    """Returns the printed lines: a table, and the warnings of loading."""
    leaves = jax.tree.leaves(found.params)
    dtypes = sorted({leaf.dtype.name for leaf in leaves})
    source = sorted({entry.path.name for entry in found.entries.values()})
    written = [path for pattern in WRITTEN for path in sorted(target.glob(pattern))]
    table = [
        ("class", type(found.model).__name__),
        ("parameters", f"{sum(leaf.size for leaf in leaves):,}, {', '.join(dtypes)}"),
        ("bytes", f"{sum(leaf.nbytes for leaf in leaves):,}"),
        ("read", f"{found.folder}: {len(found.entries):,} tensors in {', '.join(source)}"),
        ("written", f"{target}: " + ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in written)),
        ("tokenizer", ", ".join(copied) or "none in the source"),
        *(("note", note) for note in found.notes),
    ]
    return [f"{name:10} {value}" for name, value in table]


def _led_options(arguments: argparse.Namespace) -> dict[str, int]:
    values = {
        "attention_window": arguments.attention_window,
        "max_encoder_position_embeddings": arguments.max_positions,
    }
    options = {name: value for name, value in values.items() if value is not None}
    if options and not arguments.to_led:
        raise ValueError("--attention-window and --max-positions require --to-led")
    return options


def _download_tokenizer(arguments: argparse.Namespace) -> None:
    """For a Hub id, downloads the tokenizer files into the folder of the weights."""
    if not Path(arguments.source).is_dir():
        prefix = f"{arguments.subfolder}/" if arguments.subfolder else ""
        patterns = [prefix + name for name in TOKENIZER_PATTERNS]
        huggingface_hub.snapshot_download(arguments.source, revision=arguments.revision, allow_patterns=patterns)
