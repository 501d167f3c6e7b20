"""The studies for users of NeMo Run do what they say: launch scripts, a recipe, a command, and torchrun."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builder import Work, make_work, put_study

HELLO = "experiments/nemo-hello"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("examples")
    work = make_work(place / "work", place / "home")
    for name in ("nemo-hello", "ddp"):
        put_study(work, name)
    return work


def python(work: Work, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=work.root, env=work.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hello(work: Work) -> dict:
    """Return the experiment of the launch script."""
    said = python(work, f"{HELLO}/launch.py")
    assert said.splitlines()[-1].startswith("completed {")
    return work.gitexp("show", "latest:nemo-hello", "--json").json


def test_the_launch_script_is_one_experiment_with_its_tasks(work: Work, hello: dict) -> None:
    tasks = {task["name"]: task["status"] for task in hello["tasks"]}
    assert tasks == dict.fromkeys(("sums-0", "sums-1", "points", "report"), "completed")
    assert hello["metrics"] == {"sums-0/sum": 3, "sums-1/sum": 3000, "x": 3.0, "y": 0.5, "reported": 1}
    assert hello["config"]["points"]["second"] == {"_target_": "hello:Point", "x": 2.0, "y": 0.5}
    log = work.gitexp("logs", hello["experiment"]).out
    assert "1 + 2 = 3" in log
    assert '"points":' in log.partition("── report ──")[2], "the report is written when the sums are there"


def test_its_graph_is_recorded(work: Work, hello: dict) -> None:
    record = work.git("show", f"{hello['experiment']}:experiments/nemo-hello/record/experiment.json")
    assert '"group": "sums"' in record
    (report,) = [line for line in record.splitlines() if '"GREETING"' in line][:1]
    assert "hello" in report


def test_it_is_reproduced_bit_for_bit(work: Work, hello: dict) -> None:
    verdict = work.gitexp("reproduce", hello["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)


def test_the_recipe_takes_changes_by_dotted_path(work: Work) -> None:
    shown = work.gitexp("run", f"{HELLO}/recipes.py:moved", "first.x=5.0", "by=2.5", "--json").json
    assert shown["metrics"] == {"x": 7.0, "y": 2.5}
    assert shown["config"]["first"]["x"] == 5.0


def test_the_command_is_recorded_by_its_plugin(work: Work) -> None:
    python(work, f"{HELLO}/commands.py", "a=1", "b=2", "run.executor=local", "run.plugins=gitexp", "--yes")
    shown = work.gitexp("show", "latest:total", "--json").json
    assert (shown["status"], shown["metrics"]) == ("completed", {"sum": 3})
    assert shown["config"] == {"_partial_": True, "_target_": "commands:total", "a": 1, "b": 2}


def test_two_processes_train_together_and_are_reproduced_bit_for_bit(work: Work) -> None:
    shown = work.gitexp("run", "ddp", "lr=0.05", "--json").json
    assert shown["status"] == "completed"
    assert shown["metrics"]["accuracy"] > 0.93
    verdict = work.gitexp("reproduce", shown["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)
    assert [item["path"] for item in verdict["outputs"]] == ["model.pt"]


def test_started_by_nemo_run_the_same_training_gives_the_same_numbers(work: Work) -> None:
    by_command = work.gitexp("show", "latest:ddp", "--json").json
    python(work, "experiments/ddp/launch.py")
    shown = work.gitexp("show", "latest:ddp", "--json").json
    assert shown["experiment"] != by_command["experiment"]
    topology = shown["topology"]
    assert (topology["launcher"], topology["tasks_per_node"]) == ("torchrun", 2)
    assert (shown["status"], shown["metrics"]) == ("completed", by_command["metrics"])
    (model,), (same,) = shown["outputs"], by_command["outputs"]
    assert model["digest"] == same["digest"]
