"""What a run directory says about its run, from files and living processes alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_gitexp.rundir import RunPaths, reserve_run, write_beside
from nemo_gitexp.runs import (
    _mtimes,
    give_up,
    inspect_run,
    last_write,
    leave_cancelled,
    list_run_directories,
    read_state_file,
    request_cancel,
)
from nemo_gitexp.worker.machine import SILENCE_S, process_document, started_document

RECORD = "a" * 40


def dead_process() -> dict:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        return process_document(process.pid)


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return reserve_run(tmp_path / "runs", tmp_path / "workspaces", RECORD)


def say(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document))


def living() -> dict:
    return started_document("2026-01-01T00:00:00Z")


def test_a_reserved_run_is_launched_while_its_maker_lives_and_void_afterwards(run: RunPaths) -> None:
    assert inspect_run(run).status == "launched"
    say(run.launching, dead_process())
    assert inspect_run(run).status == "void"


def test_a_supervisor_then_a_worker_then_a_result_decide(run: RunPaths) -> None:
    say(run.launching, dead_process())
    say(run.supervisor, living())
    assert inspect_run(run).status == "launched"
    say(run.supervisor, dead_process())
    assert inspect_run(run).status == "dead"
    say(run.started, living())
    assert (inspect_run(run).status, inspect_run(run).started) == ("running", "2026-01-01T00:00:00Z")
    say(run.started, dead_process())
    assert inspect_run(run).status == "dead"
    say(run.result, {"status": "completed"})
    assert inspect_run(run).status == "finished"


def test_a_result_that_names_more_than_a_hundred_thousand_files_is_read(run: RunPaths) -> None:
    files = [[f"images/class-{number % 1000:04d}/{number:08d}.jpeg", "0" * 32, number] for number in range(120_000)]
    say(run.result, {"status": "completed", "outputs": [{"path": "images", "files": files}]})
    assert run.result.stat().st_size > 8 * 1024 * 1024
    assert read_state_file(run.result)["status"] == "completed"


def test_a_worker_in_a_copy_of_its_run_is_asked_by_file_alone(run: RunPaths) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        say(run.started, process_document(worker.pid))
        say(run.relocated, {})
        request_cancel(run, "2026-01-01T00:00:00Z")
        assert run.cancel.exists()
        worker.communicate(b"\n")
    assert worker.returncode == 0
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        say(run.started, process_document(worker.pid))
        run.relocated.unlink()
        request_cancel(run, "2026-01-01T00:00:00Z")
        assert worker.wait(60) == -signal.SIGTERM


def test_a_refusal_of_the_launcher_is_the_reason(run: RunPaths) -> None:
    say(run.supervisor, living())
    say(run.refused, {"message": "no NeMo Run"})
    assert (inspect_run(run).status, inspect_run(run).reason) == ("dead", "no NeMo Run")


def test_a_worker_on_another_host_is_believed_as_long_as_it_touches_its_file(run: RunPaths) -> None:
    say(run.started, {**living(), "host": "elsewhere"})
    assert inspect_run(run).status == "running"
    old = time.time() - SILENCE_S - 60
    os.utime(run.started, (old, old))
    assert inspect_run(run).status == "dead"


def test_a_run_that_goes_on_is_not_given_up(run: RunPaths) -> None:
    say(run.started, living())
    assert not give_up(run)
    assert not run.abandoned.exists()


def test_giving_up_is_said_before_it_is_decided(run: RunPaths) -> None:
    say(run.launching, dead_process())
    assert give_up(run)
    assert run.abandoned.exists()


def test_what_observers_write_does_not_date_a_run(run: RunPaths) -> None:
    for path in run.root.iterdir():
        os.utime(path, (1000, 1000))
    before = last_write(run)
    for name in ("cancel.json", "abandoned.json", ".cancel.json.17"):
        (run.root / name).write_text("{}")
    assert last_write(run) == before == 1000
    run.outputs.mkdir()
    (run.outputs / ".hidden").write_text("made by the job")
    assert last_write(run) > before


def test_a_file_that_goes_while_somebody_looks_is_no_error(run: RunPaths) -> None:
    names = [run.root / name for name in ("one", "other")]
    for path in names:
        path.write_text("")
    seen = _mtimes(run.root)
    next(seen)  # the directory is listed by now
    for path in names:
        path.unlink()
    assert len(list(seen)) < 3


def test_only_whole_run_directories_are_listed_in_the_order_they_were_made(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert list_run_directories(root) == []
    first, second = (reserve_run(root, tmp_path, sha) for sha in (RECORD, "b" * 40))
    os.utime(second.launching, (1, 1))
    (root / ".half").mkdir()
    (root / "foreign").mkdir()
    (root / "a-file").write_text("")
    assert list_run_directories(root) == [second, first]
    assert list_run_directories(root, RECORD) == [first]


def test_a_run_cancelled_before_any_launcher_had_it_is_finished(run: RunPaths) -> None:
    leave_cancelled(run)
    assert inspect_run(run).status == "finished"
    assert json.loads(run.result.read_text())["status"] == "cancelled"


def test_damaged_files_say_nothing_and_stop_nobody(run: RunPaths) -> None:
    run.supervisor.write_bytes(b"\xff{")
    run.started.write_text('["not", "a", "mapping"]')
    assert inspect_run(run).status == "launched"


def test_a_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(IsADirectoryError):
        write_beside(taken, b"x")
    assert list(tmp_path.iterdir()) == [taken]
