"""Reads TensorBoard's event files: the scalars in them, whichever way they were written. Standard library only.

Sources: TensorFlow's `record_writer.cc` (framing), `event.proto`, `summary.proto`, `tensor.proto`; what counts as a
scalar, and what a restarted writer makes void, as TensorBoard's own `event_accumulator` and scalars plugin have it.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from typing import NamedTuple

from .pace import nothing_to_check, paced
from .wire import (
    DamagedError,
    parse_double,
    parse_fields,
    parse_float,
    parse_message,
    parse_packed,
    parse_text,
    parse_whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

MARK = ".tfevents."
"""What stands in the name of every event file."""

MOST_RECORD_BYTES = 16 << 20
"""A longer record (an image, a graph) holds no scalar and is passed over unread."""

SCALARS_PLUGIN = "scalars"
SESSION_START = 1
_STEP = 2
_NOT_LOGGED = (1, 3, 10)
"""Fields of an event: when it was written, the version of the format, and who wrote it."""

MOST_HEADS = 4096
_PLAIN_EVENT = re.compile(
    rb"\x09.{8}(?:\x10([\x80-\xff]{0,9}[\x00-\x7f]))?\x2a([\x00-\x7f])\x0a([\x00-\x7f])"
    rb"\x0a([\x00-\x7f])(.*)\x15(.{4})",
    re.DOTALL,
)

_CRC_MASK_DELTA = 0xA282EAD8
_CRC_POLYNOMIAL = 0x82F63B78


class Scalar(NamedTuple):
    """One number: its step, its tag and value (NaN and inf too)."""

    step: int
    tag: str
    value: float


class EventFile(NamedTuple):
    """What one or several event files hold, in the order it was written.

    `started` is the time of the first event; `damaged` counts records that could not be read, a cut-off end as one.
    `is_cut` says that there were more scalars than were wanted.
    """

    scalars: Tuple[Scalar, ...]
    started: Optional[float]
    damaged: int
    is_cut: bool


def is_event_file(name: str) -> bool:
    """Return whether a file of this name is one that TensorBoard would read."""
    return MARK in name


def read_event_files(
    paths: Iterable[str], check: Callable[[], None] = nothing_to_check, most: Optional[int] = None
) -> EventFile:
    """Return the scalars of one log directory's files, in the order of their names, which hold the time.

    A writer that was started again at a step makes void what stands there from that step on.

    Args:
        paths: the files.
        check: called every now and then; what it raises ends the reading.
        most: how many scalars are wanted: the first. None: all.

    Raises:
        OSError: one cannot be read.
    """
    is_cut = False
    scalars: List[Scalar] = []
    starts: List[float] = []
    damaged = 0
    plugins: Dict[str, str] = {}
    for path in sorted(paths, key=os.path.basename):
        with open(path, "rb") as file:
            reader = _Reader(file, plugins, scalars)
            is_cut = is_cut or reader.read(check, most)
        starts.extend([reader.started] if reader.started is not None else [])
        damaged += reader.damaged
        scalars = reader.scalars
    return EventFile(tuple(scalars), min(starts) if starts else None, damaged, is_cut)


def logged_digest(path: str, check: Callable[[], None] = nothing_to_check) -> Optional[str]:
    """Return `sha256:…` of all that was logged into one event file, images and texts too, but not when.

    None where a record is damaged, or too long to be read: then only the bytes can be compared.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        reader = _Reader(file, {}, [], is_complete=True)
        for record, stored in paced(reader.records(), check):
            try:
                fields = [field for field in parse_fields(record) if field[0] not in _NOT_LOGGED]
            except DamagedError:
                return None
            if masked_crc32c(record) != stored:
                return None
            if fields and {number for number, _ in fields} != {_STEP}:
                digest.update(repr(fields).encode() + b"\n")
    return None if reader.damaged else f"sha256:{digest.hexdigest()}"


