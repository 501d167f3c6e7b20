"""What would run this very process again: its command line, its notebook, or nothing that can be typed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_gitexp.catalog import Site
from nemo_gitexp.command import anchor_script
from nemo_gitexp.entry import (
    CommandEntry,
    Entry,
    InteractiveEntry,
    ModuleEntry,
    NotebookEntry,
    Python,
    ScriptEntry,
    parse_command,
)
from nemo_gitexp.errors import EnvironmentCaptureError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.interpreters import resolve_interpreter
from nemo_gitexp.notebooks import (
    Running,
    find_notebook,
    find_shell,
    is_kernel,
    look_at_kernel,
    notebook_remarks,
    saved_cells,
)
from nemo_gitexp.reproducibility import SET_LATER
from nemo_gitexp.session import is_child_process
from nemo_gitexp.thisrepository import main_file

_PROMPTS = ("IPython", "asyncio", "code", "debugpy", "idlelib", "pdb")
"""Modules that ask a person what to run."""

CLOCK_SLACK_S = 1.0
"""The kernel tells the time of its boot in whole seconds."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What runs again, from where (relative to the root), and what the record does not tell about what ran."""

    entry: Entry
    workdir: str
    remarks: tuple[str, ...]


def find_origin(site: Site, notebook: str | None) -> Origin:
    """Return what would run this process again.

    Args:
        site: the repository that it is recorded in.
        notebook: the file, where the user names it.

    Raises:
        NotebookError: which notebook runs cannot be told.
    """
    root = site.repository.root
    python = Python(_interpreter_name(site))
    shell = find_shell()
    changed = tuple(_changed_sources(root))
    if is_child_process():
        return Origin(InteractiveEntry("a child process of another program", python), ".", changed)
    if notebook is not None or (shell is not None and is_kernel(shell)):
        if shell is None:
            place, directory, remarks = _given_notebook(site, str(notebook))
        else:
            running = look_at_kernel(shell)
            place, directory = find_notebook(site.repository, running, notebook), running.directory
            remarks = tuple(notebook_remarks(place, running))
        return _anchored(site, NotebookEntry(str(place), python), directory, (*remarks, *changed))
    why = _unrepeatable(shell)
    if why is not None:
        return Origin(InteractiveEntry(why, python), ".", changed)
    entry, directory = _command(python)
    if isinstance(entry, CommandEntry):
        return Origin(InteractiveEntry("a program read from standard input", python), ".", changed)
    if isinstance(entry, ModuleEntry) and entry.module in _PROMPTS:
        return Origin(InteractiveEntry(f"a session of {entry.module}", python), ".", changed)
    found = _anchored(site, entry, directory, changed)
    return replace(found, entry=_torchrun(found.entry)) if "TORCHELASTIC_RUN_ID" in os.environ else found


def started_with() -> Mapping[str, str]:
    """Return the environment that this interpreter was started with; where the system does not tell, the present one.

    Never with what `set_seed` put there: that is too late for this interpreter.
    """
    try:
        rows = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        rows = []
    found = dict(os.fsdecode(row).partition("=")[::2] for row in rows if b"=" in row)
    if "PATH" in found or "HOME" in found:  # a program may have written its title over it
        return found
    return {name: value for name, value in os.environ.items() if name not in SET_LATER}


def _given_notebook(site: Site, notebook: str) -> tuple[Path, Path, tuple[str, ...]]:
    """Return a notebook that something else than a kernel runs (a converter, a test)."""
    place = find_notebook(site.repository, Running((), Path.cwd(), ()), notebook)
    saved_cells(place)
    return place, Path.cwd(), ()


