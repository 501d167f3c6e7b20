"""`doctor` says whether the job can be done and what to install; `config` where each setting is from."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from builder import Work, make_work

PROJECT = """\
[tool.nemo-gitexp]
threads = 2

[tool.nemo-gitexp.executors.a100]
type = "slurm"
nodes = 2
account = "${env:GX_ACCOUNT}"

[tool.nemo-gitexp.executors.typo]
type = "slurm"
account = "a"
partion = "x"

[tool.nemo-gitexp.executors.worded]
type = "slurm"
nodes = "two"

[tool.nemo-gitexp.executors.bare]
type = "slurm"

[tool.nemo-gitexp.executors.ray]
type = "kuberay"
"""
SITE = """\
[executors.a100]
partition = "batch"
env.WANDB_API_KEY = "plain-secret-1"
[site]
scratch = "/lustre/me"
api_token = "plain-secret-2"
"""
FAKES = {
    **dict.fromkeys(("sbatch", "sacct", "squeue", "scancel", "srun"), "exit 0"),
    "scontrol": "echo 'Slurmctld(primary) at login is UP'",
}
TOOLS = ("git", "sh", "tr", "tail", "grep", "dirname", "timeout")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """Return a repository with profiles, and PATH without a scheduler."""
    base = tmp_path_factory.mktemp("doctor")
    made = make_work(base / "repo", base / "home")
    made.write("pyproject.toml", PROJECT)
    made.write(".gitignore", "nemo-gitexp.site.toml\n")
    made.write("nemo-gitexp.site.toml", SITE)
    made.commit()
    (base / "bin").mkdir()
    for name in TOOLS:
        (base / "bin" / name).symlink_to(str(shutil.which(name)))
    for name in ("nemo-gitexp", "python"):
        (base / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    made.env |= {"PATH": str(base / "bin"), "GX_ACCOUNT": "mine"}
    return made


def states(findings: list[dict]) -> dict[str, str]:
    return {item["check"]: item["state"] for item in findings}


def test_config_names_every_value_and_its_source_and_hides_secrets(work: Work) -> None:
    answered = work.gitexp("config", "--json")
    document = answered.json
    assert document["schema"] == 1
    assert document["settings"]["threads"] == {"value": 2, "source": "pyproject.toml"}
    assert document["settings"]["python"] == {"value": None, "source": "built in"}
    a100 = document["executors"]["a100"]
    assert a100["account"] == {"value": "${env:GX_ACCOUNT}", "source": "pyproject.toml"}
    assert a100["partition"] == {"value": "batch", "source": "nemo-gitexp.site.toml"}
    assert document["executors"]["local"]["type"]["source"] == "built in"
    assert document["site"]["scratch"]["value"] == "/lustre/me"
    text = work.gitexp("config").out
    for word in ("plain-secret-1", "plain-secret-2"):
        assert word not in answered.out + text
    assert "executors.a100.partition" in text


def test_the_machine_and_the_keys_of_all_profiles_are_looked_at(work: Work) -> None:
    document = work.gitexp("doctor", "--json", code=1).json
    assert (document["schema"], document["ok"]) == (1, False)
    assert set(states(document["machine"]).values()) <= {"ok", "warning"}
    assert {"git", "dvc", "nemo_run", "runs"} <= set(states(document["machine"]))
    found = document["executors"]
    assert states(found["local"]) == states(found["a100"]) == {"profile": "ok"}
    assert found["typo"][0]["said"].startswith("partion is no key; did you mean partition?")
    assert found["worded"][0]["mend"] == "change executors.worded in pyproject.toml"
    assert states(found["bare"]) == {"profile": "ok", "account": "missing"}
    if (extra := {item["check"]: item for item in found["ray"]}.get("extra")) is not None:
        assert extra["mend"].endswith("-m pip install 'nemo_run[ray]'")


def test_what_a_cluster_lacks_is_named_with_what_mends_it(work: Work) -> None:
    answered = work.gitexp("doctor", "--executor", "a100", code=1)
    for name in ("sbatch", "sacct", "squeue", "scancel", "srun"):
        assert f"{name} is not on PATH here" in answered.out
    assert "6 things missing" in answered.out


def test_a_cluster_that_has_everything_is_fine(work: Work, tmp_path) -> None:
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = work.env["PATH"]
    work.env["PATH"] = f"{tmp_path}:{path}"
    try:
        document = work.gitexp("doctor", "--executor", "a100", "--json", code=0).json
    finally:
        work.env["PATH"] = path
    assert document["ok"]
    assert set(document["executors"]) == {"a100"}
    assert states(document["executors"]["a100"])["slurmctld"] == "ok"


def test_an_executor_that_is_not_there_is_no_diagnosis(work: Work) -> None:
    error = work.gitexp("doctor", "--executor", "a10", "--json", code=2).json["error"]
    assert (error["type"], error["nearest"]) == ("UnknownExecutorError", "a100")


def test_a_value_that_is_not_set_is_named(work: Work) -> None:
    account = work.env.pop("GX_ACCOUNT")
    try:
        document = work.gitexp("doctor", "--executor", "a100", "--json", code=1).json
    finally:
        work.env["GX_ACCOUNT"] = account
    found = {item["check"]: item for item in document["executors"]["a100"]}
    assert found["account"]["mend"] == "export GX_ACCOUNT=…"
    assert "sbatch" not in found
