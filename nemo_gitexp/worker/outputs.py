"""Finds and hashes what the job made: sha256 and md5 in one read, directories as DVC 3 addresses them."""

from __future__ import annotations

import hashlib
import json
import os
import stat

from .manifest import CHUNK_BYTES, walk_files
from .pace import nothing_to_check
from .stamped import tracker_of
from .watch import CancelledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Collection, Iterable, Iterator

    from .shapes import OutputPlan, OutputReport
    from .trackeroutputs import TrackedFiles

MAY_HOLD_TENSORS = (b"PK\x03\x04", b"\x93NUMPY")


class FileHashes:
    """The hashes of one file; `digest` of its tensors, None where it holds none."""

    __slots__ = ("digest", "md5", "sha256", "size_bytes")

    def __init__(self, sha256: str, md5: str, digest: str | None, size_bytes: int) -> None:
        self.sha256 = sha256
        self.md5 = md5
        self.digest = digest
        self.size_bytes = size_bytes


def declared_outputs(outputs_dir: str, declared: list[OutputPlan]) -> list[OutputPlan]:
    """Return the declared outputs, or every top-level entry of the outputs directory when none is declared.

    Then what holds no file (an empty directory, a pipe, a link to nothing) is no output, and nobody misses it; nor is
    a link to a directory elsewhere, which may be all of a disk.
    """
    if declared or not os.path.isdir(outputs_dir):
        return declared
    paths = {name: os.path.join(outputs_dir, name) for name in sorted(os.listdir(outputs_dir))}
    return [
        {"path": name, "keep": "dvc"}
        for name, path in paths.items()
        if os.path.isfile(path) or (not _leads_out(path, outputs_dir) and any(_regular_files(path)))
    ]


def hash_output(
    outputs_dir: str, output: OutputPlan, check: Callable[[], None] = nothing_to_check
) -> OutputReport | None:
    """Return the report of one output; None when it is missing, an empty directory, or no file at all.

    Args:
        outputs_dir: what the output's path is relative to.
        output: which one.
        check: called every now and then; may raise to end the work.
    """
    path = os.path.join(outputs_dir, output["path"])
    if os.path.isdir(path):
        return _hash_directory(path, output, check) if any(_regular_files(path)) else None
    if not os.path.isfile(path):
        return None
    hashes = hash_file(path, check)
    return {
        "path": output["path"],
        "keep": output["keep"],
        "sha256": hashes.sha256,
        "md5": hashes.md5,
        "digest": hashes.digest or _logged_digest(path, check),
        "size_bytes": hashes.size_bytes,
        "is_dir": False,
        "files": [],
    }


def find_undeclared(outputs_dir: str, declared: Collection[str], ignored: Iterable[str]) -> list[str]:
    """Return the files below the outputs directory that belong to no declared output.

    When none is declared, these are the links to directories elsewhere.
    """
    if not declared:
        links = sorted(os.listdir(outputs_dir)) if os.path.isdir(outputs_dir) else []
        return [name for name in links if _leads_out(os.path.join(outputs_dir, name), outputs_dir)]
    named = {os.path.normpath(path) for path in [*declared, *ignored]}
    if "." in named:
        return []
    heads = tuple(f"{path}/" for path in named)
    below = walk_files(outputs_dir) if os.path.isdir(outputs_dir) else ()
    return sorted(path for path, _ in below if path not in named and not path.startswith(heads))


