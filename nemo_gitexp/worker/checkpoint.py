"""Reads what `torch.save` wrote, without torch, and without executing anything of the pickle in it.

Only the names below are known; each stands for a harmless value of ours. Anything else becomes `Opaque`, and a file
that needs one has no digest. Sharing, views and strides are resolved: a view gives the bytes that it shows.
"""

from __future__ import annotations

import codecs
import io
import pickle  # nosec - with every global replaced below
import struct

from .arrays import ArrayType, array_bytes
from .tensors import ITEM_BYTES, OpaqueError, Part, copy_range, element_count, gathered, is_contiguous, swapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Iterable, Iterator
    from zipfile import ZipFile

    from .tensors import Chunk

MOST_PICKLE_BYTES = 512 << 20
MOST_VALUES = 5_000_000
MOST_DEPTH = 200
PLAIN_TYPES = (bool, int, float, complex, str, bytes)


class Opaque:
    """Stands for anything unknown; takes whatever the pickle does to it."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Opaque:  # noqa: D102, PYI034 - Self is no Python 3.8
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Forget it."""

    def extend(self, values: object) -> None:
        """Forget them."""

    def add(self, value: object) -> None:
        """Forget it."""


class Mapping(dict):  # type: ignore[type-arg]
    """An OrderedDict; the attributes that modules hang on theirs are no content."""

    def __setstate__(self, state: object) -> None:
        pass


