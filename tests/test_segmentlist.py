"""Why each segment of a run ended, from what lies in its directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.segmentlist import read_run_segments

STEP = "slurmstepd-n1: error: *** STEP 4.0 ON n1 CANCELLED AT 2026-01-01T00:00:00"
NODE = f"{STEP} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"


def run_of(root: Path, *lines: dict, metrics: bytes = b"") -> RunPaths:
    (root / "segments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "metrics.jsonl").write_bytes(metrics)
    return RunPaths(root)


def start(number: int, job: str = "4", restart: int = 0, offset: int = 0) -> dict:
    return {"segment": number, "job": job, "restart": restart, "host": "h", "started": "x", "offset": offset}


def reasons(paths: RunPaths) -> list[object]:
    return [segment["reason"] for segment in read_run_segments(paths, paths)]


@pytest.mark.parametrize(
    "said,reason",
    [
        (f"{STEP} DUE TO PREEMPTION ***", "preempted"),
        (f"{STEP} DUE TO TIME LIMIT ***", "time limit"),
        (NODE, "node failure"),
        (f"{STEP} DUE TO JOB REQUEUE ***", "requeued"),
        (f"{STEP} ***", "cancelled"),
        ("nothing of the kind", "requeued"),
    ],
)
def test_what_the_scheduler_wrote_into_a_starts_output_is_the_reason(tmp_path: Path, said: str, reason: str) -> None:
    place = tmp_path / "nemo" / "experiments"
    place.mkdir(parents=True)
    (place / "log-ci-ci.t_4_0.out").write_text(f"at work\n{said}\n")
    (place / "log-ci-ci.t_14_0.out").write_text(NODE)
    paths = run_of(tmp_path, start(1), start(2, restart=1), {"segment": 2, "ended": "y", "reason": "completed"})
    assert reasons(paths) == [reason, "completed"]


def test_a_chains_next_job_does_not_tell_why_the_one_before_ended(tmp_path: Path) -> None:
    paths = run_of(tmp_path, start(1), start(2, job="5"))
    assert reasons(paths) == ["unknown", "unknown"]
    paths.scheduler_word.write_text(json.dumps({"job": "6", "state": "CANCELLED"}))  # it never began
    assert reasons(paths) == ["unknown", "unknown"]
    paths.scheduler_word.write_text(json.dumps({"job": "5", "state": "TIMEOUT"}))
    assert reasons(paths) == ["unknown", "time limit"]


def test_steps_are_those_of_each_segments_own_lines(tmp_path: Path) -> None:
    first = b'{"step": 0, "a": 1}\n{"step": 1, "a": 1}\n'
    paths = run_of(tmp_path, start(1), start(2, offset=len(first)), metrics=first + b'{"step": 1, "a": 1}\n{"st')
    found = [(segment["first_step"], segment["last_step"]) for segment in read_run_segments(paths, paths)]
    assert found == [(0, 1), (1, 1)]


def test_a_local_run_has_none(tmp_path: Path) -> None:
    assert read_run_segments(RunPaths(tmp_path), RunPaths(tmp_path)) == []
