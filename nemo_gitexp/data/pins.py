"""Input pins: what one path's content must be. Parses DVC pointers; reads nothing but what the caller hands in."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from nemo_gitexp.errors import DataPointerError, UntrackedDataError
from nemo_gitexp.inputpin import InputPin

Reader: TypeAlias = Callable[[str], "bytes | None"]
"""Gives the bytes of a file by its POSIX path relative to the repository root, None where there is none."""

_TextTree: TypeAlias = "str | list[_TextTree] | dict[str, _TextTree]"

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NAMED_AT_MOST = 5


def normal_path(path: str) -> str:
    """Return the path without `.`, doubled or trailing slashes.

    Raises:
        UntrackedDataError: it is absolute or leaves the repository.
    """
    normal = posixpath.normpath(path)
    if not path or normal == "." or normal.startswith(("/", "../")) or normal == "..":
        raise UntrackedDataError(f"{path!r} is no path below the repository root", path=path)
    return normal


def find_pin(path: str, *, read: Reader, lock_paths: Sequence[str] = ()) -> InputPin:
    """Return the content pin of one path.

    Args:
        path: the input, POSIX, relative to the repository root.
        read: gives pointer files by path.
        lock_paths: every `dvc.lock` of the repository, and `.dvc` files that may have another name than their data.

    Raises:
        UntrackedDataError: DVC does not track this path as a whole.
        DataPointerError: the pointer cannot be read, or holds no DVC 3 hash (data not yet added).

    Source: DVC 3 `.dvc` files and `dvc.lock` schema 2.0; a directory's hash ends in `.dir`.
    """
    path = normal_path(path)
    own = f"{path}.dvc"
    seen: list[str] = []
    for source in dict.fromkeys((own, *lock_paths)):
        for out in _read_outs(source, read):
            if out.path == path:
                return out.pinned()
            seen.append(out.path)
    raise _untracked(path, seen, read, lock_paths)


def list_pins(source: str, read: Reader) -> tuple[InputPin, ...]:
    """Return every pin in one pointer file, also of outputs that nobody declared; unpinned ones are left out."""
    return tuple(out.pinned() for out in _read_outs(source, read) if out.has_pin)


def list_stage_deps(source: str, stage: str, read: Reader) -> tuple[str, ...]:
    """Return the paths that a stage of one `dvc.lock` read, relative to the repository root."""
    base = posixpath.join(posixpath.dirname(source), _stage_wdirs(source, read).get(stage.partition("@")[0], ""))
    entry = _mapping(_stages(source, read).get(stage))
    deps = (_mapping(dep).get("path") for dep in _sequence(entry.get("deps")))
    return tuple(posixpath.normpath(posixpath.join(base, dep)) for dep in deps if isinstance(dep, str))


@dataclass(frozen=True, slots=True)
class _Out:
    path: str
    entry: Mapping[str, _TextTree]
    source: str
    stage: str | None

    @property
    def has_pin(self) -> bool:
        return self.entry.get("hash") == "md5" and isinstance(self.entry.get("md5"), str)

    def pinned(self) -> InputPin:
        md5 = self.entry.get("md5")
        if not isinstance(md5, str):
            raise self._without_md5()
        if not _MD5.fullmatch(md5):
            raise DataPointerError(f"{self.source} holds no md5 for {self.path}: {md5!r}", path=self.source)
        if self.entry.get("hash") != "md5":
            raise DataPointerError(
                f"{self.source} was written by DVC 2, whose hash of {self.path} ignores line ends",
                hint="dvc cache migrate --dvc-files",
                path=self.source,
            )
        count = self._number("nfiles")
        return InputPin(
            path=self.path,
            pin=md5,
            size_bytes=self._number("size"),
            n_files=count if md5.endswith(".dir") else 1,
            source=self.source,
            stage=self.stage,
            executable=self.entry.get("isexec") == "true",
        )

    def _without_md5(self) -> DataPointerError:
        foreign = sorted({"etag", "checksum", "files", "version_id"} & set(self.entry))
        if foreign:
            said = f"{self.source} pins {self.path} by {', '.join(foreign)}, not by md5"
            return DataPointerError(said, hint=f"dvc add {self.path}", path=self.source)
        command = f"dvc repro {self.stage}" if self.stage else f"dvc commit {self.source}"
        return DataPointerError(f"{self.source} holds no hash of {self.path} yet", hint=command, path=self.source)

    def _number(self, key: str) -> int | None:
        text = self.entry.get(key)
        return int(text) if isinstance(text, str) and text.isdecimal() else None


def _read_outs(source: str, read: Reader) -> Iterator[_Out]:
    if source.endswith(".dvc"):
        return _pointer_outs(source, read)
    return _lock_outs(source, read)


def _pointer_outs(source: str, read: Reader) -> Iterator[_Out]:
    document = _load(source, read)
    wdir = document.get("wdir", "")
    base = posixpath.join(posixpath.dirname(source), wdir if isinstance(wdir, str) else "")
    for entry in _entries(document.get("outs", []), source):
        yield _out(entry, base, source, None)


def _lock_outs(source: str, read: Reader) -> Iterator[_Out]:
    stages = _stages(source, read)
    wdirs = _stage_wdirs(source, read) if stages else {}
    for name, stage in stages.items():
        base = posixpath.join(posixpath.dirname(source), wdirs.get(name.partition("@")[0], ""))
        for entry in _entries(_mapping(stage).get("outs", []), source):
            yield _out(entry, base, source, name)


def _out(entry: Mapping[str, _TextTree], base: str, source: str, stage: str | None) -> _Out:
    path = entry.get("path")
    if not isinstance(path, str):
        raise DataPointerError(f"{source} has an output without a path", path=source)
    return _Out(posixpath.normpath(posixpath.join(base, path)), entry, source, stage)


def _stages(source: str, read: Reader) -> Mapping[str, _TextTree]:
    document = _load(source, read)
    if document and document.get("schema") != "2.0":
        raise DataPointerError(f"{source} is no dvc.lock of schema 2.0", hint="dvc repro", path=source)
    return _mapping(document.get("stages"))


def _stage_wdirs(source: str, read: Reader) -> dict[str, str]:
    """Return the working directory of each stage that has its own; only `dvc.yaml` knows it."""
    definition = posixpath.join(posixpath.dirname(source), "dvc.yaml")
    wdirs: dict[str, str] = {}
    for name, stage in _mapping(_load(definition, read).get("stages")).items():
        body = _mapping(stage)
        wdir = (_mapping(body["do"]) if "do" in body else body).get("wdir")
        if isinstance(wdir, str):
            wdirs[name] = wdir
    return wdirs


def _untracked(path: str, seen: Sequence[str], read: Reader, lock_paths: Sequence[str]) -> UntrackedDataError:
    outside = _tracked_above(path, seen, read)
    if outside is not None:
        said = f"{path} lies inside {outside}, which DVC tracks as a whole"
        return UntrackedDataError(said, hint=f"declare {outside} under data:", path=path, tracked=outside)
    below = sorted(out for out in seen if out.startswith(f"{path}/"))
    if below:
        named = ", ".join(below[:_NAMED_AT_MOST])
        said = f"DVC tracks {path} not as a whole but in parts: {named}"
        return UntrackedDataError(said, hint=f"declare them under data: instead of {path}", path=path, tracked=below)
    if path.endswith(".dvc"):
        data = path.removesuffix(".dvc")
        return UntrackedDataError(f"{path} is a pointer, not data", hint=f"declare {data} under data:", path=path)
    stage = _unmade(path, read, lock_paths)
    if stage is not None:
        said = f"{path} is an output of the DVC stage {stage}, which has not been run"
        return UntrackedDataError(said, hint=f"dvc repro {stage}", path=path)
    hint = f"dvc add {shlex.quote(path)} (files that git tracks belong to the code and are not declared as data)"
    return UntrackedDataError(f"{path} is not tracked by DVC", hint=hint, path=path)


def _tracked_above(path: str, seen: Sequence[str], read: Reader) -> str | None:
    above = posixpath.dirname(path)
    while above:
        if above in seen or any(out.path == above for out in _pointer_outs(f"{above}.dvc", read)):
            return above
        above = posixpath.dirname(above)
    return None


def _unmade(path: str, read: Reader, lock_paths: Sequence[str]) -> str | None:
    """Return the stage of a `dvc.yaml` that declares this output but is not in its lock."""
    folders = {posixpath.dirname(lock) for lock in lock_paths} | {"", posixpath.dirname(path)}
    for folder in sorted(folders):
        definition = posixpath.join(folder, "dvc.yaml")
        for name, stage in _mapping(_load(definition, read).get("stages")).items():
            body = _mapping(stage)
            wdir = body.get("wdir", "")
            base = posixpath.join(folder, wdir if isinstance(wdir, str) else "")
            outs = [
                out if isinstance(out, str) else next(iter(_mapping(out)), "") for out in _sequence(body.get("outs"))
            ]
            if path in {posixpath.normpath(posixpath.join(base, out)) for out in outs}:
                return name if not folder else f"{definition}:{name}"
    return None


def _load(source: str, read: Reader) -> Mapping[str, _TextTree]:
    """Return a pointer file with every scalar as text: no reader may take a hash for a number."""
    text = read(source)
    if text is None:
        return {}
    try:
        document: _TextTree | None = yaml.load(text, _LOADER)  # noqa: S506 - BaseLoader makes text, lists, maps only
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as fault:
        said = " ".join(str(fault).split())
        raise DataPointerError(f"{source} is no valid YAML: {said}", path=source) from fault
    if document is None or document == "":
        return {}
    if not isinstance(document, dict):
        raise DataPointerError(f"{source} holds no mapping", path=source)
    return document


def _entries(value: _TextTree, source: str) -> list[dict[str, _TextTree]]:
    entries = [entry for entry in _sequence(value) if isinstance(entry, dict)]
    if not isinstance(value, list) or len(entries) != len(value):
        raise DataPointerError(f"{source} has outputs that are no list of mappings", path=source)
    return entries


def _mapping(value: _TextTree | None) -> Mapping[str, _TextTree]:
    return value if isinstance(value, dict) else {}


def _sequence(value: _TextTree | None) -> list[_TextTree]:
    return value if isinstance(value, list) else []
