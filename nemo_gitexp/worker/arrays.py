"""Reads .npy, .npz and safetensors as parts, streaming, without numpy."""

from __future__ import annotations

import ast
import json

from .tensors import (
    ITEM_BYTES,
    OpaqueError,
    Part,
    contiguous_strides,
    copy_range,
    element_count,
    gathered,
    swapped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, BinaryIO, Iterator
    from zipfile import ZipFile

    from .tensors import Chunk

MOST_HEADER_BYTES = 100 << 20
KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
SAFETENSORS_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


class ArrayType:
    """A numpy type: its common name, bytes of one element, and the unit whose bytes a big-endian file has reversed."""

    __slots__ = ("is_big", "item_bytes", "name", "unit_bytes")

    def __init__(self, description: str) -> None:
        order, kind, size = description[:1], description[1:2], description[2:]
        if order not in "<>|=" or kind in ("O", "") or not size.partition("[")[0].isdigit():
            raise OpaqueError(f"elements of type {description}")
        count = int(size.partition("[")[0])
        self.item_bytes = count * 4 if kind == "U" else count
        self.unit_bytes = {"U": 4, "c": count // 2, "S": 1, "V": 1, "a": 1}.get(kind, count)
        self.is_big = order == ">" and self.unit_bytes > 1
        self.name = f"{KINDS[kind]}{count * 8}" if kind in KINDS else {"b": "bool"}.get(kind, kind + size)


def read_npz(archive: ZipFile) -> Iterator[Part]:
    """Yield the arrays of an .npz."""
    for name in archive.namelist():
        with archive.open(name) as file:
            yield read_npy(file, name[: -len(".npy")])


def read_npy(file: IO[bytes], name: str) -> Part:
    """Return the array in an .npy; its bytes can be read once, before the file is closed.

    Source: NEP 1, versions 1.0 to 3.0 of the format.
    """
    preamble = _exactly(file, 8)
    size_bytes = 2 if preamble[6] == 1 else 4
    header_size = int.from_bytes(_exactly(file, size_bytes), "little")
    if header_size > MOST_HEADER_BYTES:
        raise OpaqueError("header too long")
    text = _exactly(file, header_size).decode("utf-8" if preamble[6] == 3 else "latin-1")
    header = ast.literal_eval(text.strip())
    shape = tuple(int(size) for size in header["shape"])
    if not isinstance(header["descr"], str):
        raise OpaqueError("a structured array")
    kind = ArrayType(header["descr"])
    is_fortran = bool(header["fortran_order"]) and len(shape) > 1

    def chunks() -> Iterator[Chunk]:
        left = element_count(shape) * kind.item_bytes
        if is_fortran and left:
            yield from array_bytes(_exactly(file, left), shape, kind, is_fortran=True)
            return
        step = max(1, (1 << 20) // max(kind.item_bytes, 1)) * kind.item_bytes
        while left:
            chunk = _exactly(file, min(left, step))
            left -= len(chunk)
            yield swapped(chunk, kind.unit_bytes) if kind.is_big else chunk

    return Part(name, kind.name, shape, chunks)


def array_bytes(content: Chunk, shape: tuple[int, ...], kind: ArrayType, *, is_fortran: bool) -> list[Chunk]:
    """Return a whole array's bytes, little-endian and row-major."""
    if len(content) != element_count(shape) * kind.item_bytes:
        raise OpaqueError("an array of another size than it says")
    little = swapped(content, kind.unit_bytes) if kind.is_big else content
    if not is_fortran or not len(content):
        return [little]
    if kind.item_bytes not in (1, 2, 4, 8, 16):
        raise OpaqueError("a transposed array of odd elements")
    strides = tuple(reversed(contiguous_strides(tuple(reversed(shape)))))
    return [gathered(little, shape, strides, kind.item_bytes)]


def read_safetensors(file: BinaryIO) -> Iterator[Part]:
    """Yield the tensors of a safetensors file; its free metadata are no tensors."""
    header_size = int.from_bytes(_exactly(file, 8), "little")
    if header_size > MOST_HEADER_BYTES:
        raise OpaqueError("header too long")
    header = json.loads(_exactly(file, header_size).decode())
    base = 8 + header_size
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = SAFETENSORS_TYPES.get(entry["dtype"], str(entry["dtype"]))
        shape = tuple(int(size) for size in entry["shape"])
        first, end = entry["data_offsets"]
        if dtype in ITEM_BYTES and end - first != element_count(shape) * ITEM_BYTES[dtype]:
            raise OpaqueError("a tensor of another size than it says")
        yield Part(name, dtype, shape, lambda start=base + first, size=end - first: copy_range(file, start, size))  # type: ignore[misc]


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise OpaqueError("truncated")
    return content
