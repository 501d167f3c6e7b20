"""A job that fails is an experiment too: why, how it ended, its last words, its whole log, its metrics so far."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder import Work
from gated import make_gated
from residue import expect_nothing_left

METRICS = """\
import json, os, signal, sys
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step in range(3):
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
for number in range(40):
    print("line", number, flush=True)
"""
ENDINGS = {
    "raise ValueError('no such \\u00e9poch')": ("ValueError", "no such époch", 1, None),
    "sys.exit(3)": ("ExitCodeError", "exit code 3", 3, None),
    "sys.exit('that is all')": ("ExitCodeError", "that is all", 1, None),
    "os.kill(os.getpid(), signal.SIGKILL)": ("SignalError", "SIGKILL", None, 9),
    "os.abort()": ("SignalError", "SIGABRT", None, 6),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_a_failing_job_is_recorded_with_all_that_is_known(work: Work, ending: str) -> None:
    kind, words, exit_code, number = ENDINGS[ending]
    work.write("fails.py", f"{METRICS}{ending}\n")
    answer = work.gitexp("run", "--json", "--", "python", "fails.py", code=1).json
    assert answer["status"] == "failed"
    error = answer["error"]
    assert error["type"] == kind
    assert words in error["message"]
    assert (error["exit_code"], error["signal"]) == (exit_code, number)
    assert "line 39" in error["log_tail"]
    assert len(error["log_tail"]) <= 20
    assert answer["metric_stats"]["loss"] == {"last": 1 / 3, "min": 1 / 3, "max": 1.0, "n": 3}
    assert [line for line in work.gitexp("logs", "latest").out.splitlines() if line.startswith("line")] == [
        f"line {number}" for number in range(40)
    ]
    said = work.gitexp("show", "latest").out
    assert kind in said
    expect_nothing_left(work)


def test_a_program_that_is_not_there_is_said(work: Work) -> None:
    answer = work.gitexp("run", "--json", "--", "no-such-program", "--lr", "1", code=1).json
    assert (answer["status"], answer["error"]["type"]) == ("failed", "CommandNotFoundError")


def test_a_missing_output_fails_the_run_and_is_named(work: Work) -> None:
    study = "purpose: p\ncommand: python train.py\noutputs: [model.pt]\n"
    work.write("experiments/toy/experiment.yaml", study)
    answer = work.gitexp("run", "--json", "toy", code=1).json
    assert answer["error"]["type"] == "MissingOutputError"
    assert "model.pt" in answer["error"]["message"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = (
        mount
        and subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False).returncode == 0
    )
    if not made:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_job_that_fills_the_disk_fails_and_is_recorded(work: Work, small_disk: Path) -> None:
    work.env["NEMO_GITEXP_RUN_ROOT"] = str(small_disk)
    work.write("fails.py", f"{METRICS}open(os.environ['GITEXP_OUTPUTS'] + '/big', 'wb').write(os.urandom(1 << 24))\n")
    answer = work.gitexp("run", "--json", "--", "python", "fails.py", code=1).json
    assert answer["status"] == "failed"
    assert "No space left" in answer["error"]["message"]
    assert answer["metrics"] == {"loss": 1 / 3}
    expect_nothing_left(work)


def test_a_full_run_root_is_refused_and_the_experiment_stays_recorded(work: Work, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(
        os.urandom(4 << 20) if os.statvfs(small_disk).f_bavail * 4096 >= 4 << 20 else b""
    )
    with (small_disk / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    work.env["NEMO_GITEXP_RUN_ROOT"] = str(small_disk)
    error = work.gitexp("run", "--json", "--", "python", "train.py", code=3).json["error"]
    assert error["type"] == "StateDirectoryError"
    assert error["hint"]
    del work.env["NEMO_GITEXP_RUN_ROOT"]
    assert work.gitexp("log", "--json").json["experiments"][0]["status"] == "recorded"
    assert work.gitexp("launch", "--json", "latest").json["status"] == "completed"
    expect_nothing_left(work)


@pytest.mark.parametrize("detach", [False, True])
def test_a_broken_nemo_run_is_said_and_the_experiment_can_still_be_launched(
    work: Work, tmp_path: Path, detach: bool
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "nemo_run.py").write_text("raise ImportError('leptonai is too new')\n")
    work.env["PYTHONPATH"] = str(broken)
    if detach:
        work.gitexp("run", "--json", "--detach", "--", "python", "train.py", code=None)
        work.gitexp("collect")
    else:
        error = work.gitexp("run", "--json", "--", "python", "train.py", code=3).json["error"]
        assert error["type"] == "LaunchError"
        assert "leptonai is too new" in error["message"]
        assert "import nemo_run" in error["hint"]
        assert work.gitexp("log", "--json").json["experiments"][0]["status"] == "recorded"
    expect_nothing_left(work)
    del work.env["PYTHONPATH"]
    assert work.gitexp("launch", "--json", "latest").json["status"] == "completed"


def test_an_interpreter_that_went_away_before_the_launch_is_said(work: Work, tmp_path: Path) -> None:
    fake = tmp_path / "venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.symlink_to(shutil.which("python", path=work.env["PATH"]) or "")
    work.gitexp("run", "--record-only", "--", str(fake), "train.py")
    fake.unlink()
    error = work.gitexp("launch", "--json", "latest", code=3).json["error"]
    assert str(fake) in error["message"]
    assert work.gitexp("log", "--json").json["experiments"][0]["status"] == "recorded"
    expect_nothing_left(work)


def test_a_place_that_nemo_run_would_rewrite_works(tmp_path: Path) -> None:
    # NeMo Run replaces "/nemo_run" in its scripts; people keep work for it in directories of that name.
    gated = make_gated(tmp_path / "nemo_run" / "projects")
    gated.open()
    assert gated.work.gitexp("run", "--json", "--", "python", "gated.py").json["status"] == "completed"
    expect_nothing_left(gated.work)


def test_the_job_sees_the_users_environment_and_nothing_of_the_launcher(work: Work, tmp_path: Path) -> None:
    work.write("env.py", "import json, os, sys\njson.dump(dict(os.environ), open(sys.argv[1], 'w'))\n")
    work.env.update({"MINE": "a b; $(id) 'q'", "lower": "1", "NEMORUN_HOME": "/somewhere"})
    work.gitexp("run", "--", "python", "env.py", str(tmp_path / "env.json"))
    seen = json.loads((tmp_path / "env.json").read_text())
    own = {name for name in seen if name.startswith("GITEXP_")}
    assert own == {f"GITEXP_{name}" for name in ("CONFIG", "OUTPUTS", "SEED", "EXPERIMENT", "RUN_DIR", "METRICS")}
    numeric = {name for name in seen if name.endswith("_NUM_THREADS") or name == "VECLIB_MAXIMUM_THREADS"}
    numeric |= {"PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "PYTHONUNBUFFERED", "PWD"}
    assert {name: value for name, value in seen.items() if name not in own | numeric} == work.env
