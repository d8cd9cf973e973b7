"""`python -m jaxmodels convert SOURCE TARGET`: any checkpoint that the library reads, as it writes them.

SOURCE has safetensors, a .bin of torch (both formats) or a .msgpack of Flax, whole or in shards; TARGET gets
config.json, safetensors, and the tokenizer's files where SOURCE has them. Torch reads the result.
"""

import argparse
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import huggingface_hub
import jax

from jaxmodels.architectures.led import led_from_bart
from jaxmodels.commands.reading import Checkpoint, read
from jaxmodels.hub import save
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tokenization import LEDTokenizer, files, load_tokenizer
from jaxmodels.tokenization.loading import TOKENIZERS
from jaxmodels.tokenization.rag import FOLDERS

HELP = "write a checkpoint of any format as safetensors in Hugging Face's layout"
WRITTEN = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
VOCABULARIES = {name for cls in TOKENIZERS.values() for names in cls.VOCABULARY_FILES.values() for name in names}
TOKENIZER = (files.TOKENIZER, files.CONFIG, files.SPECIAL_MAP, files.ADDED, files.CHAT_TEMPLATE, *sorted(VOCABULARIES))
# A RAG has two tokenizers, in folders of their own.
CARRIED = (*TOKENIZER, *(f"{folder}/{name}" for folder in FOLDERS for name in TOKENIZER))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder or Hub id")
    parser.add_argument("target", type=Path, help="folder to write; an earlier checkpoint in it is replaced")
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="class or auto class; default: the config's own")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of what is written; default: as the source has it"
    )
    parser.add_argument("--max-shard-size", default="5GB", help="a larger model is split (default: %(default)s)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--subfolder", help="folder inside the source")
    parser.add_argument(
        "--ignore-mismatched-sizes", action="store_true", help="initialise what has another shape, instead of an error"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is initialised (default: 0)")
    parser.add_argument("--to-led", action="store_true", help="make an LED, for long documents, of a BART")
    parser.add_argument("--attention-window", type=int, help="of the LED: tokens that each one sees (default: 1024)")
    parser.add_argument("--max-positions", type=int, help="of the LED: tokens that it reads (default: 16384)")


def run(arguments: argparse.Namespace) -> None:
    """Converts, and prints what was read, what became of it and what was written."""
    led = _led_options(arguments)
    found = read(
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
        model, params = led_from_bart(model, params, **led)
        notes = [*notes, f"of a {type(found.model).__name__}: its positions repeated, its projections copied as global"]
    _fetch_tokenizer(arguments)
    with _replaced(arguments.target, found.folder) as staging:
        save(staging[""], model, params, max_shard_size=arguments.max_shard_size)
        carried = [name for part, folder in staging.items() for name in carry(found.folder, folder, part)]
        if arguments.to_led and carried:
            positions = model.config.max_encoder_position_embeddings
            load_tokenizer(found.folder, LEDTokenizer, model_max_length=positions).save_pretrained(staging[""])
    print("\n".join(lines(found._replace(model=model, params=params, notes=notes), arguments.target, carried)))


@contextlib.contextmanager
def _replaced(target: Path, source: Path) -> Iterator[dict[str, Path]]:
    """Folders to write into, in place of the checkpoint that `target` holds: all is replaced at the end, or nothing.

    "" is for the target itself; a RAG's two tokenizers have folders of their own, which go where they are left empty.
    """
    parts = [part for part in FOLDERS if (source / part).is_dir() or (target / part).is_dir()]
    with contextlib.ExitStack() as stack:
        staging = {"": stack.enter_context(atomic_save(target, "config", "weights", "former weights", "tokenizer"))}
        staging |= {part: stack.enter_context(atomic_save(target / part, "tokenizer")) for part in parts}
        yield staging
    for part in parts:
        with contextlib.suppress(OSError):  # not empty
            (target / part).rmdir()


def carry(source: Path, target: Path, part: str = "") -> list[str]:
    """Copies a tokenizer's files as they are from a folder, or a part of it; -> their names, [] where none are."""
    if not (source / part).is_dir():
        return []
    found = read_snapshot(source / part, lambda saved: _copied(saved, target))
    return [f"{part}/{name}" if part else name for name in found]


def _copied(source: FolderSnapshot, target: Path) -> list[str]:
    found = {name: path for name in TOKENIZER if (path := source / name).is_file()}
    for name, path in found.items():
        shutil.copyfile(path, target / name)
    return list(found)


def lines(found: Checkpoint, target: Path, carried: Sequence[str]) -> list[str]:
    """What is printed: a row for each fact, and what loading had to say."""
    leaves = jax.tree.leaves(found.params)
    kinds = sorted({leaf.dtype.name for leaf in leaves})
    source = sorted({entry.path.name for entry in found.entries.values()})
    written = [path for pattern in WRITTEN for path in sorted(target.glob(pattern))]
    rows = [
        ("class", type(found.model).__name__),
        ("parameters", f"{sum(leaf.size for leaf in leaves):,}, {', '.join(kinds)}"),
        ("bytes", f"{sum(leaf.nbytes for leaf in leaves):,}"),
        ("read", f"{found.folder}: {len(found.entries):,} tensors in {', '.join(source)}"),
        ("written", f"{target}: " + ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in written)),
        ("tokenizer", ", ".join(carried) or "none in the source"),
        *(("note", note) for note in found.notes),
    ]
    return [f"{name:10} {value}" for name, value in rows]


def _led_options(arguments: argparse.Namespace) -> dict[str, int]:
    given = {
        "attention_window": arguments.attention_window,
        "max_encoder_position_embeddings": arguments.max_positions,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if options and not arguments.to_led:
        raise ValueError(
            "--attention-window and --max-positions are of an LED made from a BART: give --to-led with them"
        )
    return options


def _fetch_tokenizer(arguments: argparse.Namespace) -> None:
    """Of a Hub id: brings the tokenizer's files beside the weights, which alone were fetched to load them."""
    if not Path(arguments.source).is_dir():
        prefix = f"{arguments.subfolder}/" if arguments.subfolder else ""
        patterns = [prefix + name for name in CARRIED]
        huggingface_hub.snapshot_download(arguments.source, revision=arguments.revision, allow_patterns=patterns)
