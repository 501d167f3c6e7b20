"""Whatever is killed, and whenever: the next command works, nothing is half there, and what is said is true."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from builder import SCRIPT, Work, make_work, wait_until
from gated import Gated, is_alive, make_gated
from residue import expect_nothing_left

from nemo_gitexp.worker.machine import host_digest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return make_gated(tmp_path)


def fsck(work: Work) -> str:
    return "\n".join(line for line in work.git("fsck", "--strict").splitlines() if not line.startswith("dangling"))


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_a_kill_at_any_moment_leaves_whole_experiments_and_nothing_else(tmp_path: Path, half: int) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home")
    begun = time.monotonic()
    work.gitexp("run", "--", "python", "train.py")
    whole_s = (time.monotonic() - begun) * 1.1
    points = 13
    for number in range(points):
        work.write("train.py", f"{SCRIPT}# {number}\n")  # dirty: a code commit, too
        process = work.start("run", "--", "python", "train.py", "--lr", str(number + 1))
        time.sleep((number + half / 2) * whole_s / points)
        if half:
            os.killpg(process.pid, signal.SIGKILL)  # its git too
        else:
            process.kill()
        process.communicate()
        listed = work.gitexp("log", "--json", "-n", "1").json["experiments"]
        assert {item["status"] for item in listed} <= {"recorded", "launched", "running", "completed"}
    for lock in (work.root / ".git/refs").rglob("*.lock"):  # a killed git leaves them; they count as stale when old
        os.utime(lock, (0, 0))
    wait_until(lambda: _none_goes_on(work) and not work.refs("refs/gitexp-tmp/"))  # looking is what tidies up
    work.gitexp("collect")
    ended = work.gitexp("log", "--json", "--all").json["experiments"]
    assert {item["status"] for item in ended} <= {"recorded", "completed", "lost"}
    for item in ended:
        if item["status"] != "completed":
            assert work.gitexp("launch", "--json", item["experiment"]).json["status"] == "completed"
    work.gitexp("collect")
    expect_nothing_left(work)
    assert fsck(work) == ""
    assert work.git("status", "--porcelain") == "M train.py"


def test_an_old_lock_on_a_branch_of_ours_goes_and_the_branch_follows_its_experiment(work: Work) -> None:
    ran = work.gitexp("run", "--json", "--", "python", "train.py").json
    work.git("update-ref", f"refs/heads/{ran['branch']}", ran["experiment"])
    ours, theirs = (work.root / f".git/refs/heads/{name}.lock" for name in (ran["branch"], "main"))
    for lock in (ours, theirs):
        lock.touch()
        os.utime(lock, (0, 0))
    work.gitexp("collect")
    assert (ours.exists(), theirs.exists()) == (False, True)
    assert work.git("rev-parse", ran["branch"]) == ran["result"]


def _none_goes_on(work: Work) -> bool:
    work.gitexp("collect")
    return all(
        item["status"] not in ("launched", "running") for item in work.gitexp("status", "--json").json["experiments"]
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_job_outlives_the_command_and_the_next_look_records_its_result(gated: Gated, number: int) -> None:
    process = gated.start()
    process.send_signal(number)
    process.communicate()
    assert gated.status()["status"] == "running"
    gated.open()
    wait_until(lambda: gated.status()["status"] == "completed")
    assert gated.status()["metrics"] == {"loss": 0.25}
    expect_nothing_left(gated.work)


def test_the_job_outlives_the_supervisor(gated: Gated) -> None:
    process = gated.start("--json")
    gated.kill("supervisor")
    gated.open()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert gated.status()["status"] == "completed"
    gated.work.gitexp("collect")
    expect_nothing_left(gated.work)


@pytest.mark.parametrize("names", [("started",), ("supervisor", "started")])
def test_a_run_without_its_worker_is_lost_its_job_is_ended_and_it_can_be_launched_again(
    gated: Gated, names: tuple[str, ...]
) -> None:
    process = gated.start("--json")
    job = gated.pid("child")
    for name in names:
        gated.kill(name)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1, out
    lost = gated.status()
    assert (lost["status"], lost["error"]["type"]) == ("lost", "LostRunError")
    assert lost["error"]["log_tail"] == ["at the gate"]
    assert lost["metrics"] == {"loss": 0.25}
    wait_until(lambda: not is_alive(job))
    gated.work.gitexp("collect")
    expect_nothing_left(gated.work)
    gated.open()
    again = gated.work.gitexp("launch", "--json", lost["experiment"]).json
    assert (again["status"], again["experiment"]) == ("completed", lost["experiment"])
    expect_nothing_left(gated.work)


def test_a_late_result_replaces_lost_as_if_it_had_never_been(gated: Gated) -> None:
    process = gated.start()
    process.kill()
    process.communicate()
    started = gated.run_dir / "started.json"
    true = started.read_text()
    asleep = [gated.kill(name, signal.SIGSTOP) for name in ("supervisor", "started")]  # so that neither says a word
    started.write_text(true.replace(f'"pid": {asleep[-1]}', '"pid": 4194000'))  # as if it were gone
    lost = gated.status()
    assert lost["status"] == "lost"
    started.write_text(true)
    gated.open()
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: gated.status()["status"] != "lost")
    late = gated.status()
    assert late["result"] != lost["result"]
    parents = gated.work.git("rev-parse", f"{late['result']}^@").split()
    assert parents == [late["experiment"]]
    assert gated.work.git("rev-parse", f"refs/heads/{late['branch']}") == late["result"]


def test_a_worker_that_starts_after_its_run_was_given_up_runs_nothing(gated: Gated) -> None:
    process = gated.start()
    for name in ("supervisor", "started", "child"):
        gated.kill(name)
    process.communicate()
    run = gated.run_dir
    for name in ("started.json", "child.json", "log.txt"):
        (run / name).unlink()
    (run / "abandoned.json").write_text("{}")
    (gated.gate / "ready").unlink()
    plan = (run / "plan.json").as_posix()
    done = subprocess.run(
        ["python", str(run / "node" / "start.py"), plan], env=gated.work.env, capture_output=True, check=False
    )
    assert done.returncode == 3
    assert b"given up" in done.stderr
    assert not (gated.gate / "ready").exists()
    assert not (run / "result.json").exists()


def test_two_collectors_in_two_clones_make_the_same_commit(tmp_path: Path) -> None:
    gated = make_gated(tmp_path, NEMO_GITEXP_RUN_ROOT=str(tmp_path / "runs"))
    process = gated.start()
    process.kill()
    process.communicate()
    other = Work(tmp_path / "clone", {**gated.work.env, "GIT_AUTHOR_NAME": "Bob", "GIT_COMMITTER_NAME": "Bob"})
    gated.work.git("clone", "-q", str(gated.work.root), str(other.root), cwd=tmp_path)
    other.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    theirs = other.gitexp("log", "--json").json["experiments"][0]
    assert theirs["status"] == "completed"
    ours = gated.status()
    assert ours["result"] == theirs["result"]
    expect_nothing_left(gated.work)
    expect_nothing_left(other)


def test_lost_runs_too_become_the_same_commit_in_two_clones(tmp_path: Path) -> None:
    gated = make_gated(tmp_path, NEMO_GITEXP_RUN_ROOT=str(tmp_path / "runs"))
    process = gated.start()
    for name in ("supervisor", "started"):
        gated.kill(name)
    process.kill()
    process.communicate()
    other = Work(tmp_path / "clone", gated.work.env)
    gated.work.git("clone", "-q", str(gated.work.root), str(other.root), cwd=tmp_path)
    other.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    theirs = other.gitexp("log", "--json").json["experiments"][0]
    time.sleep(1.1)  # into the next second: nothing may depend on when somebody looks
    ours = gated.status()
    assert (ours["status"], ours["result"]) == ("lost", theirs["result"])


def test_collectors_at_once_in_one_clone_agree(gated: Gated) -> None:
    process = gated.start()
    process.kill()
    process.communicate()
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    looking = [gated.work.start("collect", "--json") for _ in range(4)]
    for look in looking:
        out, err = look.communicate(timeout=60)
        assert look.returncode == 0, (out, err)
    assert gated.status()["status"] == "completed"
    assert len(gated.work.git("rev-list", "main..refs/heads/" + gated.status()["branch"]).split()) == 2
    expect_nothing_left(gated.work)


def test_a_run_prepared_by_a_killed_command_is_recorded_and_its_workspace_goes(tmp_path: Path) -> None:
    # A smudge filter that never ends: the command is killed while git checks the workspace out.
    gate = tmp_path / "gate"
    work = make_work(
        tmp_path / "work", tmp_path / "home", files={"slow.txt": "x", ".gitattributes": "slow.txt filter=slow\n"}
    )
    work.git("config", "filter.slow.smudge", f"touch '{gate}'; sleep 30")
    process = work.start("run", "--", "python", "train.py")
    wait_until(gate.exists)
    assert work.gitexp("status", "--json").json["experiments"][0]["status"] == "launched"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    work.git("config", "filter.slow.smudge", "cat")
    assert work.gitexp("status", "--json").json["experiments"][0]["status"] == "recorded"
    expect_nothing_left(work)
    assert work.gitexp("launch", "--json", "latest").json["status"] == "completed"


def test_a_reproduction_that_nobody_waits_for_any_more_is_tidied_away(gated: Gated) -> None:
    process = gated.start()
    gated.open()
    process.communicate(timeout=60)
    gated.close()
    again = gated.work.start("reproduce", "latest")
    gated.wait_at_gate(again)
    again.kill()
    again.communicate()
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    gated.work.gitexp("collect")
    expect_nothing_left(gated.work)
    assert len(list(gated.run_root.iterdir())) == 1


def test_tidying_leaves_the_users_own_missing_worktree_noted(gated: Gated, tmp_path: Path) -> None:
    # On a drive that is not mounted just now: `git worktree prune` would forget it.
    gated.work.git("worktree", "add", "-q", str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "unmounted")
    process = gated.start()
    process.kill()
    process.communicate()
    gated.work.git("worktree", "unlock", str(next((gated.run_root.parent / "workspaces").iterdir())))
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    gated.work.gitexp("collect")
    assert str(tmp_path / "mine") in gated.work.git("worktree", "list")
    expect_nothing_left(gated.work)


def test_several_that_tidy_up_at_once_do_not_trip_over_each_other(work: Work) -> None:
    dead = f"{host_digest()}-999999999-{'0' * 12}"
    head = work.git("rev-parse", "HEAD")
    for number in range(40):
        work.git("update-ref", f"refs/gitexp-tmp/{dead}.{number:032x}", head)
    processes = [work.start("collect") for _ in range(4)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert not work.refs("refs/gitexp-tmp/")


def test_files_of_killed_processes_and_listings_that_nobody_needs_any_more_go(work: Work) -> None:
    dead = f"{host_digest()}-999999999-{'0' * 12}"
    state = work.root / ".git/gitexp"
    stale = [
        state / f"manifests/.{dead}.{'a' * 64}.jsonl",
        state / f"store/tmp/{dead}.x",
        state / "manifests/old.jsonl",
    ]
    needed = state / "manifests/new.jsonl"
    for path in (*stale, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]\n")
    half_a_year_ago = time.time() - 183 * 86400
    os.utime(stale[-1], (half_a_year_ago, half_a_year_ago))
    work.gitexp("collect")
    assert [path for path in (*stale, needed) if path.exists()] == [needed]
