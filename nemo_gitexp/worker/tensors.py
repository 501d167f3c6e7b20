"""The tensors inside an output file, without torch or numpy, and one digest over them.

The digest says whether two files hold the same tensors: it does not depend on the file's name, the order of keys, the
layout of the archive, or on a tensor being a view. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Iterable, Iterator, Union

    Chunk = Union[bytes, bytearray, memoryview]

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
"""Bytes of one element, by torch's names of the types, which all formats are translated to."""

ITEM_FORMS = {1: "B", 2: "H", 4: "I", 8: "Q"}
MOST_GATHERED_BYTES = 8 << 30
CHUNK_BYTES = 1 << 20


class OpaqueError(ValueError):
    """The file holds something whose equality cannot be judged from here."""


class Part:
    """One tensor, or one plain value beside the tensors.

    Args:
        name: dotted path to it; list positions and integer keys are numbers in it.
        dtype: a key of `ITEM_BYTES`, numpy's own name for what torch has not, or the Python type of a plain value.
        shape: the dimensions; None for a plain value.
        chunks: returns its bytes, little-endian and contiguous, piece by piece.
    """

    __slots__ = ("chunks", "dtype", "name", "shape")

    def __init__(
        self, name: str, dtype: str, shape: tuple[int, ...] | None, chunks: Callable[[], Iterable[Chunk]]
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.chunks = chunks


def tensor_digest(path: str) -> str | None:
    """Return "sha256:…" over all tensors and plain values of a torch, safetensors, .npy or .npz file.

    Sorted by name; each by name, type, shape and its bytes. Memory: the largest tensor that is no plain block of the
    file.

    Returns:
        None when there is no tensor in it, when it is none of these formats or damaged, and when something in it is
        opaque; then only the bytes of two files can be compared.
    """
    try:
        with open(path, "rb") as file:
            entries, tensors = [], 0
            for part in _parts(file):
                tensors += part.shape is not None
                entries.append(_entry(part))
    except Exception:  # noqa: BLE001 - a damaged or hostile file can raise anything; it is then compared by its bytes
        return None
    if not tensors:
        return None
    return "sha256:" + hashlib.sha256(b"".join(sorted(entries))).hexdigest()


def read_tensors(path: str) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    """Yield (name, type, shape, bytes) of each tensor in the file, in the file's order.

    Raises:
        OpaqueError: the file is none of the formats, or holds something that cannot be read without executing code.
    """
    with open(path, "rb") as file:
        for part in _parts(file):
            if part.shape is not None:
                yield part.name, part.dtype, part.shape, memoryview(b"".join(part.chunks()))


def _entry(part: Part) -> bytes:
    """Return one line: what it is, and the hash of its bytes."""
    digest = hashlib.sha256()
    for chunk in part.chunks():
        digest.update(chunk)
    return f"{json.dumps([part.name, part.dtype, part.shape])} {digest.hexdigest()}\n".encode()


def _parts(file: BinaryIO) -> Iterable[Part]:
    head = file.read(16)
    file.seek(0)
    from . import arrays, checkpoint

    if head.startswith(b"\x93NUMPY"):
        return [arrays.read_npy(file, "")]
    if head[8:9] == b"{":
        return arrays.read_safetensors(file)
    if not head.startswith(b"PK\x03\x04"):
        raise OpaqueError("no format with tensors")
    import zipfile

    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return checkpoint.read_checkpoint(archive)
    if names and all(name.endswith(".npy") for name in names):
        return arrays.read_npz(archive)
    raise OpaqueError("an archive without tensors")


def copy_range(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    """Yield exactly this range of the file in chunks.

    Raises:
        OpaqueError: the file ends before it.
    """
    file.seek(start)
    while size:
        chunk = file.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise OpaqueError("truncated")
        size -= len(chunk)
        yield chunk


def element_count(shape: Iterable[int]) -> int:
    """Return the product of the dimensions, 1 for a scalar."""
    count = 1
    for size in shape:
        count *= size
    return count


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major block of this shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether the elements lie in one row-major block; strides of dimensions of size 1 do not matter."""
    natural = contiguous_strides(shape)
    return all(size == 1 or here == there for size, here, there in zip(shape, strides, natural))


def gathered(source: Chunk, shape: tuple[int, ...], strides: tuple[int, ...], item_bytes: int) -> bytearray:
    """Return the elements of a strided view as one row-major block.

    Args:
        source: bytes that start at the view's first element.
        shape: the view's dimensions, none of them 0.
        strides: elements from one to the next, in each dimension, not negative.
        item_bytes: 1, 2, 4, 8 or 16.
    """
    if element_count(shape) * item_bytes > MOST_GATHERED_BYTES:
        raise OpaqueError("too large to be gathered")
    if item_bytes == 16:  # as pairs of eight: memoryview has no format of sixteen
        shape, strides, item_bytes = (*shape, 2), (*(2 * step for step in strides), 1), 8
    block = bytearray(element_count(shape) * item_bytes)
    target = _items(memoryview(block), item_bytes)
    view = memoryview(source)
    elements = _items(view[: len(view) // item_bytes * item_bytes], item_bytes)
    natural = contiguous_strides(shape)
    longest = max(range(len(shape)), key=lambda axis: shape[axis])
    size, step, stride = shape[longest], natural[longest], strides[longest]
    others = [axis for axis in range(len(shape)) if axis != longest]
    for start, first in _starts([(shape[axis], natural[axis], strides[axis]) for axis in others]):
        if stride:
            row = elements[first : first + (size - 1) * stride + 1 : stride]
        else:
            row = _items(memoryview(elements[first : first + 1].tobytes() * size), item_bytes)
        target[start : start + (size - 1) * step + 1 : step] = row
    return block


def _items(view: memoryview, item_bytes: int) -> memoryview:
    return view.cast(ITEM_FORMS[item_bytes])  # type: ignore[call-overload, no-any-return]  # not a literal


def _starts(axes: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the target and source positions of every combination of indices of these (size, step, stride)."""
    if not axes:
        yield 0, 0
        return
    size, step, stride = axes[0]
    for start, first in _starts(axes[1:]):
        for index in range(size):
            yield start + index * step, first + index * stride


def swapped(content: Chunk, unit_bytes: int) -> bytearray:
    """Return the content with the byte order of every unit reversed."""
    swapped_content = bytearray(len(content))
    for index in range(unit_bytes):
        swapped_content[index::unit_bytes] = content[unit_bytes - 1 - index :: unit_bytes]
    return swapped_content
