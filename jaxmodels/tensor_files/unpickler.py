"""A safe unpickler: creates numbers, strings, containers and objects of given constructors, and nothing else.

Restricting `find_class` of the standard library's Unpickler is not enough against malicious files: it still sets
attributes of any object on its stack (BUILD), hashes nested tuples of any size (as dict keys), and allocates memory for
memo indices and lengths before it has seen the bytes. The opcodes are documented in the standard library's
pickletools.py. Opcodes that torch.save does not write raise an error with their name.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from .file_io import BoundedReader
from .validation import DOWNLOAD_AGAIN, SAVE_AGAIN, FormatError, describe

MAX_PICKLE = 64 * 2**20
# A tensor takes about 40 opcodes; two million take two seconds.
MAX_OPCODES = 2_000_000
MAX_GLOBAL_NAME = 256
REFUSED = "such a file can run any code when torch opens it, so it is not opened; " + SAVE_AGAIN

T = TypeVar("T")


@dataclass(frozen=True)
class Constructor:
    """A callable that a pickle may call (REDUCE).

    Attributes:
      name: for error messages.
      build: the callable.
      min_args, max_args: number of arguments.
    """

    name: str
    build: Callable
    min_args: int
    max_args: int


def no_persistent_ids(persistent_id: object) -> object:
    """Rejects persistent ids, for pickles that must not have any."""
    raise FormatError("a pickle without references to storages", describe(persistent_id))


class Unpickler:
    """Unpickles one object.

    Args:
      reader: positioned at the start of the pickle, and after `load` at its end.
      known_globals: (module, name) -> value that replaces this global; nothing is imported.
      storage_of: resolves persistent ids.
      opcodes: additional opcodes, or replacements.
      steps: maximum number of opcodes.
    """

    def __init__(
        self,
        reader: BoundedReader,
        known_globals: Mapping[tuple[str, str], object],
        storage_of: Callable[[object], object] = no_persistent_ids,
        opcodes: Mapping[bytes, Callable[["Unpickler"], object]] = MappingProxyType({}),
        steps: int = MAX_OPCODES,
    ):
        self.reader, self.known_globals, self.storage_of = reader, known_globals, storage_of
        self.actions: dict[bytes, Callable[[Unpickler], object]] = {**_ACTIONS, **opcodes}
        self.stack: list = []
        self.marked: list[list] = []  # for each open MARK, the stack below it
        self.memo: dict[int, object] = {}
        self.steps = self.steps_left = steps

    def load(self) -> object:
        """Returns the object."""
        while (opcode := self.reader.take(1)) != pickle.STOP:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise FormatError(f"a pickle of at most {self.steps} steps", "more", SAVE_AGAIN)
            if opcode in _PUSHES:
                value = _PUSHES[opcode](self)  # evaluated first, because TUPLE replaces `self.stack`
                self.stack.append(value)
            elif opcode in self.actions:
                self.actions[opcode](self)
            else:
                _reject_opcode(opcode)
        return self.pop()

    def number(self, layout: str) -> int:
        """Reads an integer of a `struct` layout."""
        return struct.unpack(layout, self.reader.take(struct.calcsize(layout)))[0]

    def float64(self) -> float:
        return struct.unpack(">d", self.reader.take(8))[0]

    def text(self, layout: str) -> str:
        """Reads a length of a `struct` layout, and as many bytes of UTF-8."""
        return _decode(self.reader.take(self.number(layout)))

    def pop(self) -> object:
        if not self.stack:
            raise FormatError("a value on the pickle's stack", "an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        """Pops the items above the last MARK, and the mark."""
        if not self.marked:
            raise FormatError("a MARK in the pickle", "none")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def top(self, expected: type[T], opcode: str) -> T:
        """Returns the top of the stack, which must be of exactly this type."""
        if not self.stack or type(self.stack[-1]) is not expected:
            found = _name_of(self.stack[-1]) if self.stack else "an empty stack"
            raise FormatError(f"{opcode} on a {expected.__name__}", f"{opcode} on {found}", REFUSED)
        return self.stack[-1]


def _reject_opcode(opcode: bytes) -> None:
    known = pickletools.code2op.get(opcode.decode("latin-1"))  # type: ignore[attr-defined]  # missing in typeshed
    if known is None:
        raise FormatError("a pickle opcode", f"byte {opcode!r}")
    raise FormatError("the pickle opcodes that torch.save writes", f"opcode {known.name}", REFUSED)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("a UTF-8 string in the pickle", describe(data[:32])) from None


def _name_of(value: object) -> str:
    return value.name if isinstance(value, Constructor) else describe(value)


def _memoized(vm: Unpickler, index: int) -> object:
    if index not in vm.memo:
        raise FormatError(f"a value under memo number {index}", "none")
    return vm.memo[index]


def _memoize(vm: Unpickler, index: int) -> None:
    if not vm.stack:
        raise FormatError("a value to memoize", "an empty stack")
    vm.memo[index] = vm.stack[-1]


def _global(vm: Unpickler, module: str, name: str) -> object:
    if (module, name) not in vm.known_globals:
        raise FormatError("tensors and plain containers only", f"a use of {describe(f'{module}.{name}')}", REFUSED)
    return vm.known_globals[module, name]


def _global_by_lines(vm: Unpickler) -> object:
    module = _decode(vm.reader.take_line(MAX_GLOBAL_NAME))
    return _global(vm, module, _decode(vm.reader.take_line(MAX_GLOBAL_NAME)))


def _global_from_stack(vm: Unpickler) -> object:
    name, module = vm.pop(), vm.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise FormatError("the names of a module and a global", f"{describe(module)} and {describe(name)}", REFUSED)
    return _global(vm, module, name)


def _tuple(vm: Unpickler, size: int) -> tuple:
    return tuple(reversed([vm.pop() for _ in range(size)]))


def _reduce(vm: Unpickler) -> object:
    arguments, constructor = vm.pop(), vm.pop()
    if not isinstance(constructor, Constructor) or type(arguments) is not tuple:
        raise FormatError("a call that rebuilds a tensor or a container", f"a call of {_name_of(constructor)}", REFUSED)
    if not constructor.min_args <= len(arguments) <= constructor.max_args:
        expected = f"{constructor.min_args} to {constructor.max_args} arguments for {constructor.name}"
        raise FormatError(expected, str(len(arguments)), DOWNLOAD_AGAIN)
    # A call may copy its arguments, and two bytes of pickle suffice to repeat it.
    vm.steps_left -= sum(len(argument) for argument in arguments if isinstance(argument, list | tuple))
    return constructor.build(*arguments)


def set_item(target: dict, key: object, value: object) -> None:
    """Sets target[key] = value; keys must be strings or 64-bit integers, whose hashing cannot be made slow."""
    if not isinstance(key, str) and not (type(key) is int and abs(key) < 2**63):
        raise FormatError("strings and 64-bit integers as dict keys", describe(key), SAVE_AGAIN)
    target[key] = value


def _set_items(vm: Unpickler, items: list) -> None:
    target = vm.top(dict, "SETITEMS")
    if len(items) % 2:
        raise FormatError("a value for every dict key", f"{len(items)} keys and values")
    for key, value in zip(items[::2], items[1::2], strict=True):
        set_item(target, key, value)


def _append(vm: Unpickler, items: list) -> None:
    vm.top(list, "APPENDS").extend(items)


def _mark(vm: Unpickler) -> None:
    vm.marked.append(vm.stack)
    vm.stack = []


def _build(vm: Unpickler) -> None:
    # A state dict is an OrderedDict with the attribute `_metadata` (module versions), which is not needed.
    vm.pop()
    vm.top(dict, "BUILD")


# Opcodes that push one value.
_PUSHES: dict[bytes, Callable[[Unpickler], object]] = {
    pickle.NONE: lambda vm: None,
    pickle.NEWTRUE: lambda vm: True,
    pickle.NEWFALSE: lambda vm: False,
    pickle.BININT: lambda vm: vm.number("<i"),
    pickle.BININT1: lambda vm: vm.number("<B"),
    pickle.BININT2: lambda vm: vm.number("<H"),
    pickle.LONG1: lambda vm: int.from_bytes(vm.reader.take(vm.number("<B")), "little", signed=True),
    pickle.BINFLOAT: lambda vm: vm.float64(),
    pickle.BINUNICODE: lambda vm: vm.text("<I"),
    pickle.SHORT_BINUNICODE: lambda vm: vm.text("<B"),
    pickle.BINUNICODE8: lambda vm: vm.text("<Q"),
    pickle.BINSTRING: lambda vm: vm.text("<I"),  # strings of Python 2
    pickle.SHORT_BINSTRING: lambda vm: vm.text("<B"),
    pickle.EMPTY_DICT: lambda vm: {},
    pickle.EMPTY_LIST: lambda vm: [],
    pickle.EMPTY_TUPLE: lambda vm: (),
    pickle.TUPLE1: lambda vm: _tuple(vm, 1),
    pickle.TUPLE2: lambda vm: _tuple(vm, 2),
    pickle.TUPLE3: lambda vm: _tuple(vm, 3),
    pickle.TUPLE: lambda vm: tuple(vm.pop_to_mark()),
    pickle.BINGET: lambda vm: _memoized(vm, vm.number("<B")),
    pickle.LONG_BINGET: lambda vm: _memoized(vm, vm.number("<I")),
    pickle.GLOBAL: _global_by_lines,
    pickle.STACK_GLOBAL: _global_from_stack,
    pickle.REDUCE: _reduce,
    pickle.BINPERSID: lambda vm: vm.storage_of(vm.pop()),
}

# Other opcodes.
_ACTIONS: dict[bytes, Callable[[Unpickler], object]] = {
    pickle.PROTO: lambda vm: vm.number("<B"),
    pickle.FRAME: lambda vm: vm.number("<Q"),
    pickle.MARK: _mark,
    pickle.SETITEM: lambda vm: _set_items(vm, list(_tuple(vm, 2))),
    pickle.SETITEMS: lambda vm: _set_items(vm, vm.pop_to_mark()),
    pickle.APPEND: lambda vm: _append(vm, [vm.pop()]),
    pickle.APPENDS: lambda vm: _append(vm, vm.pop_to_mark()),
    pickle.BINPUT: lambda vm: _memoize(vm, vm.number("<B")),
    pickle.LONG_BINPUT: lambda vm: _memoize(vm, vm.number("<I")),
    pickle.MEMOIZE: lambda vm: _memoize(vm, len(vm.memo)),
    pickle.BUILD: _build,
}
