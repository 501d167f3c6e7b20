"""`push` and `pull`: what one person recorded, another lists, compares and reproduces; data go before refs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, make_work, wait_until
from data_work import DataWork, copy_template, make_template
from sharing_work import clone, hub_hook, hub_refs, make_hub

LONG = """\
import json, os
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step in range(20000):
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
print("done")
"""
CHILD = """\
purpose: Read what another made.
command: python child.py
data: [{from: "exp://latest:sum/sum.txt", path: given/sum.txt}]
"""
CHILD_JOB = """\
import json, os
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"given": float(open("given/sum.txt").read())}) + "\\n")
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_template(tmp_path_factory.mktemp("shared") / "all")


@pytest.fixture
def ada(template: Path, tmp_path: Path) -> DataWork:
    """The first clone, with data in DVC, a hub and a DVC remote."""
    work = copy_template(template, tmp_path / "all")
    work.write("long.py", LONG)
    work.write("child.py", CHILD_JOB)
    work.write("experiments/child/experiment.yaml", CHILD)
    work.commit("more")
    make_hub(work)
    return work


@pytest.fixture
def plain(tmp_path: Path) -> Work:
    """A repository without DVC, with a hub."""
    work = make_work(tmp_path / "work", tmp_path / "home", files={"long.py": LONG})
    make_hub(work)
    return work


def test_all_that_one_recorded_is_listed_compared_and_reproduced_by_another_with_two_commands(ada: DataWork):
    first = ada.gitexp("run", "sum", "--json").json
    child = ada.gitexp("run", "child", "--json").json
    long = ada.gitexp("run", "--json", "--", "python", "long.py").json
    pushed = ada.gitexp("push", "--json").json
    assert {item["experiment"] for item in pushed["pushed"]} == {item["experiment"] for item in (first, child, long)}
    assert (pushed["remote"], pushed["facts"], pushed["data"]["remotes"]) == ("origin", 3, ["store"])
    assert ada.gitexp("push", "--json").json["pushed"] == []
    bob = clone(ada, "bob")
    pulled = bob.gitexp("pull", "--json").json
    assert len(pulled["experiments"]) == 3
    assert bob.refs() == {}
    for experiment in (child, long, first):  # the child's input, the long stream and the data come when they are needed
        verdict = bob.gitexp("reproduce", experiment["experiment"], "--require", "bitwise", "--json").json
        assert verdict["verdict"] == "bitwise", experiment["study"]
    listed = bob.gitexp("log", "--json").json["experiments"]
    assert {item["experiment"]: item["metrics"] for item in listed}[first["experiment"]] == first["metrics"]
    assert bob.gitexp("diff", first["experiment"], child["experiment"]).code == 0
    bob.gitexp("outputs", first["experiment"], "--get", str(bob.root.parent / "got"))
    assert (bob.root.parent / "got/parts/points.bin").exists()
    assert "done" in bob.gitexp("logs", long["experiment"]).out
    told = bob.gitexp("push", "--json").json
    assert (told["pushed"], told["facts"]) == ([], 3)
    ada.gitexp("pull")
    assert ada.gitexp("show", first["experiment"], "--json").json["reproductions"] == {"best": "bitwise", "count": 1}


def test_data_of_those_named_come_with_the_pull_and_what_is_nowhere_is_said(ada: DataWork):
    ran = ada.gitexp("run", "sum", "--json").json
    ada.gitexp("push")
    bob = clone(ada, "bob")
    pulled = bob.gitexp("pull", "origin", ran["experiment"], "--json").json
    assert pulled["missing"] == {}
    assert pulled["data"]["objects"] > 3
    shutil.rmtree(ada.remote)
    assert bob.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"] is True
    carol = clone(ada, "carol")
    answered = carol.gitexp("pull", "--data", "--json", code=1).json
    assert any("sum.txt" in line for line in answered["missing"][ran["experiment"]])


