"""Reads what `torch.save` and `torch.jit.save` wrote as tensors, without running anything of it.

A pickle is a program that builds objects. Here its instructions are carried out on plain values: a
class or a function stays a name, nothing is imported, nothing is called. What builds tensors and
arrays is understood, classes that only hold values beside them (`Namespace`, `DictConfig`) become a
`Record`, and everything else is refused by its name.
"""

import dataclasses
import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from retfm_jax.errors import UserError

#: What torch calls its element types, as the last word of a storage's class or of a dtype.
_DTYPES = {
    **dict.fromkeys(("Float", "float32"), np.dtype(np.float32)),
    **dict.fromkeys(("Double", "float64"), np.dtype(np.float64)),
    **dict.fromkeys(("Half", "float16"), np.dtype(np.float16)),
    **dict.fromkeys(("BFloat16", "bfloat16"), np.dtype(ml_dtypes.bfloat16)),
    **dict.fromkeys(("Long", "int64"), np.dtype(np.int64)),
    **dict.fromkeys(("Int", "int32"), np.dtype(np.int32)),
    **dict.fromkeys(("Short", "int16"), np.dtype(np.int16)),
    **dict.fromkeys(("Char", "int8"), np.dtype(np.int8)),
    **dict.fromkeys(("Byte", "uint8"), np.dtype(np.uint8)),
    **dict.fromkeys(("Bool", "bool"), np.dtype(np.bool_)),
    **{name: np.dtype(name) for name in ("uint16", "uint32", "uint64")},
    **dict.fromkeys(("ComplexFloat", "complex64"), np.dtype(np.complex64)),
    **dict.fromkeys(("ComplexDouble", "complex128"), np.dtype(np.complex128)),
}

#: Classes that hold values and that nobody needs in order to read tensors.
_RECORDS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.deque|copy_reg\._reconstructor"
    r"|copyreg\._reconstructor|(pathlib|datetime|uuid|decimal|fractions)\."
    r"|(omegaconf|ml_collections|easydict|addict|yacs|box|munch)\."
    r"|(pytorch_lightning|lightning|lightning_fabric)\.|(numpy\.dtypes|numpy\.random)\."
    r"|typing\.|torch\.(device|Size|Generator|serialization\._get_layout|optim\.|amp\.|cuda\.amp\.)"
    r"|__torch__\."
)
_PLAIN = ("builtins", "__builtin__")
_SCRIPTED = "__torch__."

#: A pickle beside the storages holds names and numbers: a few hundred bytes for each tensor.
_LARGEST_PICKLE = 1 << 28
#: Values of all tensors together; storages may be shared (tied weights), but not without end.
_SHARING = 8
#: What a pickle makes of other values may be as large as itself, in bytes, so many times.
_COPYING = 8
#: As how many bytes an entry of a mapping or a list counts.
_ENTRY = 16

#: What other files are told.
SUFFIXES = "weights are read from .pt, .pth, .bin, .ckpt and .safetensors files"

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Name(NamedTuple):
    """Class or function that a pickle names.

    Attributes:
      module, name: as in an import statement.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class Record:
    """Object of a class that is not imported: what it was made of, as plain values.

    Attributes:
      name: its class.
      args: arguments of its constructor.
      state: its attributes, as its class stores them; None without any.
      items: what was appended to it.
      refused: whether only code could make it, so that the file is not read.
    """

    name: Name
    args: Any = ()
    state: Any = None
    items: list[Any] = dataclasses.field(default_factory=list)
    refused: bool = False

    @property
    def is_scripted(self) -> bool:
        """Tells whether it is a module of a TorchScript archive."""
        return str(self.name).startswith(_SCRIPTED)


class Storage(NamedTuple):
    """Numbers of one type that a file stores.

    Attributes:
      key: under which the file stores them.
      dtype: None for bytes without a type.
      kind: torch's name of the type, such as "Float".
      size: number of elements.
    """

    key: str
    dtype: np.dtype | None
    kind: str
    size: int


class Stored(NamedTuple):
    """Tensor of a file: a view of a storage, whose values are not read yet.

    Attributes:
      storage: the numbers that it shows.
      dtype: of its elements.
      offset: of its first element in the storage, in elements.
      shape: number of elements along every axis.
      strides: steps in the storage along every axis, in elements.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unreadable(NamedTuple):
    """Tensor whose values the file does not hold, or that cannot be used here.

    Attributes:
      why: the reason, for messages.
      shape: () where it is unknown.
    """

    why: str
    shape: tuple[int, ...] = ()


