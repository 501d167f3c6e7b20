"""Runs that a scheduler has: what its words do to run directories. The scheduler is a program on PATH."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import SchedulerError
from nemo_gitexp.jsontext import parse_json
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.runs import inspect_run, is_cut_short
from nemo_gitexp.scheduled import cancel_submitted, cancel_waiting, find_submission, look_at_runs, settle_submissions
from nemo_gitexp.shells import shell_of
from nemo_gitexp.submission import Submission, Tunnel, parse_submission, render_submission

HERE = Tunnel()


class Queue:
    """A directory on PATH whose squeue prints a table, and whose commands keep what they were asked."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        directory.mkdir()
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        self._program("squeue", f"cat {directory}/table 2>/dev/null || exit 1")
        self._program("scancel", "exit 0")
        self._program("sacct", "exit 1")

    def _program(self, name: str, body: str) -> None:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.directory}/asked\n{body}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def says(self, *rows: str) -> None:
        (self.directory / "table").write_text("".join(f"{row}|\n" for row in rows))

    def asked(self) -> list[str]:
        path = self.directory / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path / "bin", monkeypatch)


def submitted(
    tmp_path: Path, letter: str, jobs: dict[str, tuple[str, ...]], executor: str = "cluster", kind: str = "slurm"
) -> RunPaths:
    paths = reserve_run(tmp_path / "runs", tmp_path / "workspaces", letter * 40)
    paths.submitted.write_bytes(render_submission(Submission(executor, kind, HERE, jobs)))
    for part in jobs:
        if part:
            paths.stage(part).root.mkdir(parents=True)
    return paths


def word(paths: RunPaths) -> dict | None:
    return json.loads(paths.scheduler_word.read_bytes()) if paths.scheduler_word.exists() else None


def look(*runs: RunPaths) -> list[str]:
    warnings: list[str] = []
    look_at_runs(runs, warnings.append)
    return warnings


NAMES = st.text(min_size=1, max_size=8)


@given(
    NAMES,
    st.dictionaries(st.text(max_size=8), st.lists(NAMES, max_size=3).map(tuple), max_size=3),
    st.builds(Tunnel, NAMES, st.text(max_size=5), st.none() | st.integers(1, 65535), *[st.none() | NAMES] * 2),
)
def test_a_submission_is_read_as_it_was_written(
    executor: str, jobs: dict[str, tuple[str, ...]], tunnel: Tunnel
) -> None:
    submission = Submission(executor, "slurm", tunnel, jobs)
    document = parse_json(render_submission(submission), "submitted.json", limit_bytes=1 << 20)
    assert isinstance(document, dict)
    assert parse_submission(document) == submission


@pytest.mark.parametrize("document", [{}, {"jobs": {}}, {"tunnel": {}}, {"tunnel": 1, "jobs": []}])
def test_what_is_no_submission_is_none(document: dict) -> None:
    assert parse_submission(document) is None


def test_one_question_for_all_runs_of_a_cluster_and_none_for_finished_or_local_ones(
    tmp_path: Path, queue: Queue
) -> None:
    first, second = submitted(tmp_path, "a", {"": ("1",)}), submitted(tmp_path, "b", {"": ("2",)})
    done = submitted(tmp_path, "c", {"": ("3",)})
    done.result.write_text("{}")
    local = reserve_run(tmp_path / "runs", tmp_path / "workspaces", "d" * 40)
    queue.says("1|RUNNING|0|None", "2|PENDING|0|Resources")
    assert look(first, second, done, local) == []
    (asked,) = queue.asked()
    assert "--jobs=1,2 " in asked
    assert (word(first), word(second)) == (None, None)
    assert [inspect_run(paths).status for paths in (first, second, done)] == ["launched", "launched", "finished"]


def test_slurm_is_not_asked_about_what_another_kind_of_executor_runs(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"": ("gitexp-1",)}, kind="docker")
    queue.says()  # it would know no such job
    (warning,) = look(paths)
    assert "submitted without a word about where NeMo Run finds it" in warning
    with pytest.raises(SchedulerError, match="without a word"):
        cancel_submitted(paths, waiting_only=False)
    assert (queue.asked(), word(paths), inspect_run(paths).status) == ([], None, "launched")


def test_many_runs_are_taken_back_with_one_command(tmp_path: Path, queue: Queue) -> None:
    runs = [submitted(tmp_path, letter, {"": (job,)}) for letter, job in (("a", "1"), ("b", "2"))]
    cancel_waiting(runs, pytest.fail)
    assert queue.asked() == ["scancel --state=PENDING 1 2"]
    queue._program("scancel", "echo no controller >&2; exit 1")
    warnings: list[str] = []
    cancel_waiting(runs, warnings.append)
    assert warnings == ["scancel does not answer: no controller; jobs that wait are still in its queue"]


def test_what_a_tunnel_says_must_run_first_does_and_words_arrive_as_they_are(tmp_path: Path, queue: Queue) -> None:
    way = Tunnel("login", "me", 22, pre_command="module() { echo loaded; }; module load slurm")
    queue._program("ssh", 'for last; do :; done; exec sh -c "$last"')
    done = shell_of(way)(["printf", "%s|", "a b", "x; touch y"])
    assert done.stdout == b"loaded\na b|x; touch y|"


def test_the_last_word_on_a_run_without_a_result_is_kept_and_the_first_who_asks_writes_it(
    tmp_path: Path, queue: Queue
) -> None:
    paths = submitted(tmp_path, "a", {"": ("1",)})
    queue.says("1|TIMEOUT|15|TimeLimit")
    look(paths)
    kept = word(paths)
    assert kept is not None
    assert {**kept, "at": ""} == {
        "job": "1", "state": "TIMEOUT", "exit_code": None, "signal": 15, "reason": "TimeLimit", "at": "",
    }  # fmt: skip
    queue.says("1|COMPLETED|0|None")
    look(paths)
    assert word(paths) == kept
    assert inspect_run(paths).status == "dead"


