"""Which fields NeMo Run's executors have, asked in a process of our own and kept for each version of NeMo Run.

The command line imports no NeMo Run: 3 s and 300 MB.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.errors import DocumentError, LaunchError, SettingsError
from nemo_gitexp.extras import missing_extra
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json, render_json_line
from nemo_gitexp.profilefields import KindFields, parse_fields, require_valid
from nemo_gitexp.profiles import ExecutorProfile, render_profile
from nemo_gitexp.rundir import write_beside

TIMEOUT_S: Final = 120.0
"""NeMo Run's import takes 3 s; ten times that on a busy machine."""

_FORM: Final = 1
"""Of what is kept; another number asks again."""


def nemo_run_version() -> str | None:
    """Return the version of NeMo Run that this interpreter has; None: none."""
    try:
        return importlib.metadata.version("nemo_run")
    except importlib.metadata.PackageNotFoundError:
        return None


def require_known(profile: ExecutorProfile, state_dir: Path) -> None:
    """Check a profile against NeMo Run's dataclasses, by name and type; one that sets nothing of theirs needs none.

    Side effects: the first time for a version of NeMo Run, a process imports it and its answer is kept.

    Raises:
        SettingsError: an unknown key, or a value of the wrong type; all of them are named.
        LaunchError: NeMo Run cannot be asked.
    """
    if profile.options or profile.shape.image:
        require_valid(profile, read_kinds(state_dir))


def read_kinds(state_dir: Path) -> dict[str, KindFields]:
    """Return the fields of every kind of executor.

    Args:
        state_dir: below it the answer is kept.

    Raises:
        LaunchError: NeMo Run cannot be asked.
    """
    question = render_json_line([_FORM, nemo_run_version(), sys.version, sys.prefix])
    place = state_dir / "cache" / "executors" / f"{hashlib.sha256(question).hexdigest()[:32]}.json"
    return _read_kept(place) or _keep(place, ask({"build": None}))


def ask_build(
    profile: ExecutorProfile, site: Mapping[str, str], topology: Mapping[str, JsonValue]
) -> dict[str, JsonValue] | None:
    """Have the executor of a profile built; return what NeMo Run says against it, as message and hint; None: nothing.

    Raises:
        LaunchError: NeMo Run cannot be asked.
    """
    wanted: JsonValue = {
        "name": profile.name,
        "table": render_profile(profile),
        "site": dict(site),
        "topology": topology,
    }
    fault = ask({"build": wanted})["fault"]
    return dict(fault) if isinstance(fault, Mapping) else None


def ask(request: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Return the answer of the process that imports NeMo Run (`launchers.profilecheck`).

    Raises:
        LaunchError: it cannot be started, or cannot import NeMo Run.
    """
    argv = [sys.executable, "-P", "-m", "nemo_gitexp.launchers.profilecheck"]
    try:
        done = processes.run(argv, env=os.environ, stdin=render_json(request), timeout_s=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise _unanswered(str(fault)) from fault
    if done.returncode != 0:
        raise _unanswered((done.said.splitlines() or [f"exit code {done.returncode}"])[-1])
    try:
        answer = parse_json(done.stdout, "the answer of NeMo Run's process")
    except DocumentError as fault:
        raise _unanswered(fault.message) from fault
    if not isinstance(answer, Mapping):
        raise _unanswered("no document")
    return answer


def _unanswered(said: str) -> LaunchError:
    return LaunchError(
        f"NeMo Run cannot be asked for its executors: {said}",
        hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows what is wrong",
    )


def _read_kept(place: Path) -> dict[str, KindFields] | None:
    """Return what was kept, unless there is more to know by now: an extra was installed since."""
    try:
        kinds = parse_fields(parse_json(place.read_bytes(), str(place)))
    except (OSError, DocumentError, SettingsError):
        return None
    is_whole = all(item.fields is not None or missing_extra(kind) for kind, item in kinds.items())
    return kinds if kinds and is_whole else None


def _keep(place: Path, answer: Mapping[str, JsonValue]) -> dict[str, KindFields]:
    kinds = parse_fields(answer.get("fields"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_beside(place, render_json(answer["fields"]))
    except OSError:
        pass  # a state directory that cannot be written costs the next call 3 s
    return kinds
