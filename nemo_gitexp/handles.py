"""What leads from an experiment of NeMo Run back to ours, in another process: one file beside NeMo Run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_gitexp.rundir import write_beside

FILE = "_GITEXP"


@dataclass(frozen=True, slots=True)
class Added:
    """What was added at once: a task, or a group of them.

    Args:
        name: what it was called.
        tasks: what NeMo Run calls each of its jobs, with the name in the record.
        dependencies: names of what it waits for.
        is_group: whether a list was added.
        tail_logs: whether its log is printed.
    """

    name: str
    tasks: tuple[tuple[str, str], ...]
    dependencies: tuple[str, ...] = ()
    is_group: bool = False
    tail_logs: bool = False


@dataclass(frozen=True, slots=True)
class Handle:
    """Which experiment it is: record commit, repository's root, where jobs run in it, and what was added, in order.

    `study`, `seed` and `purpose` are what its program said; None: nothing.
    """

    experiment: str
    root: str
    workdir: str
    added: tuple[Added, ...]
    study: str | None = None
    seed: int | None = None
    purpose: str | None = None


def write_handle(directory: Path, handle: Handle) -> None:
    """Write it into NeMo Run's directory of the experiment."""
    write_beside(directory / FILE, json.dumps(asdict(handle)).encode())


def find_handle(directory: Path) -> Handle | None:
    """Return it; None where NeMo Run's directory holds none, or a damaged one."""
    try:
        document = json.loads((directory / FILE).read_bytes())
        experiment, root, workdir = (str(document[key]) for key in ("experiment", "root", "workdir"))
        study, purpose = (_text_or_none(document.get(key)) for key in ("study", "purpose"))
        seed = None if document.get("seed") is None else int(document["seed"])
        return Handle(
            experiment, root, workdir, tuple(_added(item) for item in document["added"]), study, seed, purpose
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _added(item: Mapping[str, Any]) -> Added:
    tasks = tuple((str(job), str(task)) for job, task in item["tasks"])
    return Added(str(item["name"]), tasks, tuple(item["dependencies"]), bool(item["is_group"]), bool(item["tail_logs"]))
