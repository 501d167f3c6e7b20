"""Runs are followed as they go: live, from another process, detached, cancelled, and never made twice by mistake."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from pathlib import Path

import pytest
from builder import Work, wait_until
from gated import Gated, is_alive, make_gated
from residue import expect_nothing_left


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return make_gated(tmp_path)


class Terminal:
    """A command on a terminal of its own, as a person sees it."""

    def __init__(self, work: Work, *args: str) -> None:
        pid, self._descriptor = pty.fork()
        if pid == 0:
            words = work.command("-C", str(work.root), *args)
            os.execve(words[0], words, {**work.env, "TERM": "xterm", "COLUMNS": "80"})
        self.pid = pid
        self.text = ""

    def read_until(self, words: str, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < end, self.text
            if not self._read(0.2):
                assert words in self.text, self.text

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def wait(self) -> int:
        while self._read(30.0):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return True
        try:
            got = os.read(self._descriptor, 65536)
        except OSError:
            return False
        self.text += got.decode("utf-8", "replace")
        return bool(got)


def test_logs_and_a_progress_line_with_the_latest_metrics_are_live_on_a_terminal(gated: Gated) -> None:
    terminal = Terminal(gated.work, "run", "--", "python", "gated.py")
    terminal.read_until("at the gate")
    terminal.read_until("loss 0.25")
    assert "running " in terminal.text
    assert "step 1" in terminal.text
    gated.open()
    assert terminal.wait() == 0
    assert "through the gate" in terminal.text
    assert "completed" in terminal.text.rpartition("\x1b[K")[2]


def test_ctrl_c_cancels_the_job_and_records_it(gated: Gated) -> None:
    terminal = Terminal(gated.work, "run", "--", "python", "gated.py")
    terminal.read_until("at the gate")
    gated.wait_at_gate()
    job = gated.pid("child")
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    document = gated.status()
    assert document["status"] == "cancelled"
    assert document["metrics"] == {"loss": 0.25}
    assert not is_alive(job)
    expect_nothing_left(gated.work)


def test_an_interrupt_without_a_terminal_cancels_too(gated: Gated) -> None:
    process = gated.start("--json")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b'"cancelled"' in out
    assert gated.status()["status"] == "cancelled"


def test_a_second_interrupt_leaves_at_once_and_the_job_is_still_cancelled(tmp_path: Path) -> None:
    gated = make_gated(tmp_path)
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    gated.work.write("gated.py", stubborn + (gated.work.root / "gated.py").read_text())
    process = gated.start()
    process.send_signal(signal.SIGINT)
    wait_until((gated.run_dir / "cancel.json").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)
    assert process.returncode == 130
    gated.open()
    wait_until(lambda: gated.status()["status"] == "cancelled")


def test_an_interrupt_while_the_state_is_restored_records_cancelled(tmp_path: Path) -> None:
    gated = make_gated(tmp_path)
    gated.work.write("slow.txt", "x")
    gated.work.write(".gitattributes", "slow.txt filter=slow\n")
    gated.work.commit()
    gated.work.git("config", "filter.slow.smudge", f"touch '{tmp_path / 'restoring'}'; sleep 30")
    process = gated.work.start("run", "--json", "--", "python", "gated.py")
    wait_until((tmp_path / "restoring").exists)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert gated.status()["status"] == "cancelled"
    assert not (gated.gate / "ready").exists()
    expect_nothing_left(gated.work)


def test_status_logs_and_cancel_work_from_another_process(gated: Gated) -> None:
    work = gated.work
    answer = work.gitexp("run", "--json", "--detach", "--", "python", "gated.py").json
    assert answer["status"] in ("launched", "running")
    gated.wait_at_gate()
    (listed,) = work.gitexp("status", "--json").json["experiments"]
    assert (listed["status"], listed["experiment"]) == ("running", answer["experiment"])
    assert listed["jobs"]
    assert work.gitexp("logs", "latest").out == "at the gate\n"
    cancelled = work.gitexp("cancel", "--json", "latest").json
    assert cancelled["status"] == "cancelled"
    assert work.gitexp("status", "--json").json["experiments"] == []
    error = work.gitexp("cancel", "--json", "latest", code=3).json["error"]
    assert error["type"] == "AlreadyFinishedError"
    expect_nothing_left(work)


def test_status_of_one_run_that_has_ended_records_its_result_beside_others(gated: Gated) -> None:
    work = gated.work
    work.gitexp("run", "--", "python", "train.py")
    work.gitexp("run", "--detach", "--", "python", "gated.py")
    gated.wait_at_gate()
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    (listed,) = work.gitexp("status", "--json", "latest:gated").json["experiments"]
    assert (listed["status"], listed["study"]) == ("completed", "gated")


def test_the_command_that_waits_for_a_run_cancelled_elsewhere_exits_1(gated: Gated) -> None:
    process = gated.start("--json")
    gated.work.gitexp("cancel", "latest")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b'"cancelled"' in out


def test_logs_are_followed_to_the_end_and_say_by_exit_code_how_it_was(gated: Gated) -> None:
    gated.work.gitexp("run", "--detach", "--", "python", "gated.py")
    gated.wait_at_gate()
    follower = gated.work.start("logs", "latest", "-f")
    time.sleep(0.3)
    gated.open()
    out, _ = follower.communicate(timeout=60)
    assert (follower.returncode, out) == (0, b"at the gate\nthrough the gate\n")
    assert gated.status()["status"] == "completed"
    assert gated.work.gitexp("logs", "latest").out == "at the gate\nthrough the gate\n"


def test_a_follower_leaves_the_job_alone_when_interrupted(gated: Gated) -> None:
    gated.work.gitexp("run", "--detach", "--", "python", "gated.py")
    gated.wait_at_gate()
    follower = gated.work.start("logs", "latest", "-f")
    time.sleep(0.8)
    os.killpg(follower.pid, signal.SIGINT)
    follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert gated.status()["status"] == "running"
    gated.open()
    wait_until(lambda: gated.status()["status"] == "completed")


def test_a_recorded_experiment_is_launched_once(gated: Gated) -> None:
    work = gated.work
    recorded = work.gitexp("run", "--json", "--record-only", "--", "python", "gated.py").json
    assert recorded["status"] == "recorded"
    assert work.gitexp("logs", "--json", "latest", code=3).json["error"]["type"] == "UnknownExperimentError"
    both = [work.start("launch", "--json", "latest") for _ in range(2)]
    gated.wait_at_gate()
    gated.open()
    texts = [process.communicate(timeout=60)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 3], texts
    assert sum(b"AlreadyFinishedError" in text for text in texts) == 1
    assert work.gitexp("launch", "--json", "latest", code=3).json["error"]["type"] == "AlreadyFinishedError"
    assert len([path for path in gated.run_root.iterdir() if not path.name.startswith(".")]) == 1


def test_the_same_again_answers_with_the_finished_experiment(work: Work) -> None:
    first = work.gitexp("run", "--json", "--", "python", "train.py").json
    second = work.gitexp("run", "--json", "--", "python", "train.py").json
    assert (second["experiment"], second["duplicate_of"]) == (first["experiment"], first["experiment"])
    again = work.gitexp("run", "--json", "--again", "--", "python", "train.py").json
    assert again["experiment"] != first["experiment"]
    assert again["identity"] == first["identity"]
    work.write("train.py", (work.root / "train.py").read_text() + "# another\n")
    near = work.gitexp("run", "--", "python", "train.py")
    assert len([line for line in near.err.splitlines() if line.startswith("like ")]) == 1


def test_the_same_that_still_runs_is_answered_at_once_and_runs_once(gated: Gated) -> None:
    process = gated.start("--json")
    ongoing = gated.work.gitexp("run", "--json", "--", "python", "gated.py").json
    assert ongoing["status"] == "running"
    assert ongoing["duplicate_of"] == ongoing["experiment"] == gated.status()["experiment"]
    gated.open()
    process.communicate(timeout=60)


def test_on_a_terminal_the_same_that_still_runs_is_offered_to_be_followed(gated: Gated) -> None:
    gated.work.gitexp("run", "--detach", "--", "python", "gated.py")
    gated.wait_at_gate()
    terminal = Terminal(gated.work, "run", "--", "python", "gated.py")
    terminal.read_until("follow it?")
    terminal.type(b"y\n")
    terminal.read_until("at the gate")
    gated.open()
    assert terminal.wait() == 0
    assert "completed" in terminal.text
    assert len(gated.work.gitexp("log", "--json").json["experiments"]) == 1


def test_two_identical_runs_at_the_same_moment_make_one_experiment(gated: Gated) -> None:
    both = [gated.work.start("run", "--json", "--", "python", "gated.py") for _ in range(2)]
    gated.wait_at_gate()
    wait_until(lambda: any(process.poll() is not None for process in both))
    gated.open()
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len(gated.work.gitexp("log", "--json").json["experiments"]) == 1


def test_failed_and_cancelled_runs_do_not_stand_in_the_way(work: Work) -> None:
    work.write("fails.py", "raise SystemExit(4)\n")
    for _ in range(2):
        assert work.gitexp("run", "--json", "--", "python", "fails.py", code=1).json["duplicate_of"] is None
    assert len(work.gitexp("log", "--json").json["experiments"]) == 2


def test_four_runs_at_once_are_four_experiments(work: Work) -> None:
    processes = [work.start("run", "--json", "--again", "--", "python", "train.py") for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (out, err)
    documents = work.gitexp("log", "--json").json["experiments"]
    assert len({document["name"] for document in documents}) == 4
    assert {document["status"] for document in documents} == {"completed"}
    expect_nothing_left(work)


def test_keep_keeps_the_workspace_and_nothing_else_does(work: Work) -> None:
    work.gitexp("run", "--keep", "--", "python", "train.py")
    workspaces = work.root / ".git" / "gitexp" / "workspaces"
    (kept,) = workspaces.iterdir()
    assert (kept / "train.py").exists()
    work.gitexp("collect")
    assert kept.exists()


def test_plan_touches_nothing(work: Work) -> None:
    work.write("new.txt", "untracked")

    def everything() -> dict[str, int]:
        kept = (path for path in work.root.rglob("*") if path.is_file() and "objects" not in path.parts)
        return {str(path): path.stat().st_mtime_ns for path in kept}

    before, refs = everything(), work.refs("refs/")
    answer = work.gitexp("run", "--plan", "--json", "--", "python", "train.py", "--lr", "0.2").json
    assert answer["config"] == {"lr": 0.2}
    assert answer["code"]["untracked"] == ["new.txt"]
    assert work.refs("refs/") == refs
    changed = everything().items() ^ before.items()
    assert not [path for path, _ in changed if "/gitexp/" not in path]
