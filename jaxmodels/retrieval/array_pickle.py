"""DPR's pickles, read without executing anything in them: embedding files and the files of a legacy index.

The interpreter is the one that reads torch's files; in addition to its containers, strings and numbers it can build
float arrays here, and everything else is refused by name. Source of the formats: DPR's generate_dense_embeddings.py;
transformers/models/rag/retrieval_rag.py, `LegacyIndex` (docs/parity.md, A13).
"""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.file_io import BoundedReader, file_size
from jaxmodels.tensor_files.unpickler import MAX_OPCODES, REFUSED, Constructor, Unpickler
from jaxmodels.tensor_files.validation import FormatError, byte_count, checked_sizes, describe

# Files of a legacy index: a graph, which only faiss reads, and two pickles.
LEGACY_GRAPH = "hf_bert_base.hnswSQ8_correct_phi_128.c_index.index.dpr"
LEGACY_IDS = "hf_bert_base.hnswSQ8_correct_phi_128.c_index.index_meta.dpr"
LEGACY_PASSAGES = "psgs_w100.tsv.pkl"
FLOATS = {f"{order}{code}": np.dtype(f"{order}{code}") for order in "<>" for code in ("f2", "f4", "f8")}
_EXPECTED = "a pickled list of (id, vector) pairs, as written by DPR's generate_dense_embeddings.py"
_UNSAFE = "such a file may execute any code when Python's pickle opens it; "
_EXPORT_AGAIN = _UNSAFE + "export it again, or pass the vectors themselves"
_DOWNLOAD_AGAIN = _UNSAFE + "download it again"


def read_dpr_embeddings(path: str | Path) -> tuple[list[str | int], np.ndarray]:
    """Reads the ids and the vectors [N, D] float32 of one embedding file of DPR into memory.

    Raises:
      TensorFileError: another type of file, a damaged one, or one that requires anything but arrays.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file_size(file)
            reader = BoundedReader(file, 0, size)
            # A row takes about 20 opcodes and more than 50 bytes.
            steps = max(MAX_OPCODES, size // 2)
            pairs = Unpickler(reader, _GLOBALS, opcodes=_OPCODES, steps=steps).load()
        return _join_pairs(pairs)
    except FormatError as error:
        raise TensorFileError(path, error.expected, error.found, _EXPORT_AGAIN) from None


def legacy_passages(legacy: str | Path) -> Iterator[tuple[str, str]]:
    """Yields (title, text) in the order of the rows of a legacy index; all passages are held in memory.

    Args:
      legacy: folder with `LEGACY_IDS` and `LEGACY_PASSAGES`.

    Raises:
      FileNotFoundError: one of the files does not exist.
      TensorFileError: a pickle is damaged, or holds anything but a list of ids and a dict of passages by id.
      ValueError: there is no passage for an id.
    """
    legacy = Path(legacy)
    ids, passages = read_legacy_ids(legacy / LEGACY_IDS), _read_legacy_passages(legacy / LEGACY_PASSAGES)
    for row, name in enumerate(ids):
        passage = passages.get(bare_id(name))
        if passage is None:
            raise ValueError(f"{legacy / LEGACY_PASSAGES} has no passage {name!r}, which is row {row} of the index")
        if not isinstance(passage, list | tuple) or len(passage) < 2 or not all(isinstance(p, str) for p in passage):
            raise TensorFileError(
                legacy / LEGACY_PASSAGES, "text and title of each passage", describe(passage), _DOWNLOAD_AGAIN
            )
        yield passage[1], passage[0]


def read_legacy_ids(path: str | Path) -> list[str | int]:
    """Reads the passage id of each row of a legacy index.

    Raises:
      FileNotFoundError, TensorFileError: see `legacy_passages`.
    """
    found = _read_plain_pickle(Path(path))
    if not isinstance(found, list) or not all(isinstance(name, str) or type(name) is int for name in found):
        raise TensorFileError(path, "a pickled list of passage ids", describe(found), _DOWNLOAD_AGAIN)
    return found


def _read_legacy_passages(path: Path) -> dict[str, object]:
    found = _read_plain_pickle(path)
    if not isinstance(found, dict):
        raise TensorFileError(path, "a pickled dict of passages by id", describe(found), _DOWNLOAD_AGAIN)
    return {bare_id(name): passage for name, passage in found.items()}


def bare_id(name: str | int) -> str:
    """Returns a passage id without the prefix that some of DPR's files have: "7" for "wiki:7"."""
    return str(name).rpartition(":")[2]


