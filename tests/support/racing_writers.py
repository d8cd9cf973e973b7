"""Run as a program: reads while another process writes into the same folder without a pause.

Arguments: a folder, a name of `READERS`, a number of reads. Prints one line of JSON: how many reads found one version,
what others raised, and how many versions there were.
"""

import collections
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from support.writers import SIZES, WRITERS, one, passages

import jaxmodels as jm
from jaxmodels.retrieval import load_folder


def load_model(folder: Path) -> int:
    model, params = jm.load(folder)
    values = {float(value) for leaf in jax.tree.leaves(params) for value in np.unique(np.asarray(leaf))}
    assert model.config.n_embd == SIZES["n_embd"]
    return one({round(model.config.embd_pdrop * 100), model.config.generation["max_length"] - 50, *values})


def load_both(folder: Path) -> int:
    index, found = load_folder(folder)
    version = one({int(index.fingerprint), *map(float, np.unique(index.values[: index.size]))})
    assert list(found) == passages(version)
    return version


def load_apart(folder: Path) -> int | None:
    """The index, and then the passages: what does not belong together is refused."""
    index, found = jm.DenseIndex.load(folder), jm.Passages.load(folder)
    try:
        jm.retrieval.check_passages(index, found)
    except ValueError:
        return None
    return one({int(index.fingerprint), int(found[0][0])})


READERS = {
    "model": ("model", load_model),
    "shards": ("shards", load_model),
    "tokenizer": ("tokenizer", WRITERS["tokenizer"].see),
    "index and passages": ("index and passages", load_both),
    "index, then passages": ("index and passages", load_apart),
}


def main(folder: Path, name: str, reads: int) -> None:
    writer, read = READERS[name]
    writer = WRITERS[writer]
    begun, begin = os.pipe()
    child = os.fork()  # before this process runs anything on a device
    if child == 0:
        for version in itertools.cycle(range(1, 10)):
            writer.write(folder, version)
            if version == 1:
                os.write(begin, b"1")
    os.read(begun, 1)
    found, raised = collections.Counter(), collections.Counter()
    try:
        for _ in range(reads):
            try:
                found[read(folder)] += 1
            except Exception as error:
                raised[f"{type(error).__name__}: {error}"[:300]] += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    refused = found.pop(None, 0)
    print(json.dumps({"found": sum(found.values()), "refused": refused, "versions": len(found), "raised": raised}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
