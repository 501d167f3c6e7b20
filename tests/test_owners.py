"""Who owns something, and whether its owner still lives."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_gitexp.owners import STRANGER_DAYS, is_left_behind, owner_token, taking_turns
from nemo_gitexp.worker.machine import process_document, process_lives

SAY_TOKEN = "from nemo_gitexp.owners import owner_token; print(owner_token(), flush=True); input()"


def test_what_a_living_process_owns_is_not_left_behind_and_what_a_dead_one_owned_is() -> None:
    assert not is_left_behind(owner_token())
    with subprocess.Popen([sys.executable, "-c", SAY_TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        token = process.stdout.readline().decode().strip()
        assert not is_left_behind(f"{token}.anything.more")
        process.kill()
        process.wait()
        assert is_left_behind(f"{token}.anything.more")


def test_a_reused_process_id_does_not_bring_its_owner_back() -> None:
    host, pid, _ = owner_token().split("-")
    assert is_left_behind(f"{host}-{pid}-000000000000")


def test_a_strangers_things_stay_for_days() -> None:
    name = "000000000000-1-000000000000.x"
    assert not is_left_behind(name)
    assert not is_left_behind(name, time.time())
    assert is_left_behind(name, time.time() - (STRANGER_DAYS + 1) * 86400)


@pytest.mark.parametrize("name", ["", "index", ".git", "a" * 40, "a" * 40 + ".12345678", "x-1-y"])
def test_other_names_are_never_left_behind(name: str) -> None:
    assert not is_left_behind(name, 0.0)


def test_a_process_lives_until_it_does_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    document = process_document(process.pid)
    assert process_lives(document)
    assert not process_lives({**document, "pid_start": "0"})
    assert not process_lives({**document, "boot_id": "another"})
    assert process_lives({**document, "host": "another", "pid": 0}), "on another host it cannot be told"
    process.send_signal(signal.SIGKILL)
    if Path("/proc/self/stat").exists():
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert not process_lives(document), "a zombie does nothing any more"
    process.communicate()
    assert not process_lives(document)


def test_turns_are_taken_one_by_one_and_a_killed_process_gives_its_turn_up(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "turns.lock"
    code = f"""\
from pathlib import Path
from nemo_gitexp.owners import taking_turns
with taking_turns(Path({str(lock)!r})):
    print("mine", flush=True)
    input()
"""
    first, second = (
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    )
    with first, second:
        outs = [first.stdout, second.stdout]
        (ready,), _, _ = select.select(outs, [], [], 30)
        winner, loser = (first, second) if ready is first.stdout else (second, first)
        time.sleep(0.2)
        assert select.select(outs, [], [], 0)[0] == [winner.stdout]
        winner.kill()
        assert select.select([loser.stdout], [], [], 30)[0] == [loser.stdout]
        loser.communicate(b"\n")


def test_a_lock_that_cannot_be_made_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with taking_turns(tmp_path / "file" / "turns.lock"):
        pass
