"""Reads MLflow's file stores: `mlruns/<experiment>/<run>/{meta.yaml, params, metrics, tags}`. Standard library only.

Source: `mlflow/store/tracking/file_store.py`; tried with what MLflow 3.17 writes.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from .pace import EVERY, nothing_to_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

META = "meta.yaml"
STATUSES = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
MOST_TEXT_BYTES = 1 << 20
MOST_METRIC_BYTES = 256 << 20
MOST_DIGITS = 20
_MOMENT = re.compile(r"[0-9]{1,17}")
_KEY = re.compile(r"(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1:(?: (.*)|)$")  # 'no', 'y' and their like stand in quotes
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPES = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b"}
_ESCAPES.update({"N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029"})


class MetricPoint(NamedTuple):
    """One logged value: when (milliseconds since the epoch), what (NaN and inf too), at which step."""

    timestamp_ms: int
    value: float
    step: int


class MlflowRun(NamedTuple):
    """One run of MLflow. Times are seconds since the epoch; `status` is RUNNING, FINISHED, FAILED, KILLED or "".

    `metrics` are the whole histories in the order they were logged. `experiment` is the name of its experiment.
    `damaged` counts lines and files that could not be read. `is_cut` says that there were more values than were wanted.
    """

    path: str
    run_id: str
    name: str
    experiment_id: str
    experiment: str
    status: str
    started: Optional[float]
    ended: Optional[float]
    artifact_uri: str
    is_deleted: bool
    params: Dict[str, str]
    tags: Dict[str, str]
    metrics: Dict[str, Tuple[MetricPoint, ...]]
    damaged: int
    is_cut: bool = False


def find_mlflow_runs(store: str) -> List[str]:
    """Return the directories of the runs of a file store, deleted ones (`.trash`) left out; links are not followed."""
    runs: List[str] = []
    for experiment in _directories(store):
        runs.extend(run for run in _directories(experiment) if is_mlflow_run(run))
    return runs


def find_tagged_runs(store: str, tag: str, value: str) -> List[str]:
    """Return the runs of a file store that bear a tag; of others, which may be thousands, one file is looked for."""
    runs = [run for experiment in _directories(store) for run in _directories(experiment)]
    return [run for run in runs if _read_text(os.path.join(run, "tags", tag)) == value and is_mlflow_run(run)]


def is_mlflow_run(directory: str) -> bool:
    """Return whether this is the directory of one run."""
    text = _read_text(os.path.join(directory, META))
    return text is not None and bool({"run_id", "run_uuid"} & set(parse_flat_yaml(text)))


def is_mlflow_meta(path: str) -> bool:
    """Return whether a meta.yaml is that of a run or an experiment of MLflow's."""
    return "experiment_id" in parse_flat_yaml(_read_text(path) or "")


def is_mlflow_store(directory: str) -> bool:
    """Return whether this is a file store: a directory with experiments, each with a meta.yaml of its own."""
    metas = [_read_text(os.path.join(experiment, META)) for experiment in _directories(directory)]
    return any("experiment_id" in meta and "run_id" not in meta for meta in map(parse_flat_yaml, filter(None, metas)))


def read_mlflow_run(
    directory: str, check: Callable[[], None] = nothing_to_check, most: Optional[int] = None
) -> MlflowRun:
    """Return all that the directory of one run says; what is missing in it is empty. `check`, `most`: of its metrics.

    Raises:
        OSError: it has no meta.yaml that can be read.
    """
    return with_histories(read_mlflow_head(directory), check, most)


def read_mlflow_head(directory: str) -> MlflowRun:
    """Return what the directory of one run says but for its metrics, which may be far larger than all else.

    Raises:
        OSError: it has no meta.yaml that can be read.
    """
    with open(os.path.join(directory, META), "rb") as file:
        meta = parse_flat_yaml(file.read(MOST_TEXT_BYTES).decode("utf-8", "replace"))
    above = parse_flat_yaml(_read_text(os.path.join(os.path.dirname(os.path.abspath(directory)), META)) or "")
    tags = _texts(os.path.join(directory, "tags"))
    return MlflowRun(
        path=directory,
        run_id=meta.get("run_id") or meta.get("run_uuid") or os.path.basename(directory),
        name=meta.get("run_name") or tags.get("mlflow.runName", ""),
        experiment_id=meta.get("experiment_id") or "",
        experiment=above.get("name") or "",
        status=STATUSES.get(meta.get("status") or "", meta.get("status") or ""),
        started=_seconds(meta.get("start_time")),
        ended=_seconds(meta.get("end_time")),
        artifact_uri=meta.get("artifact_uri") or "",
        is_deleted=meta.get("lifecycle_stage") == "deleted",
        params=_texts(os.path.join(directory, "params")),
        tags=tags,
        metrics={},
        damaged=0,
    )