class Named:
    """A torch type, device or similar, which is only its name."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


class StorageType:
    """The class of a storage; `dtype` None for untyped ones."""

    def __init__(self, dtype: str | None) -> None:
        self.dtype = dtype


class Storage:
    """A storage in the archive."""

    def __init__(self, key: str, dtype: str | None) -> None:
        self.key = key
        self.dtype = dtype


class Tensor:
    """A view on a storage; offset and strides in elements."""

    def __init__(
        self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.strides = strides


class NumpyType:
    """A numpy type in the making: name and byte order come in two steps."""

    def __init__(self, code: object = "", *rest: object) -> None:
        del rest
        self.code = str(code)
        self.order = "|"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[2] is not None or state[3] is not None:
            raise OpaqueError("a structured type")
        self.order = str(state[1])
        if self.code[:1] == "U" and isinstance(state[5], int):
            self.code = f"U{state[5] // 4}"

    def described(self) -> ArrayType:
        """Return what it describes."""
        return ArrayType(self.order + self.code)


class NumpyArray:
    """A numpy array in the making; its content comes as state."""

    def __init__(self, *args: object) -> None:
        del args
        self.state: tuple[object, ...] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.state = state


class NumpyScalar:
    """A numpy scalar: its type and its bytes."""

    def __init__(self, kind: NumpyType, content: object = b"") -> None:
        self.kind = kind
        self.content = content


def _tensor_v2(storage: Storage, offset: int, shape: object, strides: object, *rest: object) -> object:
    """Stand for `_rebuild_tensor_v2`: rest is requires_grad, backward_hooks and metadata (conj, neg)."""
    if rest[2:] and rest[2]:
        return Opaque()
    return _tensor(storage, storage.dtype, offset, shape, strides)


def _tensor_v3(storage: Storage, offset: int, shape: object, strides: object, *rest: object) -> object:
    """Stand for `_rebuild_tensor_v3`: rest is requires_grad, backward_hooks, dtype and metadata."""
    if rest[3:] and rest[3]:
        return Opaque()
    return _tensor(storage, rest[2].name if isinstance(rest[2], Named) else None, offset, shape, strides)


def _tensor(storage: object, dtype: str | None, offset: object, shape: object, strides: object) -> object:
    if not isinstance(storage, Storage) or dtype not in ITEM_BYTES or not isinstance(offset, int):
        return Opaque()
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return Opaque()
    if len(shape) != len(strides) or not all(type(item) is int and item >= 0 for item in (offset, *shape, *strides)):
        return Opaque()
    return Tensor(storage, dtype, offset, shape, strides)


def _parameter(tensor: object, *rest: object) -> object:
    """Stand for `_rebuild_parameter`: a parameter is its tensor."""
    del rest
    return tensor


def _from_type(function: Callable[..., object], kind: object, args: tuple[object, ...], state: object) -> object:
    """Stand for `_rebuild_from_type_v2`: plain tensors and parameters that have attributes."""
    del state
    return function(*args) if isinstance(kind, Named) and function in REBUILDERS else Opaque()


def _encode(text: object, encoding: object = "utf-8") -> object:
    """Stand for `_codecs.encode`, by which old protocols carry bytes."""
    return codecs.encode(str(text), "latin-1") if encoding in ("latin1", "latin-1") else Opaque()


def _defaultdict(*args: object) -> Mapping:
    del args
    return Mapping()


def _device(*args: object) -> Named:
    return Named("torch.device", ":".join(map(str, args)))


REBUILDERS = (_tensor_v2, _tensor_v3, _parameter)
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": None,
}
KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): Mapping,
    ("collections", "defaultdict"): _defaultdict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): bytes,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): tuple,
    ("torch", "device"): _device,
    ("torch", "Tensor"): Named("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"): Named("torch", "Parameter"),
    ("torch.nn.parameter", "Buffer"): Named("torch", "Buffer"),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("numpy", "ndarray"): NumpyArray,
    ("numpy", "dtype"): NumpyType,
    **{("torch", name): StorageType(dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): Named("torch.dtype", name) for name in ITEM_BYTES},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): NumpyArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): NumpyScalar for core in ("core", "_core")},
}


class Unpickler(pickle.Unpickler):
    """An unpickler that knows nothing but the names above."""

    def find_class(self, module: str, name: str) -> object:
        """Return our stand-in."""
        return KNOWN.get((module.replace("__builtin__", "builtins"), name), Opaque)  # protocol 2 uses the old name

    def persistent_load(self, saved: object) -> object:
        """Return the storage that ("storage", type, key, location, size) names."""
        if not isinstance(saved, tuple) or len(saved) < 3 or saved[0] != "storage":
            raise OpaqueError("a persistent object that is no storage")
        kind = saved[1]
        if not isinstance(kind, StorageType):
            raise OpaqueError("a storage of an unknown type")
        return Storage(str(saved[2]), kind.dtype)


def read_checkpoint(archive: ZipFile) -> Iterator[Part]:
    """Yield the tensors and plain values in what `torch.save` wrote.

    Raises:
        OpaqueError: something in it is unknown or inconsistent.
    """
    (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    root = data[: -len("data.pkl")]
    if archive.getinfo(data).file_size > MOST_PICKLE_BYTES:
        raise OpaqueError("a pickle too large to look into")
    is_big = f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big"
    value = Unpickler(io.BytesIO(archive.read(data))).load()
    return _Walk(archive, root, is_big=is_big).parts(value, "", 0)


class _Walk:
    """Walks the loaded value."""

    def __init__(self, archive: ZipFile, root: str, *, is_big: bool) -> None:
        self._archive = archive
        self._root = root
        self._is_big = is_big
        self._seen = 0

    def parts(self, value: object, name: str, depth: int) -> Iterator[Part]:
        """Yield the parts of the value and of all below it."""
        self._seen += 1
        if depth > MOST_DEPTH or self._seen > MOST_VALUES:
            raise OpaqueError("too many values, or a cycle")
        if isinstance(value, dict):
            yield from self._items(name, "dict", ((_key(key), item) for key, item in value.items()), depth)
        elif isinstance(value, (list, tuple)):
            yield from self._items(name, "list", ((str(index), item) for index, item in enumerate(value)), depth)
        elif isinstance(value, Tensor):
            yield self._tensor(name, value)
        elif isinstance(value, NumpyArray):
            yield _array(name, value)
        else:
            yield _plain(name, value)

    def _items(self, name: str, kind: str, items: Iterable[tuple[str, object]], depth: int) -> Iterator[Part]:
        is_empty = True
        for key, item in items:
            is_empty = False
            yield from self.parts(item, f"{name}.{key}" if name else key, depth + 1)
        if is_empty:
            yield _value(name, f"empty {kind}", b"")

    def _tensor(self, name: str, tensor: Tensor) -> Part:
        return Part(name, tensor.dtype, tensor.shape, lambda: self._tensor_chunks(tensor))

    def _tensor_chunks(self, tensor: Tensor) -> Iterable[Chunk]:
        item_bytes = ITEM_BYTES[tensor.dtype]
        if not element_count(tensor.shape):
            return []
        reach = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides))
        start, size = self._storage_range(tensor.storage.key)
        first = tensor.offset * item_bytes
        if first + reach * item_bytes > size:
            raise OpaqueError("a tensor beyond its storage")
        chunks: Iterable[Chunk] = copy_range(self._file(), start + first, reach * item_bytes)
        if not is_contiguous(tensor.shape, tensor.strides):
            chunks = [gathered(b"".join(chunks), tensor.shape, tensor.strides, item_bytes)]
        if self._is_big:
            unit = item_bytes // 2 if tensor.dtype.startswith("complex") else item_bytes
            chunks = [swapped(b"".join(chunks), unit)]
        return chunks

    def _storage_range(self, key: str) -> tuple[int, int]:
        """Return where the storage's bytes lie in the file: torch stores them uncompressed."""
        entry = self._archive.getinfo(f"{self._root}data/{key}")
        if entry.compress_type != 0:
            raise OpaqueError("a compressed storage")
        file = self._file()
        file.seek(entry.header_offset)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(30)[26:30])
        return entry.header_offset + 30 + name_bytes + extra_bytes, entry.file_size

    def _file(self) -> BinaryIO:
        return self._archive.fp  # type: ignore[return-value]  # open as long as the walk lasts


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, (int, float, bool)) or key is None:
        return repr(key)
    if isinstance(key, tuple):
        return f"({','.join(_key(item) for item in key)})"
    raise OpaqueError("a key of an unknown type")


