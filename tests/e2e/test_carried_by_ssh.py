"""Runs on a machine that shares no file system with this one: what goes there, what comes back, what stays behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, make_work
from data_work import DataWork, copy_template, make_template
from prepared_runs import Prepared, prepare
from sshd import Elsewhere, find_hindrance, start_sshd

from nemo_gitexp.collect import collect_run, discard_workspace
from nemo_gitexp.errors import MissingDataError, RemoteHostError, SettingsError
from nemo_gitexp.profiles import Place
from nemo_gitexp.relocation import Relocation, find_relocation
from nemo_gitexp.remote import RemoteHost
from nemo_gitexp.reuse import reuse_stages, stage_keys
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.scheduled import look_at_runs
from nemo_gitexp.transfer import bring_home, carry_run, drop_run, fetch_runs

AWKWARD = "a b 'c' \"d\" $(touch injected) `id` $HOME \\ ; touch injected\nlast"
PROGRAM = """\
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[1].removeprefix("--out="))
files = [path for path in sorted(pathlib.Path("data").rglob("*")) if path.is_file() and path.suffix in (".bin", ".txt")]
total = sum(sum(path.read_bytes()) for path in files)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 0, "total": total}) + "\\n")
(out / "sum.txt").write_text(str(total))
(out / "parts").mkdir()
for path in files:
    (out / "parts" / path.name).write_text(str(sum(path.read_bytes())))
print("in", os.getcwd(), "to", out, "at", os.path.expanduser("~") + "/x")
print(json.dumps([sys.argv[2:], os.environ.get("NOTE")]))
json.load(open(os.environ["GITEXP_INPUTS"]))["data/raw"].index(os.getcwd())
pathlib.Path("own").mkdir()
if os.environ.get("FAIL"):
    raise RuntimeError(f"cannot read {os.getcwd()}/nothing, nor {out}/that")
