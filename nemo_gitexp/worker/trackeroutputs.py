"""What stands for the files of trackers when outputs are compared: what was logged, without the times of logging.

An event file holds when each event was written and has time, host and process in its name; W&B's and MLflow's
directories hold such times and random ids. Equal runs never make equal bytes there, but they log equal things.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional

from .eventfiles import is_event_file
from .mlflowfiles import META, is_mlflow_run, mlflow_metric_rows, read_mlflow_run
from .stamped import stable_names
from .wandbfiles import ENDING, read_wandb_run, wandb_metric_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Iterable, Mapping


class TrackedFiles(NamedTuple):
    """How a directory with files of trackers is compared.

    `names` are what the files are called in every run; `digests` what stands for the bytes of some, or for all of a
    run's directory, by name in every run; `passed_over` are files for which a digest of their run stands.
    """

    names: Dict[str, str]
    digests: Dict[str, str]
    passed_over: List[str]


def tracked_files(root: str, files: Collection[str]) -> Optional[TrackedFiles]:
    """Return how the files of trackers in a directory are compared; None where there are none.

    Args:
        root: the directory.
        files: the regular files below it, POSIX paths.

    Raises:
        OSError: one cannot be read.
    """
    logs = [path for path in files if _is_wandb_log(path)]
    runs = [path for path in files if _base(path) == META and is_mlflow_run(os.path.join(root, os.path.dirname(path)))]
    if not logs and not runs and not any(is_event_file(_base(path)) for path in files):
        return None
    digests: Dict[str, str] = {}
    heads: List[str] = []
    passed_over = [path for path in files if os.path.basename(os.path.dirname(path)) == "wandb"]
    for number, path in enumerate(_in_order(root, logs, _wandb_start), 1):
        run = read_wandb_run(os.path.join(root, path))
        digests[f"wandb/run{number}"] = _digest(run.config, wandb_metric_rows(run), run.damaged)
        heads.append(os.path.dirname(path) + "/")
    for number, path in enumerate(_in_order(root, runs, _mlflow_start), 1):
        found = read_mlflow_run(os.path.join(root, os.path.dirname(path)))
        digests[f"mlflow/run{number}"] = _digest(found.params, mlflow_metric_rows(found), found.damaged)
        heads.append(os.path.dirname(path) + "/")
        passed_over.append(os.path.join(os.path.dirname(os.path.dirname(path)), META).replace(os.sep, "/"))
        passed_over.append(os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(path))), "0", META))
    passed_over.extend(path for path in files if path.startswith(tuple(heads)) and "/artifacts/" not in path)
    kept = [path for path in files if path not in set(passed_over)]
    return TrackedFiles(stable_names(kept), digests, sorted(set(files) - set(kept)))


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


def _base(path: str) -> str:
    return path.rpartition("/")[2]
