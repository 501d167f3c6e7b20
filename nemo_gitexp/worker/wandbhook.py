"""In the job: notes where W&B shows its runs, and keeps a reproduction out of the original's."""

from __future__ import annotations

import os
import sys

from .seeding import AfterImport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable, Dict, List, Optional

NOTE_FILE = "wandb-urls.txt"


def watch_wandb(run_dir: str, own_id: Optional[str]) -> None:
    """Note the address of every run that this process starts in W&B, should it import that.

    Args:
        run_dir: where the note goes.
        own_id: of a reproduction, its id there: one that the code itself names is replaced. None: the code decides.
    """
    sys.meta_path.insert(0, AfterImport({"wandb": lambda module: cover_init(module, run_dir, own_id)}))


def cover_init(module: ModuleType, run_dir: str, own_id: Optional[str]) -> None:
    """Wrap `wandb.init`; see `watch_wandb`."""
    original: Optional[Callable[..., object]] = getattr(module, "init", None)
    if original is None:
        return  # a module of the user's own that is called wandb

    import functools

    @functools.wraps(original)
    def init(*args: object, **kwargs: object) -> object:
        if own_id is not None:
            kwargs = _with_own_id(kwargs, own_id)
        run = original(*args, **kwargs)
        _note(run_dir, run)
        return run

    module.init = init  # type: ignore[attr-defined]


def _with_own_id(kwargs: Dict[str, object], own_id: str) -> Dict[str, object]:
    kept = {name: value for name, value in kwargs.items() if name not in ("resume_from", "fork_from", "resume")}
    given = kwargs.get("id")
    if given is None:
        return kept
    import hashlib

    kept["id"] = own_id + hashlib.sha256(str(given).encode()).hexdigest()[:8]
    kept["resume"] = "allow"
    sys.stderr.write(f"gitexp: a reproduction has its own run in W&B, {kept['id']}, and leaves {given} alone\n")
    return kept


def _note(run_dir: str, run: object) -> None:
    try:
        url = getattr(run, "url", None)
        if isinstance(url, str) and url:
            with open(os.path.join(run_dir, NOTE_FILE), "a", encoding="utf-8") as file:
                file.write(url + "\n")
    except Exception as fault:  # noqa: BLE001 - any version of wandb; a link is not worth a job
        sys.stderr.write(f"gitexp: the address of the W&B run could not be noted: {fault!r}\n")


def noted_urls(run_dir: str) -> List[str]:
    """Return the addresses that the job noted."""
    try:
        with open(os.path.join(run_dir, NOTE_FILE), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip()]
    except OSError:
        return []
