"""A run that a scheduler has may be interrupted and start again: one result in the end, whatever happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from run_directory import Run, require_python, script
from test_worker_control import is_alive, wait_for

from nemo_gitexp.collect import read_metric_rows
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.segmentlist import read_run_segments

TRAIN = """
import json, os, pathlib, signal, sys, time
out, control = pathlib.Path(os.environ["GITEXP_OUTPUTS"]), pathlib.Path(os.environ["CONTROL"])
stream = open(os.environ["GITEXP_METRICS"], "a")
state = out / "state"
begin = int(state.read_text()) if state.exists() else 0
signal.signal(signal.SIGUSR1, lambda *_: (control / "warned").write_text(str(os.getpid())))
for step in range(begin, 6):
    stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n"); stream.flush()
    if step % 2 == 0:
        state.write_text(str(step))
    hold = control / f"hold{step}"
    if hold.exists():
        hold.unlink()
        (control / "held").write_text("")
        while not (control / "go").exists():
            time.sleep(0.02)
(out / "model").write_text(str(step))
"""


def slurm(job: int = 7, restart: int | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a job; the first start has no restart count."""
    count = {} if restart is None else {"SLURM_RESTART_COUNT": str(restart)}
    return {**os.environ, "SLURM_JOB_ID": str(job), **count, **more}


class Scheduled:
    """A scheduled run whose worker is started again and again."""

    def __init__(self, run: Run, code: str = TRAIN, **plan: object) -> None:
        self.run = run
        run.put("train.py", code)
        run.put("lib.py", "")
        self.control = run.root / "control"
        self.control.mkdir()
        run.plan["env"] = {**run.plan["env"], "CONTROL": str(self.control)}
        run.prepare(script("train.py"), scheduled={"kind": "slurm"}, outputs=[{"path": "model", "keep": "dvc"}], **plan)
        (run.dir / "submitted.json").write_text("{}")
        self.paths = RunPaths(run.dir)

    def hold(self, step: int) -> None:
        (self.control / f"hold{step}").write_text("")

    def start(self, env: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.run.argv, cwd=self.run.root, env=env, stderr=subprocess.DEVNULL)

    def until_held(self, env: dict[str, str], step: int) -> subprocess.Popen[bytes]:
        """Start it and return when the job has come to a step, where it stays."""
        self.hold(step)
        process = self.start(env)
        wait_for((self.control / "held").exists)
        (self.control / "held").unlink()
        return process

    def finish(self, env: dict[str, str]) -> dict:
        assert self.start(env).wait(60) == 0
        return self.run.json("result.json")

    @property
    def segments(self) -> list[dict]:
        return [dict(item) for item in read_run_segments(self.paths, self.paths)]

    @property
    def steps(self) -> list[object]:
        result = self.run.json("result.json") if (self.run.dir / "result.json").exists() else {}
        rows, bad = read_metric_rows(self.paths, result)
        assert bad == 0
        return [row["step"] for row in rows]

    @property
    def status(self) -> str:
        return inspect_run(self.paths).status


@pytest.fixture
def job(run: Run) -> Scheduled:
    return Scheduled(run)


def test_a_signal_interrupts_and_the_next_start_goes_on_to_one_result(job: Scheduled) -> None:
    process = job.until_held(slurm(), 3)
    assert job.status == "running"
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not (job.run.dir / "result.json").exists()
    said = job.run.json("interrupted.1.json")
    assert (said["job"], said["restart"], said["signal"], said["last_step"]) == ("7", 0, signal.SIGTERM, 3)
    assert (said["job_signal"], said["reason"], job.status) == (signal.SIGTERM, None, "requeued")

    result = job.finish(slurm(restart=1))
    assert (result["status"], job.status, job.steps) == ("completed", "finished", [0, 1, 2, 3, 4, 5])
    ends = [
        (item["job"], item["restart"], item["first_step"], item["last_step"], item["reason"]) for item in job.segments
    ]
    assert ends == [("7", 0, 0, 3, "requeued"), ("7", 1, 2, 5, "completed")]
    assert (result["started"], result["duration_s"] > 0) == (job.segments[0]["started"], True)
    assert [output["path"] for output in result["outputs"]] == ["model"]
    assert (result["stray_files"], result["changed_files"]) == ([], [])

    before = {path: path.stat().st_mtime_ns for path in job.run.dir.rglob("*")}
    assert job.start(slurm(restart=2)).wait(20) == 0
    assert {path: path.stat().st_mtime_ns for path in job.run.dir.rglob("*")} == before


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_the_oldest_and_the_newest_python_go_on_too(run: Run, version: str) -> None:
    job = Scheduled(run, interpreter=require_python(version))
    process = job.until_held(slurm(), 3)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert (job.status, job.finish(slurm(restart=1))["status"]) == ("requeued", "completed")
    assert job.steps == [0, 1, 2, 3, 4, 5]
    (run.dir / "result.json").unlink()
    (run.dir / "scheduler.json").write_text(json.dumps({"state": "TIMEOUT"}))
    assert job.start(slurm(restart=2)).wait(20) == 3


