"""Whether this machine can record and launch at all: git, DVC, NeMo Run, the interpreter, directories, space."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from nemo_gitexp.catalog import Site
from nemo_gitexp.environment import find_interpreter
from nemo_gitexp.errors import EnvironmentCaptureError, IdentityMissingError, LaunchError
from nemo_gitexp.finding import Finding, found, missing, refused, warning
from nemo_gitexp.nemofields import ask, nemo_run_version

LITTLE_BYTES: Final = 1024**3
"""Less space than this is worth a warning."""

_PIP: Final = f"{shlex.quote(sys.executable)} -m pip install"


def check_machine(site: Site, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found about this machine; NeMo Run is imported, in a process of our own.

    Side effects: the directories for state, runs and workspaces are made, as a run would.
    """
    yield found("git", site.repository.find_text("version") or "git")
    yield _identity(site)
    yield found("python", f"{sys.version.split()[0]} ({sys.executable})")
    yield _dvc()
    yield _nemo_run()
    if site.settings.python:
        yield _interpreter(site, site.settings.python, env)
    places = {"state": site.repository.state_dir, "runs": site.run_root, "workspaces": site.workspace_root}
    for name, place in places.items():
        yield _directory(name, place)
    yield _space(site.run_root)


def _identity(site: Site) -> Finding:
    try:
        who = site.repository.committer()
    except IdentityMissingError as fault:
        return refused("identity", fault)
    return found("identity", who.name)


def _dvc() -> Finding:
    try:
        version = importlib.metadata.version("dvc")
    except importlib.metadata.PackageNotFoundError:
        return missing("dvc", "DVC is not installed", f"{_PIP} dvc")
    if importlib.util.find_spec("dvc") is None:
        return missing("dvc", "DVC cannot be imported", f"{_PIP} --force-reinstall dvc")
    return found("dvc", version)


def _nemo_run() -> Finding:
    version = nemo_run_version()
    if version is None:
        return missing("nemo_run", "NeMo Run is not installed", f"{_PIP} nemo_run")
    try:
        ask({"build": None})
    except LaunchError as fault:
        return refused("nemo_run", fault)
    return found("nemo_run", version)


def _interpreter(site: Site, name: str, env: Mapping[str, str]) -> Finding:
    try:
        return found("job python", str(find_interpreter(name, env, cwd=site.repository.root)))
    except EnvironmentCaptureError as fault:
        source = site.settings.source("python")
        return missing("job python", f"{fault.message} (python is set in {source})", fault.hint)


def _directory(name: str, place: Path) -> Finding:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"written")
            file.flush()
    except OSError as fault:
        return missing(name, f"cannot write in {place}: {fault.strerror}", f"ls -ld {shlex.quote(str(place))}")
    if not os.access(place, os.X_OK):
        return missing(name, f"cannot enter {place}", f"ls -ld {shlex.quote(str(place))}")
    return found(name, str(place))


def _space(place: Path) -> Finding:
    try:
        free = shutil.disk_usage(place).free
    except OSError as fault:
        return warning("space", f"unknown: {fault.strerror}", f"df -h {shlex.quote(str(place))}")
    said = f"{free / 1024**3:.1f} GiB free for runs"
    return warning("space", said, "nemo-gitexp gc") if free < LITTLE_BYTES else found("space", said)
