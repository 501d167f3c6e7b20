"""The names that trackers give their files: whose they are, and what two equal runs call the same thing. Pure."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Dict, Iterable, List, Optional

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_HOUR, _MINUTE = r"(?:[01]\d|2[0-3])", r"[0-5]\d"

# Real times alone: a step number that was taken for one (step_0000001000) would make different steps equal.
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.1[5-9]\d{8}\..+")
_SECONDS = r"1[5-9]\d{8}\.\d{1,9}"  # torch's add_hparams: str(time.time()), which always has a fraction
_MONTH_NAME = re.compile(rf"^(?:{'|'.join(_MONTHS)})(?={_DAY}_{_HOUR}-{_MINUTE}-{_MINUTE}_)")
_STAMP = re.compile(
    # torch: Nov30_21-55-00_host, and behind the host, which has no underscore, what the user added
    rf"{_MONTH_NAME.pattern}.{{11}}_[A-Za-z0-9.-]*"
    rf"|(?<!\d)20\d\d{_MONTH}{_DAY}[-_T]{_HOUR}{_MINUTE}{_MINUTE}(?!\d)"  # 20301130-215500: Keras, wandb
    rf"|(?<!\d)20\d\d-{_MONTH}-{_DAY}[-_T ]{_HOUR}[-:_]{_MINUTE}[-:_]{_MINUTE}(?!\d)"  # 2030-11-30_21-55-00: NeMo
    rf"|^{_SECONDS}$"
)
_MARK = "\0"
"""Stands for the time in what a name is besides: no name of a file holds it."""


def tracker_of(name: str) -> Optional[str]:
    """Return whose file this may be by its name, `tensorboard`, `wandb` or `mlflow`; None for any other."""
    if ".tfevents." in name:
        return "tensorboard"
    if name.endswith(".wandb") and name.startswith("run-"):
        return "wandb"
    return "mlflow" if name == "meta.yaml" else None


def stable_names(paths: Iterable[str], logs: Optional[Collection[str]] = None) -> Dict[str, str]:
    """Return each path with the times in its components replaced by their number among their like in that directory.

    All else in a name stays. Times sort, so the first that was made is the first in every run. No number makes a name
    that something else in the directory has.

    Args:
        paths: POSIX paths below one directory.
        logs: the directories that loggers made: of all components only these, and event files, are renamed. None: any.
    """
    names = sorted(set(paths), key=_in_time)
    new: Dict[str, str] = {}  # of each path of a component, what that component is called
    used = {above for path in names for above in [path, *directories_above(path)]}
    counts: Dict[str, int] = {}
    for path in names:
        before = ""
        for name in path.split("/"):
            whole = before + name
            kind = _kind(name)
            if whole not in new and _MARK in kind and (logs is None or whole in logs or _EVENT_FILE.fullmatch(name)):
                new[whole] = _numbered(before, kind, counts, used)
            before = whole + "/"
    return {path: _renamed(path, new) for path in names}


def directories_above(path: str) -> List[str]:
    """Return the directories that a POSIX path names, the longest last."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _numbered(before: str, kind: str, counts: Dict[str, int], used: Collection[str]) -> str:
    while True:
        number = counts[before + kind] = counts.get(before + kind, 0) + 1
        name = kind.replace(_MARK, str(number))
        if before + name not in used:
            return name


def _renamed(path: str, new: Dict[str, str]) -> str:
    wholes = [*directories_above(path), path]
    return "/".join(new.get(whole, whole.rpartition("/")[2]) for whole in wholes)


def _kind(name: str) -> str:
    """Return a name with a mark for each time in it; a name without one is its own kind."""
    return f"events{_MARK}" if _EVENT_FILE.fullmatch(name) else _STAMP.sub(f"run{_MARK}", name)


def _in_time(path: str) -> List[str]:
    """Return what sorts a path by the times in it; the names of months do not."""
    return [_MONTH_NAME.sub(lambda match: f"{_MONTHS.index(match.group()):02d}", name) for name in path.split("/")]
