"""`nemorun … run.plugins=gitexp`, and scripts of NeMo Run's command line: recorded as they were finally configured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from builder import Work, make_work
from residue import expect_nothing_left

TASKS = """
import json, os
import nemo_run as run

@run.cli.entrypoint(namespace="demo")
def train(lr: float = 0.1, steps: int = 3):
    print("training at", lr)
    if "GITEXP_METRICS" in os.environ:
        with open(os.environ["GITEXP_METRICS"], "a") as stream:
            for step in range(steps):
                stream.write(json.dumps({"step": step, "loss": lr / (step + 1)}) + "\\n")

@run.cli.factory(target=train, name="tuned")
def tuned() -> run.Partial[train]:
    return run.Partial(train, lr=0.5, steps=5)

@run.cli.entrypoint(namespace="demo", type="experiment")
def sweep(ctx: run.cli.RunContext, words: list[str] = ["a"]):
    with run.Experiment("sweep", executor=ctx.executor or run.LocalExecutor()) as exp:
        for word in words:
            exp.add(run.Script(inline=f"echo {word} $X"), name=word, plugins=ctx.plugins)
        ctx.launch(exp)

@run.cli.factory(target=run.LocalExecutor, name="here")
def here() -> run.Config[run.LocalExecutor]:
    return run.Config(run.LocalExecutor, env_vars={"X": "1"})

if __name__ == "__main__":
    import nemo_gitexp
    run.cli.main(train)
"""
HERE = ("run.executor=here", "run.plugins=gitexp")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("nemorun")
    package = place / "installed" / "demo-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[nemo_run.cli]\ndemo = demo_tasks\n")
    files = {"demo_tasks.py": TASKS, ".gitignore": "__pycache__/\n"}
    places = f"{package.parent}:{place / 'work'}"
    return make_work(place / "work", place / "home", files=files, PYTHONPATH=places)


def call(work: Work, *argv: str, cwd: Path | None = None, code: int = 0) -> str:
    done = subprocess.run(
        argv, cwd=cwd or work.root, env=work.env, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == code, f"{argv}\n{done.stdout}\n{done.stderr}"
    return " ".join((done.stdout + done.stderr).split())


def test_a_task_is_recorded_with_its_final_configuration(work: Work) -> None:
    call(work, "nemorun", "demo", "train", "--factory", "tuned", "lr=0.06", *HERE, "run.plugins.seed=3", "--yes")
    document = work.gitexp("show", "latest", "--json").json
    assert (document["study"], document["status"], document["seed"]) == ("train", "completed", 3)
    config = {"_partial_": True, "_target_": "demo_tasks:train", "lr": 0.06, "steps": 5}
    assert document["config"] == config
    assert document["topology"]["environment"]["X"] == "1"
    assert document["metric_stats"]["loss"]["n"] == 5


def test_a_script_of_its_command_line_is_recorded_too(work: Work) -> None:
    call(work, "python", "demo_tasks.py", "lr=0.07", *HERE, "run.plugins.study=scripted", "--yes")
    document = work.gitexp("show", "latest:scripted", "--json").json
    assert (document["status"], document["config"]["lr"]) == ("completed", 0.07)
    assert document["config"]["_target_"] == "demo_tasks:train"


def test_an_entry_point_of_type_experiment_is_one_experiment(work: Work) -> None:
    call(work, "nemorun", "demo", "sweep", "words=['a','b']", *HERE, "--yes")
    document = work.gitexp("show", "latest:sweep", "--json").json
    assert [(task["name"], task["status"]) for task in document["tasks"]] == [("a", "completed"), ("b", "completed")]
    assert "b 1\n" in work.gitexp("logs", document["experiment"]).out
    kept = sorted((work.root.parent / "home" / ".nemo_run" / "experiments" / "sweep").iterdir())
    printed = call(work, "nemorun", "experiment", "status", kept[-1].name)
    assert "Task 1: b - Status: SUCCEEDED" in printed
    assert f"nemo-gitexp show {document['experiment'][:12]}" in printed


def test_what_is_not_recorded_is_said_to_be_so(work: Work) -> None:
    before = work.refs()
    said = "nothing was recorded: NeMo Run asks no plugin when it runs directly"
    assert said in call(work, "nemorun", "demo", "train", "run.plugins=gitexp", "--yes")
    call(work, "nemorun", "demo", "sweep", *HERE, "--dryrun", "--yes")
    refused = call(work, "nemorun", "demo", "sweep", "run.plugins=gitexp", "--yes", code=1)
    assert "a direct run (direct=True, or nemorun without run.executor=…)" in refused
    assert work.refs() == before
    assert work.git("status", "--short") == ""
    expect_nothing_left(work)