def _read_plain_pickle(path: Path) -> object:
    """Reads a pickle of numbers, strings and containers."""
    if not path.is_file():
        files = f"{LEGACY_GRAPH}, {LEGACY_IDS} and {LEGACY_PASSAGES}"
        raise FileNotFoundError(f"no file {path}: a legacy index consists of {files}")
    try:
        with open(path, "rb") as file:
            size = file_size(file)
            return Unpickler(BoundedReader(file, 0, size), {}, steps=size).load()  # an opcode takes at least one byte
    except FormatError as error:
        raise TensorFileError(path, error.expected, error.found, _DOWNLOAD_AGAIN) from None


def _join_pairs(pairs: object) -> tuple[list[str | int], np.ndarray]:
    if not isinstance(pairs, list) or not pairs:
        raise FormatError(_EXPECTED, describe(pairs))
    ids: list[str | int] = []
    vectors: list[np.ndarray] = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise FormatError(_EXPECTED, f"{describe(pair)} at position {i}")
        vector = pair[1].values if isinstance(pair[1], _Array) else None
        if vector is None or vector.ndim != 1 or len(vector) != len(vectors[0] if vectors else vector):
            found = describe(pair[1]) if vector is None else f"shape {vector.shape}"
            raise FormatError("vectors of the same length", f"{found} at position {i}")
        ids.append(pair[0])
        vectors.append(vector)
    return ids, np.array(vectors, np.float32)


class _Dtype:
    """numpy.dtype, before and after its state sets the byte order."""

    def __init__(self, code: object, *_: object):
        if not isinstance(code, str) or code not in ("f2", "f4", "f8"):
            raise FormatError("arrays of f2, f4 or f8", describe(code))
        self.code, self.order = code, "<"

    def set(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">"):
            raise FormatError("the byte order < or >", describe(order))
        self.order = order

    @property
    def dtype(self) -> np.dtype:
        return FLOATS[self.order + self.code]


class _Array:
    """numpy.ndarray, before and after its state sets the content."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def set(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("an array's version, shape, dtype, order and bytes", describe(state))
        _, shape, dtype, _, data = state
        self.fill(data, dtype, shape)

    def fill(self, data: object, dtype: object, shape: object) -> None:
        """Sets a view of the bytes. Only vectors are needed, so the order of axes makes no difference."""
        if not isinstance(data, bytes) or not isinstance(dtype, _Dtype):
            raise FormatError("the bytes and the dtype of an array", f"{describe(data)[:40]}, {describe(dtype)}")
        shape = checked_sizes(shape, "an array's shape")
        size = byte_count(shape, dtype.dtype.itemsize)
        if size != len(data):
            raise FormatError(f"{size} bytes for shape {shape}", str(len(data)))
        self.values = np.frombuffer(data, dtype.dtype).reshape(shape)


_NDARRAY = object()


def _reconstruct(cls: object, shape: object, code: object) -> _Array:
    if cls is not _NDARRAY:
        raise FormatError("an empty numpy.ndarray", describe(cls), REFUSED)
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape)
    return array


def _build(vm: Unpickler) -> None:
    state = vm.pop()
    target = vm.stack[-1] if vm.stack else None
    if not isinstance(target, _Dtype | _Array):
        raise FormatError("BUILD on an array", f"BUILD on {describe(target)}", REFUSED)
    target.set(state)


def _push_bytes(layout: str) -> Callable[[Unpickler], None]:
    def push(vm: Unpickler) -> None:
        vm.stack.append(vm.reader.take(int(vm.number(layout))))

    return push


_OPCODES: dict[bytes, Callable[[Unpickler], None]] = {
    pickle.BUILD: _build,
    pickle.SHORT_BINBYTES: _push_bytes("<B"),
    pickle.BINBYTES: _push_bytes("<I"),
    pickle.BINBYTES8: _push_bytes("<Q"),
    pickle.BYTEARRAY8: _push_bytes("<Q"),
}
_GLOBALS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Constructor("numpy.dtype", _Dtype, 1, 3),
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _GLOBALS |= {
        (f"{_core}.multiarray", "_reconstruct"): Constructor("numpy's _reconstruct", _reconstruct, 3, 3),
        (f"{_core}.numeric", "_frombuffer"): Constructor("numpy's _frombuffer", _from_buffer, 4, 4),
    }
