"""The names that trackers give their files: whose they are, and what two equal runs call the same thing. Pure."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional

EVENT_FILE = re.compile(r"events\.out\.tfevents\..+")
_STAMP = re.compile(
    r"[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_"  # torch: Nov30_21-55-00_host
    r"|\d{8}[-_T]?\d{4,}"  # 20301130-215500
    r"|\d{4}-\d\d-\d\d[-_T ]\d\d[-:_]?\d\d"
    r"|(?<!\d)\d{10}(?!\d)"  # seconds since the epoch: torch's add_hparams
)


def tracker_of(name: str) -> Optional[str]:
    """Return whose file this may be by its name, `tensorboard`, `wandb` or `mlflow`; None for any other."""
    if ".tfevents." in name:
        return "tensorboard"
    if name.endswith(".wandb") and name.startswith("run-"):
        return "wandb"
    return "mlflow" if name == "meta.yaml" else None


def is_stamped(name: str) -> bool:
    """Return whether one component of a path holds the time at which it was made, in a form that loggers use."""
    return bool(EVENT_FILE.fullmatch(name) or _STAMP.search(name))


def stable_names(paths: Iterable[str]) -> Dict[str, str]:
    """Return each path with its stamped components replaced by their number among their like in that directory.

    Times sort, so the first that was made is the first in every run.

    Args:
        paths: POSIX paths below one directory.
    """
    names = sorted(set(paths))
    numbers: Dict[str, Dict[str, int]] = {}
    for path in names:
        before = ""
        for name in path.split("/"):
            if is_stamped(name):
                known = numbers.setdefault(before + _kind(name), {})
                known.setdefault(name, len(known) + 1)
            before += name + "/"
    return {path: _renamed(path, numbers) for path in names}


def _renamed(path: str, numbers: Dict[str, Dict[str, int]]) -> str:
    before = ""
    parts: List[str] = []
    for name in path.split("/"):
        stamped = numbers.get(before + _kind(name), {}).get(name)
        parts.append(name if stamped is None else f"{_kind(name)}{stamped}")
        before += name + "/"
    return "/".join(parts)


def _kind(name: str) -> str:
    return "events" if EVENT_FILE.fullmatch(name) else "run"