def test_a_result_counts_whatever_the_scheduler_says(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"": ("1",)})
    paths.result.write_text('{"status": "failed"}')
    queue.says("1|FAILED|256|None")
    look(paths)
    assert word(paths) is None
    assert inspect_run(paths).status == "finished"


def test_a_chain_goes_on_until_its_last_job_has_ended(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"": ("1", "2")})
    queue.says("1|TIMEOUT|15|None", "2|PENDING|0|Dependency")
    look(paths)
    assert word(paths) is None
    queue.says("1|TIMEOUT|15|None", "2|NODE_FAIL|0|None")
    look(paths)
    kept = word(paths)
    assert kept is not None
    assert (kept["job"], kept["state"]) == ("2", "NODE_FAIL")


def test_a_scheduler_that_does_not_answer_is_named_and_nothing_is_concluded(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"": ("1",)})
    (warning,) = look(paths)
    assert warning.startswith("cluster: squeue does not answer")
    assert word(paths) is None
    assert inspect_run(paths).status == "launched"


def test_the_stages_of_a_pipeline_have_words_of_their_own(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"load": ("1",), "train": ("2",)})
    stages = [
        {"name": "load", "dependencies": [], "key": None},
        {"name": "train", "dependencies": ["load"], "key": None},
    ]
    paths.plan.write_text(json.dumps({"stages": stages}))
    queue.says("1|CANCELLED|15|None", "2|PENDING|0|Dependency")
    look(paths)
    assert word(paths.stage("load")) is not None
    assert word(paths.stage("train")) is None
    assert not paths.result.exists()


def test_cancelling_asks_for_waiting_jobs_first(tmp_path: Path, queue: Queue) -> None:
    paths = submitted(tmp_path, "a", {"": ("1", "2")})
    cancel_submitted(paths, waiting_only=True)
    cancel_submitted(paths, waiting_only=False)
    cancel_submitted(reserve_run(tmp_path / "runs", tmp_path / "workspaces", "b" * 40), waiting_only=False)
    assert queue.asked() == ["scancel --state=PENDING 1 2", "scancel 1 2"]


def test_without_the_commands_the_error_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = submitted(tmp_path, "a", {"": ("1",)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="scancel cannot be run"):
        cancel_submitted(paths, waiting_only=False)


def cut_short(tmp_path: Path, names: dict[str, tuple[str, ...]]) -> RunPaths:
    """Return a run whose submitter was killed between the submission of its jobs and `submitted.json`."""
    paths = reserve_run(tmp_path / "runs", tmp_path / "workspaces", "a" * 40)
    paths.launching.write_text("{}")
    paths.submitting.write_bytes(render_submission(Submission("cluster", "slurm", HERE, names)))
    for part in filter(None, names):
        paths.stage(part).root.mkdir(parents=True)
    return paths


def test_jobs_that_nobody_wrote_down_are_found_by_their_names_and_are_the_run(tmp_path: Path, queue: Queue) -> None:
    paths = cut_short(tmp_path, {"load": ("gitexp-1f-load",), "train": ("gitexp-1f-train", "gitexp-1f-train-2")})
    assert is_cut_short(paths)
    (queue.directory / "table").write_text("7|gitexp-1f-load\n9|gitexp-1f-train-2\n8|gitexp-1f-train\n5|other\n")
    assert settle_submissions([paths], pytest.fail) == set()
    submission = find_submission(paths)
    assert submission is not None
    assert submission.jobs == {"load": ("7",), "train": ("8", "9")}
    assert (inspect_run(paths).status, paths.submitting.exists(), is_cut_short(paths)) == ("launched", False, False)
    assert not any(line.startswith("scancel") for line in queue.asked())


@pytest.mark.parametrize("adopt", [True, False])
def test_of_a_run_that_will_never_be_whole_no_job_stays(tmp_path: Path, queue: Queue, adopt: bool) -> None:
    names = {"load": ("gitexp-1f-load",), "train": ("gitexp-1f-train",)}
    paths = cut_short(tmp_path, names)
    table = "7|gitexp-1f-load\n" if adopt else "7|gitexp-1f-load\n8|gitexp-1f-train\n"
    (queue.directory / "table").write_text(table)
    assert settle_submissions([paths], pytest.fail, adopt=adopt) == set()
    assert queue.asked()[-1] == ("scancel 7" if adopt else "scancel 7 8")
    assert (find_submission(paths), paths.abandoned.exists(), paths.stage("load").abandoned.exists()) == (
        None,
        True,
        True,
    )


def test_what_no_scheduler_ever_had_is_given_up_as_any_other(tmp_path: Path, queue: Queue) -> None:
    paths = cut_short(tmp_path, {"": ("gitexp-1f-train",)})
    queue.says()
    assert settle_submissions([paths], pytest.fail) == set()
    assert (len(queue.asked()), find_submission(paths), inspect_run(paths).status) == (1, None, "void")


def test_while_the_scheduler_does_not_answer_such_a_run_is_not_given_up(tmp_path: Path, queue: Queue) -> None:
    paths = cut_short(tmp_path, {"": ("gitexp-1f-train",)})
    warnings: list[str] = []
    assert settle_submissions([paths], warnings.append) == {paths.run}
    assert warnings[0].startswith("cluster: squeue does not answer")
    assert "gitexp-1f-train" in warnings[0]
    assert (is_cut_short(paths), paths.abandoned.exists()) == (True, False)
