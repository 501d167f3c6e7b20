"""Which Python a job is run with: the one that its entry names, or that a wrapped command will most likely start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site
from nemo_gitexp.environment import find_interpreter
from nemo_gitexp.errors import EnvironmentCaptureError
from nemo_gitexp.settings import SITE_FILE
from nemo_gitexp.stages import AnyEntry, command_of, python_of

if TYPE_CHECKING:
    from nemo_gitexp.jsontext import JsonValue
    from nemo_gitexp.profiles import ExecutorProfile
    from nemo_gitexp.record import ExperimentRecord


def resolve_interpreter(
    site: Site, entry: AnyEntry, env: Mapping[str, str], profile: ExecutorProfile | None = None
) -> Path | None:
    """Return the interpreter that a job starts, as this machine sees it; None for commands that bring their own.

    That of the executor's profile (bound) where it names one that is seen here, else the one that the entry names. A
    bare `python` or `python3` is the one of the setting `python`, else the first on PATH.

    Raises:
        EnvironmentCaptureError: there is none.
    """
    python = python_of(entry)
    if python is None:
        return None
    its_own = None if profile is None else find_site_interpreter(site, profile, env)
    if its_own is not None:
        return its_own
    name = python.interpreter
    if name in ("python", "python3") and site.settings.python:
        name = site.settings.python
    return find_interpreter(name, env, cwd=site.repository.root)


def find_recorded_interpreter(
    site: Site, record: ExperimentRecord, env: Mapping[str, str], profile: ExecutorProfile | None
) -> Path | None:
    """Return what `resolve_interpreter` does for something recorded: in its own image, whatever the profile has."""
    seen = None if profile is None else as_recorded(profile, record.topology)
    return resolve_interpreter(site, record.entry, env, seen)


def find_site_interpreter(site: Site, profile: ExecutorProfile, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that a bound profile names, None where it names none or only the job sees it.

    Names are looked up on PATH, relative paths in the repository.

    Raises:
        EnvironmentCaptureError: it is not here, although paths of this machine mean the same there.
    """
    python = profile.place.python
    if python is None or is_known_there_only(profile):
        return None
    try:
        return find_interpreter(python, env, cwd=site.repository.root)
    except (EnvironmentCaptureError, RuntimeError) as fault:  # the latter: ~ of somebody who has no home
        why = "" if profile.kind == "local" else ", though it shares its file system: what is in it is recorded here"
        raise EnvironmentCaptureError(
            f"executor {profile.name}: there is no interpreter {python} on this machine{why}",
            hint=f"python = … below [executors.{profile.name}] in {SITE_FILE}",
            interpreter=python,
        ) from fault


def with_home(profile: ExecutorProfile) -> ExecutorProfile:
    """Return a profile whose interpreter does not begin with `~/`, where that means the same as on this machine."""
    python = profile.place.python
    if python is None or not python.startswith("~/") or is_known_there_only(profile):
        return profile
    return replace(profile, place=replace(profile.place, python=str(Path(python).expanduser())))


def as_recorded(profile: ExecutorProfile, topology: Mapping[str, JsonValue]) -> ExecutorProfile:
    """Return a profile with the image of a record, which is the one that it runs in."""
    image = topology.get("image")
    return replace(profile, shape=replace(profile.shape, image=image if isinstance(image, str) else None))


def probe_interpreter(entry: AnyEntry, env: Mapping[str, str], root: Path) -> Path | None:
    """Return the Python that a wrapped command most likely runs: its own launcher's, else the first on PATH.

    None where no command is wrapped, or no Python is found.
    """
    command = command_of(entry)
    if command is None:
        return None
    for name in (_shebang(command.argv[0], env), "python3", "python"):
        try:
            if name:
                return find_interpreter(name, env, cwd=root)
        except EnvironmentCaptureError:
            continue
    return None


def is_known_there_only(profile: ExecutorProfile) -> bool:
    """Return whether only the job itself can say what it runs in: in an image, or where other paths are seen."""
    return profile.kind != "local" and bool(profile.shape.image or not profile.place.shared)


def _shebang(program: str, env: Mapping[str, str]) -> str | None:
    """Return the interpreter in the first line of a Python console script (torchrun, accelerate)."""
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        return None
    with Path(found).open("rb") as file:
        line = file.readline(512).decode("utf-8", "replace").strip()
    match = re.fullmatch(r"#!\s*(\S*/python[\d.]*)", line)
    return match[1] if match else None
