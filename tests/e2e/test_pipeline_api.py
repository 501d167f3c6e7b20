"""`ExperimentPipeline`: the guide's calls, launched through NeMo Run from a script, recorded, reused and reproduced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builder import Work, make_work, put_study

GUIDE = """\
import os
import numpy as np
import nemo_run
import nemo_gitexp as gitexp
from helpers import clean

FACTOR = int(os.environ["FACTOR"])

def load_dataset(name):
    gitexp_marks("load")
    return np.arange(5)

def gitexp_marks(name):
    with open(os.environ["MARKS"], "a") as file:
        file.write(name + "\\n")

def train(results, lr, outputs, seed):
    gitexp_marks("train")
    (outputs / "model.txt").write_text(str(seed))
    return {"accuracy": float(results["features"]["total"]) * lr, "model": outputs / "model.txt"}

def main():
    pipeline = gitexp.ExperimentPipeline("Data Pipeline", config={"lr": 0.5, "unused": 1}, seed=7)
    pipeline.add_stage("train", train, dependencies=["features"], outputs=["model.txt"])
    pipeline.add_stage("load_data", lambda results: load_dataset("mnist"))
    pipeline.add_stage(
        "preprocess", lambda results: (gitexp_marks("pre"), clean(results["load_data"]) * FACTOR)[1], ["load_data"]
    )
    pipeline.add_stage("features", lambda results: {"total": int(results["preprocess"].sum())}, ["preprocess"])
    pipeline.add_stage("shell", ["bash", "-c", 'cat "$0"/result/value.json', "{stages.load_data}"], ["load_data"])
    assert pipeline.results == {}
    experiment = pipeline.create_pipeline_experiment()
    assert isinstance(experiment, nemo_run.Experiment)
    waits = {job.id: job.dependencies for job in experiment.jobs}
    assert waits["train"] == ["features"] and waits["load_data"] == []
    experiment.run()
    results = pipeline.results
    print(gitexp.__name__, experiment.document["status"], experiment.experiment)
    print({name: str(row["status"]) for name, row in experiment.status(return_dict=True).items()})
    print(results["features"], results["load_data"].tolist(), results["train"]["model"].read_text())

if __name__ == "__main__":
    main()
"""


def python(work: Work, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words], cwd=work.root, env=work.env, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def ran(work: Work) -> list[str]:
    marks = Path(work.env["MARKS"])
    names = sorted(marks.read_text().split()) if marks.exists() else []
    marks.unlink(missing_ok=True)
    return names


def test_the_guides_pipeline_runs_with_its_lambdas_and_is_like_any_other_experiment(tmp_path: Path) -> None:
    files = {"flow.py": GUIDE, "helpers.py": "def clean(x):\n    return x\n"}
    work = make_work(tmp_path / "work", tmp_path / "home", files=files, MARKS=str(tmp_path / "marks"), FACTOR="2")
    said = python(work, "flow.py").stdout
    assert "completed" in said
    assert "{'total': 20} [0, 1, 2, 3, 4] 7" in said
    assert said.count("SUCCEEDED") == 5
    first = work.gitexp("show", "latest", "--json").json
    assert (first["study"], first["seed"]) == ("data-pipeline-" + first["study"][-8:], 7)
    assert first["metrics"]["accuracy"] == 10.0
    assert ran(work) == ["load", "pre", "train"]
    carried = work.git("ls-tree", "--name-only", first["experiment"], f"experiments/{first['study']}/record/")
    assert "preprocess.py" in carried
    assert "train.py" not in carried  # found by its name

    assert work.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json["met"]
    ran(work)
    work.env["FACTOR"] = "3"
    python(work, "flow.py")
    second = work.gitexp("show", "latest", "--json").json
    assert ran(work) == ["pre", "train"]
    reused = {task["name"]: task["reused_from"] for task in second["tasks"]}
    assert reused["load_data"] == first["experiment"]

    work.write("helpers.py", "def clean(x):\n    return x + 0\n")  # what a carried function refers to by name
    python(work, "flow.py")
    assert ran(work) == ["pre", "train"]
    changed = work.gitexp("diff", second["experiment"], "latest", "--json").json
    assert "helpers.py" in [file["path"] for file in changed["code"]["files"]]


FAULTS = """\
import json
import nemo_gitexp as gitexp

def tried(build):
    pipeline = gitexp.ExperimentPipeline("p", config={"lr": 1})
    try:
        build(pipeline)
        pipeline.create_pipeline_experiment()
    except gitexp.GitexpError as error:
        return [type(error).__name__, isinstance(error, RuntimeError), str(error)]

def add(*stages):
    def build(pipeline):
        for name, function, needs in stages:
            pipeline.add_stage(name, function, needs)
    return build

