"""What the job told W&B, MLflow and TensorBoard: read from their files when it has ended, as one metric stream.

Rules, as docs/trackers.md tells users: of a name that several have W&B's values are taken, else MLflow's, else
TensorBoard's; clocks and measurements of the machine are left out; only runs that this job made are read.
"""

from __future__ import annotations

import json
import os
import re
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from .documents import write_pieces
from .eventfiles import Scalar, read_event_files
from .mlflowfiles import mlflow_metric_rows, read_mlflow_run
from .pace import paced
from .stamped import stable_names
from .trackerenv import RUN_TAG, run_id_of
from .wandbfiles import read_wandb_run, wandb_metric_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import Plan
    from .trackerplaces import Places

ROWS_FILE = "tracker-metrics.jsonl"
MOST_VALUES = 1_000_000
"""Of one job: some seconds to read, some hundred megabytes of memory."""

Row = Dict[str, Any]


class Source(NamedTuple):
    """One run or log directory: what it is called among its like, what it logged, how it is linked.

    `rows` begins anew each time it is called; `names` are those in the rows, without `step`.
    """

    label: str
    names: Set[str]
    rows: Callable[[], Iterable[Row]]
    link: Dict[str, Any]


class Logged(NamedTuple):
    """Links to the runs, how many rows were written and records damaged, and what is to be said about them."""

    links: List[Dict[str, Any]]
    trackers: Dict[str, int]
    remarks: List[str]


def leave_logged(plan: Plan, places: Places, check: Callable[[], None], most: int = MOST_VALUES) -> Logged:
    """Write what the trackers were told into the run directory.

    Args:
        plan: the launcher's plan.
        places: the files and runs that are this job's.
        check: called every now and then; what it raises ends the reading.
        most: how many values are read; what there is besides is left out, and a remark says so.

    Raises:
        OSError: the rows cannot be written.
    """
    reading = _Reading(run_id_of(plan), check, most)
    kinds = [
        list(reading.wandb_sources(places.wandb_logs)),
        list(reading.mlflow_sources(places.mlflow_runs)),
        list(reading.event_sources(places.event_files)),
    ]
    count = _write_rows(os.path.join(plan["run_dir"], ROWS_FILE), paced(joined_rows(kinds), check))
    links = [source.link for sources in kinds for source in sources]
    said = f"logged more than {most:,} numbers into its trackers: its metrics hold the first, the trackers' files all"
    return Logged(links, {"rows": count, "damaged": reading.damaged}, [said] if reading.is_cut else [])


def _write_rows(path: str, rows: Iterator[Row]) -> int:
    """Write the rows, one JSON document a line; without rows, nothing. Return how many there are."""
    count = 0
    encode = json.JSONEncoder(sort_keys=True).encode

    def lines() -> Iterator[bytes]:
        nonlocal count
        for count, row in enumerate(chain([first], rows), 1):  # noqa: B007 - counted
            yield (encode(row) + "\n").encode("utf-8", "surrogatepass")

    first = next(rows, None)
    if first is not None:
        write_pieces(path, lines())
    return count


def joined_rows(kinds: Iterable[List[Source]]) -> Iterator[Row]:
    """Yield the rows of all sources; the first kind that has a name has it alone.

    A name that several sources of one kind have gets the source's label in front.
    """
    taken: Set[str] = set()
    for sources in kinds:
        shared: Set[str] = set()
        seen: Set[str] = set()
        for source in sources:
            shared |= seen & source.names
            seen |= source.names
        new: Set[str] = set()
        for source in sources:
            called = {name: f"{source.label}/{name}" if name in shared else name for name in source.names}
            called = {name: whole for name, whole in called.items() if whole not in taken}
            new.update(called.values())
            for row in source.rows():
                kept = {called[name]: value for name, value in row.items() if name in called}
                if kept:
                    yield {"step": row["step"], **kept}
        taken |= new