def hash_file(path: str, check: Callable[[], None] = nothing_to_check) -> FileHashes:
    """Return all hashes of one regular file; `check` is called once a chunk.

    Raises:
        OSError: it cannot be read.
    """
    sha256, md5, size = hashlib.sha256(), hashlib.md5(), 0  # noqa: S324 - DVC's content address, no secret
    head = b""
    with open(path, "rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            check()
            head = head or chunk[:16]
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return FileHashes(sha256.hexdigest(), md5.hexdigest(), _tensor_digest(path, head), size)


def _tensor_digest(path: str, head: bytes) -> str | None:
    is_safetensors = head[8:9] == b"{"
    if not (head.startswith(MAY_HOLD_TENSORS) or is_safetensors):
        return None
    from .tensors import tensor_digest

    return tensor_digest(path)


def _hash_directory(path: str, output: OutputPlan, check: Callable[[], None]) -> OutputReport:
    """Hash a directory: md5 as DVC does, sha256 over the lines `sha256sum` would print, digest over both kinds."""
    files = sorted(_regular_files(path))
    hashes = {relative: hash_file(os.path.join(path, relative), check) for relative in files}
    listing = [{"md5": item.md5, "relpath": relative} for relative, item in hashes.items()]
    lines = "".join(f"{item.sha256}  {relative}\n" for relative, item in hashes.items())
    return {
        "path": output["path"],
        "keep": output["keep"],
        "sha256": hashlib.sha256(_encoded(lines)).hexdigest(),
        "md5": hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir",  # noqa: S324 - DVC
        "digest": _directory_digest(path, hashes, check),
        "size_bytes": sum(item.size_bytes for item in hashes.values()),
        "is_dir": True,
        "files": [(relative, item.md5, item.size_bytes) for relative, item in hashes.items()],
    }


def _directory_digest(root: str, hashes: dict[str, FileHashes], check: Callable[[], None]) -> str | None:
    """Return the digest over the tensors and bytes in a directory; None where bytes alone say the same.

    What trackers have written counts by what was logged, see `trackeroutputs`.
    """
    tracked = _tracked_files(root, hashes, check)
    if tracked is None and not any(item.digest for item in hashes.values()):
        return None
    names = tracked.names if tracked else {path: path for path in hashes}
    lines = []
    for path, name in sorted(names.items(), key=lambda pair: pair[1]):
        item = hashes[path]
        digest = item.digest or (_logged_digest(os.path.join(root, path), check) if tracked else None)
        lines.append(f"{digest or 'bytes:' + item.sha256}  {name}\n")
    lines += [f"logged:{digest}  {name}\n" for name, digest in (tracked.digests if tracked else {}).items()]
    return "sha256:" + hashlib.sha256(_encoded("".join(lines))).hexdigest()


def _tracked_files(root: str, paths: Collection[str], check: Callable[[], None]) -> TrackedFiles | None:
    """Return how files of trackers are compared; None where there are none, or they cannot be read: by their bytes."""
    if not any(tracker_of(path.rpartition("/")[2]) for path in paths):
        return None
    from .trackeroutputs import tracked_files  # and the readers, which most jobs have no use for

    try:
        return tracked_files(root, paths, check)
    except CancelledError:
        raise
    except Exception:  # noqa: BLE001 - no file of a tracker decides whether a job has completed
        return None


def _logged_digest(path: str, check: Callable[[], None]) -> str | None:
    if tracker_of(os.path.basename(path)) != "tensorboard":
        return None
    from .eventfiles import logged_digest

    try:
        return logged_digest(path, check)
    except CancelledError:
        raise
    except Exception:  # noqa: BLE001 - as above
        return None


def _leads_out(path: str, outputs_dir: str) -> bool:
    """Return whether this is a link to a directory that is not below the outputs directory."""
    if not (os.path.islink(path) and os.path.isdir(path)):
        return False
    return not os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(outputs_dir), ""))


def _regular_files(root: str) -> Iterator[str]:
    """Yield the files below a directory, links followed as DVC does; sockets, pipes and dangling links left out."""
    for directory, _, names in os.walk(root, followlinks=False):
        for name in names:
            path = os.path.join(directory, name)
            try:
                is_regular = stat.S_ISREG(os.stat(path).st_mode)
            except OSError:
                continue
            if is_regular:
                yield os.path.relpath(path, root).replace(os.sep, "/")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