def with_histories(
    run: MlflowRun, check: Callable[[], None] = nothing_to_check, most: Optional[int] = None
) -> MlflowRun:
    """Return a run of a file store with its metrics.

    Args:
        run: what its directory says but for them.
        check: called every now and then; what it raises ends the reading.
        most: how many values are wanted, the first of each by name. None: all.
    """
    metrics: Dict[str, Tuple[MetricPoint, ...]] = {}
    damaged, is_cut = 0, False
    for name, path in _files(os.path.join(run.path, "metrics")):
        left = None if most is None else most - sum(map(len, metrics.values()))
        points, bad, is_more = _read_points(path, check, left)
        damaged += bad
        is_cut = is_cut or is_more
        if points:
            metrics[name] = points
    return run._replace(metrics=metrics, damaged=damaged, is_cut=is_cut)


def mlflow_metric_rows(run: MlflowRun) -> Iterator[Dict[str, Any]]:
    """Yield the histories as rows of a metric stream, by step; measurements of the machine (`system/…`) are left out.

    MLflow knows no value without a step: what was logged without one stands at step 0.
    """
    rows: Dict[int, Dict[str, Any]] = {}
    for name in sorted(run.metrics):
        if not name.startswith("system/"):
            for point in run.metrics[name]:
                rows.setdefault(point.step, {"step": point.step})[name] = point.value
    for step in sorted(rows):
        yield rows[step]


def parse_flat_yaml(text: str) -> Dict[str, str]:
    """Return the `key: value` lines of a meta.yaml as PyYAML writes it, values as text, null as empty text.

    Quoted and folded values are read; lists and mappings, which MLflow writes empty only, stay text.
    """
    values: Dict[str, str] = {}
    key = ""
    lines: List[str] = []
    for line in [*re.split(r"\r?\n", text), "end_: x"]:
        match = _KEY.match(line)
        if not match:
            lines.append(line)
            continue
        if key:
            values[key] = _scalar(lines)
        key, lines = match.group(2), [match.group(3) or ""]
    return values


def _scalar(lines: List[str]) -> str:
    folded = _folded([line.strip(" \t") for line in lines])
    if len(folded) > 1 and folded[0] == folded[-1] == "'":
        return folded[1:-1].replace("''", "'")
    if len(folded) > 1 and folded[0] == folded[-1] == '"':
        return _ESCAPE.sub(_unescaped, folded[1:-1])
    return "" if folded in ("null", "~") else folded


def _folded(lines: List[str]) -> str:
    """Join the lines of one value: one break is a space, each blank line a break, none after a backslash."""
    while len(lines) > 1 and not lines[-1]:
        lines = lines[:-1]
    text = lines[0]
    blanks = 0
    for line in lines[1:]:
        if not line:
            blanks += 1
            continue
        if text.startswith('"') and text.endswith("\\") and not blanks:
            text = text[:-1] + line
        else:
            text += ("\n" * blanks or " ") + line
        blanks = 0
    return text


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) == 1:
        return _ESCAPES.get(code, code)
    number = int(code[1:], 16)
    return chr(number) if number < 0x110000 else "\ufffd"


def _read_points(
    path: str, check: Callable[[], None], most: Optional[int]
) -> Tuple[Tuple[MetricPoint, ...], int, bool]:
    """Return the values of one metric, how many lines are none, and whether there are more than `most`.

    A line is `timestamp value [step [dataset…]]`.

    A last line without its end may lack digits of its last word: it is a value only where more than a step follows.
    """
    points: List[MetricPoint] = []
    bad, left = 0, MOST_METRIC_BYTES
    try:
        with open(path, "rb") as file:
            while left and (most is None or len(points) < most):
                if len(points) % EVERY == 0:
                    check()
                line = file.readline(left)
                left -= len(line)
                words = line.split()
                if words:
                    point = _point(words) if line.endswith(b"\n") or len(words) > 3 else None
                    points += [point] if point else []
                    bad += point is None
                if not line:
                    break
            is_more = bool(file.read(1))
    except OSError:
        return (), 1, False
    is_cut = is_more and bool(left)
    return tuple(points), bad + (is_more and not is_cut), is_cut


def _point(words: List[bytes]) -> Optional[MetricPoint]:
    try:
        return MetricPoint(_whole(words[0]), float(words[1]), _whole(words[2]) if len(words) > 2 else 0)
    except (ValueError, IndexError):
        return None


def _whole(word: bytes) -> int:
    if len(word) > MOST_DIGITS:  # which takes time with the square of their number
        raise ValueError("no step and no time")
    return int(word)


def _texts(directory: str) -> Dict[str, str]:
    return {name: _read_text(path) or "" for name, path in _files(directory)}


def _files(directory: str) -> Iterator[Tuple[str, str]]:
    """Yield name and path of the regular files below a directory: a name with a slash lies in directories."""
    for inner, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(inner, name)
            if _is_regular(path):
                yield os.path.relpath(path, directory).replace(os.sep, "/"), path


def _directories(directory: str) -> List[str]:
    try:
        with os.scandir(directory) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".")]
            return sorted(entry.path for entry in inside if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _read_text(path: str) -> Optional[str]:
    if not _is_regular(path):
        return None
    try:
        with open(path, "rb") as file:
            return file.read(MOST_TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _seconds(milliseconds: Optional[str]) -> Optional[float]:
    """Return the moment that so many milliseconds name; None where they name none: `[0-9]`, at most 17 digits."""
    return int(milliseconds) / 1000 if milliseconds and _MOMENT.fullmatch(milliseconds) else None
