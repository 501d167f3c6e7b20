"""The environment of a job: its interpreter and packages, captured before the job runs, and made again elsewhere.

What a package list is, is decided in one place, `worker.environment`, which also runs by path under any interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.errors import DocumentError, EnvironmentCaptureError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json, render_json_line
from nemo_gitexp.worker import environment as probe

LOCK_FILES: Final = (
    "requirements.txt", "constraints.txt", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pixi.lock",
    "conda-lock.yml", "environment.yml", "environment.yaml",
)  # fmt: skip
"""Files at the repository root that people keep to install the same environment again."""

_PATH_FLAGS: Final = frozenset({"-I", "-E", "-s", "-S", "-P"})
_RACY_NS: Final = 2_000_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_SAID_AT_MOST: Final = 600


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter and its packages.

    Attributes:
        implementation: `cpython`, `pypy`, …
        version: of the interpreter, `3.11.7`.
        packages: normalised name (PEP 503) to version, with ` (editable)` or ` (git <sha>)` where no index has it.
        captured: launch (before the job) or job (by the job itself).
        lock_files: sha256 of the lock files at the repository root, by path.
    """

    implementation: str
    version: str
    packages: Mapping[str, str]
    captured: str
    lock_files: Mapping[str, str]

    @property
    def key(self) -> str:
        """`sha256:…` over interpreter and packages: what an experiment's identity holds of the environment."""
        document = self.to_json()
        held = render_json({"interpreter": document["interpreter"], "packages": document["packages"]})
        return f"sha256:{hashlib.sha256(held).hexdigest()}"

    def to_json(self) -> dict[str, JsonValue]:
        """Return the document that `environment.json` holds."""
        return {
            "schema": 1,
            "captured": self.captured,
            "interpreter": {"implementation": self.implementation, "version": self.version},
            "packages": dict(self.packages),
            "lock_files": dict(self.lock_files),
        }


@dataclass(frozen=True, slots=True)
class RecreatedEnvironment:
    """A new environment: its interpreter, and the packages that no index can give (`name version`)."""

    python: Path
    skipped: tuple[str, ...]


def parse_environment(document: object) -> Environment:
    """Return the environment that `Environment.to_json` or a worker rendered.

    Raises:
        DocumentError: a key is missing or holds something else.
    """
    interpreter = document.get("interpreter") if isinstance(document, Mapping) else None
    packages = document.get("packages") if isinstance(document, Mapping) else None
    if not (isinstance(document, Mapping) and isinstance(interpreter, Mapping) and isinstance(packages, Mapping)):
        raise DocumentError("an environment needs the mappings interpreter and packages", source="environment")
    lock_files = document.get("lock_files")
    return Environment(
        implementation=str(interpreter.get("implementation", "unknown")),
        version=str(interpreter.get("version", "unknown")),
        packages={str(name): str(version) for name, version in sorted(packages.items())},
        captured=str(document.get("captured", "launch")),
        lock_files={str(path): str(sha) for path, sha in lock_files.items()} if isinstance(lock_files, Mapping) else {},
    )