class _Reader:
    def __init__(
        self, file: BinaryIO, plugins: Dict[str, str], scalars: List[Scalar], *, is_complete: bool = False
    ) -> None:
        self._file = file
        self._plugins = plugins
        self._is_complete = is_complete
        self._heads: Dict[bytes, int] = {}
        self._tags: Dict[bytes, str] = {}
        self.scalars = scalars
        self.started: Optional[float] = None
        self.damaged = 0

    def read(self, check: Callable[[], None], most: Optional[int]) -> bool:
        """Read the scalars; return whether there are more than were wanted."""
        for record, stored in paced(self.records(), check):
            try:
                found = self._plain_event(record) or self._event(record)
            except (DamagedError, struct.error):
                self.damaged += 1
                continue
            # Only of what becomes a number: in Python, checksums are a third of the time that reading takes.
            if found and masked_crc32c(record) != stored:
                self.damaged += 1
                continue
            if found and most is not None and len(self.scalars) + len(found) > most:
                return True
            self.scalars.extend(found)
        return False

    def records(self) -> Iterator[Tuple[bytes, int]]:
        """Yield each record with its stored checksum, until one has no whole frame."""
        left = os.fstat(self._file.fileno()).st_size
        while left:
            head = self._file.read(12)
            size, check = struct.unpack("<QI", head) if len(head) == 12 else (left, 0)
            left -= 16 + size
            if left < 0 or check != self._head_check(head[:8]):
                self.damaged += 1
                return
            if size > MOST_RECORD_BYTES:
                self.damaged += self._is_complete
                self._file.seek(size + 4, os.SEEK_CUR)
                continue
            body = self._file.read(size + 4)
            if len(body) != size + 4:
                self.damaged += 1  # it became shorter while it was read
                return
            yield body[:-4], struct.unpack_from("<I", body, size)[0]

    def _head_check(self, size: bytes) -> int:
        """Return the checksum of a record's size, of which a file has few."""
        known = self._heads.get(size)
        if known is None:
            known = masked_crc32c(size)
            if len(self._heads) < MOST_HEADS:
                self._heads[size] = known
        return known

    def _plain_event(self, record: bytes) -> List[Scalar]:
        """Return the scalar of an event in the form that nearly all have; nothing for any other, which `_event` reads.

        That is time, step and one value of a tag and a number, without metadata.
        """
        match = _PLAIN_EVENT.fullmatch(record) if self.started is not None else None
        if match is None:
            return []
        step, summary, value, size, tag, number = match.groups()
        if not tag or (size[0], value[0], summary[0]) != (len(tag), len(tag) + 7, len(tag) + 9):
            return []
        named = self._tags.get(tag)
        if named is None:
            named = self._tags[tag] = parse_text(tag)
        return [Scalar(parse_whole(parse_packed(step)[0]) if step else 0, named, struct.unpack("<f", number)[0])]

    def _event(self, record: bytes) -> List[Scalar]:
        step, wall_time, summaries = 0, 0.0, []
        is_start = False
        for number, value in parse_fields(record):
            if number == 1:
                wall_time = parse_double(value)
            elif number == 2:
                step = parse_whole(value)
            elif number == 5:
                summaries.append(value)
            elif number == 7:
                is_start = (1, SESSION_START) in parse_message(value)
        if self.started is None and wall_time > 0:
            self.started = wall_time
        if is_start:
            self.scalars = [scalar for scalar in self.scalars if scalar.step < step]
        values = [value for summary in summaries for number, value in parse_message(summary) if number == 1]
        found = [self._scalar(parse_message(value)) for value in values]
        return [Scalar(step, *scalar) for scalar in found if scalar is not None]

    def _scalar(self, fields: List[Tuple[int, Union[int, bytes]]]) -> Optional[Tuple[str, float]]:
        tag, number, tensor = "", None, None
        plugin = None
        for field, value in fields:
            if field == 1:
                tag = parse_text(value)
            elif field == 2:
                number = parse_float(value)
            elif field == 8:
                tensor = value
            elif field == 9:
                plugin = _plugin_name(value)
        if plugin:
            self._plugins.setdefault(tag, plugin)  # writers say it once a tag
        if number is None and tensor is not None and self._plugins.get(tag) == SCALARS_PLUGIN:
            number = parse_scalar_tensor(parse_message(tensor))
        return None if number is None or not tag else (tag, number)


