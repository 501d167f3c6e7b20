"""Inputs that are outputs of other experiments, and data too large to hash: recorded, restored, refused, shown."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, make_work
from data_work import DataWork, copy_template, make_template

from nemo_gitexp.facts import write_fact
from nemo_gitexp.git.repository import Identity, open_repository

BASE = """\
purpose: Make a model.
command: python base.py {outputs} {config.value}
config: {value: 3}
outputs: [model.txt, parts, {path: seen.txt, keep: digest}]
"""
BASE_CODE = """\
import json, os, pathlib, sys
out, value = pathlib.Path(sys.argv[1]), sys.argv[2]
if value == "0":
    sys.exit("no such value")
(out / "model.txt").write_text(value)
(out / "parts" / "deep").mkdir(parents=True)
(out / "parts" / "a.txt").write_text("a" + value)
(out / "parts" / "deep" / "b.txt").write_text("b" + value)
(out / "seen.txt").write_text("seen")
"""
TUNE = """\
purpose: Tune the model.
command: python tune.py {inputs.base.txt} {outputs}
data: [{from: "exp://latest:base/model.txt", path: models/base.txt}, "exp://latest:base/parts"]
outputs: [tuned.txt]
"""
TUNE_CODE = """\
import json, os, pathlib, sys
base, out = map(pathlib.Path, sys.argv[1:])
places = json.load(open(os.environ["GITEXP_INPUTS"]))
assert base.samefile("models/base.txt") and base.samefile(places["models/base.txt"])
parts = pathlib.Path(places["inputs/base/parts"])
assert parts.samefile("inputs/base/parts")
text = base.read_text() + (parts / "a.txt").read_text() + (parts / "deep" / "b.txt").read_text()
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"length": len(text)}) + "\\n")
(out / "tuned.txt").write_text(text)
"""
FILES = {
    "base.py": BASE_CODE,
    "tune.py": TUNE_CODE,
    "experiments/base/experiment.yaml": BASE,
    "experiments/tune/experiment.yaml": TUNE,
}


@pytest.fixture(scope="session")
def ran(tmp_path_factory) -> tuple[Path, dict, dict]:
    """Return a repository without DVC in which a model was made and tuned, and both experiments."""
    parent = tmp_path_factory.mktemp("lineage") / "all"
    work = make_work(parent / "work", parent / "home", files=FILES)
    base = work.gitexp("run", "base", "--json").json
    return parent, base, work.gitexp("run", "tune", "--json").json


@pytest.fixture
def tuned(ran: tuple[Path, dict, dict], tmp_path: Path) -> tuple[Work, dict, dict]:
    """Return a copy of its own."""
    parent, base, tune = ran
    # A supervisor may still be tidying its own files away.
    shutil.copytree(parent, tmp_path / "all", symlinks=True, ignore=shutil.ignore_patterns("nemo"))
    return Work(tmp_path / "all/work", make_work(tmp_path / "x", tmp_path / "all/home").env), base, tune


def store_object(work: Work, md5: str) -> Path:
    return work.root / ".git/gitexp/store/files/md5" / md5[:2] / md5[2:]


def recorded(work: Work, experiment: dict) -> dict:
    """Return experiment.json."""
    return json.loads(
        work.git("show", f"{experiment['experiment']}:experiments/{experiment['study']}/record/experiment.json")
    )


def declare(work: Work, *entries: str, study: str = "tune") -> None:
    """Replace the data of a definition."""
    path = work.root / f"experiments/{study}/experiment.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("data:")]
    path.write_text("\n".join([*lines, f"data: [{', '.join(entries)}]", ""]))


def refused(work: Work, *entries: str, code: int = 3) -> dict:
    """Return the error of a run with these data; nothing is recorded."""
    declare(work, *entries)
    before = work.refs()
    error = work.gitexp("run", "tune", "--again", "--json", code=code).json["error"]
    assert work.refs() == before
    return error


def test_an_output_is_pinned_by_content_found_by_the_job_and_reproduced(tuned):
    work, base, tune = tuned
    assert tune["status"] == "completed"
    result = json.loads(work.git("show", f"{base['result']}:experiments/base/record/result.json"))
    md5 = {item["path"]: item["md5"] for item in result["outputs"]}
    first, second = recorded(work, tune)["inputs"]
    assert (first["path"], first["pin"], first["strength"]) == ("models/base.txt", md5["model.txt"], "content")
    assert (second["path"], second["pin"], second["n_files"]) == ("inputs/base/parts", md5["parts"], 2)
    assert first["origin"] == {
        "kind": "exp",
        "asked": "exp://latest:base/model.txt",
        "experiment": base["experiment"],
        "result": base["result"],
        "study": "base",
        "name": base["name"],
        "output": "model.txt",
    }
    verdict = work.gitexp("reproduce", tune["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["weakest_input"]) == ("bitwise", "content")


def test_an_experiment_keeps_its_input_when_the_address_means_another_one(tuned):
    work, _, tune = tuned
    newer = work.gitexp("run", "base", "value=4", "--json").json
    again = work.gitexp("run", "tune", "--json").json
    assert again["experiment"] != tune["experiment"]
    assert recorded(work, again)["inputs"][0]["origin"]["experiment"] == newer["experiment"]
    assert work.gitexp("reproduce", tune["experiment"], "--require", "bitwise", "--json").json["met"]


def test_equal_content_of_another_experiment_is_the_same_experiment(tuned):
    work, _, tune = tuned
    work.gitexp("run", "base", "--again", "--json")
    same = work.gitexp("run", "tune", "--json").json
    assert (same["duplicate_of"], same["identity"]) == (tune["experiment"], tune["identity"])


def test_an_experiment_is_called_what_it_is_called_elsewhere(tuned):
    work, base, tune = tuned
    for spelling in ("{sha}", "{name}", "{study}/{name}", "{ref}", "{branch}"):
        exp = spelling.format(sha=base["experiment"][:12], **base)
        declare(work, f'{{from: "exp://{exp}/parts/deep/b.txt", path: models/base.txt}}', f'"exp://{exp}/parts"')
        file, folder = work.gitexp("run", "tune", "--plan", "--json").json["inputs"]
        assert (file["origin"]["experiment"], file["origin"]["output"]) == (base["experiment"], "parts/deep/b.txt")
        assert (folder["path"], folder["pin"]) == ("inputs/base/parts", tune["inputs"][1]["pin"])


def test_lineage_is_shown_and_listed(tuned):
    work, base, tune = tuned
    shown = work.gitexp("show", base["experiment"], "--json").json
    child = {"experiment": tune["experiment"], "study": "tune", "name": tune["name"]}
    assert (shown["parents"], shown["children"]) == ([], [child])
    shown = work.gitexp("show", tune["experiment"], "--json").json
    parent = {"experiment": base["experiment"], "study": "base", "name": base["name"]}
    assert shown["parents"] == [
        {**parent, "output": "model.txt", "path": "models/base.txt"},
        {**parent, "output": "parts", "path": "inputs/base/parts"},
    ]
    assert shown == tune
    text = work.gitexp("show", tune["experiment"]).out
    assert f"model.txt of {base['experiment'][:8]} base/{base['name']}" in text
    assert f"{tune['experiment'][:8]}  tune/{tune['name']}" in work.gitexp("show", base["experiment"]).out
    lines = work.gitexp("log", "--lineage", "--study", "tune").out.splitlines()
    assert lines == [
        f"{base['experiment'][:8]}  base/{base['name']}  completed",
        f"└─ {tune['experiment'][:8]}  tune/{tune['name']}  completed  length 5  from model.txt, parts",
    ]
    listed = work.gitexp("log", "--lineage", "--json").json["experiments"]
    graph = {one["experiment"]: [above["experiment"] for above in one["parents"]] for one in listed}
    assert graph == {base["experiment"]: [], tune["experiment"]: [base["experiment"]] * 2}
    work.git("update-ref", "-d", base["ref"])
    lines = work.gitexp("log", "--lineage").out.splitlines()
    assert lines[0] == f"{base['experiment'][:8]}  base/{base['name']}  not in this repository"
    assert lines[1].startswith(f"└─ {tune['experiment'][:8]}")


def test_what_cannot_be_an_input_is_refused_before_anything_is_recorded(tuned):
    work, base, _ = tuned
    unknown = refused(work, '"exp://nowhere/model.txt"')
    assert unknown["type"] == "UnknownExperimentError"
    no_output = refused(work, '"exp://latest:base/model.bin"')
    assert (no_output["type"], no_output["hint"]) == ("UpstreamError", "it has: model.txt, parts, seen.txt")
    no_file = refused(work, '"exp://latest:base/parts/c.txt"')
    assert no_file["hint"] == "it holds: a.txt, deep/b.txt"
    not_kept = refused(work, '"exp://latest:base/seen.txt"')
    assert "did not keep its output seen.txt (keep: digest)" in not_kept["message"]
    twice = refused(work, '"exp://latest:base/parts"', f'"exp://{base["experiment"]}/parts"', code=2)
    assert twice["message"] == "two inputs would lie in inputs/base/parts"
    code = refused(work, '{from: "exp://latest:base/model.txt", path: base.py/model.txt}', code=2)
    assert code["message"] == "git tracks files where the input base.py/model.txt would lie"
    assert refused(work, '{from: "exp://latest:base/model.txt", path: experiments}', code=2)["type"] == "UsageError"
    live = refused(work, "{path: tune.py, pin: manifest}", code=2)
    assert live["hint"] == "git rm -r --cached tune.py, and name it in .gitignore"


def test_an_experiment_without_a_result_to_build_upon_is_refused(tuned):
    work, base, _ = tuned
    short = work.gitexp("run", "base", "value=5", "--record-only", "--json").json["experiment"][:12]
    unfinished = refused(work, '"exp://latest:base/model.txt"')
    assert (unfinished["type"], unfinished["status"]) == ("UpstreamError", "recorded")
    assert unfinished["hint"] == f"nemo-gitexp launch {short}"
    work.gitexp("run", "base", "value=0", "--json", code=1)
    failed = refused(work, '"exp://latest:base/model.txt"')
    assert (failed["status"], failed["why"]) == ("failed", "did not complete: failed")
    assert failed["hint"].endswith("nemo-gitexp log --study base --status completed")
    who = Identity("Ada", "ada@example.org", "1 +0000")
    write_fact(open_repository(work.root), base["experiment"], "withdrawn", {}, who)
    withdrawn = refused(work, f'"exp://{base["name"]}/model.txt"')
    assert (withdrawn["type"], withdrawn["why"]) == ("UpstreamError", "was withdrawn")


def test_content_that_is_nowhere_is_refused_with_the_command_that_brings_it(tuned):
    work, base, tune = tuned
    (md5, *_) = (item["pin"] for item in tune["inputs"])
    store_object(work, md5).unlink()
    missing = refused(work, '"exp://latest:base/model.txt"')
    assert (missing["type"], missing["missing"]) == ("MissingDataError", ["model.txt"])
    assert missing["hint"] == f"nemo-gitexp reproduce {base['experiment'][:12]} makes it again and keeps it"
    missing = work.gitexp("reproduce", tune["experiment"], "--json", code=3).json["error"]
    assert (missing["type"], missing["experiment"]) == ("MissingDataError", base["experiment"])
    work.gitexp("reproduce", base["experiment"], "--require", "bitwise")
    assert work.gitexp("reproduce", tune["experiment"], "--require", "bitwise", "--json").json["met"]


def test_a_corrupt_output_is_never_handed_on(tuned):
    work, base, tune = tuned
    place = store_object(work, tune["inputs"][0]["pin"])
    place.chmod(0o644)
    place.write_text("other")
    refusal = work.gitexp("reproduce", tune["experiment"], "--json", code=3).json["error"]
    assert (refusal["type"], refusal["corrupt"]) == ("MissingDataError", [f"{place}.corrupt-1"])
    assert refusal["hint"].startswith(f"nemo-gitexp reproduce {base['experiment'][:12]}")


def test_in_a_clone_the_child_is_reproduced_once_the_parent_was(tuned, tmp_path):
    work, base, tune = tuned
    work.git("clone", "-q", str(work.root), str(tmp_path / "all/clone"), cwd=tmp_path)
    clone = replace(work, root=tmp_path / "all/clone")
    clone.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    missing = clone.gitexp("reproduce", tune["experiment"], "--json", code=3).json["error"]
    assert missing["hint"].startswith(f"nemo-gitexp reproduce {base['experiment'][:12]}")
    assert clone.gitexp("reproduce", base["experiment"], "--require", "executed", "--json").json["met"]
    assert clone.gitexp("reproduce", tune["experiment"], "--require", "bitwise", "--json").json["met"]


DAMAGE = """\
import os, pathlib
path = pathlib.Path("models/base.txt")
path.chmod(0o644)
with path.open("r+b") as file:
    file.write(b"7")
