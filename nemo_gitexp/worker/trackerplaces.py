"""Which files of W&B, MLflow and TensorBoard are this job's, by their names; the readers come only if there are any."""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Tuple

from .manifest import allowance, walk_files
from .stamped import tracker_of
from .trackerenv import RUN_TAG, run_id_of
from .trackerlinks import find_addresses
from .watch import CancelledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Optional

    from .shapes import Plan

MOST_LINKS = 50
MOST_SAID = 200


class Places(NamedTuple):
    """Event files, logs of W&B's runs, and directories of MLflow's runs."""

    event_files: List[str]
    wandb_logs: List[str]
    mlflow_runs: List[str]


class Job(NamedTuple):
    """A job as far as its trackers are concerned.

    `env` is the environment that it was started with, at `began` (seconds since the epoch). `is_known` says of a file
    of the workspace, relative to it, that it was there before the job and is as it was.
    """

    plan: Plan
    env: Mapping[str, str]
    began: float
    is_known: Callable[[str], bool]


def leave_tracked(job: Job, check: Callable[[], None]) -> Dict[str, object]:
    """Write what the trackers were told into the run directory; return `links`, `trackers`, `remarks` for result.json.

    Nothing of a tracker decides whether a job has completed. So whatever goes wrong here, in files that programs of
    others wrote and a job may have damaged, ends in a remark and one damaged record: never in an error.

    Args:
        job: which job.
        check: called every now and then; may raise CancelledError to end the reading.

    Raises:
        CancelledError: as `check` raised it.
    """
    try:
        return _left(job, check)
    except CancelledError:
        raise
    except Exception as fault:  # noqa: BLE001 - see above: readers of foreign files, fenced in this one place
        said = " ".join(str(fault).split())[:MOST_SAID]
        remark = f"left files of its trackers that could not be read ({type(fault).__name__}: {said})"
        return {"links": [], "trackers": {"rows": 0, "damaged": 1}, "remarks": [remark]}


def _left(job: Job, check: Callable[[], None]) -> Dict[str, object]:
    places = find_places(job)
    check()
    links: List[Dict[str, Any]] = []
    trackers: Optional[Dict[str, int]] = None
    remarks: List[str] = []
    if any(places):
        from .logged import leave_logged

        links, trackers, remarks = leave_logged(job.plan, places, check)
    links = find_addresses(job.plan["run_dir"], job.env, links)
    return {"links": links[:MOST_LINKS], "trackers": trackers, "remarks": remarks}


def find_places(job: Job) -> Places:
    """Return the files and runs that are this job's.

    Its own are its outputs, its part of the run directory and, unless other stages share that, the workspace: all that
    is new there. Of what it shares with others (WANDB_DIR, a store of MLflow's) only runs that bear its id. An
    experiment that is a part of a program has its outputs alone: what else there is may be any part's.
    """
    plan = job.plan
    found = Places([], [], [])
    nothing = allowance((), ())
    _gather(plan["outputs_dir"], nothing, found)
    if plan.get("tracked"):
        return found
    inputs = allowance((), [item["path"] for item in plan["inputs"]])
    private = [plan["outputs_dir"], os.path.join(plan["run_dir"], "wandb")]
    _gather(private[1], nothing, found)
    if not plan.get("stage"):
        private.append(plan["workspace"])
        _gather(plan["workspace"], lambda path: job.is_known(path) or inputs(path), found)
    heads = tuple(os.path.join(os.path.realpath(place), "") for place in private)
    found.wandb_logs.extend(path for path in _shared_logs(job) if not _is_below(path, heads))
    found.mlflow_runs.extend(path for path in _shared_runs(job) if not _is_below(path, heads))
    return found


def _shared_logs(job: Job) -> List[str]:
    """Return the logs in WANDB_DIR under the id that the job was given; where that is the user's, the new ones."""
    directory = os.path.join(job.plan["cwd"], job.env.get("WANDB_DIR") or ".", "wandb")
    if not os.path.isdir(directory):
        return []
    from .wandbfiles import ENDING, find_wandb_logs

    own, given = run_id_of(job.plan), job.env.get("WANDB_RUN_ID")
    found: Dict[str, List[str]] = {}
    for path in find_wandb_logs(directory):
        found.setdefault(os.path.basename(path)[len("run-") : -len(ENDING)], []).append(path)
    new = [path for path in found.get(given or "", []) if given != own and os.path.getmtime(path) >= job.began]
    return new + found.get(own or "", [])


def _shared_runs(job: Job) -> List[str]:
    """Return the runs in stores of MLflow's that bear the tag which the job was given."""
    own = run_id_of(job.plan)
    stores = [_store_path(job), os.path.join(job.plan["cwd"], "mlruns")]
    there = [store for store in stores if store and os.path.isdir(store)]
    if own is None or not there:
        return []
    from .mlflowfiles import find_tagged_runs

    return list(dict.fromkeys(run for store in there for run in find_tagged_runs(store, RUN_TAG, own)))


def _store_path(job: Job) -> Optional[str]:
    """Return the directory that MLFLOW_TRACKING_URI names; None where it names a server or a database."""
    uri = job.env.get("MLFLOW_TRACKING_URI", "")
    scheme, colon, _ = uri.partition(":")
    if not uri or (colon and scheme != "file"):
        return None
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(uri).path) if colon else uri
    return os.path.join(job.plan["cwd"], path) if path else None


def _is_below(path: str, heads: Tuple[str, ...]) -> bool:
    return os.path.realpath(path).startswith(heads)


def _gather(place: str, is_known: Callable[[str], bool], found: Places) -> None:
    for path, entry in walk_files(place):
        tracker = tracker_of(entry.name)
        if tracker is None or not entry.is_file(follow_symlinks=False) or is_known(path):
            continue
        full = os.path.join(place, path)
        if tracker == "tensorboard":
            found.event_files.append(full)
        elif tracker == "wandb":
            found.wandb_logs.append(full)
        elif _is_mlflow_run(os.path.dirname(full)) and "/.trash/" not in f"/{path}":
            found.mlflow_runs.append(os.path.dirname(full))


def _is_mlflow_run(directory: str) -> bool:
    from .mlflowfiles import is_mlflow_run

    return is_mlflow_run(directory)
