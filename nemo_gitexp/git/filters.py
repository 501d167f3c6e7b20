"""Which files a filter changes on their way into and out of git: `filter=` attributes (LFS, notebooks, encryption).

What such a file holds on disk is decided by the machine's configuration; its blob alone does not tell.
"""

from __future__ import annotations

import os
from pathlib import Path

from nemo_gitexp.git.repository import Repository

_NO_DRIVER = ("unspecified", "unset", "set")


def find_filtered(repository: Repository, directory: Path, listing: bytes) -> dict[str, str]:
    """Return the plain files of a listing that have a filter, with its driver's name.

    Args:
        repository: whose attributes apply besides those in the directory.
        directory: a work tree of it, or of a submodule.
        listing: the files there, from `git.objects.list_files`.
    """
    if not _mentioned(repository, directory, listing):
        return {}
    files = (line.partition(b"\t")[2] for line in listing.split(b"\0") if line.startswith(b"100"))
    paths = b"".join(path + b"\0" for path in files)
    out = repository.run("check-attr", "-z", "--stdin", "filter", stdin=paths, cwd=directory)
    words = out.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return {path: driver for path, driver in zip(words[0::3], words[2::3], strict=True) if driver not in _NO_DRIVER}


def _mentioned(repository: Repository, directory: Path, listing: bytes) -> bool:
    """Return whether any file of attributes names a filter; asking git about 50,000 paths takes a tenth second."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    everywhere = repository.config().get("core.attributesfile") or f"{home}/git/attributes"
    places = [repository.common_dir / "info/attributes", Path(everywhere).expanduser(), Path("/etc/gitattributes")]
    if b".gitattributes" in listing:
        names = (line.partition(b"\t")[2] for line in listing.split(b"\0") if line.endswith(b".gitattributes"))
        places += [directory / os.fsdecode(name) for name in names]
    return any(b"filter=" in place.read_bytes() for place in places if place.is_file())