_LEAVES = (Name, Storage, Stored, Unreadable)


class DamagedPickle(Exception):
    """Instructions of a pickle that make no sense."""


def read(
    path: Path, choose: Callable[[Any], Mapping[str, Any]], shown: str | None = None
) -> dict[str, Any]:
    """Reads tensors of a file of `torch.save` or `torch.jit.save`, or of a pickle of NumPy arrays.

    Args:
      path: a local file.
      choose: takes the file's object, of plain values, `Record` and tensors whose values are not
        read yet (`is_tensor`), and returns the tensors that are wanted, by name.
      shown: how messages call the file; None: by its path.

    Returns:
      NumPy arrays of the type they were stored in, or `Unreadable`, by name.

    Raises:
      UserError: the file is damaged, or one of its entries is an object that only code could make.
    """
    shown = shown or str(path)
    try:
        with open(path, "rb") as file:
            archive = file.read(4) == b"PK\x03\x04"
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return (_read_archive if archive else _read_stream)(file, size, shown, choose)
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, MemoryError) as error:
        raise _damaged(shown, str(error)) from error
    # A pickle of others may break any rule that Python objects have.
    except Exception as error:
        raise _damaged(shown, f"{type(error).__name__}: {printable(error)}") from error


def printable(value: object, limit: int = 160) -> str:
    """Text of a file as a message shows it: on one line, without control characters, not long.

    Args:
      value: a text, or an object whose `str` is taken.
      limit: greatest number of characters; longer texts are cut and end with "...".
    """
    text = value if isinstance(value, str) else str(value)
    text = text.strip().splitlines()[0] if text.strip() else text
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "..."


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the parts of a value, each with its key; nothing where it has none.

    Args:
      value: a mapping, a list, a tuple or a `Record` of a file.
    """
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Record):
        for part in (value.args, value.state, value.items):
            yield from children(part)
    elif isinstance(value, list | tuple) and not isinstance(value, _LEAVES):
        yield from enumerate(value)


def is_tensor(value: Any) -> bool:
    """Tells whether a value of a file is a tensor or an array, readable or not.

    Args:
      value: of any type.
    """
    array = isinstance(value, Record) and str(value.name) == "numpy.ndarray"
    return array or isinstance(value, Stored | Unreadable)


def _damaged(path: str, why: str) -> UserError:
    return UserError(
        f"{path} is refused: it is damaged or cut short, or no file of PyTorch ({printable(why)})"
    )


Choice = Callable[[Any], Mapping[str, Any]]
#: Bytes of a storage, by its key and how many are needed.
Reader = Callable[[str, int], bytes]


def _read_archive(file: BinaryIO, size: int, path: str, choose: Choice) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name for name in entries if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(roots) != 1:
            held = ", ".join(printable(name, 40) for name in list(entries)[:4])
            raise UserError(
                f"{path} is a zip archive, but none of PyTorch's (it holds {held or 'nothing'}): "
                f"{SUFFIXES}"
            )
        folder = roots[0].removesuffix("data.pkl")

        def small(name: str) -> bytes:
            if entries[name].file_size > _LARGEST_PICKLE:
                raise UserError(
                    f"{path} is refused: its entry {printable(name)} has "
                    f"{entries[name].file_size:,} bytes, which no weight file needs there (at "
                    f"most {_LARGEST_PICKLE:,})"
                )
            return archive.read(name)

        def storage(key: str, nbytes: int) -> bytes:
            name = f"{folder}data/{key}"
            if name not in entries:
                raise DamagedPickle(f"the entry {name} is missing")
            info = entries[name]
            if info.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{path} is refused: its entry {printable(name)} is compressed, which PyTorch "
                    "never does. Unpack the archive and pack it without compression (zip -0 -r)"
                )
            if not nbytes <= info.file_size <= size:
                raise DamagedPickle(f"the entry {name} has {info.file_size} bytes, not {nbytes}")
            return archive.read(info)

        byteorder = f"{folder}byteorder"
        big = byteorder in entries and small(byteorder) == b"big"
        content = small(roots[0])
        value = _checked(_Machine(io.BytesIO(content), len(content)).run(), path)
        return _values(choose(value), storage, size, ">" if big else "<")


def _read_stream(file: BinaryIO, size: int, path: str, choose: Choice) -> dict[str, Any]:
    """The format before PyTorch 1.6: pickles one behind the other, then the storages."""
    stream = _Bounded(file, size)
    first = _Machine(stream, size).run()
    if first != _LEGACY_MAGIC:
        # A plain pickle, as of NumPy arrays.
        return _values(choose(_checked(first, path)), _nowhere, size, "<")
    _Machine(stream, size).run()  # the version of the format
    system = _Machine(stream, size).run()
    little = system.get("little_endian", True)
    machine = _Machine(stream, size)
    value = _checked(machine.run(), path)
    kinds = machine.storages
    keys = _Machine(stream, size).run()
    extents, position = {}, stream.tell()
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little" if little else "big")
        if key not in kinds:
            raise DamagedPickle(f"nothing speaks of the storage {key}")
        dtype = kinds[key].dtype
        nbytes = count * (1 if dtype is None else dtype.itemsize)
        if position + 8 + nbytes > size:
            raise DamagedPickle("it ends within a tensor")
        extents[key] = position + 8, nbytes
        position += 8 + nbytes

    def storage(key: str, nbytes: int) -> bytes:
        start, length = extents[key]
        if nbytes > length:
            raise DamagedPickle(f"the storage {key} has {length} bytes, not {nbytes}")
        file.seek(start)
        return file.read(nbytes)

    return _values(choose(value), storage, size, "<" if little else ">")


def _nowhere(key: str, nbytes: int) -> bytes:
    raise DamagedPickle(f"there is no storage {key}")


class _Bounded(io.RawIOBase):
    """A file that never allocates more than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._file.tell()
        return self._file.read(left if size < 0 else min(size, left))

    def readline(self, size: int | None = -1) -> bytes:
        return self._file.readline(1 << 16)

    def tell(self) -> int:
        return self._file.tell()


