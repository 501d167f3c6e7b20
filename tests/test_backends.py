"""Jobs that only NeMo Run knows: the real one is asked, in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_gitexp.backends import ask_backend, cancel_in_backend
from nemo_gitexp.errors import SchedulerError
from nemo_gitexp.jsontext import parse_json
from nemo_gitexp.rundir import reserve_run
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.scheduled import look_at_runs
from nemo_gitexp.submission import Backend, Submission, Tunnel, parse_submission, render_submission
from nemo_gitexp.worker.machine import host_digest


def submission(home: Path, job: str = "no___such___job", scheduler: str = "lepton") -> Submission:
    backend = Backend(scheduler, str(home), host_digest(), {"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    return Submission("cloud", "lepton", Tunnel(), {"": (job,)}, backend)


def test_a_backend_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = submission(tmp_path)
    document = parse_json(render_submission(written), "submitted.json")
    assert isinstance(document, dict)
    assert parse_submission(document) == written


def test_one_process_answers_about_jobs_that_are_gone_unknown_and_unreachable(tmp_path: Path) -> None:
    gone, homeless = submission(tmp_path), submission(tmp_path / "none", "a___b___c")
    unknown = submission(tmp_path, "d", "docker_persistent")
    nameless = submission(tmp_path, "e", "no_such_scheduler")
    words, faults = ask_backend([gone, homeless, unknown, nameless])
    assert {job: (word.state, word.is_final) for job, word in words.items()} == {
        "no___such___job": ("FORGOTTEN", True),
        "d": ("UNKNOWN", False),
    }
    assert [fault.split(":")[0].strip("\"'") for fault in faults] == [
        "NeMo Run does not know how d stands",
        f"{tmp_path / 'none'} is gone, where NeMo Run lists its jobs",
        "Undefined scheduler backend",
    ]


def test_what_cannot_be_cancelled_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match=r"executor cloud: .* is gone"):
        cancel_in_backend(submission(tmp_path / "none"), ["j"], waiting_only=False)


def test_a_run_is_asked_about_once_in_a_while_and_never_again_after_the_last_word(tmp_path: Path) -> None:
    paths = reserve_run(tmp_path / "runs", tmp_path / "workspaces", "a" * 40)
    paths.submitted.write_bytes(render_submission(submission(tmp_path / "none")))
    warnings: list[str] = []
    look_at_runs([paths], warnings.append)
    look_at_runs([paths], warnings.append)
    assert len(warnings) == 1
    assert "is gone, where NeMo Run lists its jobs; its runs are shown as they were last known" in warnings[0]
    assert inspect_run(paths).status == "launched"
    paths.asked.unlink()
    (tmp_path / "none").mkdir()
    look_at_runs([paths], warnings.append)
    assert len(warnings) == 1
    assert inspect_run(paths).status == "dead"
    paths.asked.unlink()
    look_at_runs([paths], warnings.append)
    assert not paths.asked.exists()
