"""Data: pinned by DVC, refused when it differs, restored from wherever it is, never corrupted unnoticed."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from data_work import INPUTS, SUM, DataWork, copy_template, make_template
from rewriting import graft_result


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    return make_template(tmp_path_factory.mktemp("data") / "all")


@pytest.fixture
def data(template: Path, tmp_path: Path) -> DataWork:
    return copy_template(template, tmp_path / "all")


def run_document(work: DataWork, experiment: dict) -> dict:
    return json.loads(work.git("show", f"{experiment['result']}:experiments/{experiment['study']}/record/run.json"))


def test_inputs_are_pinned_by_pointer_and_lock_and_reproduced_in_a_clone_from_the_remote(data: DataWork, tmp_path):
    ran = data.gitexp("run", "sum", "--json").json
    pins = {item["path"]: (item["strength"], item["pin"]) for item in ran["inputs"]}
    assert set(pins) == set(INPUTS)
    assert {strength for strength, _ in pins.values()} == {"content"}
    assert pins["data/raw"][1].endswith(".dir")
    clone = replace(data, root=tmp_path / "all" / "clone")
    data.git("clone", "-q", str(data.root), str(clone.root))
    clone.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    verdict = clone.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["weakest_input"]) == ("bitwise", "content")
    assert clone.git("status", "--porcelain") == ""


def test_changed_data_is_refused_until_it_is_committed_and_the_old_experiment_keeps_its_own(data: DataWork):
    old = data.gitexp("run", "sum", "--json").json
    (data.root / "data/points.bin").chmod(0o644)
    data.write("data/points.bin", bytes(range(256)) * 15 + bytes(255) + b"\x01")
    data.write("data/raw/c.txt", "three")
    refused = data.gitexp("run", "sum", "--json", code=3).json["error"]
    assert refused["type"] == "DataDriftError"
    assert refused["paths"] == ["data/points.bin", "data/raw"]
    assert "--commit-data" in refused["hint"]
    assert len(data.refs()) == 1
    new = data.gitexp("run", "sum", "--commit-data", "--json").json
    assert new["metrics"] != old["metrics"]
    assert [item["pin"] for item in new["inputs"]] != [item["pin"] for item in old["inputs"]]
    assert "data/points.bin.dvc" in data.git("diff", "--name-only").split()
    assert data.gitexp("reproduce", old["experiment"], "--require", "bitwise", "--json").json["met"] is True


def test_a_result_of_data_that_differ_in_one_byte_is_caught(data: DataWork):
    old = data.gitexp("run", "sum", "--json").json
    (data.root / "data/points.bin").chmod(0o644)
    data.write("data/points.bin", b"\x01" + (bytes(range(256)) * 16)[1:])
    other = data.gitexp("run", "sum", "--commit-data", "--record-only", "--json").json
    graft_result(data, old, other)
    verdict = data.gitexp("reproduce", other["experiment"], "--json", code=1).json
    assert verdict["verdict"] == "executed"
    assert verdict["metrics"][0]["got"] == verdict["metrics"][0]["recorded"] + 1


def test_all_that_is_nowhere_is_named_at_once(data: DataWork):
    ran = data.gitexp("run", "sum", "--json").json
    shutil.rmtree(data.cache)
    data.forget_remote()
    data.forget_data()
    refused = data.gitexp("reproduce", ran["experiment"], "--json", code=3).json["error"]
    assert refused["type"] == "MissingDataError"
    assert refused["missing"] == list(INPUTS)
    assert refused["hint"].startswith("dvc pull data/points.bin data/raw data/made.txt")
    assert data.gitexp("reproduce", ran["experiment"], "--bisect", code=125).code == 125
    assert not list((data.root / ".git/gitexp/workspaces").iterdir())


def test_a_stage_makes_what_cache_and_remote_lack(data: DataWork):
    made = (data.root / "data/made.txt").read_bytes()
    ran = data.gitexp("run", "sum", "--json").json
    (pin,) = (item["pin"] for item in ran["inputs"] if item["path"] == "data/made.txt")
    for store in (data.cache, data.remote):
        (store / "files/md5" / pin[:2] / pin[2:]).unlink()
    (data.root / "data/made.txt").unlink()
    answered = data.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json")
    assert answered.json["met"] is True
    assert "stage prepare" in answered.err
    assert (data.cache / "files/md5" / pin[:2] / pin[2:]).read_bytes() == made


def test_a_corrupt_cache_object_is_set_aside_and_never_used(data: DataWork):
    ran = data.gitexp("run", "sum", "--json").json
    data.object("data/points.bin").chmod(0o644)
    data.object("data/points.bin").write_bytes(b"\x07" * 4096)
    answered = data.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json")
    assert answered.json["met"] is True
    assert "corrupt" in answered.err
    assert list(data.object("data/points.bin").parent.glob("*.corrupt-1"))


def test_data_that_only_the_work_tree_still_has_is_taken_from_there(data: DataWork):
    data.forget_remote()
    shutil.rmtree(data.cache)
    ran = data.gitexp("run", "sum", "--json").json
    assert ran["status"] == "completed"
    assert data.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"] is True


WRITES_THROUGH = """\
import os, pathlib
path = pathlib.Path("data/points.bin")
path.chmod(0o644)
with path.open("r+b") as file:
    file.write(b"damaged")