"""
STUDY = f"""\
purpose: Sum what the data hold.
command: {json.dumps(["python", "sum.py", "--out={outputs}", AWKWARD, "--name=x y"])}
data: [data/points.bin, data/raw, data/made.txt]
outputs: [sum.txt, parts]
"""
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    hindrance = find_hindrance()
    if hindrance is not None:
        pytest.skip(hindrance)
    with start_sshd() as elsewhere:
        yield elsewhere


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataWork:
    """Return a repository with DVC data, a submodule-free tree with a link and a program, and one local result."""
    work = copy_template(make_template(tmp_path_factory.mktemp("template")), tmp_path_factory.mktemp("data") / "d")
    work.write("sum.py", PROGRAM)
    work.write("experiments/sum/experiment.yaml", STUDY)
    work.write("tool.sh", "#!/bin/sh\n").chmod(0o755)
    (work.root / "link").symlink_to("sum.py")
    (work.root / "dangling").symlink_to("/nowhere/at all")
    work.commit("never pushed")
    return work


@pytest.fixture(scope="module")
def local(data: DataWork) -> dict:
    """Return the answer of the same experiment run on this machine."""
    return data.gitexp("run", "sum", "--json").json


@pytest.fixture
def run(data: DataWork, local: dict, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prepared]:
    prepared = prepare(data, local["experiment"], monkeypatch, Path(sys.executable))
    yield prepared
    prepared.drop()


def place_in(there: Elsewhere, name: str, **more: str) -> Place:
    """Return a site whose runs lie in a directory of this name."""
    return replace(Place(), root=str(there.directory / name), shared=False, python=SYSTEM_PYTHON, **more)


def work_off(host: RemoteHost, relocation: Relocation, **env: str) -> int:
    """Start the worker there, by ssh, and return its exit code."""
    words = [f"{name}={value}" for name, value in env.items()]
    done = host.run(["env", *words, *relocation.worker_argv()], timeout_s=120, check=False)
    assert done.said == ""
    return done.returncode


def committed(data: DataWork, answer: dict, name: str) -> bytes:
    argv = ["git", "show", f"{answer['result']}:experiments/sum/record/{name}"]
    return subprocess.run(argv, cwd=data.root, env=data.env, capture_output=True, check=True).stdout


def test_a_run_elsewhere_gives_the_bytes_of_a_local_one(there, data, local, run, monkeypatch):
    run.change_plan(env={**json.loads(run.paths.plan.read_text())["env"], "NOTE": "x; touch injected"})
    place = place_in(there, "site one")
    relocation = carry_run(run.paths, run.workspace, there.host, place)
    assert find_relocation(run.paths) == relocation
    assert relocation.home == str(there.home)
    assert work_off(there.host, relocation) == 0, Path(relocation.run_at, "result.json").read_text()
    assert fetch_runs(there.host, [(run.paths, relocation)]) == {run.paths.run}
    assert inspect_run(run.paths).status == "finished"
    assert run.result()["result.json"] == committed(data, local, "result.json")
    assert run.result()["metrics.jsonl"] == committed(data, local, "metrics.jsonl")
    first, second = run.paths.log.read_text().splitlines()
    assert json.loads(second) == [[AWKWARD, "--name=x y"], "x; touch injected"]
    assert first == f"in {relocation.workspace} to {relocation.run_dir}/outputs at {there.home}/x"
    assert not list(Path(relocation.workspace_at).rglob("injected"))
    assert not (Path(relocation.workspace_at) / ".git").exists()
    assert json.loads(run.paths.result.read_text())["job_environment"]["interpreter"]["version"].startswith("3.")


def test_a_failure_elsewhere_says_what_it_says_here(there, data, run):
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "failing"))
    assert work_off(there.host, relocation, FAIL="1") == 1
    fetch_runs(there.host, [(run.paths, relocation)])
    said = json.loads(run.result()["result.json"])
    assert said["error"]["message"] == "cannot read {workspace}/nothing, nor {run}/outputs/that"


def test_an_unpushed_experiment_is_collected_and_reproduced_here(there, data, monkeypatch):
    recorded = data.gitexp("run", "sum", "--record-only", "--again", "--seed", "7", "--json").json
    run = prepare(data, recorded["experiment"], monkeypatch, Path(sys.executable))
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "unpushed"))
    assert work_off(there.host, relocation) == 0
    fetch_runs(there.host, [(run.paths, relocation)])
    assert collect_run(run.site.repository, run.experiment, inspect_run(run.paths))
    drop_run(there.host, relocation)
    drop_run(there.host, relocation)
    assert not Path(relocation.run_at).exists()
    assert not Path(relocation.workspace_at).exists()
    shown = data.gitexp("show", recorded["experiment"], "--json").json
    assert shown["status"] == "completed"
    tail = json.loads(data.git("show", f"{shown['result']}:experiments/sum/record/run.json"))["log"]["tail"]
    assert tail[0] == "in {workspace} to {run}/outputs at ~/x"
    assert data.gitexp("reproduce", recorded["experiment"], "--require", "bitwise", "--json").json["met"] is True


def test_what_arrived_is_verified_there_and_a_second_upload_changes_nothing(there, run):
    place = place_in(there, "damaged")
    relocation = carry_run(run.paths, run.workspace, there.host, place)
    workspace = Path(relocation.workspace_at)
    assert (workspace / "link").is_symlink()
    assert (workspace / "dangling").is_symlink()
    assert (workspace / "tool.sh").stat().st_mode & 0o111
    assert (workspace / "data" / "raw" / "a.txt").stat().st_nlink == 1
    (workspace / "data" / "raw" / "a.txt").chmod(0o644)
    (workspace / "data" / "raw" / "a.txt").write_text("eno")
    assert carry_run(run.paths, run.workspace, there.host, place) == relocation
    assert work_off(there.host, relocation) == 1
    fetch_runs(there.host, [(run.paths, relocation)])
    error = json.loads(run.paths.result.read_text())["error"]
    assert (error["type"], error["paths"]) == ("DataMismatchError", ["data/raw/a.txt"])


def test_an_interrupted_upload_is_no_run_and_goes_on_later(there, run):
    place = place_in(there, "interrupted", data="cache", cache=str(there.directory / "empty"))
    with pytest.raises(MissingDataError) as raised:
        carry_run(run.paths, run.workspace, there.host, place)
    assert sorted(raised.value.missing) == ["data/made.txt", "data/points.bin", "data/raw/a.txt", "data/raw/b.txt"]
    root = Path(str(place.root))
    assert list((root / "runs").iterdir()) == list((root / "workspaces").iterdir()) == []
    arrived = root / "incoming" / run.paths.run / "workspace" / "sum.py"
    inode = arrived.stat().st_ino
    relocation = carry_run(run.paths, run.workspace, there.host, replace(place, data="copy"))
    assert Path(relocation.workspace_at, "sum.py").stat().st_ino == inode
    assert work_off(there.host, relocation) == 0


@pytest.mark.parametrize("way", ["cache", "pull"])
def test_data_come_from_the_sites_cache_or_its_remote(there, data, local, run, way, monkeypatch):
    cache = there.directory / f"cache for {way}"
    if way == "cache":
        shutil.copytree(data.cache, cache)
    place = place_in(there, way, data=way, cache=str(cache))
    if way == "pull":
        place = replace(place, python=sys.executable)  # which has DVC
    sent: list[str] = []
    relocation = carry_run(run.paths, run.workspace, there.host, place, progress=sent.append)
    assert sent == []
    inside = [path.stat().st_ino for path in cache.rglob("*") if path.is_file()]
    assert Path(relocation.workspace_at, "data", "raw", "a.txt").stat().st_ino in inside
    assert work_off(there.host, relocation) == 0, Path(relocation.run_at, "result.json").read_text()
    fetch_runs(there.host, [(run.paths, relocation)])
    assert run.result()["result.json"] == committed(data, local, "result.json")


def test_a_remote_without_the_data_is_named(there, data, run):
    away = data.remote.rename(data.remote.with_name("away"))
    try:
        place = replace(place_in(there, "no remote", data="pull"), python=sys.executable)
        with pytest.raises(MissingDataError, match=r"dvc pull on root@127\.0\.0\.1:\d+ did not bring data/points\.bin"):
            carry_run(run.paths, run.workspace, there.host, place)
    finally:
        away.rename(data.remote)


def test_a_living_run_is_seen_from_here_and_told_to_stop(there, run):
    run.change_plan(entry={"kind": "code", "code": LIVES, "args": []}, outputs=[])
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "living"))
    argv = [*there.host._ssh(), "--", there.host._login, " ".join(map(repr, relocation.worker_argv()))]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as worker:
        for line in (b"one\n", b"two\n"):
            while not run.paths.log.exists() or line not in run.paths.log.read_bytes():
                assert fetch_runs(there.host, [(run.paths, relocation)]) == set()
        assert inspect_run(run.paths).status == "running"
        assert run.paths.metrics.exists()
        assert not (run.paths.outputs / "half").exists()
        run.paths.cancel.write_text("{}")  # by somebody who did not reach the machine
        look_at_runs([run.paths], pytest.fail)
        worker.wait(60)
    assert fetch_runs(there.host, [(run.paths, relocation)]) == {run.paths.run}
    assert json.loads(run.paths.result.read_text())["status"] == "cancelled"
    assert (run.paths.outputs / "half").exists()


LIVES = """\
import json, os, time
open(os.environ["GITEXP_OUTPUTS"] + "/half", "w").close()
open(os.environ["GITEXP_METRICS"], "w").write(json.dumps({"step": 0, "loss": 1.0}) + "\\n")
print("one", flush=True)
time.sleep(1)
print("two", flush=True)
time.sleep(600)
"""


def test_a_run_that_died_brings_its_outputs_when_the_scheduler_says_so(there, run):
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "died"))
    Path(relocation.run_at, "outputs", "part").write_text("x")
    Path(relocation.run_at, "started.json").write_text("{}")
    assert fetch_runs(there.host, [(run.paths, relocation)]) == set()
    assert not (run.paths.outputs / "part").exists()
    fetch_runs(there.host, [(run.paths, relocation)], ended=[run.paths.run])
    assert (run.paths.outputs / "part").read_text() == "x"


def test_a_directory_that_somebody_cleared_away_has_nothing_to_say(there, run):
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "cleared"))
    shutil.rmtree(there.directory / "cleared")
    assert fetch_runs(there.host, [(run.paths, relocation)]) == set()
    said: list[str] = []
    assert bring_home([run.paths], said.append)
    assert said == []


def test_variables_go_there_for_nobody_else_and_never_come_back(there, run):
    run.paths.variables.touch(mode=0o600)
    run.paths.variables.write_text('{"TOKEN": "s3cr3t"}')
    run.change_plan(variables=str(run.paths.variables), keep_workspace=True)
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, "variables"))
    carried = Path(relocation.run_at, "variables.json")
    assert carried.stat().st_mode & 0o777 == 0o600
    run.paths.variables.unlink()
    assert work_off(there.host, relocation) == 0
    fetch_runs(there.host, [(run.paths, relocation)])
    assert not run.paths.variables.exists()
    assert run.paths.result.exists()
    discard_workspace(run.site.repository, run.paths)
    assert not carried.exists()
    assert Path(relocation.run_at, "result.json").exists()


def test_nothing_is_carried_where_nemo_run_would_corrupt_the_path(there, run):
    with pytest.raises(SettingsError, match="root holds /nemo_run") as raised:
        carry_run(run.paths, run.workspace, there.host, place_in(there, "nemo_run/runs"))
    assert "container image" in raised.value.hint
    place = place_in(there, "nemo_run/runs")
    relocation = carry_run(run.paths, run.workspace, there.host, place, in_container=True)
    assert relocation.mounts == (
        f"{relocation.run_at}:/gitexp/run",
        f"{relocation.workspace_at}:/gitexp/workspace",
    )
    plan = json.loads(Path(relocation.run_at, "plan.json").read_text())
    assert (plan["run_dir"], plan["cwd"]) == ("/gitexp/run", "/gitexp/workspace")
    assert plan["entry"]["args"][0] == "--out=/gitexp/run/outputs"


def test_a_machine_that_cannot_be_reached_says_what_to_do(there, run, tmp_path):
    place = place_in(there, "unreached")
    (tmp_path / "config").write_text(f"UserKnownHostsFile {tmp_path}/none\nGlobalKnownHostsFile none\n")
    stranger = replace(there.host, config=tmp_path / "config", name="localhost")
    with pytest.raises(RemoteHostError, match="Host key verification failed") as raised:
        carry_run(run.paths, run.workspace, stranger, place)
    assert f"ssh-keyscan -p {there.host.port} localhost" in raised.value.hint
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    nobody = replace(there.host, identity=tmp_path / "other", user="daemon")
    with pytest.raises(RemoteHostError, match="Permission denied") as raised:
        carry_run(run.paths, run.workspace, nobody, place)
    assert "ssh-copy-id" in raised.value.hint
    with pytest.raises(SettingsError):
        replace(there.host, name="-oProxyCommand=touch injected")


FLOW = """\
import json, os, pathlib