"""


def test_a_job_that_writes_through_into_the_store_is_noticed_and_the_output_is_set_aside(tuned):
    work, _, tune = tuned
    work.write("tune.py", TUNE_CODE + DAMAGE)
    damaged = work.gitexp("run", "tune", "--json").json
    run = json.loads(work.git("show", f"{damaged['result']}:experiments/tune/record/run.json"))
    assert run["inputs_changed"] == ["models/base.txt"]
    assert not store_object(work, tune["inputs"][0]["pin"]).exists()
    error = work.gitexp("reproduce", tune["experiment"], "--json", code=3).json["error"]
    assert error["type"] == "MissingDataError"


STEPS = """\
purpose: Use a model in a pipeline.
data: ["exp://latest:base/model.txt"]
stages:
  count: {command: "python count.py {inputs.model.txt} {outputs}", outputs: [n.txt]}
  double: {function: "count.py:double", dependencies: [count]}
"""
COUNT = """\
import json, os, pathlib, sys

def double(outputs):
    places = json.load(open(os.environ["GITEXP_INPUTS"]))
    return {"doubled": 2 * int(pathlib.Path(places["inputs/base/model.txt"]).read_text())}

if __name__ == "__main__":
    source, out = map(pathlib.Path, sys.argv[1:])
    (out / "n.txt").write_text(source.read_text())