def capture_environment(
    interpreter: Path | None = None,
    *,
    root: Path | None = None,
    cache_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Environment:
    """Return the environment that a job started by `interpreter` will find.

    Args:
        interpreter: of the job; this process's own when None.
        root: where to look for lock files.
        cache_dir: where answers of other interpreters are kept while nothing they rest on changes.
        env: the job's environment (PYTHONPATH counts); this process's own when None.
        flags: the job's interpreter options; those that change the import path count.

    Raises:
        EnvironmentCaptureError: the interpreter does not answer.
    """
    lock_files = {} if root is None else read_lock_files(root)
    path_flags = tuple(flag for flag in flags if flag in _PATH_FLAGS)
    if _is_own(interpreter, env) and not path_flags:
        document: Mapping[str, object] = probe.environment_document("launch", _own_paths())
    else:
        asked = _Probe(interpreter or Path(sys.executable), path_flags, os.environ if env is None else env)
        document = asked.cached(cache_dir) if cache_dir is not None else asked.ask()
    captured = parse_environment(document)
    return Environment(captured.implementation, captured.version, captured.packages, captured.captured, lock_files)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_lock_files(root: Path) -> dict[str, str]:
    """Return the sha256 of each known lock file at the root."""
    found: dict[str, str] = {}
    for name in LOCK_FILES:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return found


def find_interpreter(name: str, env: Mapping[str, str], *, cwd: Path | None = None) -> Path:
    """Return the absolute path of a Python interpreter, links of virtual environments kept.

    Args:
        name: as in a command line: looked up on PATH, or a path when it has a slash.
        env: whose PATH counts.
        cwd: what relative paths are relative to; this process's own when None.

    Returns:
        The program. A wrapper script (a pyenv shim) is asked which interpreter it means: it may mean another one in
        another directory, and a job runs elsewhere.

    Raises:
        EnvironmentCaptureError: there is none, or it is no Python.
    """
    base = Path.cwd() if cwd is None else cwd
    wanted = str(base / Path(name).expanduser()) if os.sep in name or name.startswith("~") else name
    found = shutil.which(wanted, path=env.get("PATH", os.defpath))
    if found is None:
        where = "" if os.sep in name else " on PATH"
        raise EnvironmentCaptureError(f"no interpreter {name}{where}", hint=_instead(name, env), interpreter=name)
    path = Path(os.path.abspath(base / found))  # noqa: PTH100 - resolve() would leave the virtual environment
    with path.open("rb") as file:
        is_script = file.read(2) == b"#!"
    return _unwrapped(path, env, base) if is_script else path


def recreate_environment(
    document: JsonValue, destination: Path, *, env: Mapping[str, str] | None = None
) -> RecreatedEnvironment:
    """Make a virtual environment with the recorded packages, from the indexes pip is configured for.

    Args:
        document: an environment document.
        destination: directory that does not exist.
        env: environment of pip and venv; this process's own when None.

    Raises:
        EnvironmentCaptureError: no interpreter of that minor version, or a package that no index has.
        DocumentError: something in the document is no package.
    """
    wanted = parse_environment(document)
    plain = _plain_packages(wanted)
    own_env = dict(os.environ) if env is None else dict(env)
    base = _interpreter_of(wanted, own_env)
    _require_done([str(base), "-m", "venv", str(destination)], own_env, "the environment cannot be made")
    python = destination / "bin" / "python"
    if plain:
        requirements = destination / "gitexp-requirements.txt"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in sorted(plain.items())))
        install = [str(python), "-m", "pip", "install", "--no-deps", "--no-input", "-r", str(requirements)]
        _require_done(install, own_env, "pip cannot install the recorded packages")
    surplus = [name for name in ("pip", "setuptools", "wheel") if name not in wanted.packages]
    if surplus:  # last: what venv brings along was not in the recorded environment
        _require_done([str(python), "-m", "pip", "uninstall", "-y", "-q", *surplus], own_env, "pip cannot be taken out")
    skipped = tuple(f"{name} {version}" for name, version in sorted(wanted.packages.items()) if name not in plain)
    return RecreatedEnvironment(python, skipped)


def _plain_packages(wanted: Environment) -> dict[str, str]:
    """Return the packages that an index can have; anything else in a requirements file would be an order to pip."""
    plain = {name: version for name, version in wanted.packages.items() if "(" not in version}
    for name, version in plain.items():
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            said = f"{name!r} {version!r} is no package"
            raise DocumentError(said, hint="nemo-gitexp reproduce EXP --env check", package=name)
    return plain


