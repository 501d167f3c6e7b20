"""The interpreter that a profile names: what is recorded of it, and what runs with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builder import Work, make_work

PROFILES = """\
[tool.nemo-gitexp.executors.near]
type = "slurm"
account = "a"
python = "${{site:env}}/bin/python"
[tool.nemo-gitexp.executors.home]
type = "slurm"
account = "a"
python = "~/env/bin/python"
[tool.nemo-gitexp.executors.plain]
type = "slurm"
account = "a"
[tool.nemo-gitexp.executors.gone]
type = "slurm"
account = "a"
python = "/nowhere/bin/python"
[tool.nemo-gitexp.executors.over]
type = "slurm"
account = "a"
tunnel = {{host = "login.invalid"}}
python = "/nowhere/bin/python"
[tool.nemo-gitexp.executors.boxed]
type = "slurm"
account = "a"
image = "nemo@sha256:{digest}"
python = "/nowhere/bin/python"
[tool.nemo-gitexp.executors.far]
type = "slurm"
account = "a"
tunnel = {{host = "login"}}
root = "/far"
python = "/nowhere/bin/python"
nodes = 2
[tool.nemo-gitexp.executors.mine]
type = "local"
python = "~/env/bin/python"
[tool.nemo-gitexp.executors.missing]
type = "local"
python = "/nowhere/bin/python"
"""
PRINT = """\
import json, os, sys
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 0, "loss": 0.5}) + "\\n")
print("prefix", sys.prefix)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    room = tmp_path_factory.mktemp("interpreters")
    files = {"job.py": PRINT, "pyproject.toml": PROFILES.format(digest="0" * 64)}
    made = make_work(room / "work", room / "home", files=files)
    venv = Path(made.env["HOME"]) / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    made.git("config", "gitexp.site.env", str(venv))
    return made


def recorded(work: Work, executor: str, code: int = 0) -> dict:
    return work.gitexp(
        "run", "--record-only", "--again", "--json", "--executor", executor, "--", "python", "job.py", code=code
    ).json


def packages(work: Work, document: dict) -> dict:
    place = f"experiments/{document['study']}/record/environment.json"
    return json.loads(work.git("show", f"{document['experiment']}:{place}"))["packages"]


def test_an_interpreter_on_a_shared_file_system_is_recorded_from_here(work: Work) -> None:
    near, home, plain = (recorded(work, name) for name in ("near", "home", "plain"))
    assert near["identity"] is not None
    assert near["identity"] == home["identity"] != plain["identity"]
    assert packages(work, near) == {}  # the environment's own, not the one that records
    again = work.gitexp("run", "--plan", "--json", "--executor", "near", "--", "python", "job.py").json
    assert again["identity"] == near["identity"]


def test_an_interpreter_that_a_shared_file_system_lacks_is_named(work: Work) -> None:
    error = recorded(work, "gone", code=3)["error"]
    assert error["type"] == "EnvironmentCaptureError"
    assert "executor gone: there is no interpreter /nowhere/bin/python on this machine" in error["message"]
    assert error["hint"] == "python = … below [executors.gone] in nemo-gitexp.site.toml"


def test_the_doctor_looks_for_an_interpreter_on_both_sides_of_a_shared_file_system(work: Work) -> None:
    answered = work.gitexp("doctor", "--executor", "over", "--json", code=1).json
    (found,) = (item for item in answered["executors"]["over"] if item["check"] == "python here")
    assert found["state"] == "missing"
    assert "there is no interpreter /nowhere/bin/python on this machine" in found["said"]


@pytest.mark.parametrize("executor", ["boxed", "far"])
def test_what_only_the_job_sees_has_no_identity(work: Work, executor: str) -> None:
    assert recorded(work, executor)["identity"] is None


def test_a_local_run_takes_the_interpreter_of_its_profile(work: Work) -> None:
    ran = work.gitexp("run", "--json", "--executor", "mine", "--", "python", "job.py").json
    venv = Path(work.env["HOME"]) / "env"
    assert work.gitexp("logs", ran["experiment"]).out == f"prefix {venv}\n"
    assert packages(work, ran) == {}
    answer = work.gitexp("reproduce", ran["experiment"], "--json").json
    assert (answer["met"], answer["environment"]) == (True, "same")
    held = recorded(work, "mine")["experiment"]
    assert work.gitexp("launch", held, "--json").json["status"] == "completed"
    assert work.gitexp("logs", held).out == f"prefix {venv}\n"
    assert "/nowhere/bin/python" in recorded(work, "missing", code=3)["error"]["message"]


def test_what_was_recorded_for_a_site_is_reproduced_on_this_machine(work: Work) -> None:
    near = recorded(work, "near")["experiment"]
    answer = work.gitexp("reproduce", near, "--executor", "local", "--json", "--require", "restored").json
    assert answer["environment"] in ("same", "drifted")


def test_a_recorded_executor_that_is_not_here_is_said_with_what_takes_its_place(work: Work) -> None:
    near, boxed, far = (recorded(work, name)["experiment"] for name in ("near", "boxed", "far"))
    before = (work.root / "pyproject.toml").read_text()
    (work.root / "pyproject.toml").unlink()
    try:
        errors = [work.gitexp("reproduce", sha, "--json", code=2).json["error"] for sha in (near, boxed, far)]
    finally:
        (work.root / "pyproject.toml").write_text(before)
    assert {error["type"] for error in errors} == {"UnknownExecutorError"}
    assert (
        "recorded with executor near, which this machine has no profile for (there are: local)" in errors[0]["message"]
    )
    assert errors[0]["hint"] == "--executor local"
    assert f"it needs the image nemo@sha256:{'0' * 64}" in errors[1]["message"]
    assert "it needs 2 nodes" in errors[2]["message"]
    assert errors[2]["hint"] == "[tool.nemo-gitexp.executors.far], or --executor NAME of another that can"