def test_a_killed_worker_leaves_a_segment_without_an_end_and_its_job_does_not_live_on(job: Scheduled) -> None:
    process = job.until_held(slurm(), 3)
    orphan = job.run.json("child.json")["pid"]
    with (job.run.dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    process.kill()
    process.wait()
    assert (job.status, is_alive(orphan)) == ("running", True)
    job.finish(slurm(restart=1))
    wait_for(lambda: not is_alive(orphan))
    assert job.steps == [0, 1, 2, 3, 4, 5]
    assert [(item["ended"] is None, item["reason"]) for item in job.segments] == [
        (True, "requeued"),
        (False, "completed"),
    ]


def test_a_kill_before_the_job_or_at_its_first_line_loses_nothing(job: Scheduled) -> None:
    process = job.start(slurm())
    wait_for(lambda: len(job.segments) == 1)
    process.kill()
    process.wait()
    process = job.until_held(slurm(restart=1), 0)
    wait_for(lambda: len(job.segments) == 2)  # what is held may be the job of the first start, which was quicker
    process.kill()
    process.wait()
    job.finish(slurm(restart=2))
    assert job.steps == [0, 1, 2, 3, 4, 5]
    assert len(job.segments) == 3


def test_the_file_cancels_a_scheduled_run_also_beside_a_signal(job: Scheduled) -> None:
    process = job.until_held(slurm(), 1)
    (job.run.dir / "cancel.json").write_text("{}")
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert job.run.json("result.json")["error"] == {"type": "CancelledError", "message": "cancelled by request"}
    assert job.segments[0]["reason"] == "cancelled"
    assert not list(job.run.dir.glob("interrupted*"))


@pytest.mark.parametrize("path,refused", [("train.py", True), ("lib.py", False)])
def test_a_restart_refuses_a_changed_entry_point_and_lists_what_else_has_changed(job: Scheduled, path, refused) -> None:
    process = job.until_held(slurm(), 1)
    process.terminate()
    process.wait(20)
    with (job.run.workspace / path).open("a") as file:
        file.write("# changed\n")
    job.run.put("written.txt", "by the job")
    code = job.start(slurm(restart=1)).wait(60)
    result = job.run.json("result.json")
    if refused:
        assert (code, result["error"]["type"], result["error"]["paths"]) == (1, "WorkspaceMismatchError", ["train.py"])
    else:
        assert (code, result["changed_files"], result["stray_files"]) == (0, ["lib.py"], ["written.txt"])


def test_a_restart_refuses_a_changed_input(job: Scheduled) -> None:
    data = job.run.put("data.bin", b"as pinned")
    md5 = "0" * 32
    status = data.stat()
    item = {"path": "data.bin", "pin": md5, "size_bytes": 9, "kinds": ["copy"]}
    item["files"] = [["data.bin", md5, status.st_size, status.st_mtime_ns, status.st_ino]]
    job.run.prepare(inputs=[item])
    process = job.until_held(slurm(), 1)
    process.terminate()
    process.wait(20)
    data.write_bytes(b"something else")
    assert job.start(slurm(restart=1)).wait(60) == 1
    assert job.run.json("result.json")["error"]["type"] == "DataMismatchError"


def test_a_chain_goes_on_in_the_next_job_and_the_one_after_has_nothing_to_do(job: Scheduled) -> None:
    soon = slurm(11, SLURM_JOB_END_TIME=str(int(time.time()) - 1))
    process = job.until_held(soon, 3)
    process.terminate()
    process.wait(20)
    job.finish(slurm(12))
    assert job.start(slurm(13)).wait(20) == 0
    assert [(item["job"], item["reason"]) for item in job.segments] == [("11", "time limit"), ("12", "completed")]
    assert job.steps == [0, 1, 2, 3, 4, 5]


def test_a_warning_is_handed_on_and_the_job_goes_on(job: Scheduled) -> None:
    process = job.until_held(slurm(), 2)
    process.send_signal(signal.SIGUSR1)
    wait_for((job.control / "warned").exists)
    assert not list(job.run.dir.glob("interrupted*"))
    (job.control / "go").write_text("")
    assert process.wait(60) == 0
    assert job.run.json("result.json")["status"] == "completed"


@pytest.mark.parametrize("last,status", [("os.kill(os.getpid(), signal.SIGUSR1)", None), ("1 / 0", "failed")])
def test_a_job_that_a_warning_ends_is_interrupted_and_one_that_fails_has_failed(run: Run, last, status) -> None:
    code = (
        "import os, signal, time\n"
        "def leave(*_):\n    signal.signal(signal.SIGUSR1, signal.SIG_DFL)\n    " + last + "\n"
        "signal.signal(signal.SIGUSR1, leave)\n"
        "open(os.environ['CONTROL'] + '/held', 'w')\ntime.sleep(60)\n"
    )
    job = Scheduled(run, code)
    process = job.until_held(slurm(), 0)
    process.send_signal(signal.SIGUSR1)
    code = process.wait(20)
    if status is None:
        assert (code, job.status) == (128 + signal.SIGUSR1, "requeued")
    else:
        assert (code, run.json("result.json")["error"]["type"]) == (1, "ZeroDivisionError")


SAVER = """
import os, pathlib, signal, sys, time
control = pathlib.Path(os.environ["CONTROL"])
def leave(*_):
    with (control / "told").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
(control / "held").write_text("")
time.sleep(60)
"""


def test_a_job_that_slurm_signals_too_is_told_once_and_has_its_time(run: Run) -> None:
    job = Scheduled(run, SAVER)
    process = job.until_held(slurm(), 0)
    os.kill(run.json("child.json")["pid"], signal.SIGTERM)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert (job.control / "told").read_text() == "x"
    assert (run.json("interrupted.1.json")["job_exit_code"], job.status) == (0, "requeued")


def test_a_job_that_its_signal_kills_before_the_worker_hears_of_it_is_interrupted(job: Scheduled) -> None:
    process = job.until_held(slurm(), 1)
    os.kill(job.run.json("child.json")["pid"], signal.SIGTERM)
    time.sleep(0.02)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert job.status == "requeued"


def test_a_run_of_some_steps_counts_those_of_all_its_segments(job: Scheduled) -> None:
    job.run.prepare(stop_after_steps=5)
    process = job.until_held(slurm(), 3)
    process.terminate()
    process.wait(20)
    result = job.finish(slurm(restart=1))
    assert (result["status"], job.steps) == ("stopped", [0, 1, 2, 3, 4])


def test_what_was_over_does_not_start_again(job: Scheduled) -> None:
    (job.run.dir / "scheduler.json").write_text(json.dumps({"state": "TIMEOUT"}))
    assert job.start(slurm(restart=1)).wait(20) == 3
    assert not (job.run.dir / "started.json").exists()
    (job.run.dir / "scheduler.json").write_text(json.dumps({"state": "NODE_FAIL"}))
    assert job.finish(slurm(restart=1))["status"] == "completed"


def test_an_earlier_error_is_none_of_the_later_start(run: Run) -> None:
    code = "import os, time\nopen(os.environ['CONTROL'] + '/held', 'w')\n"
    job = Scheduled(run, code + "try:\n    time.sleep(60)\nfinally:\n    raise RuntimeError('cut off')\n")
    (run.dir / "error.json").write_text(json.dumps({"type": "RuntimeError", "message": "cut off"}))
    (run.dir / "segments.jsonl").write_text(json.dumps({"segment": 1, "started": "x", "job": "6", "restart": 0}) + "\n")
    process = job.until_held(slurm(), 0)
    os.kill(run.json("child.json")["pid"], signal.SIGKILL)
    assert process.wait(20) == 128 + signal.SIGKILL
    assert run.json("result.json")["error"]["type"] == "SignalError"


def test_a_start_that_was_given_up_leaves_the_result_to_the_later_one(job: Scheduled) -> None:
    process = job.until_held(slurm(), 1)
    (job.control / "hold1").unlink(missing_ok=True)
    later = {"segment": 2, "started": "x", "job": "7", "restart": 1}
    with (job.run.dir / "segments.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    os.kill(job.run.json("child.json")["pid"], signal.SIGKILL)
    assert process.wait(20) == 3
    assert not (job.run.dir / "result.json").exists()
