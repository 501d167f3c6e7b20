"""A profile's shape is part of the experiment; what a site says about it is nowhere in the record."""

from __future__ import annotations

import pytest
from builder import SCRIPT, Work, make_work

SCRATCH = "/lustre/projects/secret-place"
PROJECT = """\
[tool.nemo-gitexp.executors.two]
type = "slurm"
nodes = 2
gpus_per_node = 8
launcher = "torchrun"
ntasks_per_node = 8
container_image = "nvcr.io/nvidia/nemo:25.04"
account = "${env:GX_ACCOUNT}"
container_mounts = ["${site:scratch}:/scratch"]
env.NCCL_ALGO = "Tree"
env.HF_TOKEN = "${env:HF_TOKEN}"

[tool.nemo-gitexp.executors.four]
type = "slurm"
nodes = 4
account = "a"

[tool.nemo-gitexp.executors.four-elsewhere]
type = "slurm"
nodes = 4
account = "b"
partition = "other"
tunnel = {host = "login"}

[tool.nemo-gitexp.executors.boxed]
type = "docker"
image = "nemo:25.04"

[tool.nemo-gitexp.executors.local]
type = "local"
env.OMP_NUM_THREADS = "3"
env.GREETING = "x; y"

[tool.nemo-gitexp.executors.wide]
type = "local"
devices = 8

[tool.nemo-gitexp.executors.typo]
type = "slurm"
partion = "x"
cpus_per_task = "two"
"""
DIGEST = "nemo@sha256:" + "c" * 64
DOCKER = f"""\
#!/bin/sh
[ "$1 $2" = "image inspect" ] && echo '["other@sha256:{"d" * 64}", "{DIGEST}"]'
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    base = tmp_path_factory.mktemp("profiles")
    made = make_work(base / "repo", base / "home")
    made.write("train.py", SCRIPT)
    made.write("pyproject.toml", PROJECT)
    made.write(".gitignore", "nemo-gitexp.site.toml\n")
    made.write("nemo-gitexp.site.toml", f'[site]\nscratch = "{SCRATCH}"\n[executors.four]\npartition = "mine"\n')
    made.commit()
    made.env |= {"GX_ACCOUNT": "account-of-somebody", "HF_TOKEN": "hf_abc"}
    return made


def recorded(work: Work, name: str, *more: str) -> dict:
    return work.gitexp(
        "run", "--record-only", "--again", "--json", *more, "--executor", name, "--", "python", "train.py"
    ).json


def test_the_record_has_the_shape_and_nothing_of_the_site(work: Work) -> None:
    document = recorded(work, "two")
    topology = document["topology"]
    assert document["executor"] == "two"
    assert {key: topology[key] for key in topology if key != "environment"} == {
        "nodes": 2,
        "tasks_per_node": 8,
        "devices": 8,
        "launcher": "torchrun",
        "image": "nvcr.io/nvidia/nemo:25.04",
    }
    assert topology["environment"]["NCCL_ALGO"] == "Tree"
    record = work.git("show", f"{document['experiment']}:experiments/{document['study']}/record/experiment.json")
    for word in (SCRATCH, "account-of-somebody", "hf_abc", "GX_ACCOUNT", "container_mounts", "HF_TOKEN"):
        assert word not in record


def test_identity_has_the_shape_and_not_the_site(work: Work) -> None:
    four, elsewhere, two = (recorded(work, name)["identity"] for name in ("four", "four-elsewhere", "two"))
    assert four == elsewhere
    assert two != four
    work.write(
        "nemo-gitexp.site.toml",
        f'[site]\nscratch = "{SCRATCH}"\n[executors.four]\npartition = "new"\n'
        '[executors.mine]\ntype = "slurm"\nnodes = 4\n',
    )
    assert recorded(work, "four")["identity"] == four
    assert recorded(work, "mine")["identity"] == four


def test_bitwise_is_stronger_than_a_profile(work: Work) -> None:
    assert recorded(work, "two", "--determinism", "bitwise")["topology"]["environment"]["NCCL_ALGO"] == "Ring"


def test_an_image_without_a_digest_is_said_to_have_none(work: Work) -> None:
    answered = work.gitexp("run", "--plan", "--executor", "two", "--", "python", "train.py")
    assert answered.code == 0
    said = work.gitexp("run", "--record-only", "--again", "--executor", "two", "--", "python", "train.py").err
    assert "nvcr.io/nvidia/nemo:25.04 is recorded without a digest (what it names may change)" in said


def test_the_digest_is_the_one_that_docker_has(work: Work, tmp_path) -> None:
    assert recorded(work, "boxed")["topology"]["image"] == "nemo:25.04"
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    path = work.env["PATH"]
    work.env["PATH"] = f"{tmp_path}:{path}"
    try:
        assert recorded(work, "boxed")["topology"]["image"] == DIGEST
    finally:
        work.env["PATH"] = path


def test_a_fault_in_a_profile_is_named_before_anything_is_recorded(work: Work) -> None:
    before = work.refs("refs/")
    error = work.gitexp("run", "--json", "--executor", "typo", "--", "python", "train.py", code=3).json["error"]
    assert error["type"] == "SettingsError"
    assert error["hint"] == "did you mean partition?"
    assert error["faults"] == [
        "partion is no key; did you mean partition? (SlurmExecutor)",
        "cpus_per_task = 'two' is not a whole number",
    ]
    assert work.refs("refs/") == before


def test_what_ran_on_two_nodes_is_not_reproduced_on_one(work: Work) -> None:
    sha = recorded(work, "four")["experiment"]
    error = work.gitexp("reproduce", sha, "--executor", "local", "--json", code=3).json["error"]
    assert error["type"] == "LaunchError"
    assert "nodes = 4: local runs on one node" in error["message"]


def test_numeric_variables_of_a_local_profile_reach_the_job(work: Work) -> None:
    work.write("threads.py", "import os; print('threads:', os.environ['OMP_NUM_THREADS'])\n")
    document = work.gitexp("run", "--json", "--", "python", "threads.py").json
    assert document["topology"]["environment"]["OMP_NUM_THREADS"] == "3"
    assert "threads: 3" in work.gitexp("logs", document["experiment"]).out


def test_a_detached_local_run_has_the_variables_of_its_profile_too(work: Work) -> None:
    work.write("greeted.py", "import os; print('greeting:', os.environ['GREETING'])\n")
    document = work.gitexp("run", "--json", "--detach", "--", "python", "greeted.py").json
    assert "greeting: x; y" in work.gitexp("logs", "-f", document["experiment"]).out


def test_the_site_file_is_never_captured_though_nothing_ignores_it(tmp_path) -> None:
    fresh = make_work(tmp_path / "repo", tmp_path / "home")
    plain = fresh.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    fresh.write("nemo-gitexp.site.toml", '[executors.mine]\ntype = "slurm"\naccount = "secret-account"\n')
    document = fresh.gitexp("run", "--record-only", "--again", "--json", "--", "python", "train.py").json
    assert document["code"]["untracked"] == []
    assert document["identity"] == plain["identity"]
    assert "nemo-gitexp.site.toml" not in fresh.git("ls-tree", "-r", "--name-only", document["experiment"])


def test_a_site_file_that_git_tracks_is_refused_unless_it_is_allowed(tmp_path) -> None:
    work = make_work(tmp_path / "repo", tmp_path / "home")
    work.write("nemo-gitexp.site.toml", '[site]\nscratch = "/scratch"\n')
    work.git("add", "-f", "nemo-gitexp.site.toml")
    refused = work.gitexp("run", "--", "python", "train.py", code=3)
    assert "git rm --cached nemo-gitexp.site.toml" in refused.err
    assert not work.refs()
    work.write("pyproject.toml", '[tool.nemo-gitexp]\nsecrets_allowed = ["nemo-gitexp.site.toml"]\n')
    work.gitexp("run", "--record-only", "--", "python", "train.py")


def test_what_a_run_cost_counts_the_devices_of_its_profile(work: Work) -> None:
    document = work.gitexp("run", "--json", "--again", "--executor", "wide", "--", "python", "train.py").json
    plan = work.gitexp("reproduce", document["experiment"], "--plan", "--json").json
    assert plan["cost_device_hours"] == pytest.approx(document["duration_s"] / 3600 * 8)