"""


def test_stages_find_their_inputs_too(tuned):
    work, base, _ = tuned
    work.write("count.py", COUNT)
    work.write("experiments/steps/experiment.yaml", STEPS)
    ran = work.gitexp("run", "steps", "--json").json
    assert (ran["status"], ran["metrics"]) == ("completed", {"doubled": 6})
    assert ran["inputs"][0]["origin"]["experiment"] == base["experiment"]


MIXED = """\
purpose: Use everything at once.
command: python mixed.py
data:
- data/points.bin
- {path: shards, pin: manifest}
- exp://latest:sum/sum.txt
"""
MIXED_CODE = """\
import json, os, pathlib
n = sum(1 for path in pathlib.Path("shards").rglob("*.bin") if path.stat().st_size == 2 * 10**9)
total = int(pathlib.Path("inputs/sum/sum.txt").read_text())
assert sorted(json.load(open(os.environ["GITEXP_INPUTS"]))) == ["data/points.bin", "inputs/sum/sum.txt", "shards"]
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"n": n, "total": total, "bytes": pathlib.Path("data/points.bin").stat().st_size}) + "\\n")
"""


@pytest.fixture
def mixed(tmp_path: Path) -> DataWork:
    """Return a repository with DVC, a finished experiment, and ten thousand files of 20 TB in all."""
    work = copy_template(make_template(tmp_path / "template"), tmp_path / "all")
    work.gitexp("run", "sum")
    work.write(".gitignore", "/shards\n")
    work.write("mixed.py", MIXED_CODE)
    work.write("experiments/mixed/experiment.yaml", MIXED)
    for number in range(10_000):
        path = work.root / f"shards/{number % 100:02}/{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, 2 * 10**9)
    work.write("shards/train.idx", "an index is hashed")
    return work


def test_the_weakest_of_mixed_inputs_stands_in_the_verdict_and_changed_data_are_refused_by_name(mixed: DataWork):
    ran = mixed.gitexp("run", "mixed", "--json").json
    assert ran["metrics"] == {"n": 10_000, "total": 524_085, "bytes": 4096}
    strengths = [item["strength"] for item in ran["inputs"]]
    assert strengths == ["content", "manifest", "content"]
    assert ran["inputs"][1]["size_bytes"] == 20 * 10**12 + 18
    assert "20.0 TB pinned by manifest" in " ".join(mixed.gitexp("show", "latest:mixed").out.split())
    verdict = mixed.gitexp("reproduce", ran["experiment"], "--require", "metrics", "--json").json
    assert (verdict["met"], verdict["weakest_input"]) == (True, "manifest")

    waiting = mixed.gitexp("run", "mixed", "--again", "--record-only", "--json").json["experiment"]
    changed = mixed.root / "shards/07/00007.bin"
    before = changed.stat()
    os.truncate(changed, 5)
    for command in (("launch", waiting), ("reproduce", ran["experiment"])):
        error = mixed.gitexp(*command, "--json", code=3).json["error"]
        assert error["type"] == "DataDriftError"
        assert "07/00007.bin: 2000000000 -> 5 bytes" in error["message"]
        assert [(item["kind"], item["name"]) for item in error["drift"]] == [("data", "shards/07/00007.bin")]
    os.truncate(changed, 2 * 10**9)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert mixed.gitexp("launch", waiting, "--json").json["status"] == "completed"
    assert not mixed.git("status", "--porcelain", "--", "shards")
