"""Where people see the runs of a job: addresses that it noted or printed, without anything secret in them."""

from __future__ import annotations

import os
import re

from .publicurl import public_url
from .wandbhook import noted_urls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Mapping, Optional

CHUNK_BYTES = 1 << 20
MOST_LOG_BYTES = 64 << 20
_ADDRESS = re.compile(rb"https?://[^\s\x00-\x20\x1b\x7f\"'<>()]{1,2000}/runs/[A-Za-z0-9_.-]{1,200}")
_SITE = re.compile(r"https?://[^/]")
_RUN = re.compile(r"/runs/([^/?#]+)$")


def find_addresses(run_dir: str, env: Mapping[str, str], links: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return the links with the addresses of their runs, then those of runs that left no file here.

    Args:
        run_dir: with the job's log and what it noted.
        env: the environment that the job was started with.
        links: of the runs whose files were found.
    """
    found = dict.fromkeys(filter(None, map(public_address, [*noted_urls(run_dir), *printed_urls(run_dir)])))
    server = public_address(env.get("MLFLOW_TRACKING_URI", ""))
    complete = list(links)
    for url in found:
        match = _RUN.search(url)
        run = match.group(1) if match else None
        known = [link for link in complete if run is not None and link["run"] == run]
        for link in known:
            link["url"] = link["url"] or url
        if not known:
            tracker = "mlflow" if "/#/experiments/" in url else "wandb"
            complete.append({"tracker": tracker, "run": run, "name": None, "project": None, "url": url, "path": None})
    if server and not any(link["tracker"] == "mlflow" for link in complete) and _has_loaded_mlflow(run_dir):
        link = {"tracker": "mlflow", "run": None, "name": env.get("MLFLOW_RUN_NAME"), "project": None}
        complete.append({**link, "url": server, "path": None})
    return complete


def printed_urls(run_dir: str) -> Iterator[str]:
    """Yield the addresses of runs that W&B and MLflow print, from the job's log: its first 64 MiB."""
    try:
        log = open(os.path.join(run_dir, "log.txt"), "rb")  # noqa: SIM115 - closed below
    except OSError:
        return
    with log:
        rest = b""
        for _ in range(MOST_LOG_BYTES // CHUNK_BYTES):
            chunk = log.read(CHUNK_BYTES)
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()[-CHUNK_BYTES:] if chunk else b""
            for line in lines:
                if b"wandb" in line or b"View run" in line:
                    for match in _ADDRESS.finditer(line):
                        yield match.group().decode("utf-8", "replace")
            if not chunk:
                return


def public_address(url: str) -> Optional[str]:
    """Return an http address without anything secret in it; None for anything else."""
    public = public_url(url)
    return public if _SITE.match(public) else None


def _has_loaded_mlflow(run_dir: str) -> bool:
    from .documents import read_document

    loaded = (read_document(os.path.join(run_dir, "job.json")) or {}).get("loaded_packages")
    return isinstance(loaded, dict) and any(name.startswith("mlflow") for name in loaded)