def _plain(name: str, value: object) -> Part:
    if value is None or type(value) in PLAIN_TYPES:
        return _value(name, type(value).__name__, repr(value).encode("utf-8", "surrogatepass"))
    if isinstance(value, Named):
        return _value(name, value.kind, value.name.encode())
    if isinstance(value, NumpyScalar) and isinstance(value.content, bytes):
        kind = value.kind.described()
        content = swapped(value.content, kind.unit_bytes) if kind.is_big else value.content
        return _value(name, f"numpy.{kind.name}", content)
    if isinstance(value, (set, frozenset)) and all(item is None or type(item) in PLAIN_TYPES for item in value):
        return _value(name, "set", "\n".join(sorted(f"{type(item).__name__} {item!r}" for item in value)).encode())
    raise OpaqueError(f"a value of an unknown type at {name}")


def _array(name: str, array: NumpyArray) -> Part:
    """Return the part of a pickled array; its state is version, shape, type, column-major order, bytes."""
    if array.state is None:
        raise OpaqueError("an array without content")
    _, shape, kind, is_fortran, content = array.state
    if not isinstance(kind, NumpyType) or not isinstance(content, bytes):
        raise OpaqueError("an array of objects")
    described = kind.described()
    sizes = tuple(int(size) for size in shape)  # type: ignore[attr-defined]  # else it raises, and has no digest
    chunks = array_bytes(content, sizes, described, is_fortran=bool(is_fortran) and len(sizes) > 1)
    return Part(name, described.name, sizes, lambda: chunks)


def _value(name: str, kind: str, content: Chunk) -> Part:
    return Part(name, kind, None, lambda: [content])
