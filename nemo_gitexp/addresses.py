"""Addresses of inputs that no file of the repository pins: `exp://` and `hf://`. Pure: text in, values out.

`exp://EXP/OUTPUT` is an output of another experiment, `hf://[datasets/]ORG/NAME[@REVISION][/PATH]` a repository of the
Hugging Face hub (the syntax of `huggingface_hub`'s own file system), or a file or directory in it.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass
from typing import Final

from nemo_gitexp.errors import DefinitionError

EXPERIMENT: Final = "exp://"
HUB: Final = "hf://"
DEFAULT_REVISION: Final = "main"
DEFAULT_PLACE: Final = "inputs"
"""The directory of a workspace in which what has an address lies, unless the definition says otherwise."""

COMMIT: Final = re.compile(r"[0-9a-f]{40}")

_ELSEWHERE: Final = ("http", "https", "s3", "gs", "azure", "ssh", "hdfs")
"""What DVC imports: it pins by content, which is more than a name."""

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO: Final = re.compile(rf"{_PART}(/{_PART})?")
_REVISION: Final = re.compile(r"[A-Za-z0-9][\w.+-]*(/[\w.+-]+)*")
_TYPES: Final = {"datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A place on the hub: `repo_type` is model, dataset or space; `path` in it, empty for all of it."""

    repo: str
    repo_type: str = "model"
    revision: str = DEFAULT_REVISION
    path: str = ""

    def __str__(self) -> str:
        """Return the address as people write it."""
        above = {kind: word for word, kind in _TYPES.items()}.get(self.repo_type)
        inner = f"/{self.path}" if self.path else ""
        return f"{HUB}{f'{above}/' if above else ''}{self.repo}@{self.revision.replace('/', '%2F')}{inner}"

    @property
    def default_path(self) -> str:
        """Where it lies in a workspace when nobody says: `inputs/<name>[/<path>]`."""
        return posixpath.normpath(posixpath.join(DEFAULT_PLACE, self.repo.rpartition("/")[2], self.path))


def is_address(text: str) -> bool:
    """Whether a text is meant as the address of something, not as a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def address_fault(url: str) -> str | None:
    """Return what is wrong with an address, None when it can be resolved."""
    if url.startswith(EXPERIMENT):
        return None if split_output(url) else "names no output: write exp://EXPERIMENT/OUTPUT"
    if url.startswith(HUB):
        try:
            parse_hub_address(url)
        except DefinitionError as fault:
            return fault.message
        return None
    scheme = url.partition("://")[0]
    if scheme in _ELSEWHERE:
        target = f"data/{posixpath.basename(url.rstrip('/')) or 'file'}"
        how = f"dvc import-url {shlex.quote(url)} {shlex.quote(target)}"
        return f"is pinned by nothing; DVC keeps its content: {how}, then data: [{target}]"
    return f"has an unknown scheme; known are {EXPERIMENT} and {HUB}"


def split_output(url: str) -> list[tuple[str, str]]:
    """Return every way to read `exp://a/b/c` as an experiment and its output, the shortest experiment first.

    Names of experiments and of outputs may both hold slashes: which reading is meant, only the repository knows.
    """
    parts = url.removeprefix(EXPERIMENT).split("/")
    if not _stays_inside(url.removeprefix(EXPERIMENT)):
        return []
    readings = (("/".join(parts[:at]), "/".join(parts[at:])) for at in range(1, len(parts)))
    return [
        (exp, posixpath.normpath(output)) for exp, output in readings if exp and output and not output.startswith("/")
    ]


def parse_hub_address(url: str) -> HubAddress:
    """Return the place that an `hf://` address names.

    A repository without an organisation (`gpt2`) needs its revision before a path, as the hub's own tools have it.

    Raises:
        DefinitionError: it is none.
    """
    text = url.removeprefix(HUB)
    head, _, rest = text.partition("/")
    repo_type = _TYPES.get(head, "model")
    text = rest if head in _TYPES else text
    named, at, after = text.partition("@")
    if at:
        repo = named
        special = re.match(r"refs/(?:pr|convert)/[^/]+", after)
        revision = special[0] if special else after.partition("/")[0].replace("%2F", "/").replace("%2f", "/")
        path = after[len(special[0]) + 1 :] if special else after.partition("/")[2]
    else:
        parts = text.split("/")
        repo, revision, path = "/".join(parts[:2]), DEFAULT_REVISION, "/".join(parts[2:])
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise DefinitionError(f"names no repository of the hub: {repo!r}; write hf://ORG/NAME@REVISION")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise DefinitionError(f"names no revision: {revision!r}")
    path = path.strip("/")
    if path and not _stays_inside(path):
        raise DefinitionError(f"leaves the repository: {path!r}")
    return HubAddress(repo, repo_type, revision, posixpath.normpath(path) if path else "")


def _stays_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and not any(ord(letter) < 32 for letter in path)
