"""What an experiment made can be had again, equal runs say equal things, and nothing private gets into commits."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, make_work

from nemo_gitexp.catalog import open_site
from nemo_gitexp.collect import read_leavings
from nemo_gitexp.data.store import hash_bytes
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.result import build_result
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.store import read_experiments

MAKES = """\
import json, os, sys
out = os.environ["GITEXP_OUTPUTS"]
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 0, "loss": 0.5}) + "\\n")
for name in ("parts", "kept"):
    os.makedirs(os.path.join(out, name, "inner"))
    for path in ("a.txt", "inner/b.txt"):
        with open(os.path.join(out, name, path), "w") as file:
            file.write(path)
with open(os.path.join(out, "model.txt"), "w") as file:
    file.write("weights")
if len(sys.argv) > 1:
    with open(os.path.join(sys.argv[1], "external.txt"), "a") as file:
        file.write("outside")
print("made in", out, "by", sys.executable, "for", os.path.expanduser("~"))
if os.environ.get("RAISE"):
    raise RuntimeError(f"cannot read {os.getcwd()}/nothing and {os.path.expanduser('~')}/secret")
"""
STUDY = """\
purpose: Make things.
command: python makes.py
outputs: [model.txt, parts, {path: kept, keep: in-place}]
"""


@pytest.fixture(scope="module")
def makes(tmp_path_factory) -> Work:
    place = tmp_path_factory.mktemp("makes")
    files = {"makes.py": MAKES, "experiments/makes/experiment.yaml": STUDY}
    return make_work(place / "work", place / "home-of-ada", files=files)


@pytest.fixture(scope="module")
def made(makes: Work) -> dict:
    return makes.gitexp("run", "makes", "--json").json


def test_outputs_are_fetched_whole_or_by_name_as_files_of_ones_own(makes: Work, made: dict, tmp_path: Path):
    listed = makes.gitexp("outputs", made["experiment"], "--json").json["outputs"]
    assert {item["path"]: item["keep"] for item in listed} == {"model.txt": "dvc", "parts": "dvc", "kept": "in-place"}
    makes.gitexp("outputs", made["experiment"], "--get", str(tmp_path / "all"))
    names = sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.txt"))
    assert names == ["kept/a.txt", "kept/inner/b.txt", "model.txt", "parts/a.txt", "parts/inner/b.txt"]
    makes.gitexp("outputs", made["experiment"], "parts", "--get", str(tmp_path / "one"))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["parts"]
    (tmp_path / "all" / "model.txt").write_text("my own edit")
    makes.gitexp("outputs", made["experiment"], "model.txt", "--get", str(tmp_path / "two"))
    assert (tmp_path / "two" / "model.txt").read_text() == "weights"


def test_what_cannot_be_fetched_is_refused(makes: Work, made: dict, tmp_path: Path):
    refused = makes.gitexp("outputs", made["experiment"], "modle.txt", "--get", str(tmp_path), "--json", code=2).json
    assert "model.txt" in refused["error"]["hint"]
    (tmp_path / "model.txt").write_text("mine")
    refused = makes.gitexp("outputs", made["experiment"], "--get", str(tmp_path), "--json", code=3).json
    assert refused["error"]["type"] == "StateDirectoryError"
    assert (tmp_path / "model.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model.txt"]


def test_content_that_is_gone_is_said_and_comes_back_with_an_equal_reproduction(makes: Work, tmp_path: Path):
    ran = makes.gitexp("run", "makes", "--again", "--json").json
    result = json.loads(makes.git("show", f"{ran['result']}:experiments/makes/record/result.json"))
    (md5,) = (item["md5"] for item in result["outputs"] if item["path"] == "model.txt")
    (stored,) = (makes.root / ".git/gitexp/store").glob(f"**/{md5[:2]}/{md5[2:]}")
    stored.unlink()
    for run in (makes.root / ".git/gitexp/runs").glob(f"{ran['experiment']}.*"):
        (run / "outputs" / "model.txt").unlink()
    refused = makes.gitexp("outputs", ran["experiment"], "--get", str(tmp_path / "a"), "--json", code=3).json["error"]
    assert (refused["type"], refused["missing"]) == ("MissingDataError", ["model.txt"])
    assert makes.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"] is True
    makes.gitexp("outputs", ran["experiment"], "model.txt", "--get", str(tmp_path / "b"))
    assert (tmp_path / "b" / "model.txt").read_text() == "weights"


def test_an_external_output_is_fetched_and_stands_in_the_way_of_a_reproduction(makes: Work, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    study = f"purpose: Outside.\ncommand: python makes.py {scratch}\n"
    study += f"outputs: [{{path: {scratch}/external.txt, keep: in-place}}]\n"
    makes.write("experiments/outside/experiment.yaml", study)
    ran = makes.gitexp("run", "outside", "--json").json
    assert ran["status"] == "completed"
    makes.gitexp("outputs", ran["experiment"], "--get", str(tmp_path / "got"))
    assert (tmp_path / "got" / "external.txt").read_text() == "outside"
    refused = makes.gitexp("reproduce", ran["experiment"], "--json", code=3).json["error"]
    assert refused["paths"] == [f"{scratch}/external.txt"]
    (scratch / "external.txt").rename(tmp_path / "moved-away.txt")
    assert makes.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"] is True


@pytest.mark.parametrize("failing", [False, True])
def test_equal_runs_of_one_record_give_equal_bytes(makes: Work, failing: bool):
    work = replace(makes, env={**makes.env, **({"RAISE": "1"} if failing else {})})
    ran = work.gitexp("run", "makes", "--again", "--json", code=int(failing)).json
    for _ in range(2):
        work.gitexp("reproduce", ran["experiment"], "--keep", "--json", code=int(failing))
    repository = open_repository(work.root)
    site = open_site(repository, work.env)
    (experiment,) = read_experiments(repository, [find_experiment(repository, ran["experiment"])])
    places = [RunPaths(path) for path in site.run_root.glob(f"{ran['experiment']}.*")]
    leavings = [read_leavings(experiment, inspect_run(path)) for path in places]
    results = {build_result(experiment.record, left, hash_bytes).result for left in leavings}
    committed = work.git("show", f"{ran['result']}:experiments/makes/record/result.json")
    assert len(places) == 3
    assert {result.decode().strip() for result in results} == {committed}


def test_no_place_user_or_host_gets_into_a_commit(makes: Work, made: dict):
    failing = replace(makes, env={**makes.env, "RAISE": "1"})
    failed = failing.gitexp("run", "makes", "--again", "--json", code=1).json
    assert failed["error"]["message"] == "cannot read {workspace}/nothing and ~/secret"
    makes.gitexp("reproduce", made["experiment"], "--json")
    private = [str(makes.root.parent), "home-of-ada", sys.prefix, str(Path.home()), f"{socket.gethostname()}\\b"]
    listed = makes.git("rev-list", "--objects", "--no-object-names", "--glob=refs/gitexp*", "--not", "main").split()
    assert len(listed) > 20
    for sha in listed:
        content = makes.git("cat-file", "-p", sha)
        found = [text for text in private if re.search(text, content)]
        assert not found, content


@pytest.fixture(scope="module")
def tiny_environment(tmp_path_factory) -> Path:
    """A virtual environment with one package of ours, and a directory of wheels that has it."""
    place = tmp_path_factory.mktemp("environment")
    wheel = place / "wheels" / "tinything-1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinything.py", "VALUE = 12\n")
        archive.writestr("tinything-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.2\n")
        archive.writestr(
            "tinything-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinything-1.2.dist-info/RECORD", "")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return place


@pytest.mark.slow
def test_a_drifted_environment_is_named_or_ignored_or_made_anew(makes: Work, tiny_environment: Path):
    makes.write("tiny.py", MAKES.replace("import json", "import tinything, json"))
    python = tiny_environment / "venv" / "bin"
    env = {**makes.env, "PATH": f"{python}{os.pathsep}{makes.env['PATH']}"}
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tiny_environment / "wheels")}
    inside = replace(makes, env=env)
    ran = inside.gitexp("run", "--json", "--", "python", "tiny.py").json
    assert ran["status"] == "completed"
    environment = json.loads(makes.git("show", f"{ran['experiment']}:experiments/tiny/record/environment.json"))
    assert environment["packages"] == {"tinything": "1.2"}
    assert inside.gitexp("reproduce", ran["experiment"], "--json").json["environment"] == "same"
    (site,) = (tiny_environment / "venv" / "lib").glob("python*/site-packages")
    (site / "tinything-1.2.dist-info").rename(site / "tinything-1.3.dist-info")
    (site / "tinything-1.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tinything\nVersion: 1.3\n")
    drifted = inside.gitexp("reproduce", ran["experiment"], "--json").json
    assert (drifted["verdict"], drifted["environment"]) == ("bitwise", "drifted")
    assert drifted["drift"] == [{"kind": "loaded", "name": "tinything", "recorded": "1.2", "here": "1.3"}]
    ignored = inside.gitexp("reproduce", ran["experiment"], "--env", "ignore", "--json").json
    assert (ignored["environment"], ignored["drift"]) == ("unknown", [])
    recreated = inside.gitexp("reproduce", ran["experiment"], "--env", "recreate", "--json")
    assert "recreating" in recreated.err
    answer = recreated.json
    assert (answer["verdict"], answer["environment"], answer["drift"]) == ("bitwise", "same", [])
    again = inside.gitexp("reproduce", ran["experiment"], "--env", "recreate", "--json")
    assert "recreating" not in again.err


def test_the_environment_of_a_wrapped_command_is_compared_as_it_was_in_the_job(makes: Work):
    makes.write("makes.sh", "python makes.py\n")
    ran = makes.gitexp("run", "--json", "--", "bash", "makes.sh").json
    verdict = makes.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["environment"], verdict["drift"]) == ("bitwise", "same", [])
    refused = makes.gitexp("reproduce", ran["experiment"], "--env", "recreate", "--json", code=2).json["error"]
    assert "bash" in refused["message"]
