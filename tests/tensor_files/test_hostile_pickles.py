"""Pickles that try to run code or to exhaust memory and time."""

import argparse
import os
import pickle
import struct
import subprocess
import sys
import time

import pytest
import torch
from support.tensor_file_samples import TORCH_HEAD, storage_pickle, tensor_pickle, text, torch_bytes, zip_of

from jaxmodels.tensor_files import TensorFileError, open_tensors
from jaxmodels.tensor_files.torch_objects import GLOBALS

ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
TENSOR = tensor_pickle(1, 0, (1,), (1,))
STORAGE_TYPE = b"ctorch\nFloatStorage\n"


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def run(command: str) -> bytes:
    """Opcodes of `os.system(command)`."""
    return b"cos\nsystem\n" + text(command) + b"\x85R"


# Name -> opcodes (after PROTO, before STOP), and what the error message must contain.
HOSTILE = {
    "system": (lambda touch: run(touch), "os.system"),
    "system by its C name": (lambda touch: b"cposix\nsystem\n" + text(touch) + b"\x85R", "posix.system"),
    "system from the stack": (lambda touch: stack_global("os", "system") + text(touch) + b"\x85R", "os.system"),
    "system inside a state dict": (lambda touch: b"}" + text("a") + TENSOR + b"s0" + run(touch), "POP"),
    "system as a value": (lambda touch: b"}" + text("a") + run(touch) + b"s", "os.system"),
    "system as a state": (lambda touch: ORDERED_DICT + b")R" + run(touch) + b"b", "os.system"),
    "eval": (
        lambda touch: b"cbuiltins\neval\n" + text(f"__import__('os').system({touch!r})") + b"\x85R",
        "builtins.eval",
    ),
    "eval of Python 2": (lambda touch: b"c__builtin__\neval\n" + text("1") + b"\x85R", "__builtin__.eval"),
    "getattr": (
        lambda touch: b"cbuiltins\ngetattr\n" + STORAGE_TYPE + text("__class__") + b"\x86R",
        "builtins.getattr",
    ),
    "attribute of a storage class": (lambda touch: stack_global("torch", "FloatStorage.__class__"), "__class__"),
    "globals of a function": (
        lambda touch: stack_global("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "module of an allowed name": (lambda touch: stack_global("collections", "abc"), "collections.abc"),
    "torch.load": (lambda touch: b"ctorch\nload\n" + text("x") + b"\x85R", "torch.load"),
    "numpy": (lambda touch: b"cnumpy.core.multiarray\n_reconstruct\n)R", "numpy.core.multiarray._reconstruct"),
    "global of numbers": (lambda touch: b"K\x01K\x02\x93", "1 and 2"),
    "call of a tensor": (lambda touch: TENSOR + text(touch) + b"\x85R", "a call of a TensorView"),
    "call of a storage": (lambda touch: storage_pickle(1) + b")R", "a call of a Storage"),
    "call of a storage class": (lambda touch: STORAGE_TYPE + b")R", "a call of a StorageType"),
    "call of a dtype": (lambda touch: b"ctorch\nfloat32\n" + b")R", "a call of a Float32DType"),
    "call of a string": (lambda touch: text("os.system") + text(touch) + b"\x85R", "a call of 'os.system'"),
    "call without a tuple": (lambda touch: ORDERED_DICT + b"]R", "collections.OrderedDict"),
    "call with too many arguments": (lambda touch: ORDERED_DICT + b"(NNNtR", "collections.OrderedDict"),
    "attributes on a rebuild function": (
        lambda touch: REBUILD + b"N}" + text("__defaults__") + text("x") + b"s\x86b",
        "BUILD on torch._utils._rebuild_tensor_v2",
    ),
    "attributes on a class": (lambda touch: ORDERED_DICT + b"}b", "BUILD on collections.OrderedDict"),
    "attributes on a tensor": (
        lambda touch: TENSOR + b"}" + text("shape") + text("x") + b"sb",
        "BUILD on a TensorView",
    ),
    "attributes on a storage class": (lambda touch: STORAGE_TYPE + b"}b", "BUILD on a StorageType"),
    "items on a tensor": (lambda touch: TENSOR + text("a") + text("b") + b"s", "SETITEMS on a TensorView"),
    "append to a tuple": (lambda touch: b")" + text("a") + b"a", "APPENDS on a tuple"),
    "tuple as a key": (lambda touch: b"}))s", "as dict keys, found a tuple"),
    "huge integer as a key": (lambda touch: b"}\x8a\x09" + b"\x01" * 9 + b"Ns", "as dict keys"),
    "tensor over a string": (lambda touch: REBUILD + b"(" + text(touch) + b"K\x00))\x89NtR", "one over "),
    "storage without a class": (lambda touch: b"(" + text("storage") * 4 + b"K\x01tQ", "a storage class and key"),
    "module as a persistent id": (lambda touch: b"(" + text("module") + b"NNNNtQ", "found 'module'"),
    "number as a persistent id": (lambda touch: b"K\x07Q", "reference to a storage, found 7"),
    "NEWOBJ": (lambda touch: ORDERED_DICT + b")\x81", "opcode NEWOBJ"),
    "NEWOBJ_EX": (lambda touch: ORDERED_DICT + b")}\x92", "opcode NEWOBJ_EX"),
    "INST": (lambda touch: b"(" + text(touch) + b"ios\nsystem\n", "opcode INST"),
    "OBJ": (lambda touch: b"(" + ORDERED_DICT + b"o", "opcode OBJ"),
    "EXT1": (lambda touch: b"\x82\x01", "opcode EXT1"),
    "PERSID": (lambda touch: b"Px\n", "opcode PERSID"),
    "BYTEARRAY8": (lambda touch: b"\x96" + b"\xff" * 8, "opcode BYTEARRAY8"),
    "LONG4": (lambda touch: b"\x8b\xff\xff\xff\x7f", "opcode LONG4"),
    "decimal integer": (lambda touch: b"I" + b"9" * 100_000 + b"\n", "opcode INT"),
    "no opcode": (lambda touch: b"\xff", "a pickle opcode"),
}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_pickles_are_rejected_and_run_nothing(tmp_path, name, layout):
    build, named = HOSTILE[name]
    canary = tmp_path / "canary"
    pickled = b"\x80\x02" + build(f"touch {canary}") + b"."
    path = tmp_path / "x.bin"
    path.write_bytes(zip_of(pickled, {"data/0": bytes(4)}) if layout == "zip" else TORCH_HEAD + pickled)
    before = dict(GLOBALS)
    with pytest.raises(TensorFileError) as caught:
        open_tensors(path)
    assert named in str(caught.value)
    assert not canary.exists()
    assert before == GLOBALS


def test_the_malicious_pickle_runs_code_in_the_standard_unpickler(tmp_path):
    """Shows that the test above would fail for an unsafe unpickler."""
    canary = tmp_path / "canary"
    pickle.loads(b"\x80\x02" + run(f"touch {canary}") + b".")
    assert canary.exists()


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_files_written_by_torch_save(tmp_path, legacy):
    canary, path = tmp_path / "canary", tmp_path / "x.pt"
    for payload, named in [(Payload(f"touch {canary}"), "system"), (argparse.Namespace(lr=1), "argparse.Namespace")]:
        path.write_bytes(torch_bytes({"x": torch.ones(1), "args": payload}, legacy))
        with pytest.raises(TensorFileError, match=f"tensors and plain containers only.*{named}.*weights again"):
            open_tensors(path)
    assert not canary.exists()


def test_header_pickles_are_restricted_too(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "x.pt"
    path.write_bytes(b"\x80\x02" + run(f"touch {canary}") + b".")
    with pytest.raises(TensorFileError, match="os.system"):
        open_tensors(path)
    assert not canary.exists()


def doubled(levels: int) -> bytes:
    """A dict whose two values are the same dict, recursively: 2**levels paths."""
    level = b"".join(
        b"}q" + bytes([i + 1]) + b"(" + text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i]) + b"u"
        for i in range(levels)
    )
    return b"}q\x00" + level


BOMBS = {
    "lengths beyond the file": b"X\xff\xff\xff\x7f",
    "8-byte length": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "memo numbers": b"}" + b"r\xff\xff\xff\xff" * 100,
    "frame": b"\x95" + b"\xff" * 8,
    "many memo entries": b"}" + b"".join(b"r" + struct.pack("<I", i) for i in range(2_100_000)),
    "exponential containers": doubled(60),
    "cycle": b"}q\x00" + text("a") + b"h\x00s",
    "deep tuples as a key": b"})" + b"\x85" * 300_000 + b"Ns",
    "copies of one list": ORDERED_DICT
    + b"q\x00("
    + b"K\x01K\x02\x86" * 100_000
    + b"tq\x01"
    + b"h\x00h\x01\x85R" * 300_000,
    "long names": b"}" + text("n" * 2000) + b"Ns",
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    for name, body in BOMBS.items():
        pickled = b"\x80\x02" + body + b"." + pickle.dumps([], 2)
        (folder / f"{name}.legacy.bin").write_bytes(TORCH_HEAD + pickled)
    return folder


PROGRAM = """
import pathlib, resource, sys, time
from jaxmodels.tensor_files import TensorFileError, open_tensors
[size] = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = size + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try:
        open_tensors(path)
        print(path.name, "was opened")
    except TensorFileError:
        if time.process_time() - start > 10:
            print(path.name, "took", time.process_time() - start, "s")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory in use")
def test_pickle_bombs_end_quickly_within_600_MB(bombs):
    result = subprocess.run([sys.executable, "-c", PROGRAM, str(bombs)], capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_small_pickle_bombs_end_within_two_seconds(bombs):
    for path in bombs.iterdir():
        if path.stat().st_size < 10_000:
            start = time.process_time()
            with pytest.raises(TensorFileError):
                open_tensors(path)
            assert time.process_time() - start < 2, path.name
