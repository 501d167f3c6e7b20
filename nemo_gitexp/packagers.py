"""What a packager of NeMo Run says about the code that a job is to have, held against what is recorded.

Jobs run in the recorded work tree, whole. An option that means the same is honoured; one that would ship something
else is refused. Nothing is packed here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nemo_run
from nemo_run.core.packaging.hybrid import HybridPackager
from nemo_run.core.packaging.pattern import PatternPackager

from nemo_gitexp.errors import ExecutorError, SnapshotRefusedError
from nemo_gitexp.git.ignored import find_ignored
from nemo_gitexp.git.repository import Repository

_GIT = nemo_run.GitArchivePackager


def require_honoured(executor: Any, repository: Repository, workdir: str) -> None:
    """Check that the job gets what the executor's packager would ship, and that what it forbids is not there.

    Args:
        executor: of NeMo Run.
        repository: whose work tree is recorded.
        workdir: where the job runs, relative to the root.

    Raises:
        ExecutorError: the packager would ship something else: `option` says by which of its fields.
        SnapshotRefusedError: it allows no uncommitted changes, or no untracked files, and there are some.
    """
    _Look(type(executor).__name__, repository, workdir).at(executor.packager)


class _Look:
    """One executor's packager, held against the work tree."""

    def __init__(self, executor: str, repository: Repository, workdir: str) -> None:
        self._executor = executor
        self._repository = repository
        self._workdir = workdir

    def at(self, packager: Any) -> None:
        kind = type(packager)
        if packager.symlink_from_remote_dir:
            raise self._refusal(packager, "symlink_from_remote_dir", "ships a remote directory")
        if kind is _GIT:
            self._at_archive(packager)
        elif kind is PatternPackager:
            self._at_patterns(packager, packager.include_pattern, packager.relative_path, "include_pattern")
        elif kind is HybridPackager:
            self._at_parts(packager)
        elif kind is not nemo_run.Packager:
            raise self._refusal(packager, None, "ships what only it knows")

    def _at_archive(self, packager: Any) -> None:
        self._require_root(packager)
        self._require_subpath(packager)
        if not packager.include_submodules and (self._repository.root / ".gitmodules").exists():
            raise self._refusal(packager, "include_submodules", "leaves submodules out")
        self._at_patterns(packager, packager.include_pattern, packager.include_pattern_relative_path, "include_pattern")
        is_fixed = self._require_ref(packager)
        if packager.check_uncommitted_changes or is_fixed:
            option = "ref" if is_fixed else "check_uncommitted_changes"
            self._refuse_dirt(option, "uncommitted changes", "diff", "--name-only", "-z", "HEAD", "--")
        if packager.check_untracked_files or is_fixed:
            option = "ref" if is_fixed else "check_untracked_files"
            self._refuse_dirt(option, "untracked files", "ls-files", "--others", "--exclude-standard", "-z")

    def _at_parts(self, packager: Any) -> None:
        if packager.sub_packagers and not packager.extract_at_root:
            raise self._refusal(packager, "extract_at_root", "moves what it ships into directories of its own")
        for part in packager.sub_packagers.values():
            self.at(part)

    def _require_root(self, packager: Any) -> None:
        top = Path(os.path.realpath(self._repository.root))
        if packager.basepath and not Path(os.path.realpath(packager.basepath)).is_relative_to(top):
            raise self._refusal(packager, "basepath", f"ships {packager.basepath}")

    def _require_subpath(self, packager: Any) -> None:
        """A job of NeMo Run starts in the subpath; here it starts where it was launched."""
        subpath = os.path.normpath(packager.subpath) if packager.subpath else "."
        if subpath not in (".", os.path.normpath(self._workdir)):
            raise self._refusal(
                packager, "subpath", f"ships {subpath} alone, as the job's directory", hint=f"cd {subpath}, or leave"
            )

    def _require_ref(self, packager: Any) -> bool:
        """Return whether a commit is named: then the work tree must be that, and nothing beside."""
        ref = str(packager.ref)
        if ref == "HEAD":
            return False
        head = self._repository.head()
        found = self._repository.find_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if found is None or found != head:
            raise self._refusal(packager, "ref", f"ships {ref}", hint=f"git checkout {ref}, or leave")
        return True

    def _refuse_dirt(self, option: str, what: str, *question: str) -> None:
        paths = [path for path in self._repository.text(*question).split("\0") if path]
        if paths:
            raise SnapshotRefusedError(
                f"the packager wants no {what} ({option}), and there is {paths[0]}",
                hint=f"git status; commit, or leave {option} out and it is recorded with the rest",
                option=option,
                paths=paths,
            )

    def _at_patterns(self, packager: Any, patterns: Any, relative: Any, option: str) -> None:
        """Allow patterns of files that the recorded tree has at the same place."""
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        places = [relative] if isinstance(relative, str) else list(relative)
        top = os.path.realpath(self._repository.root)
        for position, pattern in enumerate(wanted):
            if not pattern:
                continue
            place = places[position] if position < len(places) and places[position] else top
            if os.path.realpath(place) != top:
                raise self._refusal(packager, option, f"moves what {pattern} matches")
            self._require_recorded(packager, pattern, option, top)

    def _require_recorded(self, packager: Any, pattern: str, option: str, top: str) -> None:
        files = [os.path.realpath(file) for file in _matching(pattern, top)]
        outside = [file for file in files if not file.startswith(top + os.sep)]
        inside = [os.path.relpath(file, top) for file in files if file.startswith(top + os.sep)]
        for file in (*outside, *find_ignored(self._repository, inside)):
            raise self._refusal(
                packager, option, f"ships {file}, which git does not have", hint=f"git add -f {file}, or leave"
            )

    def _refusal(self, packager: Any, option: str | None, does: str, hint: str | None = None) -> ExecutorError:
        kind = type(packager).__name__
        return ExecutorError(
            f"the packager {kind} {does}, and a job gets the recorded work tree",
            hint=f"{hint or 'leave'} {option or 'the packager'} out",
            executor=self._executor,
            packager=kind,
            option=option,
        )


def _matching(pattern: str, top: str) -> Iterator[str]:
    """Yield the files that `find PATTERN -type f` of a shell in the root gives."""
    for place in glob.glob(pattern, root_dir=top):  # noqa: PTH207 - a pattern may be absolute
        found = Path(top, place)
        yield from (str(file) for file in (found, *found.rglob("*")) if file.is_file())