lock = __import__("threading").Lock()
print(json.dumps([
    tried(add()),
    tried(add(("train", lambda r: r, ["load"]))),
    tried(add(("a", lambda r: r, []), ("a", lambda r: r, []))),
    tried(add(("a", lambda r: r, ["b"]), ("b", lambda r: r, ["a"]))),
    tried(add(("load data", lambda r: r, []))),
    tried(add(("a", 3, []))),
    tried(add(("a", lambda r: r, "b"))),
    tried(add(("a", lambda results, rate: rate, []))),
    tried(add(("a", lambda r: lock, []))),
]))
"""


def test_a_pipeline_that_cannot_be_is_refused_by_type_and_nothing_is_recorded(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home", files={"faults.py": FAULTS})
    found = json.loads(python(work, "faults.py").stdout)
    assert [item[:2] for item in found] == [
        ["PipelineError", True],
        ["PipelineError", True],
        ["PipelineError", True],
        ["PipelineError", True],
        ["InvalidNameError", False],
        ["UsageError", False],
        ["UsageError", False],
        ["DefinitionError", False],
        ["UnportableFunctionError", False],
    ]
    assert "train depends on load, which is no stage" in found[1][2]
    assert "wait for each other: a → b → a" in found[3][2]
    assert work.refs() == {}


FAILING = """\
import nemo_gitexp as gitexp

pipeline = gitexp.ExperimentPipeline("failing")

def load(): return 1
def bad(load): raise ValueError("no good")
def after(bad): return 2
def beside(load): return {"x": 3}

if __name__ == "__main__":
    for name, needs in {"after": ["bad"], "bad": ["load"], "load": [], "beside": ["load"]}.items():
        pipeline.add_stage(name, globals()[name], needs)
    with pipeline.create_pipeline_experiment() as experiment:
        experiment.run()
    print(experiment.document["status"], sorted(pipeline.results))
"""


def test_a_failing_stage_is_no_exception_and_a_second_process_sees_the_same(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home", files={"failing.py": FAILING})
    assert "failed ['beside', 'load']" in python(work, "failing.py").stdout
    shown = work.gitexp("show", "latest", "--json").json
    assert {task["name"]: task["status"] for task in shown["tasks"]} == {
        "load": "completed",
        "beside": "completed",
        "bad": "failed",
        "after": "skipped",
    }
    assert shown["error"]["message"] == "stage bad: no good"


def test_the_data_pipeline_is_the_study_of_this_repository(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home")
    put_study(work, "digits-pipeline")
    script = """\
import nemo_gitexp as gitexp
if __name__ == "__main__":
    pipeline = gitexp.create_data_pipeline()
    print([stage["name"] for stage in pipeline.stages])
    pipeline.create_pipeline_experiment().run()
    print(pipeline.results["features"]["x"].shape)
"""
    work.write("go.py", script)
    said = python(work, "go.py").stdout
    assert "['load', 'preprocess', 'features', 'train']" in said
    assert "(1797, 144)" in said
    assert work.gitexp("show", "latest", "--json").json["metrics"]["accuracy"] > 0.95
    again = work.gitexp("run", "digits-pipeline", "--json").json  # the other spelling is the same experiment
    assert again["duplicate_of"] is not None


def test_a_repository_without_the_study_is_told(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home")
    said = python(work, "-c", "import nemo_gitexp as g; g.create_data_pipeline()", code=1).stderr
    assert "UnknownStudyError: there is no study digits-pipeline" in said


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_pipeline_without_a_name_is_refused(name: object) -> None:
    import nemo_gitexp

    with pytest.raises(nemo_gitexp.GitexpError, match="needs a name"):
        nemo_gitexp.ExperimentPipeline(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stage, dependencies", [(None, None), (3, None), ("train", "load"), ("train", [1]), ("train", [None])]
)
def test_names_of_stages_that_are_no_text_are_refused(stage: object, dependencies: object) -> None:
    import nemo_gitexp

    pipeline = nemo_gitexp.ExperimentPipeline("p")
    with pytest.raises(nemo_gitexp.GitexpError) as refusal:
        pipeline.add_stage(stage, print, dependencies)  # type: ignore[arg-type]
    assert refusal.value.hint
    assert pipeline.stages == []


@pytest.mark.parametrize("seed", [True, -1, 1.5, "3"])
def test_a_seed_that_is_none_is_refused_before_anything_is_recorded(seed: object) -> None:
    import nemo_gitexp

    with pytest.raises(nemo_gitexp.GitexpError, match="a seed is a whole number"):
        nemo_gitexp.ExperimentPipeline("p", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(nemo_gitexp.GitexpError, match="a seed is a whole number"):
        nemo_gitexp.ExperimentPipeline("p", config={"seed": seed})
