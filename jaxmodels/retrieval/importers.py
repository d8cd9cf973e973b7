"""Index folders made of other programs' files: `DenseIndex.load` and `Passages.load` open what these write.

Index and passages are written together, all or nothing, with one batch of either in memory.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxmodels.retrieval.array_pickle import read_dpr_embeddings
from jaxmodels.retrieval.building import pieces
from jaxmodels.retrieval.folders import write_folder
from jaxmodels.retrieval.foreign_files import SavedDataset, read_faiss_flat, read_passages_tsv


def import_dpr(
    folder: str | Path,
    embeddings: Sequence[str | Path],
    passages: str | Path,
    dtype="float32",
    fingerprint: str | None = None,
) -> None:
    """From DPR's embedding pickles, in the order of their rows, and psgs_w100.tsv or .tsv.gz.

    Raises:
      TensorFileError: a pickle that is broken or asks for anything but arrays.
      ValueError: the ids of the vectors are not those of the table, in its order ("wiki:7" counts as 7).
    """
    ids = (row.id for row in read_passages_tsv(passages))

    def batches() -> Iterator[np.ndarray]:
        for path in embeddings:
            names, vectors = read_dpr_embeddings(path)
            for name, expected in zip(names, itertools.chain(ids, itertools.repeat(None)), strict=False):
                if expected is None or bare_id(name) != bare_id(expected):
                    raise ValueError(
                        f"{path}: expected a vector for passage {expected!r} of {passages}, found one for {name!r}; "
                        "give the files in the order of their rows"
                    )
            yield from pieces(vectors)

    texts = ((row.title, row.text) for row in read_passages_tsv(passages))
    write_folder(folder, batches(), texts, dtype, fingerprint)


def import_faiss(
    folder: str | Path, index: str | Path, passages: str | Path, dtype="float32", fingerprint: str | None = None
) -> None:
    """From faiss's IndexFlatIP and a table like psgs_w100.tsv whose rows are in the order of its vectors.

    Raises TensorFileError for another kind of index, ValueError for another number of passages.
    """
    texts = ((row.title, row.text) for row in read_passages_tsv(passages))
    write_folder(folder, pieces(read_faiss_flat(index)), texts, dtype, fingerprint)


def import_dataset(folder: str | Path, dataset: str | Path, dtype="float32", fingerprint: str | None = None) -> None:
    """From a dataset with the columns title, text and embeddings that `save_to_disk` of `datasets` wrote.

    Raises FileNotFoundError, TensorFileError or ValueError as `SavedDataset`.
    """
    saved = SavedDataset(dataset)
    write_folder(folder, saved.embeddings(), saved.passages(), dtype, fingerprint)


def bare_id(name: str | int) -> str:
    """A passage's id without what some of DPR's files put before it: "wiki:7" is "7"."""
    return str(name).rpartition(":")[2]