def _plugin_name(metadata: Union[int, bytes]) -> Optional[str]:
    for number, value in parse_message(metadata):
        if number == 1:
            names = [parse_text(name) for field, name in parse_message(value) if field == 1]
            return names[-1] if names else None
    return None


def _half(bits: int) -> float:
    number: float = struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0]
    return number


def _bfloat(bits: int) -> float:
    number: float = struct.unpack("<f", struct.pack("<I", (bits & 0xFFFF) << 16))[0]
    return number


def _from_packed(convert: Callable[[int], float]) -> Callable[[Union[int, bytes]], Optional[float]]:
    def first(value: Union[int, bytes]) -> Optional[float]:
        numbers = parse_packed(value)
        return convert(numbers[0]) if numbers else None

    return first


def _from_struct(form: str) -> Callable[[Union[int, bytes]], Optional[float]]:
    def first(value: Union[int, bytes]) -> Optional[float]:
        if isinstance(value, int):
            raise DamagedError("a varint where a number of fixed size stands")
        number: float = struct.unpack_from(form, value)[0]
        return number

    return first


# TensorFlow's types: how one element stands in `tensor_content`, in which field it stands else, and how there.
_TYPES: Dict[int, Tuple[str, int, Callable[[Union[int, bytes]], Optional[float]]]] = {
    1: ("<f", 5, _from_struct("<f")),
    2: ("<d", 6, _from_struct("<d")),
    3: ("<i", 7, _from_packed(parse_whole)),
    4: ("<B", 7, _from_packed(parse_whole)),
    5: ("<h", 7, _from_packed(parse_whole)),
    6: ("<b", 7, _from_packed(parse_whole)),
    9: ("<q", 10, _from_packed(parse_whole)),
    14: ("<H", 13, _from_packed(_bfloat)),
    17: ("<H", 7, _from_packed(parse_whole)),
    19: ("<e", 13, _from_packed(_half)),
    22: ("<I", 16, _from_packed(int)),
    23: ("<Q", 17, _from_packed(int)),
}
_BFLOAT16 = 14


def parse_scalar_tensor(fields: List[Tuple[int, Union[int, bytes]]]) -> Optional[float]:
    """Return the number in a TensorProto of rank 0 (or one element); None for any other, and for texts."""
    kind, content, is_scalar = 0, b"", True
    values: Dict[int, Union[int, bytes]] = {}
    for number, value in fields:
        if number == 1:
            kind = parse_whole(value)
        elif number == 2:
            is_scalar = _is_one_element(value)
        elif number == 4:
            content = value if isinstance(value, bytes) else b""
        else:
            values.setdefault(number, value)
    if not is_scalar or kind not in _TYPES:
        return None
    form, field, convert = _TYPES[kind]
    if content:
        plain = struct.unpack_from(form, content)[0]
        return _bfloat(plain) if kind == _BFLOAT16 else plain
    # Protobuf leaves out what is zero: a tensor of one element without any value is 0.
    return convert(values[field]) if field in values else 0.0


def _is_one_element(shape: Union[int, bytes]) -> bool:
    sizes = [
        parse_whole(size)
        for number, dimension in parse_message(shape)
        if number == 2
        for field, size in parse_message(dimension) or [(1, 0)]
        if field == 1
    ]
    return all(size == 1 for size in sizes)


def _crc_table() -> Tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _crc_table()


def _next_two(word: int) -> int:
    crc = _TABLE[word & 0xFF] ^ (word >> 8)
    return _TABLE[crc & 0xFF] ^ (crc >> 8)


_TABLE_OF_TWO = tuple(map(_next_two, range(1 << 16)))
"""What two bytes at once make of a checksum: in Python, half the steps are half the time."""


def masked_crc32c(content: bytes, _table: Tuple[int, ...] = _TABLE_OF_TWO) -> int:
    """Return the checksum that stands beside a record: CRC-32C, rotated and offset."""
    crc = 0xFFFFFFFF
    for word in struct.unpack_from(f"<{len(content) // 2}H", content):
        crc = _table[(crc ^ word) & 0xFFFF] ^ (crc >> 16)
    if len(content) % 2:
        crc = _TABLE[(crc ^ content[-1]) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF
