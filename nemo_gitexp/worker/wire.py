"""Protobuf's wire format: the fields of one message, without its schema. Pure.

Source: the encoding chapter of the Protocol Buffers documentation. Groups, which nobody writes any more, are damage.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple, Union

    Field = Tuple[int, Union[int, bytes]]

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
MOST_VARINT_BYTES = 10


class DamagedError(ValueError):
    """These bytes are no such message, or only part of one."""


def parse_fields(message: bytes) -> List[Field]:
    """Return number and value of every field, in order: varints as unsigned numbers, everything else as its bytes.

    Raises:
        DamagedError: the bytes are no message.
    """
    fields: List[Field] = []
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            number, at = _varint(message, at)
            fields.append((tag >> 3, number))
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise DamagedError(f"wire type {kind}")
        if size > end - at:
            raise DamagedError("a field ends beyond its message")
        fields.append((tag >> 3, message[at : at + size]))
        at += size
    return fields


def parse_message(value: Union[int, bytes]) -> List[Field]:
    """Return the fields of a message that is a field of another."""
    return parse_fields(_bytes(value, None))


def parse_text(value: Union[int, bytes]) -> str:
    """Return a string field; what is no UTF-8 in it is replaced."""
    return _bytes(value, None).decode("utf-8", "replace")


def parse_double(value: Union[int, bytes]) -> float:
    """Return a field of eight bytes as the double that it is."""
    number: float = struct.unpack("<d", _bytes(value, 8))[0]
    return number


def parse_float(value: Union[int, bytes]) -> float:
    """Return a field of four bytes as the float that it is."""
    number: float = struct.unpack("<f", _bytes(value, 4))[0]
    return number


def parse_whole(value: Union[int, bytes]) -> int:
    """Return a varint as int64 or int32: negative numbers are written as their two's complement in 64 bits."""
    if not isinstance(value, int):
        raise DamagedError("no varint")
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def parse_zigzag(value: Union[int, bytes]) -> int:
    """Return a varint as sint64 or sint32."""
    if not isinstance(value, int):
        raise DamagedError("no varint")
    return (value >> 1) ^ -(value & 1)


def parse_packed(value: Union[int, bytes]) -> List[int]:
    """Return the varints of a repeated field, packed into one or the only one."""
    if isinstance(value, int):
        return [value]
    numbers = []
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _bytes(value: Union[int, bytes], size: Union[int, None]) -> bytes:
    if isinstance(value, int) or (size is not None and len(value) != size):
        raise DamagedError("a field of another type")
    return value


def _varint(message: bytes, at: int) -> Tuple[int, int]:
    """Return the number that starts there, and where it ends."""
    try:
        byte = message[at]
        if byte < 0x80:
            return byte, at + 1
        number, shift = byte & 0x7F, 7
        for place in range(at + 1, at + MOST_VARINT_BYTES):
            byte = message[place]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, place + 1
            shift += 7
    except IndexError:
        pass
    raise DamagedError("a number without an end")
