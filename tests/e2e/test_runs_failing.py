"""A job that fails is an experiment too: why, how it ended, its last words, its whole log, its metrics so far."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from builder import Work, wait_until
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


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_job_that_fills_the_disk_fails_and_is_recorded(work: Work, small_disk: Path) -> None:
    work.env["NEMO_GITEXP_RUN_ROOT"] = str(small_disk)
    work.write("fails.py", f"{METRICS}open(os.environ['GITEXP_OUTPUTS'] + '/big', 'wb').write(os.urandom(1 << 24))\n")
    answer = work.gitexp("run", "--json", "--", "python", "fails.py", code=1).json
    assert answer["status"] == "failed"
    assert "No space left" in answer["error"]["message"]
    assert answer["metrics"] == {"loss": 1 / 3}
    expect_nothing_left(work)


def test_a_full_run_root_is_refused_and_the_experiment_stays_recorded(work: Work, small_disk: Path) -> None:
    fill(small_disk)
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
    ids = {"WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_DIR", "MLFLOW_RUN_NAME", "MLFLOW_RUN_CONTEXT"}
    assert {name: value for name, value in seen.items() if name not in own | numeric | ids} == work.env


def test_a_result_that_cannot_be_recorded_now_stops_no_listing_and_is_recorded_later(
    tmp_path: Path, small_disk: Path
) -> None:
    # The store of outputs lies on a full disk.
    gated = make_gated(tmp_path)
    gated.work.write(".gitignore", ".dvc/config.local\n")
    gated.work.write(".dvc/config", "")
    gated.work.write(".dvc/config.local", f"[cache]\n    dir = {small_disk / 'cache'}\n")
    gated.work.commit()
    process = gated.start()
    process.kill()
    process.communicate()
    fill(small_disk)
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    assert gated.status()["status"] == "running"
    assert gated.work.gitexp("collect", "--json", code=3).json["error"]["hint"]
    (small_disk / "filler").unlink()
    assert gated.status()["status"] == "completed"
    expect_nothing_left(gated.work)


def test_an_output_removed_before_it_was_collected_is_recorded_and_said_to_be_gone(tmp_path: Path) -> None:
    gated = make_gated(tmp_path)
    process = gated.start()
    process.kill()
    process.communicate()
    gated.open()
    wait_until((gated.run_dir / "result.json").exists)
    (gated.run_dir / "outputs" / "made.txt").unlink()
    document = gated.status()
    assert (document["status"], document["outputs"][0]["path"]) == ("completed", "made.txt")
    call = ["outputs", "--json", "latest", "--get", str(tmp_path / "got")]
    assert gated.work.gitexp(*call, code=3).json["error"]["type"] == "MissingDataError"


@pytest.mark.parametrize("instead", ["os.mkdir(stream)", "os.mkfifo(stream)"])
def test_a_metric_stream_that_is_no_file_holds_nobody_up(work: Work, instead: str) -> None:
    work.write("odd.py", f"import os\nstream = os.environ['GITEXP_METRICS']\n{instead}\nimport time\ntime.sleep(0.5)\n")
    answer = work.gitexp("run", "--json", "--", "python", "odd.py").json
    assert (answer["status"], answer["metrics"]) == ("completed", {})
    assert work.gitexp("log", "--json").json["experiments"][0]["status"] == "completed"
    expect_nothing_left(work)


@pytest.mark.parametrize("left", ["pass", "open('m.json', 'w').write('{}')", "os.mkdir('m.json')"])
def test_a_declared_metrics_file_that_gave_nothing_is_noted(work: Work, left: str) -> None:
    work.write("experiments/m/experiment.yaml", "purpose: p\ncommand: python m.py\nmetrics: {file: m.json}\n")
    work.write("m.py", f"import os\n{left}\n")
    work.gitexp("run", "m")
    assert "nothing could be read from its metrics file m.json" in work.gitexp("show", "latest").out
    work.write("m.py", "open('m.json', 'w').write('{\"loss\": 1}')\n")
    work.gitexp("run", "m")
    assert "metrics file" not in work.gitexp("show", "latest").out


def test_a_job_that_removes_its_run_directory_is_told_from_one_that_never_started(work: Work) -> None:
    work.write("odd.py", "import os, shutil\nshutil.rmtree(os.environ['GITEXP_RUN_DIR'])\n")
    error = work.gitexp("run", "--json", "--", "python", "odd.py", code=3).json["error"]
    assert error["type"] == "LaunchError"
    assert "was removed while it ran" in error["message"]
    assert work.gitexp("log", "--json").json["experiments"][0]["status"] == "recorded"


def test_a_log_larger_than_anybody_wants_in_memory_is_kept_whole(work: Work) -> None:
    work.write(
        "talks.py", "for number in range(300_000):\n    print('a line that goes on for quite a while', number)\n"
    )
    work.gitexp("run", "-q", "--", "python", "talks.py")
    out = work.gitexp("logs", "latest").out
    assert len(out.splitlines()) == 300_000
    assert out.endswith(" 299999\n")
    assert work.gitexp("show", "--json", "latest").json["status"] == "completed"


def test_a_detached_run_whose_state_cannot_be_restored_is_lost_and_says_why(work: Work) -> None:
    work.write("data.txt", "x")
    work.write(".gitattributes", "data.txt filter=broken\n")
    work.commit()
    work.git("config", "filter.broken.smudge", "false")
    work.git("config", "filter.broken.clean", "cat")
    work.git("config", "filter.broken.required", "true")
    work.gitexp("run", "--detach", "--", "python", "train.py")
    wait_until(lambda: work.gitexp("log", "--json").json["experiments"][0]["status"] == "lost")
    error = work.gitexp("show", "--json", "latest").json["error"]
    assert "data.txt" in error["message"]
    expect_nothing_left(work)
    work.git("config", "filter.broken.smudge", "cat")
    assert work.gitexp("launch", "--json", "latest").json["status"] == "completed"
