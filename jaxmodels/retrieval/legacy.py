"""The files behind the reference's `LegacyIndex`: DPR's Wikipedia in a graph of faiss, with two pickles beside it.

Reference: transformers/models/rag/retrieval_rag.py, `LegacyIndex` (docs/parity.md, A13). The pickles are read without
running anything that is in them. The graph is faiss's own, and only faiss reads it:

    FaissIndex.load(legacy / GRAPH, width=768), Passages.write(folder, legacy_passages(legacy))

searches as the reference does, by approximation; `import_legacy` makes an exact index of the same vectors.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.folders import write_folder
from jaxmodels.retrieval.importers import bare_id
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.file_io import BoundedReader, file_size
from jaxmodels.tensor_files.unpickler import Unpickler
from jaxmodels.tensor_files.validation import FormatError, describe

GRAPH = "hf_bert_base.hnswSQ8_correct_phi_128.c_index.index.dpr"
IDS = "hf_bert_base.hnswSQ8_correct_phi_128.c_index.index_meta.dpr"
TEXTS = "psgs_w100.tsv.pkl"
ROWS = 4096  # vectors that are decoded at a time
_REMEDY = "such a file may run any code when Python's pickle opens it; download it again"


def import_legacy(folder: str | Path, legacy: str | Path, dtype="float32", fingerprint: str | None = None) -> None:
    """An index folder of the vectors and passages of a legacy folder; needs faiss, for the vectors.

    They are as exact as the graph keeps them (8 bits a number), without the dimension that DPR has added. Only open a
    graph that you trust: faiss does not guard itself against hostile files.

    Raises:
      FileNotFoundError: one of the three files is not there.
      ValueError: another number of ids than of vectors; and what `legacy_passages` raises.
    """
    legacy = Path(legacy)
    loaded = FaissIndex.load(legacy / GRAPH)
    graph = FaissIndex(loaded.index, loaded.width - 1)
    parts = (np.arange(start, min(start + ROWS, graph.size)) for start in range(0, graph.size, ROWS))
    write_folder(folder, map(graph.vectors, parts), legacy_passages(legacy), dtype, fingerprint)


def legacy_passages(legacy: str | Path) -> Iterator[tuple[str, str]]:
    """(title, text) in the order of the graph's rows; all texts are held in memory.

    Raises:
      FileNotFoundError: no file of ids or of passages.
      TensorFileError: a pickle that is broken, or of anything but a list of ids and a dict of passages by id.
      ValueError: the id of a passage that is not there.
    """
    legacy = Path(legacy)
    ids, texts = read_ids(legacy / IDS), _read_texts(legacy / TEXTS)
    for row, name in enumerate(ids):
        passage = texts.get(bare_id(name))
        if passage is None:
            raise ValueError(f"{legacy / TEXTS} has no passage {name!r}, which is row {row} of the index")
        if not isinstance(passage, list | tuple) or len(passage) < 2 or not all(isinstance(p, str) for p in passage):
            raise TensorFileError(legacy / TEXTS, "the text and the title of each passage", describe(passage), _REMEDY)
        yield passage[1], passage[0]


def read_ids(path: str | Path) -> list[str | int]:
    """The passage's id of each row of a graph that DPR wrote (`.index_meta.dpr`).

    Raises:
      FileNotFoundError, TensorFileError: see `legacy_passages`.
    """
    found = _unpickled(Path(path))
    if not isinstance(found, list) or not all(isinstance(name, str) or type(name) is int for name in found):
        raise TensorFileError(path, "a pickled list of the passages' ids", describe(found), _REMEDY)
    return found


def _read_texts(path: Path) -> dict:
    found = _unpickled(path)
    if not isinstance(found, dict):
        raise TensorFileError(path, "a pickled dict of passages by id", describe(found), _REMEDY)
    return {bare_id(name): passage for name, passage in found.items()}


def _unpickled(path: Path) -> object:
    """Numbers, texts and containers."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: a legacy index has {GRAPH}, {IDS} and {TEXTS}")
    try:
        with open(path, "rb") as file:
            size = file_size(file)
            return Unpickler(BoundedReader(file, 0, size), {}, steps=size).load()  # an opcode has a byte at least
    except FormatError as error:
        raise TensorFileError(path, error.expected, error.found, _REMEDY) from None
