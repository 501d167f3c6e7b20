"""What stands for the files of trackers when outputs are compared: what was logged, without the times of logging.

An event file holds when each event was written and has time, host and process in its name; W&B's and MLflow's
directories hold such times and random ids. Equal runs never make equal bytes there, but they log equal things.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

from .eventfiles import is_event_file
from .mlflowfiles import META, is_mlflow_meta, is_mlflow_run, mlflow_metric_rows, read_mlflow_run
from .stamped import directories_above, stable_names
from .wandbfiles import ENDING, read_wandb_run, wandb_metric_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Iterable, Mapping


_WANDBS_OWN = re.compile(r"debug[\w.-]*\.log|settings|wandb-resume\.json")


class TrackedFiles(NamedTuple):
    """How a directory with files of trackers is compared.

    `names` are what its files are called in every run, without those for which the digest of their run stands;
    `digests` are these, by the name of the run.
    """

    names: Dict[str, str]
    digests: Dict[str, str]


def tracked_files(root: str, files: Collection[str]) -> Optional[TrackedFiles]:
    """Return how the files of trackers in a directory are compared; None where there are none.

    Args:
        root: the directory.
        files: the regular files below it, POSIX paths.

    Raises:
        OSError: one cannot be read.
    """
    logs = [path for path in files if _is_wandb_log(path)]
    metas = [path for path in files if _base(path) == META]
    runs = [path for path in metas if is_mlflow_run(os.path.join(root, _above(path)))]
    if not logs and not runs and not any(is_event_file(_base(path)) for path in files):
        return None
    digests: Dict[str, str] = {}
    heads: Dict[str, str] = {}
    beside = {_above(_above(path)) for path in logs}  # links to logs, what `wandb` keeps about itself
    passed_over = {path for path in files if _WANDBS_OWN.fullmatch(_base(path)) and _above(path) in beside}
    for number, path in enumerate(_in_order(root, logs, _wandb_start), 1):
        run = read_wandb_run(os.path.join(root, path))
        digests[f"wandb/run{number}"] = _digest(run.config, wandb_metric_rows(run), run.damaged)
        passed_over.update(name for name in files if name.startswith(_above(path) + "/"))
    for number, path in enumerate(_in_order(root, runs, _mlflow_start), 1):
        found = read_mlflow_run(os.path.join(root, _above(path)))
        name = f"mlflow/run{number}"
        digests[name] = _digest(found.params, mlflow_metric_rows(found), found.damaged)
        heads[_above(path)] = name
    if runs:
        passed_over.update(path for path in metas if is_mlflow_meta(os.path.join(root, path)))
    names: Dict[str, str] = {}
    for path in set(files) - passed_over:
        head = next((head for head in heads if path.startswith(f"{head}/")), None)
        if head is None:
            names[path] = path
        elif path.startswith(f"{head}/artifacts/"):
            names[path] = heads[head] + path[len(head) :]
    events = [name for name in names.values() if is_event_file(_base(name))]
    stable = stable_names(names.values(), {above for name in events for above in directories_above(name)})
    return TrackedFiles({path: stable[name] for path, name in names.items()}, digests)


def _is_wandb_log(path: str) -> bool:
    return _base(path).startswith("run-") and path.endswith(ENDING) and "/" in path


def _in_order(root: str, paths: Iterable[str], start: Any) -> List[str]:
    return sorted(paths, key=lambda path: (start(os.path.join(root, path)), path))


def _wandb_start(path: str) -> float:
    return read_wandb_run(path).started or 0


def _mlflow_start(path: str) -> float:
    return read_mlflow_run(os.path.dirname(path)).started or 0


def _digest(config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], damaged: int) -> str:
    document = {"config": config, "rows": list(rows), "damaged": damaged}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _base(path: str) -> str:
    return path.rpartition("/")[2]
