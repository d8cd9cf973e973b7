"""DPR's embedding files: a pickled list of (id, vector), read without running anything that is in it.

Source of the format: DPR's generate_dense_embeddings.py. The machine is the one that reads torch's files; beside its
containers, texts and numbers it may build float arrays here, and everything else is refused by name.
"""

import pickle
from pathlib import Path

import numpy as np

from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.file_io import BoundedReader, file_size
from jaxmodels.tensor_files.unpickler import MAX_OPCODES, REFUSED, Constructor, Unpickler
from jaxmodels.tensor_files.validation import FormatError, byte_count, checked_sizes, describe

KINDS = {f"{order}{code}": np.dtype(f"{order}{code}") for order in "<>" for code in ("f2", "f4", "f8")}
_EXPECTED = "a pickled list of (id, vector) pairs, as DPR's generate_dense_embeddings.py writes"
_REMEDY = "such a file may run any code when Python's pickle opens it; make it again, or pass the vectors themselves"


def read_dpr_embeddings(path: str | Path) -> tuple[list[str | int], np.ndarray]:
    """The ids and the vectors [N, D] float32 of one file; all of it is held in memory.

    Raises:
      TensorFileError: another kind of file, a broken one, or one that asks for anything but arrays.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file_size(file)
            reader = BoundedReader(file, 0, size)
            # A row takes about 20 opcodes and more than 50 bytes.
            steps = max(MAX_OPCODES, size // 2)
            pairs = Unpickler(reader, _GLOBALS, opcodes=_OPCODES, steps=steps).load()
        return _joined(pairs)
    except FormatError as error:
        raise TensorFileError(path, error.expected, error.found, _REMEDY) from None


def _joined(pairs: object) -> tuple[list[str | int], np.ndarray]:
    if not isinstance(pairs, list) or not pairs:
        raise FormatError(_EXPECTED, describe(pairs))
    ids, vectors = [], []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise FormatError(_EXPECTED, f"{describe(pair)} in place {i}")
        vector = pair[1].values if isinstance(pair[1], _Array) else None
        if vector is None or vector.ndim != 1 or len(vector) != len(vectors[0] if vectors else vector):
            found = describe(pair[1]) if vector is None else f"shape {vector.shape}"
            raise FormatError("vectors of one length", f"{found} in place {i}")
        ids.append(pair[0])
        vectors.append(vector)
    return ids, np.array(vectors, np.float32)


class _Kind:
    """numpy.dtype, before and after its state says the byte order."""

    def __init__(self, code: object, *_):
        if code not in ("f2", "f4", "f8"):
            raise FormatError("arrays of f2, f4 or f8", describe(code))
        self.code, self.order = code, "<"

    def set(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">"):
            raise FormatError("the byte order < or >", describe(order))
        self.order = order

    @property
    def dtype(self) -> np.dtype:
        return KINDS[self.order + self.code]


class _Array:
    """numpy.ndarray, before and after its state says what it holds."""

    def __init__(self):
        self.values: np.ndarray | None = None

    def set(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("an array's version, shape, dtype, order and bytes", describe(state))
        _, shape, kind, _, data = state
        self.fill(data, kind, shape)

    def fill(self, data: object, kind: object, shape: object) -> None:
        """A view of the bytes, not a copy. Vectors are all that is wanted, so the order of axes makes no difference."""
        if not isinstance(data, bytes) or not isinstance(kind, _Kind):
            raise FormatError("the bytes and the dtype of an array", f"{describe(data)[:40]}, {describe(kind)}")
        shape = checked_sizes(shape, "an array's shape")
        if byte_count(shape, kind.dtype.itemsize) != len(data):
            raise FormatError(f"{byte_count(shape, kind.dtype.itemsize)} bytes for shape {shape}", str(len(data)))
        self.values = np.frombuffer(data, kind.dtype).reshape(shape)


_NDARRAY = object()


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _NDARRAY:
        raise FormatError("an empty numpy.ndarray", describe(kind), REFUSED)
    return _Array()


def _from_buffer(data: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.fill(data, kind, shape)
    return array


def _build(vm: Unpickler) -> None:
    state = vm.pop()
    target = vm.stack[-1] if vm.stack else None
    if not isinstance(target, _Kind | _Array):
        raise FormatError("BUILD on an array", f"BUILD on {describe(target)}", REFUSED)
    target.set(state)


def _push_bytes(layout: str):
    def push(vm: Unpickler) -> None:
        vm.stack.append(vm.reader.take(vm.number(layout)))

    return push


_OPCODES = {
    pickle.BUILD: _build,
    pickle.SHORT_BINBYTES: _push_bytes("<B"),
    pickle.BINBYTES: _push_bytes("<I"),
    pickle.BINBYTES8: _push_bytes("<Q"),
    pickle.BYTEARRAY8: _push_bytes("<Q"),
}
_GLOBALS = {("numpy", "ndarray"): _NDARRAY, ("numpy", "dtype"): Constructor("numpy.dtype", _Kind, 1, 3)}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _GLOBALS |= {
        (f"{_core}.multiarray", "_reconstruct"): Constructor("numpy's _reconstruct", _reconstruct, 3, 3),
        (f"{_core}.numeric", "_frombuffer"): Constructor("numpy's _frombuffer", _from_buffer, 4, 4),
    }
