"""Which notebook this process runs, and whether what it runs is what the saved file holds.

A kernel does not know its notebook: what the servers tell it is asked first, then the files are searched for the cell
that runs at this moment.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from nemo_gitexp.errors import NotebookError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.worker.notebook import code_cells


class Shell(Protocol):
    """What is used of an IPython shell."""

    user_ns: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Running:
    """The cells that a kernel has run, the last one being the one that runs now, and where it was started."""

    cells: tuple[str, ...]
    directory: Path
    names: tuple[str, ...]

    @property
    def cell(self) -> str | None:
        """The cell that runs now, None where it is not kept."""
        return self.cells[-1] if self.cells else None


def find_shell() -> Shell | None:
    """Return the IPython shell that this process runs, None where there is none; imports nothing."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return cast("Shell | None", get()) if get is not None else None


def is_kernel(shell: Shell) -> bool:
    """Return whether the shell is a Jupyter kernel, not a terminal."""
    return hasattr(shell, "kernel")


def look_at_kernel(shell: Shell) -> Running:
    """Return what a kernel says about itself: cells run, directory, the notebook's name as servers give it."""
    history = getattr(getattr(shell, "history_manager", None), "input_hist_raw", ())
    started = shell.user_ns.get("_dh")
    directory = Path(str(started[0])) if isinstance(started, list) and started else Path.cwd()
    told = (shell.user_ns.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME"))
    names = tuple(str(name) for name in told if name)
    return Running(tuple(str(cell) for cell in history if str(cell).strip()), directory, names)


def find_notebook(repository: Repository, running: Running, given: str | None) -> Path:
    """Return the notebook file.

    Args:
        repository: where it is looked for.
        running: what the kernel says.
        given: what the user says.

    Raises:
        NotebookError: there is no such file, or none or several hold the running cell.
    """
    if given is not None:
        return _require_file(given, (Path.cwd(), running.directory, repository.root))
    for name in running.names:
        place = running.directory / name
        if place.suffix == ".ipynb" and place.is_file():
            return place
    holding = [path for path in _notebooks_of(repository) if running.cell is not None and _holds(path, running.cell)]
    if len(holding) == 1:
        return holding[0]
    names = [path.relative_to(repository.root).as_posix() for path in holding]
    said = f"{len(names)} notebooks hold the running cell" if names else "no saved notebook holds the running cell"
    hint = "save the notebook, or name it: notebook=" + repr(names[0] if names else "analysis.ipynb")
    raise NotebookError(said, hint=hint, candidates=names)


def notebook_remarks(place: Path, running: Running) -> list[str]:
    """Return what the recorded notebook does not tell about what ran, as text that goes on after "the job".

    Raises:
        NotebookError: the file is no notebook that can be read.
    """
    saved = [cell.strip() for cell in saved_cells(place) if cell.strip()]
    ran = [cell.strip() for cell in running.cells]
    if not ran:
        return []
    if ran[-1] not in saved:
        return [f"ran a cell that the saved {place.name} does not hold: a reproduction runs what was saved"]
    if ran != saved[: saved.index(ran[-1]) + 1]:
        return [f"ran cells of {place.name} in another order than they stand; a reproduction runs them from the top"]
    return []


def saved_cells(place: Path) -> list[str]:
    """Return the code cells of a notebook file.

    Raises:
        NotebookError: it cannot be read.
    """
    try:
        return code_cells(str(place))
    except (OSError, ValueError) as fault:
        raise NotebookError(
            f"{place} cannot be read as a notebook: {fault}", hint="save it", path=str(place)
        ) from fault


def _require_file(given: str, bases: Sequence[Path]) -> Path:
    found = [base / given for base in bases if (base / given).is_file()]
    if not found:
        raise NotebookError(f"there is no notebook {given}", hint=f"ls {shlex.quote(str(bases[0]))}", candidates=[])
    return found[0]


def _notebooks_of(repository: Repository) -> list[Path]:
    """Return the notebooks that git tracks or would track."""
    listing = repository.run("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.ipynb")
    names = {os.fsdecode(name) for name in listing.split(b"\0") if name}
    places = [repository.root / name for name in sorted(names) if ".ipynb_checkpoints/" not in name]
    return [place for place in places if place.is_file()]


def _holds(place: Path, cell: str) -> bool:
    try:
        return cell.strip() in [saved.strip() for saved in code_cells(str(place))]
    except (OSError, ValueError):
        return False  # one that is damaged is not the one that runs