"""


@pytest.mark.parametrize("verb", ["run", "reproduce", "kept"])
def test_a_job_that_writes_through_into_the_cache_is_noticed_and_the_next_run_is_right(data: DataWork, verb: str):
    good = data.gitexp("run", "sum", "--json").json
    damage = 'if os.environ.get("DAMAGE"):\n    ' + WRITES_THROUGH.replace("\n", "\n    ").rstrip() + "\n"
    data.write("sum.py", SUM.replace("out = ", damage + "out = "))
    damaging = replace(data, env={**data.env, "DAMAGE": "1"})
    if verb == "reproduce":
        recorded = data.gitexp("run", "sum", "--json").json
        damaging.gitexp("reproduce", recorded["experiment"], "--json", code=1)
    else:
        bad = damaging.gitexp("run", "sum", "--json", *(["--keep"] if verb == "kept" else [])).json
        assert run_document(data, bad)["inputs_changed"] == ["data/points.bin"]
    if data.object("data/points.bin").exists():
        assert not data.object("data/points.bin").read_bytes().startswith(b"damaged")
    again = data.gitexp("reproduce", good["experiment"], "--require", "bitwise", "--json").json
    assert again["met"] is True


DVC_INSIDE = """\
import json, os, pathlib, subprocess, sys
def dvc(*args):
    done = subprocess.run([sys.executable, "-m", "dvc", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
assert "up to date" in dvc("status"), dvc("status")
dvc("get", ".", "data/points.bin", "-o", os.path.join(sys.argv[1], "got.bin"))
import dvc.api
with dvc.api.open("data/raw/a.txt") as file:
    assert file.read() == "one"
"""


def test_a_jobs_own_dvc_calls_work(data: DataWork):
    data.write("asks.py", DVC_INSIDE)
    study = "purpose: Ask DVC.\ncommand: python asks.py {outputs}\ndata: [data/points.bin, data/raw, data/made.txt]\n"
    data.write("experiments/asks/experiment.yaml", study)
    ran = data.gitexp("run", "asks", "--json", code=None)
    assert ran.code == 0, ran.json["error"]
    assert [output["path"] for output in ran.json["outputs"]] == ["got.bin"]


@pytest.mark.slow
def test_pipelines_experiments_and_gc_of_dvc_go_on_beside_us(data: DataWork):
    data.dvc("exp", "run", "-q", "--name", "before")
    ran = data.gitexp("run", "sum", "--json").json
    assert "up to date" in data.dvc("status")
    data.write("prepare.py", (data.root / "prepare.py").read_text().replace("name} ", "name}: "))
    data.dvc("repro", "-q")
    data.dvc("exp", "run", "-q", "--name", "after")
    assert {"before", "after"} <= set(data.dvc("exp", "list", "--name-only").split())
    newer = data.gitexp("run", "sum", "--json").json
    assert newer["metrics"] != ran["metrics"]
    data.dvc("gc", "-w", "-f", "-q")
    target = data.root.parent / "got"
    data.gitexp("outputs", ran["experiment"], "--get", str(target))
    assert (target / "sum.txt").is_file()
    assert data.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"] is True


SIZE = """\
import json, os
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"size": os.path.getsize("data/big/part.bin")}) + "\\n")
"""


def test_manifest_inputs_are_compared_by_their_listing(data: DataWork):
    study = "purpose: Large.\ncommand: python size.py\ndata: [{path: data/big, pin: manifest}]\n"
    data.write("experiments/large/experiment.yaml", study)
    data.write("size.py", SIZE)
    data.write("data/big/part.bin", b"12345")
    data.write("data/.gitignore", (data.root / "data/.gitignore").read_text() + "/big\n")
    ran = data.gitexp("run", "large", "--json").json
    assert (ran["status"], ran["inputs"][0]["strength"]) == ("completed", "manifest")
    verdict = data.gitexp("reproduce", ran["experiment"], "--json").json
    assert (verdict["met"], verdict["weakest_input"]) == (True, "manifest")
    data.write("data/big/part.bin", b"123456")
    refused = data.gitexp("reproduce", ran["experiment"], "--json", code=3).json["error"]
    assert refused["type"] == "DataDriftError"


def test_an_untracked_input_is_refused_with_the_command_that_tracks_it(data: DataWork):
    study = "purpose: Untracked.\ncommand: python sum.py {outputs}\ndata: [data/new.bin]\n"
    data.write("experiments/fresh/experiment.yaml", study)
    data.write("data/new.bin", b"1")
    refused = data.gitexp("run", "fresh", "--json", code=3).json["error"]
    assert refused["type"] == "UntrackedDataError"
    assert "dvc add data/new.bin" in refused["hint"]


def test_a_checkout_has_copies_and_goes_away_with_git(data: DataWork, tmp_path: Path):
    ran = data.gitexp("run", "sum", "--json").json
    place = tmp_path / "a place"
    data.gitexp("checkout", ran["experiment"], str(place))
    inodes = {path.stat().st_ino for path in data.cache.rglob("*") if path.is_file()}
    assert {(place / path).stat().st_ino for path in ("data/points.bin", "data/raw/a.txt", "data/made.txt")} - inodes
    assert not {(place / path).stat().st_ino for path in ("data/points.bin", "data/raw/a.txt")} & inodes
    (place / "data/points.bin").write_bytes(b"mine")
    assert data.object("data/points.bin").read_bytes() != b"mine"
    data.git("checkout", "-q", "--", ".", cwd=place)
    assert data.git("rev-parse", "HEAD", cwd=place) == ran["experiment"]
    done = subprocess.run(["git", "worktree", "remove", str(place)], cwd=data.root, env=data.env, check=False)
    assert done.returncode == 0
    assert not place.exists()
