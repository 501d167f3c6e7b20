"""What the job told W&B, MLflow and TensorBoard: read from their files when it has ended, as one metric stream.

Rules, as docs/trackers.md tells users: of a name that several have W&B's values are taken, else MLflow's, else
TensorBoard's; clocks and measurements of the machine are left out; only runs that this job made are read.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Set, Tuple

from .documents import write_bytes
from .eventfiles import read_event_files
from .mlflowfiles import mlflow_metric_rows, read_mlflow_run
from .stamped import stable_names
from .trackerenv import RUN_TAG, run_id_of
from .wandbfiles import read_wandb_run, wandb_metric_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Optional

    from .shapes import Plan
    from .trackerplaces import Places

ROWS_FILE = "tracker-metrics.jsonl"
Row = Dict[str, Any]


class Source(NamedTuple):
    """One run or log directory: what it is called among its like, what it logged, how it is linked."""

    label: str
    rows: List[Row]
    link: Dict[str, Any]


def leave_logged(plan: Plan, places: Places, check: Callable[[], None]) -> Tuple[List[Dict[str, Any]], Dict[str, int]]:
    """Write what the trackers were told into the run directory; return links, and how many rows and damaged records.

    Args:
        plan: the launcher's plan.
        places: the files and runs that are this job's.
        check: called every now and then; what it raises ends the reading.

    Raises:
        OSError: the rows cannot be written.
    """
    own = run_id_of(plan)
    damaged = [0]
    wandb = list(_wandb_sources(places.wandb_logs, own, damaged))
    check()
    mlflow = list(_mlflow_sources(places.mlflow_runs, own, damaged))
    check()
    events = list(_event_sources(places.event_files, damaged))
    check()
    rows = list(joined_rows([wandb, mlflow, events]))
    if rows:
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        write_bytes(os.path.join(plan["run_dir"], ROWS_FILE), text.encode("utf-8", "surrogatepass"))
    links = [source.link for sources in (wandb, mlflow, events) for source in sources]
    return links, {"rows": len(rows), "damaged": damaged[0]}


def joined_rows(kinds: Iterable[List[Source]]) -> Iterator[Row]:
    """Yield the rows of all sources; the first kind that has a name has it alone.

    A name that several sources of one kind have gets the source's label in front.
    """
    taken: Set[str] = set()
    for sources in kinds:
        names = [{name for row in source.rows for name in row if name != "step"} for source in sources]
        shared = {name for each in names for name in each if sum(name in other for other in names) > 1}
        new: Set[str] = set()
        for source in sources:
            for row in source.rows:
                named = {(f"{source.label}/{name}" if name in shared else name): row[name] for name in row}
                kept = {name: value for name, value in named.items() if name != "step" and name not in taken}
                new.update(kept)
                if kept:
                    yield {"step": row["step"], **kept}
        taken |= new


def _wandb_sources(logs: List[str], own: Optional[str], damaged: List[int]) -> Iterator[Source]:
    """Yield the runs of W&B in the order of their directories, which hold the time; a resumed one is one run."""
    runs: Dict[str, List[Any]] = {}
    for log in sorted(logs, key=lambda path: re.sub(r"^offline-", "", os.path.basename(os.path.dirname(path)))):
        try:
            run = read_wandb_run(log)
        except OSError:
            damaged[0] += 1
            continue
        if own is None or not re.fullmatch(re.escape(own) + r"r\d+", run.run_id):  # of another process of this run
            damaged[0] += run.damaged
            runs.setdefault(run.run_id, []).append(run)
    for number, (run_id, parts) in enumerate(runs.items(), 1):
        rows = [row for run in parts for row in wandb_metric_rows(run)]
        last = parts[-1]
        link = {"tracker": "wandb", "run": run_id, "name": last.name, "project": last.project, "url": None}
        yield Source(f"run{number}", rows, {**link, "path": os.path.dirname(last.path)})


def _mlflow_sources(directories: List[str], own: Optional[str], damaged: List[int]) -> Iterator[Source]:
    runs = []
    for directory in directories:
        try:
            run = read_mlflow_run(directory)
        except OSError:
            damaged[0] += 1
            continue
        if not run.is_deleted and run.tags.get(RUN_TAG, own) == own:
            damaged[0] += run.damaged
            runs.append(run)
    runs.sort(key=lambda run: (run.started or 0, run.run_id))
    for number, run in enumerate(runs, 1):
        link = {"tracker": "mlflow", "run": run.run_id, "name": run.name, "project": run.experiment, "url": None}
        yield Source(f"run{number}", list(mlflow_metric_rows(run)), {**link, "path": run.path})


def _event_sources(files: List[str], damaged: List[int]) -> Iterator[Source]:
    """Yield the log directories of TensorBoard, named by where they lie below the one that holds them all."""
    directories: Dict[str, List[str]] = {}
    for path in files:
        directories.setdefault(os.path.dirname(path), []).append(path)
    read: List[Tuple[str, List[Row]]] = []
    for directory in sorted(directories):
        try:
            found = read_event_files(directories[directory])
        except OSError:
            damaged[0] += 1
            continue
        damaged[0] += found.damaged
        rows: Dict[int, Row] = {}
        for scalar in found.scalars:
            if scalar.tag != "step":
                rows.setdefault(scalar.step, {"step": scalar.step})[scalar.tag] = scalar.value
        read.append((directory, [rows[step] for step in sorted(rows)]))
    top = os.path.commonpath([directory for directory, _ in read]) if read else ""
    relative = {directory: os.path.relpath(directory, top) for directory, _ in read}
    labels = stable_names(relative.values())
    for directory, rows_of in read:
        link = {"tracker": "tensorboard", "run": None, "name": None, "project": None, "url": None, "path": directory}
        yield Source(labels[relative[directory]], rows_of, link)
