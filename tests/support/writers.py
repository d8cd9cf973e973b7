"""Everything that writes a folder, in versions that can be told from each other and from mixtures.

A version is a small number.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import jaxmodels as jm
from jaxmodels.__main__ import main
from jaxmodels.parameters import abstract
from jaxmodels.retrieval import write_folder
from jaxmodels.retrieval.index_files import IndexFiles
from jaxmodels.tensor_files import open_folder
from jaxmodels.tensor_files.atomic_save import read_snapshot

SIZES = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
WORDS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "a", "b"]


@dataclasses.dataclass(frozen=True)
class Writer:
    """write(folder, version), and see(folder), the version that is there; see raises AssertionError for a mixture.

    device: writing runs programs on a device, which the fork of a process that has done so cannot.
    """

    write: Callable[[Path, int], object]
    see: Callable[[Path], int]
    device: bool = False


def write_model(folder: Path, version: int, **options) -> None:
    config = jm.GPT2Config(**SIZES, embd_pdrop=version / 100, generation={"max_length": 50 + version})
    model = jm.GPT2LMHeadModel(config)
    jm.save(folder, model, full(abstract(model), version), **options)


def full(tree, version: int):
    """A tree of numpy arrays, without a device."""
    if isinstance(tree, dict):
        return {name: full(part, version) for name, part in tree.items()}
    return np.full(tree.shape, version, np.float32)


def see_model(folder: Path) -> int:
    def read(saved):
        texts = [json.loads((saved / name).read_text()) for name in ("config.json", "generation_config.json")]
        return *texts, open_folder(saved)

    config, settings, entries = read_snapshot(folder, read)
    values = {float(value) for entry in entries.values() for value in np.unique(entry.read())}
    return one({round(config["embd_pdrop"] * 100), settings["max_length"] - 50, *values})


def one(found: set) -> int:
    assert len(found) == 1, f"a mixture of {sorted(found)}"
    return int(found.pop())


def write_tokenizer(folder: Path, version: int) -> None:
    words = [*WORDS, *(f"w{i}" for i in range(version))]
    vocabulary = folder.parent / f"{folder.name}-{version}.txt"
    vocabulary.write_text("\n".join(words))
    tokenizer = jm.BertTokenizer(vocab_file=vocabulary, model_max_length=100 + version)
    if version % 2:  # one more file
        tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)


def see_tokenizer(folder: Path) -> int:
    tokenizer = jm.load_tokenizer(folder)
    version = one({tokenizer.model_max_length - 100, tokenizer.vocab_size - len(WORDS)})
    assert len(tokenizer) - tokenizer.vocab_size == version % 2
    return version


def write_index(folder: Path, version: int) -> None:
    jm.DenseIndex(np.full((40, 8), version, np.float32), fingerprint=str(version)).save(folder, shard_bytes=400)


def see_index(folder: Path) -> int:
    files = IndexFiles(folder)
    values = {float(value) for _, (rows, _) in files.read(range(files.manifest.rows)) for value in np.unique(rows)}
    return one({int(files.manifest.fingerprint), *values})


def passages(version: int) -> list[tuple[str, str]]:
    return [(f"{version}", f"text {i} of {version}") for i in range(40)]


def see_passages(folder: Path) -> int:
    found = list(jm.Passages.load(folder))
    version = one({int(title) for title, _ in found})
    assert found == passages(version)
    return version


def write_both(folder: Path, version: int) -> None:
    write_folder(folder, [np.full((40, 8), version, np.float32)], passages(version), fingerprint=str(version))


def write_settings(folder: Path, version: int) -> None:
    jm.GenerationConfig(max_length=50 + version).save_pretrained(folder)


def convert(folder: Path, version: int) -> None:
    source = folder.parent / f"{folder.name}-source-{version}"
    write_model(source, version)
    write_tokenizer(source, version)
    main(["convert", str(source), str(folder)])


WRITERS = {
    "model": Writer(write_model, see_model),
    "shards": Writer(lambda folder, version: write_model(folder, version, max_shard_size=1000 * version), see_model),
    "tokenizer": Writer(write_tokenizer, see_tokenizer),
    "index": Writer(write_index, see_index, device=True),
    "passages": Writer(lambda folder, version: jm.Passages(passages(version)).save(folder), see_passages),
    "index and passages": Writer(write_both, lambda folder: one({see_index(folder), see_passages(folder)})),
    "settings": Writer(write_settings, lambda folder: jm.GenerationConfig.from_pretrained(folder).max_length - 50),
    "convert": Writer(convert, lambda folder: one({see_model(folder), see_tokenizer(folder)}), device=True),
}
