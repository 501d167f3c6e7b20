"""Notices that a job hands its work to NeMo Run: the end of such a job is not the end of that work.

The note is written by whoever submits, in the process of the job or in that of `nemorun`, and read by the worker.
"""

from __future__ import annotations

import os
import sys

from .seeding import AfterImport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable

    from .shapes import ErrorReport

MODULE = "nemo_run.run.experiment"
NOTE_FILE = "submitted.txt"
MOST_NAMED = 5
ERROR = "SubmittedElsewhereError"
ADVICE = (
    "what records them: from nemo_gitexp import Experiment, or plugins=[nemo_gitexp.Plugin()], or nemorun … "
    "run.plugins=gitexp, or nemo-gitexp run FILE.py:RECIPE"
)


def watch_submissions(run_dir: str) -> None:
    """Note what this process submits through NeMo Run, should it import that."""
    sys.meta_path.insert(0, AfterImport({MODULE: lambda module: cover_submissions(module, run_dir)}))


def cover_submissions(module: ModuleType, run_dir: str) -> None:
    """Make NeMo Run's experiments note in the run directory that they were submitted; once for each process.

    Args:
        module: `nemo_run.run.experiment`.
        run_dir: of the job that this process is, or was started by.
    """
    kind = getattr(module, "Experiment", None)
    submit: Callable[..., object] | None = getattr(kind, "_run_dag", None)
    if kind is None or submit is None or hasattr(submit, "__wrapped__"):
        return

    def run_dag(experiment: object, *args: object, **kwargs: object) -> object:
        _note(run_dir, str(getattr(experiment, "_id", "an experiment")))
        return submit(experiment, *args, **kwargs)

    run_dag.__wrapped__ = submit  # type: ignore[attr-defined]
    kind._run_dag = run_dag  # noqa: SLF001 - what submits, and nothing else


def find_submissions(run_dir: str) -> list[str]:
    """Return the NeMo Run experiments that the job submitted, by their ids, in order."""
    try:
        with open(os.path.join(run_dir, NOTE_FILE), encoding="utf-8", errors="replace") as file:
            return list(dict.fromkeys(line.strip() for line in file if line.strip()))
    except OSError:
        return []


def describe_submissions(run_dir: str) -> ErrorReport | None:
    """Return why a job that ended well has not done its work itself; None when it has."""
    found = find_submissions(run_dir)
    if not found:
        return None
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    named = ", ".join(found[:MOST_NAMED]) + more
    return {"type": ERROR, "message": f"it submitted NeMo Run experiments, whose end is not its own: {named}; {ADVICE}"}


def _note(run_dir: str, name: str) -> None:
    try:
        with open(os.path.join(run_dir, NOTE_FILE), "a", encoding="utf-8") as file:
            file.write(name + "\n")
    except OSError as fault:
        sys.stderr.write(f"gitexp: cannot note that {name} was submitted: {fault}\n")