def test_data_go_before_refs_and_a_killed_push_is_resumed(ada: DataWork):
    ran = ada.gitexp("run", "sum", "--json").json
    shutil.rmtree(ada.remote)
    hub, marker = ada.root.parent / "hub.git", ada.root.parent / "asked"
    hook = hub_hook(hub, f"touch {marker}\nsleep 300\n")
    process = ada.start("push")
    wait_until(marker.exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert hub_refs(ada) == {}
    objects = {path.parent.name + path.name for path in ada.remote.glob("files/md5/*/*")}
    assert {item["pin"] for item in ran["inputs"]} <= objects
    assert len(list(ada.remote.glob("gitexp/files/md5/*/*"))) > 3
    hook.unlink()
    resumed = ada.gitexp("push", "--json").json
    assert [item["what"] for item in resumed["pushed"]] == ["new"]
    assert resumed["data"]["objects"] == 0
    assert hub_refs(ada) == {ran["ref"]: ran["result"]}


def test_no_ref_moves_when_the_data_cannot_be_written(ada: DataWork):
    ada.gitexp("run", "sum", "--json")
    shutil.rmtree(ada.remote)
    ada.remote.write_bytes(b"no directory")
    refused = ada.gitexp("push", "--json", code=3).json["error"]
    assert refused["type"] == "DataRemoteError"
    assert hub_refs(ada, "refs/gitexp/", "refs/gitexp-facts/") == {}


def test_an_experiment_whose_data_is_nowhere_stays_and_is_named_and_the_others_go(ada: DataWork):
    ran = ada.gitexp("run", "sum", "--json").json
    long = ada.gitexp("run", "--json", "--", "python", "long.py").json
    (made,) = [item for item in ran["outputs"] if item["path"] == "sum.txt"]
    for path in (ada.cache / "gitexp/files/md5").rglob("*"):
        if path.is_file() and path.stat().st_size == made["size_bytes"]:
            path.unlink()
    shutil.rmtree(ada.root / ".git/gitexp/runs")
    refused = ada.gitexp("push", "--json", code=3).json["error"]
    assert refused["type"] == "SharingError"
    assert [item["experiment"] for item in refused["refused"]] == [ran["experiment"]]
    assert "sum.txt" in refused["message"]
    assert f"nemo-gitexp reproduce {ran['experiment'][:12]}" in refused["hint"]
    assert refused["pushed"] == [long["experiment"]]
    assert set(hub_refs(ada)) == {long["ref"]}
    ada.gitexp("reproduce", ran["experiment"])
    ada.gitexp("push")
    assert set(hub_refs(ada)) == {ran["ref"], long["ref"]}


def test_without_a_dvc_remote_only_what_has_no_data_goes_unless_it_is_to(plain: Work):
    made = plain.gitexp("run", "--json", "--", "python", "train.py").json
    recorded = plain.gitexp("run", "--record-only", "--json", "--", "python", "train.py", "--lr", "0.5").json
    refused = plain.gitexp("push", code=3)
    assert made["name"] in refused.err
    assert "dvc init" in refused.err
    assert set(hub_refs(plain)) == {recorded["ref"]}
    assert plain.gitexp("push", "--no-data", "--json").json["pushed"][0]["experiment"] == made["experiment"]
    bob = clone(plain, "bob")
    bob.gitexp("pull")
    assert bob.gitexp("reproduce", made["experiment"], "--require", "bitwise", "--json").json["met"] is True


def test_pushes_at_the_same_time_lose_nothing(plain: Work):
    bob = clone(plain, "bob")
    for work, rates in ((plain, ("0.1", "0.2", "0.3")), (bob, ("0.4", "0.5", "0.6"))):
        for rate in rates:
            work.gitexp("run", "--record-only", "--", "python", "train.py", "--lr", rate)
    processes = [work.start("push") for work in (plain, bob, plain, bob)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert hub_refs(plain) == plain.refs() | bob.refs()


def test_another_result_at_the_remote_is_never_forced_over(plain: Work):
    recorded = plain.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    bob, carol = (replace(plain, root=plain.root.parent / name) for name in ("bob", "carol"))
    for other in (bob, carol):
        shutil.copytree(plain.root, other.root, ignore=shutil.ignore_patterns("nemo"))
    for work in (plain, bob):
        work.gitexp("launch", "latest")
    plain.gitexp("push", "--no-data")
    theirs = hub_refs(plain)
    refused = bob.gitexp("push", "--no-data", "--json", code=3).json["error"]
    assert refused["type"] == "SharingError"
    assert "another result" in refused["message"]
    assert carol.gitexp("push", "--no-data", "--json").json["behind"] == [recorded["experiment"]]
    assert hub_refs(plain) == theirs == {recorded["ref"]: plain.refs()[recorded["ref"]]}


def test_what_the_remote_does_not_take_is_said_in_its_words(plain: Work):
    plain.gitexp("run", "--record-only", "--", "python", "train.py")
    hub_hook(plain.root.parent / "hub.git", "echo experiments are not welcome >&2\nexit 1\n")
    error = plain.gitexp("push", "--json", code=3).json["error"]
    assert error["type"] == "SharingError"
    assert "pre-receive hook declined" in error["message"]
    assert plain.refs("refs/gitexp-remotes/") == {}


def test_branches_go_on_request_alone_and_remotes_are_found_as_git_finds_them(plain: Work):
    ran = plain.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    plain.gitexp("push")
    assert hub_refs(plain, "refs/heads/exp/") == {}
    pushed = plain.gitexp("push", "origin", ran["name"], "--branch", "--json").json
    assert pushed["branches"] == [ran["branch"]]
    assert set(hub_refs(plain, "refs/heads/exp/")) == {f"refs/heads/{ran['branch']}"}
    plain.git("remote", "rename", "origin", "upstream")
    plain.git("branch", "--unset-upstream", check=False)
    assert plain.gitexp("pull", "--json").json["remote"] == "upstream"
    plain.git("remote", "add", "fork", str(plain.root.parent / "hub.git"))
    error = plain.gitexp("push", "--json", code=3).json["error"]
    assert error["remotes"] == ["fork", "upstream"]
    assert plain.gitexp("push", "frok", "--json", code=3).json["error"]["type"] in (
        "RemoteError",
        "UnknownExperimentError",
    )
    plain.git("remote", "remove", "fork")
    plain.git("remote", "set-url", "upstream", str(plain.root / "nowhere"))
    assert plain.gitexp("pull", "--json", code=3).json["error"]["type"] == "RemoteError"


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_files_in_lfs_go_along_although_no_hook_is_run(plain: Work):
    plain.git("lfs", "install", "--local")
    plain.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    plain.write("weights.bin", b"only in the work tree")
    ran = plain.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    plain.gitexp("push")
    bob = clone(plain, "bob")
    bob.git("lfs", "install", "--local")
    bob.gitexp("pull")
    bob.gitexp("checkout", ran["experiment"], str(bob.root.parent / "tree"))
    assert (bob.root.parent / "tree/weights.bin").read_bytes() == b"only in the work tree"


@pytest.mark.parametrize("verb", [("push",), ("status", "--push")], ids=" ".join)
def test_a_word_that_is_neither_an_experiment_nor_a_remote_is_named_with_the_remotes(plain: Work, verb):
    said = plain.gitexp(*verb, "nowhere", code=3).err
    assert "nowhere is neither an experiment nor a remote; remotes: origin" in said


PUSHING = {"NEMO_GITEXP_PUSH_STATUS": "true"}
SLOW = """\
import json, os, time
for step in range(100000):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
    time.sleep(0.05)
"""


def test_a_running_experiment_is_seen_by_others_with_its_step_and_its_age_until_it_is_lost(plain: Work):
    plain.write("slow.py", SLOW)
    plain.commit()
    ran = plain.gitexp("run", "--detach", "--json", "--", "python", "slow.py").json
    sha = ran["experiment"]
    wait_until(lambda: (plain.gitexp("show", sha, "--json").json.get("progress") or {}).get("step"))
    plain.gitexp("push")
    bob = clone(plain, "bob")
    bob.gitexp("pull")
    seen = bob.gitexp("log", "--json").json["experiments"][0]
    assert (seen["status"], seen["progress"]["elsewhere"]) == ("running", True)
    assert seen["progress"]["step"] >= 1
    assert "ago" in bob.gitexp("log").out
    step = seen["progress"]["step"]
    wait_until(lambda: plain.gitexp("show", sha, "--json").json["progress"]["step"] > step)
    plain.gitexp("status", "--push", "origin")
    bob.gitexp("pull")
    (later,) = bob.gitexp("status", "--json").json["experiments"]
    assert later["progress"]["step"] > step
    assert set(later["progress"]["metrics"]) == {"loss"}
    told, by_itself = len(plain.refs("refs/gitexp-facts/")), replace(plain, env={**plain.env, **PUSHING})
    by_itself.gitexp("status")
    assert len(plain.refs("refs/gitexp-facts/")) == told  # it was told a moment ago
    replace(by_itself, env={**by_itself.env, "NEMO_GITEXP_PUSH_STATUS_MINUTES": "0"}).gitexp("status")
    assert len(hub_refs(plain, "refs/gitexp-facts/")) == told + 1
    (run,) = (plain.root / ".git/gitexp/runs").iterdir()
    for name in ("supervisor", "started", "child"):
        os.kill(pid_in(run / f"{name}.json"), signal.SIGKILL)
    wait_until(lambda: plain.gitexp("show", sha, "--json").json["status"] == "lost")
    plain.gitexp("status", "--push")
    bob.gitexp("pull")
    assert bob.gitexp("show", sha, "--json").json["status"] == "lost"


def pid_in(path: Path) -> int:
    return int(json.loads(path.read_bytes())["pid"])
