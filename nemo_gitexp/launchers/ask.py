"""Asks NeMo Run what has become of jobs that only it can find, or has it cancel them; one import for any number.

Run as a module, in a process that never imports user code: a request on stdin, the answer on stdout. Nothing is
submitted here, so that closing NeMo Run's schedulers ends no job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_gitexp.launchers.nemo import move_home, without_torch

GONE = "GONE"
"""Our word for a job that does not exist any more."""

WAITING = ("UNSUBMITTED", "SUBMITTED", "PENDING")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", GONE)


def main() -> int:
    """Answer one request: `{"cancel": bool, "waiting_only": bool, "jobs": [{"home", "scheduler", "job"}, …]}`."""
    request = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else speaks here does so on stderr
    with without_torch():
        import nemo_run  # noqa: F401 - what follows needs all of it
    rows = list(_answers(request))
    with os.fdopen(answers, "w") as stream:
        json.dump(rows, stream)
    return 0


def _answers(request: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    from nemo_run.run.torchx_backend.runner import get_runner

    runner = get_runner()
    for asked in request["jobs"]:
        home = Path(asked["home"])
        if not home.is_dir():
            yield {"job": asked["job"], "fault": f"{home} is gone, where NeMo Run lists its jobs"}
            continue
        move_home(home)
        try:
            state = _state(runner, asked)
            if request["cancel"] and _is_wanted(state, waiting_only=request["waiting_only"]):
                runner.cancel(_handle(asked))
        except Exception as fault:  # noqa: BLE001 - whatever a backend raises is its answer, and others have their own
            yield {"job": asked["job"], "fault": " ".join(str(fault).split()) or type(fault).__name__}
        else:
            yield {"job": asked["job"], "state": state}


def _handle(asked: Mapping[str, str]) -> str:
    return f"{asked['scheduler']}://nemo_run/{asked['job']}"


def _is_wanted(state: str, *, waiting_only: bool) -> bool:
    """Whether a job is one of those to be cancelled: what has ended is left alone."""
    return state in WAITING or (not waiting_only and state not in ENDED)


def _state(runner: Any, asked: Mapping[str, str]) -> str:
    """Return NeMo Run's word for how a job stands, or GONE."""
    status = runner.status(_handle(asked))
    if status is None:
        return GONE
    state = str(status.state.name)
    if state == "UNKNOWN" and asked["scheduler"] == "docker_persistent":
        from nemo_run.core.execution.docker import DockerJobRequest

        # The daemon has answered: no such container; and it did not get as far as to leave its exit code.
        return GONE if DockerJobRequest.load(asked["job"]) else state
    return state


if __name__ == "__main__":
    sys.exit(main())
