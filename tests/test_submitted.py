"""An experiment of NeMo Run that a scheduler has: how it is followed. The scheduler is a program on PATH."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_scheduled import Queue, submitted

nemo_run = pytest.importorskip("nemo_run")

from nemo_gitexp.clusters import submit_workers  # noqa: E402
from nemo_gitexp.rundir import RunPaths  # noqa: E402
from nemo_gitexp.runs import read_state_file  # noqa: E402
from nemo_gitexp.submission import parse_submission  # noqa: E402
from nemo_gitexp.submitted import SubmittedExperiment  # noqa: E402


def test_the_names_of_jobs_are_written_down_before_there_are_any_and_nobody_else_reads_them(tmp_path):
    job = SimpleNamespace(
        id="t",
        executor=nemo_run.SlurmExecutor(account="ci", tunnel=nemo_run.LocalTunnel(job_dir="")),
        handle="slurm://x/4711",
    )
    run = RunPaths(tmp_path / f"{'a' * 40}.1a2b3c4d")
    run.root.mkdir()

    def launch():
        meant = parse_submission(read_state_file(run.submitting))
        assert meant.jobs == {"": (f"{job.executor.job_name_prefix}t",)}
        assert "1a2b3c4d" in job.executor.job_name_prefix
        assert run.submitting.stat().st_mode & 0o777 == 0o600

    submit_workers(run, {"": job}, {}, launch)
    assert not run.submitting.exists()
    assert run.submitted.stat().st_mode & 0o777 == 0o600


class Had:
    """What of an attempt matters once a scheduler has it."""

    def __init__(self, paths):
        self.paths = paths
        self.intent = SimpleNamespace(scheduler="slurm")


def test_one_question_is_asked_for_all_attempts_that_run(tmp_path, monkeypatch):
    queue = Queue(tmp_path / "bin", monkeypatch)
    queue.says("1|TIMEOUT|15|TimeLimit", "2|TIMEOUT|15|TimeLimit", "3|TIMEOUT|15|TimeLimit")
    experiment = object.__new__(SubmittedExperiment)
    experiment._begin(None)
    letters = {"a": "1", "b": "2", "c": "3"}
    experiment._attempts = [Had(submitted(tmp_path, letter, {"": (job,)})) for letter, job in letters.items()]
    experiment._running = list(experiment._attempts)
    experiment._follow()
    (asked,) = queue.asked()
    assert "--jobs=1,2,3 " in asked
    assert experiment._ended == experiment._attempts