def _walk(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value once, with the keys that lead to it."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        keys, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield keys, value
        waiting += [((*keys[:8], key), child) for key, child in children(value)]


def _checked(value: Any, path: str) -> Any:
    """The value, where nothing in it was made by a function or class that we do not know."""
    for keys, each in _walk(value):
        if isinstance(each, Record) and each.refused:
            where = ".".join(printable(key, 60) for key in keys) or "it"
            raise UserError(
                f"{path} is refused: {where if not keys else f'its entry {where}'} holds "
                f"{printable(each.name)}, which is neither a tensor nor a plain value, and nothing "
                "in a weight file is run. Where you trust the file, write its state dict alone "
                "(model.state_dict()) as .safetensors or .pt, and import that"
            )
    return value


class _Machine:
    """Carries out the instructions of one pickle on plain values."""

    def __init__(self, file: Any, size: int):
        """`size`: of the file in bytes, which bounds what its instructions may copy."""
        self._file = file
        self._left = _COPYING * size
        #: Every storage that was spoken of, by its key.
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._file):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _PUSHES:
                self._stack.append(_CONSTANTS.get(name, argument))
            else:
                action = _ACTIONS.get(name)
                if action is None:
                    raise DamagedPickle(f"the instruction {name} has no place in a weight file")
                action(self, argument)
        raise DamagedPickle("it ends too early")

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pushed(self, value: Any) -> None:
        self._stack.append(value)

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise DamagedPickle("a tuple of more than there is")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._stack.append(items)

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _dict(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target += items
        elif isinstance(target, Record):
            target.items += items
        else:
            raise DamagedPickle("a list is added to something else")

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            if not isinstance(target.state, dict):
                target.state = {}
            target = target.state
        if not isinstance(target, dict):
            raise DamagedPickle("an entry is set in something that has none")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only plain keys are hashed: a nested one could go as deep as the stack.
            plain = key is None or isinstance(key, str | bytes | int | float | bool)
            target[key if plain else f"<{type(key).__name__}>"] = value

    def _pair(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._made(function, arguments))

    def _call_named(self, _: Any) -> None:
        keywords, arguments, function = (self._stack.pop() for _ in range(3))
        made = self._made(function, arguments)
        if isinstance(made, Record):
            made.state = keywords
        self._stack.append(made)

    def _object(self, _: Any) -> None:
        function, *arguments = self._since_mark()
        self._stack.append(self._made(function, tuple(arguments)))

    def _instance(self, argument: str) -> None:
        arguments = tuple(self._since_mark())
        self._stack.append(self._made(Name(*argument.split(" ", 1)), arguments))

    def _made(self, function: Any, arguments: Any) -> Any:
        """`_made`, where a value that is called upon again and again is not copied without end."""
        for each in (arguments, *arguments[:1]) if isinstance(arguments, tuple) else ():
            if isinstance(each, str):
                self._left -= len(each)
            elif isinstance(each, Mapping | list | tuple):
                self._left -= _ENTRY * len(each)
        if self._left < 0:
            raise DamagedPickle("its values have more bytes than the file")
        return _made(function, arguments)

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state

    def _global(self, argument: str) -> None:
        self._stack.append(Name(*argument.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Name(module, name))

    def _persistent(self, identity: Any) -> None:
        identity = identity if isinstance(identity, tuple) else ()
        if identity[:1] == ("module",) and len(identity) > 1:
            self._stack.append(identity[1])  # a class, beside its source code
            return
        if len(identity) < 5 or identity[0] != "storage":
            raise DamagedPickle("a reference that is no storage")
        _, kind, key, _, count, *view = identity
        if view and view[0] is not None:
            raise DamagedPickle("a view of a storage of PyTorch before 0.4")
        name = kind.name if isinstance(kind, Name) else str(kind)
        name = name.removesuffix("Storage")
        storage = Storage(str(key), _DTYPES.get(name), name, int(count))
        self.storages[storage.key] = storage
        self._stack.append(storage)


_PUSHES = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
        *("LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
        *("BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine._stack.pop() if machine._stack else machine._since_mark(),
    "POP_MARK": lambda machine, _: machine._since_mark(),
    "DUP": lambda machine, _: machine._pushed(machine._stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine._pushed([]),
    "EMPTY_TUPLE": lambda machine, _: machine._pushed(()),
    "EMPTY_DICT": lambda machine, _: machine._pushed({}),
    "EMPTY_SET": lambda machine, _: machine._pushed([]),
    "LIST": lambda machine, _: machine._pushed(machine._since_mark()),
    "FROZENSET": lambda machine, _: machine._pushed(machine._since_mark()),
    "TUPLE": lambda machine, _: machine._pushed(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "DICT": lambda machine, _: machine._dict(),
    "APPEND": lambda machine, _: machine._extend([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": _Machine._pair,
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "MEMOIZE": _Machine._memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "NEWOBJ_EX": _Machine._call_named,
    "OBJ": _Machine._object,
    "INST": _Machine._instance,
    "BUILD": _Machine._build,
    "BINPERSID": lambda machine, _: machine._persistent(machine._stack.pop()),
}


def _made(function: Any, arguments: Any) -> Any:
    """What a class or function would make of its arguments, as plain values."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise DamagedPickle("something is called that is no name")
    module, name = function
    if module == "torch._utils" or (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
        return _tensor(name, arguments)
    if (module, name) in (("collections", "OrderedDict"), ("collections", "Counter")) or (
        module in _PLAIN and name == "dict"
    ):
        pairs = arguments[0] if arguments else {}
        return dict(pairs) if isinstance(pairs, dict) else _dict_of(pairs)
    if (module, name) == ("collections", "defaultdict"):
        return {}
    if module in _PLAIN and name in ("set", "frozenset", "list", "tuple", "bytearray", "slice"):
        return list(arguments)
    if module in _PLAIN and name in ("complex", "range", "object"):
        return Record(function, arguments)
    if str(function) == "torch.Size":
        return tuple(arguments[0])
    if str(function) == "_codecs.encode":
        return arguments[0].encode("latin-1")
    if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        made = Name("numpy", "ndarray") if name == "_reconstruct" else function
        return Record(made, arguments, refused=name not in ("_reconstruct", "scalar"))
    known = str(function) == "numpy.dtype" or _RECORDS.match(str(function)) is not None
    return Record(function, arguments, refused=not known)


def _dict_of(pairs: Any) -> dict[Any, Any]:
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise DamagedPickle("a mapping whose keys are no names")
    return dict(pairs)


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    """A tensor as `torch._utils` rebuilds it."""
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if name == "_rebuild_from_type_v2":
        if not isinstance(arguments[0], Name) or arguments[0].module != "torch._utils":
            return Record(Name("torch._tensor", name), arguments, refused=True)
        return _tensor(arguments[0].name, arguments[2])
    if name == "_rebuild_device_tensor_from_numpy":
        return arguments[0]
    if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        storage, offset, shape, strides, *rest = arguments
        if not isinstance(storage, Storage):
            raise DamagedPickle("a tensor without a storage")
        dtype, kind = storage.dtype, storage.kind
        if name == "_rebuild_tensor_v3":
            kind = str(rest[2].name)
            dtype = _DTYPES.get(kind)
        if not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise DamagedPickle("a tensor whose shape is none")
        if dtype is None:
            return Unreadable(f"of the type {kind}", shape)
        return Stored(storage, dtype, offset, shape, strides)
    kinds = {
        "_rebuild_sparse_tensor": "sparse",
        "_rebuild_sparse_csr_tensor": "sparse",
        "_rebuild_nested_tensor": "nested",
        "_rebuild_qtensor": "quantized",
        "_rebuild_meta_tensor_no_storage": "a meta tensor, without values",
    }
    if name not in kinds:
        return Record(Name("torch._utils", name), arguments, refused=True)
    shapes = [part for part in arguments if isinstance(part, tuple) and part and _sizes(part)]
    return Unreadable(kinds[name], shapes[0] if shapes else ())


def _sizes(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _values(
    chosen: Mapping[str, Any], storage: Reader, file_size: int, order: str
) -> dict[str, Any]:
    """The chosen tensors with their values; every storage is read once."""
    total = sum(_size(each) for each in chosen.values())
    if total > _SHARING * file_size:
        raise DamagedPickle(f"its tensors have {total:,} bytes, the file {file_size:,}")
    needed: dict[str, int] = {}
    for each in chosen.values():
        if isinstance(each, Stored):
            needed[each.storage.key] = max(needed.get(each.storage.key, 0), _extent(each))
    data: dict[str, bytes] = {}
    total = 0
    for key, nbytes in needed.items():
        data[key] = storage(key, nbytes)
        total += len(data[key])
        if total > file_size:
            raise DamagedPickle("its storages have more bytes than the file")
    values = {}
    for name, each in chosen.items():
        if isinstance(each, Stored):
            each = _array(each, data[each.storage.key], order)
        elif isinstance(each, Record):
            each = _numpy_array(each)
        values[name] = each
    return values


def _size(tensor: Any) -> int:
    """Bytes of a tensor's or an array's values."""
    if isinstance(tensor, Stored):
        return math.prod(tensor.shape) * tensor.dtype.itemsize
    if isinstance(tensor, Record) and isinstance(tensor.state, tuple) and tensor.state:
        return len(tensor.state[-1]) if isinstance(tensor.state[-1], bytes | bytearray) else 0
    return 0


def _extent(tensor: Stored) -> int:
    """Bytes of its storage that a tensor needs."""
    _, dtype, offset, shape, strides = tensor
    if len(shape) != len(strides) or len(shape) > 16 or not _sizes((offset, *shape, *strides)):
        raise DamagedPickle(f"a tensor of shape {shape} with strides {strides}")
    if not math.prod(shape):
        return 0
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return (last + 1) * dtype.itemsize


def _array(tensor: Stored, data: bytes, order: str) -> np.ndarray:
    dtype, shape = tensor.dtype, tensor.shape
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    flat = np.frombuffer(data, np.uint8)
    flat = flat[: len(flat) // dtype.itemsize * dtype.itemsize]
    if order == ">" and dtype.itemsize > 1:
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        flat = flat.reshape(-1, width)[:, ::-1].reshape(-1)
    flat = flat.view(dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _numpy_array(record: Record) -> Any:
    """An array of NumPy from its pickled state: (version, shape, dtype, Fortran order, bytes)."""
    if not isinstance(record.state, tuple) or len(record.state) != 5:
        return Unreadable("an array without values")
    _, shape, dtype, fortran, data = record.state
    text = dtype.args[0] if isinstance(dtype, Record) and dtype.args else ""
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    if not re.fullmatch(r"[biufc]\d{1,2}", text) or not isinstance(data, bytes):
        return Unreadable(f"an array of {text or 'objects'}", shape)
    kind = np.dtype(text).newbyteorder(">" if order == ">" else "<")
    if math.prod(shape) * kind.itemsize != len(data):
        raise DamagedPickle(f"an array of shape {shape} in {len(data)} bytes")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    return array.astype(kind.newbyteorder("="), copy=False)
