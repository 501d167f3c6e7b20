"""What stands for the files of trackers when outputs are compared: what was logged, without the times of logging.

An event file holds when each event was written and has time, host and process in its name; W&B's and MLflow's
directories hold such times and random ids. Equal runs never make equal bytes there, but they log equal things.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from .eventfiles import is_event_file
from .mlflowfiles import META, is_mlflow_meta, is_mlflow_run, mlflow_metric_rows, read_mlflow_run
from .pace import nothing_to_check, paced
from .stamped import directories_above, stable_names
from .wandbfiles import ENDING, read_wandb_run, wandb_metric_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Collection, Iterable, Mapping


_WANDBS_OWN = re.compile(r"debug[\w.-]*\.log|settings|wandb-resume\.json")


class TrackedFiles(NamedTuple):
    """How a directory with files of trackers is compared.

    `names` are what its files are called in every run, without those for which the digest of their run stands;
    `digests` are these, by the name of the run.
    """

    names: Dict[str, str]
    digests: Dict[str, str]


def tracked_files(
    root: str, files: Collection[str], check: Callable[[], None] = nothing_to_check
) -> Optional[TrackedFiles]:
    """Return how the files of trackers in a directory are compared; None where there are none.

    Args:
        root: the directory.
        files: the regular files below it, POSIX paths.
        check: called every now and then; what it raises ends the reading.

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
    for number, (_, path, digest) in enumerate(sorted(_wandb_digests(root, logs, check)), 1):
        digests[f"wandb/run{number}"] = digest
        passed_over.update(name for name in files if name.startswith(_above(path) + "/"))
    for number, (_, path, digest) in enumerate(sorted(_mlflow_digests(root, runs, check)), 1):
        name = f"mlflow/run{number}"
        digests[name] = digest
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


def _wandb_digests(root: str, logs: Iterable[str], check: Callable[[], None]) -> Iterator[Tuple[float, str, str]]:
    """Yield when each run began, its path and what it logged: in the order of the first they have their numbers."""
    for path in logs:
        run = read_wandb_run(os.path.join(root, path), check)
        yield run.started or 0, path, _digest(run.config, paced(wandb_metric_rows(run), check), run.damaged)


def _mlflow_digests(root: str, metas: Iterable[str], check: Callable[[], None]) -> Iterator[Tuple[float, str, str]]:
    for path in metas:
        run = read_mlflow_run(os.path.join(root, _above(path)), check)
        yield run.started or 0, path, _digest(run.params, paced(mlflow_metric_rows(run), check), run.damaged)


def _digest(config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], damaged: int) -> str:
    """Return the hash of `{"config": …, "damaged": …, "rows": […]}`, which is never in memory as a whole."""
    encode = json.JSONEncoder(sort_keys=True).encode
    digest = hashlib.sha256(_encoded(f'{{"config": {encode(config)}, "damaged": {damaged}, "rows": ['))
    for count, row in enumerate(rows):
        digest.update(_encoded((", " if count else "") + encode(row)))
    digest.update(b"]}")
    return digest.hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _base(path: str) -> str:
    return path.rpartition("/")[2]