class _Reading:
    """The reading of one job's trackers: counts what is damaged, and stops where there are too many values.

    Args:
        own: the job's id in trackers.
        check: called every now and then.
        most: how many values are read.
    """

    def __init__(self, own: Optional[str], check: Callable[[], None], most: int) -> None:
        self._own = own
        self._check = check
        self._left = most
        self.damaged = 0
        self.is_cut = False

    def wandb_sources(self, logs: List[str]) -> Iterator[Source]:
        """Yield W&B's runs in the order of their directories, which hold the time; a resumed one is one run."""
        rows: Dict[str, List[Row]] = {}
        links: Dict[str, Dict[str, Any]] = {}
        for log in sorted(logs, key=lambda path: re.sub(r"^offline-", "", os.path.basename(os.path.dirname(path)))):
            try:
                run = read_wandb_run(log, self._check, self._left)
            except OSError:
                self.damaged += 1
                continue
            if self._own and re.fullmatch(re.escape(self._own) + r"r\d+", run.run_id):  # another process of this run
                continue
            self._note(run.damaged, sum(map(len, run.rows)), is_cut=run.is_cut)
            rows.setdefault(run.run_id, []).extend(paced(wandb_metric_rows(run), self._check))
            link = {"tracker": "wandb", "run": run.run_id, "name": run.name, "project": run.project, "url": None}
            links[run.run_id] = {**link, "path": os.path.dirname(run.path)}
        for number, (run_id, link) in enumerate(links.items(), 1):
            yield _listed(f"run{number}", rows[run_id], link)

    def mlflow_sources(self, directories: List[str]) -> Iterator[Source]:
        """Yield MLflow's runs in the order of their start."""
        found = []
        for directory in directories:
            try:
                run = read_mlflow_run(directory, self._check, self._left)
            except OSError:
                self.damaged += 1
                continue
            if not run.is_deleted and run.tags.get(RUN_TAG, self._own) == self._own:
                self._note(run.damaged, sum(map(len, run.metrics.values())), is_cut=run.is_cut)
                rows = list(mlflow_metric_rows(run))
                found.append((run.started or 0, run.run_id, run._replace(metrics={}), rows))
        for number, (_, run_id, run, rows) in enumerate(sorted(found, key=lambda item: item[:2]), 1):
            link = {"tracker": "mlflow", "run": run_id, "name": run.name, "project": run.experiment, "url": None}
            yield _listed(f"run{number}", rows, {**link, "path": run.path})

    def event_sources(self, files: List[str]) -> Iterator[Source]:
        """Yield the log directories of TensorBoard, named by where they lie below the one that holds them all."""
        directories: Dict[str, List[str]] = {}
        for path in files:
            directories.setdefault(os.path.dirname(path), []).append(path)
        read: List[Tuple[str, List[Scalar]]] = []
        for directory in sorted(directories):
            try:
                found = read_event_files(directories[directory], self._check, self._left)
            except OSError:
                self.damaged += 1
                continue
            self._note(found.damaged, len(found.scalars), is_cut=found.is_cut)
            by_step = sorted(found.scalars, key=attrgetter("step"))
            read.append((directory, [scalar for scalar in by_step if scalar.tag != "step"]))
        top = os.path.commonpath([directory for directory, _ in read]) if read else ""
        relative = {directory: os.path.relpath(directory, top) for directory, _ in read}
        labels = stable_names(relative.values())
        for directory, scalars in read:
            link = {"tracker": "tensorboard", "run": None, "name": None, "project": None, "url": None}
            names = {scalar.tag for scalar in scalars}
            yield Source(labels[relative[directory]], names, _rows_of(scalars), {**link, "path": directory})

    def _note(self, damaged: int, count: int, *, is_cut: bool) -> None:
        self.damaged += damaged
        self._left = max(0, self._left - count)
        self.is_cut = self.is_cut or is_cut


def _listed(label: str, rows: List[Row], link: Dict[str, Any]) -> Source:
    return Source(label, {name for row in rows for name in row if name != "step"}, lambda: rows, link)


def _rows_of(scalars: List[Scalar]) -> Callable[[], Iterator[Row]]:
    """Return what yields a row for each step, of scalars in the order of their steps: no row lives longer than that."""

    def rows() -> Iterator[Row]:
        for step, group in groupby(scalars, key=attrgetter("step")):
            yield {"step": step, **{scalar.tag: scalar.value for scalar in group}}

    return rows
