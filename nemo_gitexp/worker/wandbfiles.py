"""Reads what wandb leaves on disk: `run-<id>.wandb`, a log of records, and the documents beside it.

Sources: wandb's `datastore.py` (the framing, LevelDB's log format with another checksum) and `wandb_internal.proto`.
Standard library only; a log whose end is missing, as that of a killed job, is read as far as it goes.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from typing import Any, NamedTuple

from .pace import nothing_to_check, paced
from .wire import (
    DamagedError,
    parse_double,
    parse_fields,
    parse_message,
    parse_text,
    parse_whole,
    parse_zigzag,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple, Union

    Fields = List[Tuple[int, Union[int, bytes]]]

ENDING = ".wandb"
HEAD = b":W&B"
BLOCK_BYTES = 32 * 1024
FRAME_BYTES = 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
MOST_PARTS = 2048
"""Of one record: 64 MiB."""

MOST_DOCUMENT_BYTES = 64 << 20
MOST_NESTING = 32
STEP = "_step"
_NO_METRICS = ("_", "system/", "system.")


class WandbRun(NamedTuple):
    """One run of W&B; texts are empty where the log does not say.

    `rows` are the history in order, each with its `_step`; values are JSON values, nested keys nested mappings.
    `config` is plain (`{"lr": 0.1}`), without wandb's own `_wandb`. `started` is in seconds since the epoch.
    `exit_code` is None while the run lives, or when it was killed. `metadata` is wandb-metadata.json, empty without
    one. `config_file` is the path of config.yaml beside it, which holds `{key: {"value": …}}`, for who reads YAML;
    None without one. `damaged` counts records that could not be read, a cut-off end as one. `commit` is that of the
    git repository that it ran in. `is_cut` says that the log was not read to its end, because that is enough.
    """

    path: str
    run_id: str
    project: str
    entity: str
    name: str
    group: str
    job_type: str
    notes: str
    tags: Tuple[str, ...]
    host: str
    started: Optional[float]
    exit_code: Optional[int]
    config: Dict[str, Any]
    summary: Dict[str, Any]
    rows: Tuple[Dict[str, Any], ...]
    metadata: Dict[str, Any]
    config_file: Optional[str]
    is_offline: bool
    damaged: int
    commit: str
    is_cut: bool = False


def find_wandb_logs(place: str) -> List[str]:
    """Return the logs of runs at a path: one itself, or those below a run's, wandb's or any other directory.

    Links are not followed: `latest-run` names a run that is found anyway.
    """
    if place.endswith(ENDING):
        return [place] if _is_regular(place) else []
    found: List[str] = []
    for directory, directories, names in os.walk(place):
        directories[:] = [name for name in directories if name not in ("files", "logs", ".git", "node_modules")]
        paths = [os.path.join(directory, name) for name in names if name.startswith("run-") and name.endswith(ENDING)]
        found.extend(path for path in paths if _is_regular(path))
    return sorted(found)


def read_wandb_run(path: str, check: Callable[[], None] = nothing_to_check, most: Optional[int] = None) -> WandbRun:
    """Return what the log `run-<id>.wandb` says, and the documents in `files` beside it.

    Args:
        path: of the log.
        check: called every now and then; what it raises ends the reading.
        most: after how many values of its history the log is put aside. None: it is read to its end.

    Raises:
        OSError: it cannot be read.
    """
    log = _Log()
    with open(path, "rb") as file:
        for record in paced(log.records(file), check):
            try:
                log.take(parse_fields(record))
            except (DamagedError, struct.error):
                log.damaged += 1
            if most is not None and log.values > most:
                log.rows.pop()
                log.is_cut = True
                break
    directory = os.path.dirname(os.path.abspath(path))
    files = os.path.join(directory, "files")
    config_file = os.path.join(files, "config.yaml")
    summary = _document(os.path.join(files, "wandb-summary.json"))
    name = os.path.basename(path)[len("run-") : -len(ENDING)]
    texts = log.texts
    return WandbRun(
        path=path,
        run_id=texts.get(1) or name,
        project=texts.get(3, ""),
        entity=texts.get(2, ""),
        name=texts.get(8, ""),
        group=texts.get(6, ""),
        job_type=texts.get(7, ""),
        notes=texts.get(9, ""),
        tags=tuple(log.tags),
        host=texts.get(13, ""),
        started=log.started,
        exit_code=log.exit_code,
        config={key: value for key, value in log.config.items() if key != "_wandb"},
        summary=plain_values(log.summary or summary),
        rows=tuple(log.rows),
        metadata=_document(os.path.join(files, "wandb-metadata.json")),
        config_file=config_file if _is_regular(config_file) else None,
        is_offline=os.path.basename(directory).startswith("offline-"),
        damaged=log.damaged,
        commit=log.commit,
        is_cut=log.is_cut,
    )


def wandb_metric_rows(run: WandbRun) -> Iterator[Dict[str, Any]]:
    """Yield the history as rows of a metric stream: `step`, and the numbers, nested ones by dotted names.

    Left out are media objects, wandb's own names, which begin with `_`, and measurements of the machine (`system/…`).
    """
    for row in run.rows:
        numbers = wandb_numbers(row)
        if numbers:
            yield {"step": row.get(STEP), **numbers}


def wandb_numbers(values: Dict[str, Any]) -> Dict[str, float]:
    """Return the numbers of a row of the history, or of the summary, by dotted names, without what rows leave out."""
    numbers = sorted(_numbers(plain_values(values), ""))
    # The stream has W&B's own step.
    return {name: value for name, value in numbers if name != "step" and not name.startswith(_NO_METRICS)}


def _numbers(values: Dict[str, Any], before: str) -> Iterator[Tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield before + key, value


def plain_values(values: Dict[str, Any], depth: int = 0) -> Dict[str, Any]:
    """Return the values without media objects (histograms, images, tables: mappings with a `_type`) and `_wandb`."""
    kept: Dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(value, dict):
            kept[key] = value
        elif "_type" not in value and key != "_wandb" and depth < MOST_NESTING:
            kept[key] = plain_values(value, depth + 1)
    return kept


class _Log:
    """What the records said so far."""

    def __init__(self) -> None:
        self.texts: Dict[int, str] = {}
        self.tags: List[str] = []
        self.started: Optional[float] = None
        self.exit_code: Optional[int] = None
        self.commit = ""
        self.config: Dict[str, Any] = {}
        self.summary: Dict[str, Any] = {}
        self.rows: List[Dict[str, Any]] = []
        self.values = 0
        self.damaged = 0
        self.is_cut = False

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the records, parts put together; what is damaged costs the rest of its block, as in LevelDB."""
        if file.read(FRAME_BYTES)[: len(HEAD)] != HEAD:
            self.damaged += 1
            return
        parts: Optional[List[bytes]] = None  # of a record that has not ended
        room = BLOCK_BYTES - FRAME_BYTES
        while True:
            if room < FRAME_BYTES:
                file.read(room)
                room = BLOCK_BYTES
            frame = file.read(FRAME_BYTES)
            if len(frame) < FRAME_BYTES:
                self.damaged += bool(frame) or parts is not None
                return
            check, size, kind = struct.unpack("<IHB", frame)
            part = file.read(min(size, room - FRAME_BYTES))
            room -= FRAME_BYTES + len(part)
            if len(part) != size or zlib.crc32(part, zlib.crc32(frame[6:])) != check:
                self.damaged += 1
                parts = None
                file.read(room)
                room = BLOCK_BYTES
                continue
            if kind in (WHOLE, FIRST):
                parts = []
            if parts is not None:
                parts.append(part)
            if kind in (WHOLE, LAST):
                if parts is not None and len(parts) <= MOST_PARTS:
                    yield b"".join(parts)
                parts = None

    def take(self, record: Fields) -> None:
        """Note what one record says.

        Raises:
            DamagedError: it is no such record.
        """
        actions: Dict[int, Callable[[Fields], None]] = {
            2: self._history,
            3: lambda fields: _apply(self.summary, fields),
            5: lambda fields: _apply(self.config, fields),
            17: self._run,
            18: self._exit,
        }
        for number, value in record:
            action = actions.get(number)
            if action is not None:
                action(parse_message(value))

    def _history(self, fields: Fields) -> None:
        row: Dict[str, Any] = {}
        step = None
        for number, value in fields:
            if number == 1:
                path, plain = _item(parse_message(value))
                _put(row, path, plain)
            elif number == 2:
                step = sum(parse_whole(given) for field, given in parse_message(value) if field == 1)
        if step is not None:
            row[STEP] = step
        if row:
            self.rows.append(row)
            self.values += len(row)

    def _run(self, fields: Fields) -> None:
        for number, value in fields:
            if number in (1, 2, 3, 6, 7, 8, 9, 13):
                self.texts[number] = parse_text(value)
            elif number == 4:
                _apply(self.config, parse_message(value))
            elif number == 10:
                self.tags.append(parse_text(value))
            elif number == 17:
                parts = {field: parse_whole(part) for field, part in parse_message(value)}
                self.started = parts.get(1, 0) + parts.get(2, 0) / 1e9
            elif number == 21:
                self.commit = next((parse_text(part) for field, part in parse_message(value) if field == 2), "")

    def _exit(self, fields: Fields) -> None:
        self.exit_code = 0  # which protobuf leaves out
        for number, value in fields:
            if number == 1:
                self.exit_code = parse_whole(value)


