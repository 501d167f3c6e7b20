"""What a scheduler ended without a word of the worker's becomes a result all the same, from the run directory alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builder import Work, make_work

ENDS = {
    "TIMEOUT": ("failed", "TimeLimitError", "time limit"),
    "OUT_OF_MEMORY": ("failed", "OutOfMemoryError", "failed"),
    "CANCELLED": ("cancelled", "CancelledError", "cancelled"),
    "PREEMPTED": ("cancelled", "CancelledError", "preempted"),
    "NODE_FAIL": ("lost", "LostRunError", "node failure"),
    "FAILED": ("failed", "ExitCodeError", "failed"),
    "COMPLETED": ("lost", "LostRunError", "unknown"),
}


def leave(work: Work, sha: str, state: str) -> Path:
    """Leave the directory of a run that went on once and that the scheduler then ended."""
    run = work.root / ".git/gitexp/runs" / f"{sha}.{'0' * 8}"
    (run / "outputs").mkdir(parents=True)
    jobs = {"": ["4"]}
    tunnel = {"host": "", "user": "", "port": None, "identity": None}
    start, end = {"segment": 1, "job": "4", "restart": 0, "host": "h", "offset": 0}, {"segment": 1, "reason": None}
    stream = [b'{"step": 0, "loss": 2.0}\n{"step": 1, "loss": 1.0}\n', b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo']
    segments = [
        {**start, "started": "2026-01-01T00:00:00.000000Z", "begun_s": 1.0},
        {**end, "ended": "2026-01-01T00:10:00.000000Z", "duration_s": 600.0},
        {**start, "segment": 2, "restart": 1, "offset": len(stream[0]), "started": "2026-01-01T01:00:00.000000Z"},
    ]
    files = {
        "launching.json": {"workspace": str(work.root / ".git/gitexp/workspaces" / run.name)},
        "plan.json": {"run_dir": str(run), "outputs": [], "scheduled": {"kind": "slurm"}},
        "submitted.json": {"schema": 1, "executor": "c", "kind": "slurm", "tunnel": tunnel, "jobs": jobs},
        "scheduler.json": {"job": "4", "state": state, "exit_code": 9 if state == "FAILED" else None, "at": "x"},
    }
    for name, document in files.items():
        (run / name).write_text(json.dumps(document))
    (run / "segments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in segments))
    (run / "metrics.jsonl").write_bytes(b"".join(stream))
    (run / "log.txt").write_text("at work\n")
    (run / "outputs" / "state.txt").write_text("step 1")
    return run


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Work, dict, Path]]:
    room = tmp_path_factory.mktemp("ended")
    work = make_work(room / "work", room / "home")
    found = {}
    for number, state in enumerate(ENDS):
        words = ("--record-only", "--", "python", "train.py", "--lr", str(number))
        sha = work.gitexp("--json", "run", *words).json["experiment"]
        found[state] = (sha, leave(work, sha, state))
    listed = work.gitexp("--json", "log", "--all").json["experiments"]
    by_sha = {document["experiment"]: document for document in listed}
    return {state: (work, by_sha[sha], run) for state, (sha, run) in found.items()}


@pytest.mark.parametrize("state", ENDS)
def test_the_schedulers_last_word_is_the_status_and_the_reason_of_the_last_segment(ended, state) -> None:
    work, document, _ = ended[state]
    status, kind, reason = ENDS[state]
    assert (document["status"], document["error"]["type"]) == (status, kind)
    assert document["error"]["exit_code"] == (9 if state == "FAILED" else None)
    assert document["error"]["log_tail"] == ["at work"]
    assert (document["metrics"], document["metric_stats"]["loss"]["n"]) == ({"loss": 0.5}, 2)
    record = f"{document['result']}:experiments/{document['study']}/record"
    run = json.loads(work.git("show", f"{record}/run.json"))
    segments = [(item["job"], item["first_step"], item["last_step"], item["reason"]) for item in run["segments"]]
    assert segments == [("4", 0, 1, "requeued"), ("4", 1, 1, reason)]
    assert (run["started"], run["jobs"]) == ("2026-01-01T00:00:00.000000Z", ["4"])
    assert [item["path"] for item in document["outputs"]] == ["state.txt"]


def test_a_late_result_replaces_that_of_a_node_that_was_only_out_of_reach(ended) -> None:
    work, document, run = ended["NODE_FAIL"]
    (run / "result.json").write_text(json.dumps({"schema": 1, "status": "completed", "exit_code": 0, "outputs": []}))
    assert work.gitexp("--json", "show", document["experiment"]).json["status"] == "completed"


def test_a_chain_is_for_clusters(ended) -> None:
    work = ended["TIMEOUT"][0]
    refused = work.gitexp("--json", "run", "--chain", "3", "--", "python", "train.py", "--lr", "99", code=2)
    assert refused.json["error"]["message"] == "a local run needs no chain"
    assert work.gitexp("--json", "launch", "--chain", "3", ended["COMPLETED"][1]["experiment"], code=2).json["error"]