@dataclass(frozen=True, slots=True)
class _Probe:
    """One question to one interpreter: what it can import."""

    interpreter: Path
    flags: tuple[str, ...]
    env: Mapping[str, str]

    def ask(self) -> dict[str, JsonValue]:
        """Run the interpreter on the worker's own probe and return its document, import paths included."""
        argv = [str(self.interpreter), *self.flags, probe.__file__, "--paths"]
        try:
            done = processes.run(argv, env={**self.env, "PYTHONDONTWRITEBYTECODE": "1"})
        except (OSError, ValueError) as fault:
            raise self._unanswered(str(fault)) from fault
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            raise self._unanswered(done.said or f"exit code {done.returncode}")
        try:
            document = parse_json(lines[-1], f"the answer of {self.interpreter}")
        except DocumentError as fault:
            raise self._unanswered(fault.message) from fault
        if not isinstance(document, Mapping):
            raise self._unanswered("no document")
        return dict(document)

    def cached(self, cache_dir: Path) -> dict[str, JsonValue]:
        """Return the earlier answer if all it rests on is unchanged, else ask and keep the answer."""
        question = render_json_line([str(self.interpreter), *self.flags, self.env.get("PYTHONPATH", ""), _own_stamp()])
        place = cache_dir / "environments" / f"{hashlib.sha256(question).hexdigest()[:32]}.json"
        kept = _read_kept(place)
        if kept is not None and kept.get("rests_on") == self._rests_on(kept.get("document")):
            document = kept.get("document")
            if isinstance(document, Mapping):
                return dict(document)
        fresh = self.ask()
        rests_on = self._rests_on(fresh)
        if all(time.time_ns() - stamp > _RACY_NS for stamp in rests_on.values() if isinstance(stamp, int)):
            _keep(place, {"document": fresh, "rests_on": rests_on})
        return fresh

    def _rests_on(self, document: JsonValue) -> dict[str, JsonValue]:
        """Return the modification times (ns) of interpreter, configuration, import directories and .pth files."""
        listed = document.get("import_paths") if isinstance(document, Mapping) else None
        folders = [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []
        real = os.path.realpath(self.interpreter)
        files = [str(self.interpreter), real, str(self.interpreter.parent.parent / "pyvenv.cfg")]
        for folder in folders:
            with contextlib.suppress(OSError):
                files += [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pth")]  # noqa: PTH118, PTH208
        return {path: _mtime_ns(path) for path in (*files, *folders)}

    def _unanswered(self, said: str) -> EnvironmentCaptureError:
        line = " ".join(said.split())[:_SAID_AT_MOST]
        message = f"the interpreter {self.interpreter} cannot be asked for its packages: {line}"
        return EnvironmentCaptureError(
            message, hint=f"{self.interpreter} --version", interpreter=str(self.interpreter), stderr=said
        )


def _is_own(interpreter: Path | None, env: Mapping[str, str] | None) -> bool:
    """Whether a job of this interpreter would import what this process can import."""
    if env is not None and env.get("PYTHONPATH", "") != os.environ.get("PYTHONPATH", ""):
        return False
    if sys.flags.isolated or sys.flags.ignore_environment or sys.flags.no_site or sys.flags.no_user_site:
        return False
    if interpreter is None or str(interpreter) == sys.executable:
        return True
    same_place = interpreter.parent == Path(sys.executable).parent
    return same_place and os.path.realpath(interpreter) == os.path.realpath(sys.executable)


def _own_paths() -> list[str]:
    """Return the import path of a fresh process: without our own script's entry, and what setuptools adds of itself."""
    paths = list(sys.path) if sys.flags.safe_path else sys.path[1:]
    return [path for path in paths if not path.endswith(os.path.join("setuptools", "_vendor"))]  # noqa: PTH118


def _unwrapped(script: Path, env: Mapping[str, str], cwd: Path) -> Path:
    try:
        done = processes.run([str(script), "-c", "import sys; print(sys.executable)"], env=env, cwd=cwd)
    except (OSError, ValueError) as fault:
        raise EnvironmentCaptureError(f"{script} cannot be started: {fault}", interpreter=str(script)) from fault
    meant = done.stdout.decode("utf-8", "surrogateescape").strip().rpartition("\n")[2]
    if done.returncode != 0 or not Path(meant).is_file():
        said = " ".join((done.said or f"exit code {done.returncode}").split())[:_SAID_AT_MOST]
        raise EnvironmentCaptureError(f"{script} is no Python: {said}", interpreter=str(script), stderr=done.said)
    return Path(meant)


def _instead(name: str, env: Mapping[str, str]) -> str:
    other = "python3" if name == "python" else "python"
    found = shutil.which(other, path=env.get("PATH", os.defpath))
    return f"{other} is there: {found}" if found else "put an interpreter on PATH, or name it by its path"


def _interpreter_of(wanted: Environment, env: Mapping[str, str]) -> Path:
    minor = ".".join(wanted.version.split(".")[:2])
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    try:
        return find_interpreter(f"python{minor}", env)
    except EnvironmentCaptureError as fault:
        said = f"the recorded environment needs Python {minor}, which is not here"
        raise EnvironmentCaptureError(said, hint=f"install python{minor} and put it on PATH", version=minor) from fault


def _require_done(argv: Sequence[str], env: Mapping[str, str], failing: str) -> None:
    try:
        done = processes.run(argv, env=env)
    except OSError as fault:
        raise EnvironmentCaptureError(f"{failing}: {fault}", command=list(argv)) from fault
    if done.returncode != 0:
        said = (done.said or done.stdout.decode("utf-8", "replace")).strip()[-_SAID_AT_MOST:]
        hint = "set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to where these packages are" if "pip" in argv else ""
        raise EnvironmentCaptureError(f"{failing}: {said}", hint=hint, command=list(argv), stderr=said)


def _own_stamp() -> str:
    return str(_mtime_ns(probe.__file__))


def _mtime_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - some hundred of them
    except OSError:
        return None


def _read_kept(place: Path) -> Mapping[str, JsonValue] | None:
    try:
        kept = parse_json(place.read_bytes(), str(place))
    except (OSError, DocumentError):
        return None
    return kept if isinstance(kept, Mapping) else None


def _keep(place: Path, document: Mapping[str, JsonValue]) -> None:
    """Keep an answer; a directory that cannot be written costs speed only."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(render_json(document))
        Path(name).replace(place)