def _apply(values: Dict[str, Any], fields: Fields) -> None:
    """Apply the updates and removals of a config or summary record."""
    for number, value in fields:
        if number == 1:
            path, plain = _item(parse_message(value))
            _put(values, path, plain)
        elif number == 2:
            path, _ = _item(parse_message(value))
            inner: Any = values
            for key in path[:-1]:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if isinstance(inner, dict) and path:
                inner.pop(path[-1], None)


def _item(fields: Fields) -> Tuple[List[str], Any]:
    """Return the path of one item of a history, config or summary, and its value; a value that is no JSON is None."""
    path: List[str] = []
    plain: Any = None
    for number, value in fields:
        if number in (1, 2):
            path.append(parse_text(value))
        elif number == 4:
            plain = bool(value)
        elif number == 5:
            plain = parse_zigzag(value)
        elif number == 6:
            plain = parse_double(value)
        elif number == 7:
            plain = parse_text(value)
        elif number in (8, 16):
            plain = _json(parse_text(value))
    return path, plain


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _put(values: Dict[str, Any], path: List[str], value: Any) -> None:
    if not path or len(path) > MOST_NESTING:
        return
    for key in path[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[path[-1]] = value


def _document(path: str) -> Dict[str, Any]:
    """Return a JSON document, empty where there is none that can be read."""
    if not _is_regular(path) or os.path.getsize(path) > MOST_DOCUMENT_BYTES:
        return {}
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read().decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
