"""Which Python a job is run with: the one that its entry names, or that a wrapped command will most likely start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site
from nemo_gitexp.environment import find_interpreter
from nemo_gitexp.errors import EnvironmentCaptureError
from nemo_gitexp.stages import AnyEntry, command_of, python_of

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile


def resolve_interpreter(site: Site, entry: AnyEntry, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that an entry names, None for commands that bring their own.

    A bare `python` or `python3` is the one of the setting `python`, else the first on PATH.
    """
    python = python_of(entry)
    if python is None:
        return None
    name = python.interpreter
    if name in ("python", "python3") and site.settings.python:
        name = site.settings.python
    return find_interpreter(name, env, cwd=site.repository.root)


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
    """Return whether only the job itself can say what it runs in: an image, another interpreter, another machine."""
    place = profile.place
    return profile.kind != "local" and bool(profile.shape.image or place.python or not place.shared)


def _shebang(program: str, env: Mapping[str, str]) -> str | None:
    """Return the interpreter in the first line of a Python console script (torchrun, accelerate)."""
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        return None
    with Path(found).open("rb") as file:
        line = file.readline(512).decode("utf-8", "replace").strip()
    match = re.fullmatch(r"#!\s*(\S*/python[\d.]*)", line)
    return match[1] if match else None