def _unrepeatable(shell: object) -> str | None:
    """Return why no command line starts this process again, None when one does."""
    if shell is not None or hasattr(sys, "ps1") or sys.flags.interactive or sys.flags.inspect:
        return "an interactive session"
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        is_one_node = env.get("WORLD_SIZE") == env.get("LOCAL_WORLD_SIZE")
        return None if is_one_node else "a job of several nodes, started by hand"
    if any(env.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
        return "one of several processes that another program started"
    return None


def _command(python: Python) -> tuple[Entry, Path]:
    """Return the entry of the command line that started this process, scripts by absolute path, and where that was."""
    entry = parse_command(["python", *sys.orig_argv[1:]])
    if isinstance(entry, CommandEntry):
        return entry, Path.cwd()
    entry = replace(entry, python=replace(entry.python, interpreter=python.interpreter))
    if not isinstance(entry, ScriptEntry):
        return entry, Path.cwd()
    main = main_file()
    directory = Path.cwd()
    if entry.path.startswith("/"):
        return entry, directory
    # Python makes `__file__` absolute before the program can change its directory.
    if main is not None and str(main).endswith(f"/{entry.path}"):
        directory = Path(str(main).removesuffix(entry.path))
    return replace(entry, path=os.path.normpath(directory / entry.path)), directory


def _anchored(site: Site, entry: Entry, directory: Path, remarks: tuple[str, ...]) -> Origin:
    """Return the origin with its script or notebook relative to where it runs."""
    top, here = Path(os.path.realpath(site.repository.root)), Path(os.path.realpath(directory))
    workdir = here.relative_to(top).as_posix() if here.is_relative_to(top) else "."
    if workdir != "." and not _is_recorded(site.repository, workdir):
        workdir = "."
    path = entry.path if isinstance(entry, ScriptEntry) else ""
    if path and Path(path).is_relative_to(sys.prefix):
        return Origin(entry, workdir, remarks)  # a console script: part of the environment, not of the code
    return Origin(anchor_script(entry, site.repository.root, workdir), workdir, remarks)


def _is_recorded(repository: Repository, directory: str) -> bool:
    """Return whether a snapshot of the work tree has anything in that directory."""
    pathspec = f":(top,literal){directory}"
    return bool(repository.run("ls-files", "--cached", "--others", "--exclude-standard", "--", pathspec))


def _torchrun(entry: Entry) -> Entry:
    """Return the command that starts as many processes again as torchrun did."""
    words = ["torchrun", "--standalone", f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', '1')}"]
    if isinstance(entry, ModuleEntry):
        return CommandEntry((*words, "-m", entry.module, *entry.arguments))
    if isinstance(entry, ScriptEntry):
        return CommandEntry((*words, entry.path, *entry.arguments))
    return InteractiveEntry("a job that torchrun started without a script")


def _interpreter_name(site: Site) -> str:
    """Return `python` where that means this interpreter, else its path."""
    try:
        found = resolve_interpreter(site, ScriptEntry("-"), os.environ)
    except EnvironmentCaptureError:
        return sys.executable
    same = found is not None and (
        str(found) == sys.executable
        or (found.parent == Path(sys.executable).parent and os.path.realpath(found) == os.path.realpath(sys.executable))
    )
    return "python" if same else sys.executable


def _changed_sources(root: Path) -> list[str]:
    """Return a remark for each source file of the work tree that was written after this process started."""
    began = _process_start()
    if began is None:
        return []
    changed = _written_after(root, list(sys.modules), began + CLOCK_SLACK_S)
    return [
        f"may have run another {name} than the recorded one, which was written after it started" for name in changed
    ]


def imported_late(root: Path, known: Collection[str], recorded: float) -> list[str]:
    """Return a remark for each source file that was changed after the code was recorded, and imported after that.

    Args:
        root: the work tree.
        known: the modules that were imported when the code was recorded.
        recorded: when that was, seconds since the epoch.
    """
    changed = _written_after(root, [name for name in list(sys.modules) if name not in known], recorded)
    return [f"ran another {name} than the recorded one, which was changed before it was imported" for name in changed]


def _written_after(root: Path, modules: Iterable[str], moment: float) -> list[str]:
    """Return the source files of modules, relative to the work tree that holds them, that were written later."""
    top = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - text to be compared
    own = os.path.join(sys.prefix, "")  # noqa: PTH118
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    found = []
    for file in sorted(file for file in files if isinstance(file, str) and file.endswith(".py")):
        real = os.path.realpath(file)
        if not real.startswith(top) or real.startswith(own):
            continue
        with contextlib.suppress(OSError):
            if os.stat(real).st_mtime > moment:  # noqa: PTH116 - thousands of modules
                found.append(real.removeprefix(top))
    return found


def _process_start() -> float | None:
    """Return when this process started, seconds since the epoch; None where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        rows = Path("/proc/stat").read_text().splitlines()
        booted = next(int(row.split()[1]) for row in rows if row.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return min(booted + ticks / os.sysconf("SC_CLK_TCK"), time.time())