def load(n, outputs):
    (outputs / "raw.txt").write_text("raw " * n)
    print("loading in", os.getcwd(), "to", outputs)
    return {"numbers": list(range(n)), "file": outputs / "raw.txt"}

def train(load, scale):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": 0, "sum": sum(load["numbers"]) * scale}) + "\\n")
    earlier = json.load(open(os.environ["GITEXP_RESULTS"]))
    return {"text": pathlib.Path(load["file"]).read_text(), "earlier": sorted(earlier)}
"""
PIPELINE = """\
purpose: Two stages
config: {n: 4, scale: 3}
stages:
  load: {function: "flow:load", outputs: [raw.txt]}
  train: {function: "flow:train", dependencies: [load]}
"""


@pytest.mark.parametrize("reused", [False, True])
def test_a_pipeline_elsewhere_gives_the_bytes_of_a_local_one(there, tmp_path, monkeypatch, reused):
    work = make_work(
        tmp_path / "work", tmp_path / "home", files={"flow.py": FLOW, "experiments/flow/experiment.yaml": PIPELINE}
    )
    answer = work.gitexp("run", "flow", "--json").json
    assert answer["status"] == "completed"
    run = prepare(work, answer["experiment"], monkeypatch, Path(sys.executable))
    if reused:
        keys = stage_keys(run.site.repository, run.experiment.record, run.experiment.config, answer["environment_key"])
        assert list(reuse_stages(run.site, run.experiment.record, run.paths, {**keys, "train": None})) == ["load"]
    relocation = carry_run(run.paths, run.workspace, there.host, place_in(there, f"pipeline {reused}"))
    for stage in ["train"] if reused else ["load", "train"]:
        assert there.host.run(relocation.worker_argv(stage), timeout_s=120).said == ""
    assert fetch_runs(there.host, [(run.paths, relocation)]) == {run.paths.run}
    mine, theirs = (json.loads(text) for text in (run.result()["result.json"], committed_flow(work, answer)))
    for document in (mine, theirs):
        for task in document["tasks"]:
            task.pop("key"), task.pop("reused_from")
    assert mine == theirs
    assert (run.paths.outputs / "load" / "raw.txt").read_text() == "raw raw raw raw "


def committed_flow(work: Work, answer: dict) -> str:
    return work.git("show", f"{answer['result']}:experiments/flow/record/result.json")
