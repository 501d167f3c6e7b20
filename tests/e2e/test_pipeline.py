"""`stages:` in a definition: run side by side, recorded as one experiment, reused, resumed, reproduced."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from builder import Work, make_work, wait_until

FLOW = """\
import os, time
from pathlib import Path
import numpy as np
import nemo_gitexp

def mark(name):
    with open(os.environ["MARKS"], "a") as file:
        file.write(name + "\\n")

def load(n):
    mark("load")
    return {"x": np.arange(n), "where": "here"}

def left(load, scale):
    mark("left")
    return load["x"] * scale

def right(results, outputs, seed):
    mark("right")
    (outputs / "notes.txt").write_text(f"seed {seed}")
    return {"sum": int(results["load"]["x"].sum()), "notes": outputs / "notes.txt"}

def train(results, lr):
    mark("train")
    for step in range(3):
        nemo_gitexp.log_metrics({"loss": lr / (step + 1)}, step=step)
    assert results["right"]["notes"].read_text() == "seed 7"
    assert sorted(results) == ["left", "load", "right"]
    return {"accuracy": float(results["left"].sum() / 100)}
"""
DEFINITION = """\
purpose: Try a pipeline
config: {n: 5, scale: 3, lr: 0.5}
seed: 7
metrics: {accuracy: {goal: max}, loss: {goal: min}}
stages:
  train: {function: "flow:train", dependencies: [left, right]}
  left: {function: "flow:left", dependencies: [load]}
  right: {function: "flow:right", dependencies: [load], outputs: [notes.txt]}
  load: {function: "flow:load"}
"""


@pytest.fixture
def flow(tmp_path: Path) -> Work:
    files = {"flow.py": FLOW, "experiments/flow/experiment.yaml": DEFINITION}
    return make_work(tmp_path / "my work", tmp_path / "home", files=files, MARKS=str(tmp_path / "marks"))


def ran(work: Work) -> list[str]:
    """Return the stages that ran since the last call, sorted."""
    marks = Path(work.env["MARKS"])
    names = sorted(marks.read_text().split()) if marks.exists() else []
    marks.unlink(missing_ok=True)
    return names


def tasks(document: dict) -> dict[str, dict]:
    return {task["name"]: task for task in document["tasks"]}


def test_a_pipeline_is_one_experiment_with_the_results_of_its_stages(flow: Work) -> None:
    done = flow.gitexp("run", "flow", "--json").json
    assert done["status"] == "completed"
    assert done["metrics"] == {"accuracy": 0.3, "loss": 0.5 / 3, "sum": 10}
    assert [task["name"] for task in done["tasks"]] == ["load", "left", "right", "train"]
    assert {task["status"] for task in done["tasks"]} == {"completed"}
    assert tasks(done)["train"]["metrics"] == {"accuracy": 0.3, "loss": 0.5 / 3}
    assert [output["path"] for output in done["outputs"]] == ["load", "left", "right", "right/notes.txt", "train"]
    assert ran(flow) == ["left", "load", "right", "train"]

    entry = json.loads(flow.git("show", f"{done['experiment']}:experiments/flow/record/experiment.json"))["entry"]
    assert {stage["name"]: stage["config"] for stage in entry["stages"]} == {
        "load": ["n"],
        "left": ["scale"],
        "right": [],
        "train": ["lr"],
    }
    assert "right/notes.txt" in flow.gitexp("outputs", "latest").out
    flow.gitexp("outputs", "latest", "--get", str(flow.root.parent / "got"))
    assert (flow.root.parent / "got/right/notes.txt").read_text() == "seed 7"

    verdict = flow.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)
    assert ran(flow) == ["left", "load", "right", "train"]  # a reproduction takes nothing from before


def test_what_is_unchanged_is_not_run_again_and_the_record_says_whose_result_it_is(flow: Work) -> None:
    first = flow.gitexp("run", "flow", "--json").json
    ran(flow)
    twice = flow.gitexp("run", "flow", "--json").json
    assert twice["duplicate_of"] == first["experiment"]

    second = flow.gitexp("run", "flow", "scale=4", "--json").json
    assert ran(flow) == ["left", "train"]
    made_by = {name: task["reused_from"] for name, task in tasks(second).items()}
    assert made_by == {"load": first["experiment"], "right": first["experiment"], "left": None, "train": None}
    assert second["metrics"]["sum"] == 10  # of a stage that did not run

    flow.write("flow.py", FLOW.replace("lr / (step + 1)", "lr / (step + 2)"))
    third = flow.gitexp("run", "flow", "scale=4", "--json").json
    assert ran(flow) == ["train"]
    assert tasks(third)["left"]["reused_from"] == second["experiment"]
    assert tasks(third)["load"]["reused_from"] == first["experiment"]  # who made it, not who handed it on

    again = flow.gitexp("run", "flow", "scale=4", "--again", "--json").json
    assert ran(flow) == []
    assert again["status"] == "completed"
    assert again["metrics"] == third["metrics"]
    assert flow.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json["met"]
    assert ran(flow) == ["left", "load", "right", "train"]


def test_a_result_that_is_no_longer_here_is_made_again(flow: Work) -> None:
    flow.gitexp("run", "flow", "--json")
    ran(flow)
    store = flow.root / ".git/gitexp/store/files"
    for path in [path for path in store.rglob("*") if path.is_file() and b"seed 7" in path.read_bytes()]:
        path.unlink()
    done = flow.gitexp("run", "flow", "lr=0.25", "--json").json
    assert done["status"] == "completed"
    assert ran(flow) == ["right", "train"]


def test_a_damaged_result_is_made_again_with_what_depends_on_it(flow: Work) -> None:
    flow.gitexp("run", "flow", "--json")
    ran(flow)
    for path in (flow.root / ".git/gitexp/store/files").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"\x93NUMPY") and b"(5,)" in path.read_bytes()[:128]:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    done = flow.gitexp("run", "flow", "lr=0.25", "--json").json
    assert done["status"] == "completed"
    assert done["metrics"]["accuracy"] == 0.3
    assert ran(flow) == ["left", "load", "right", "train"]


def test_a_plan_says_which_results_would_be_taken(flow: Work) -> None:
    first = flow.gitexp("run", "flow", "--json").json
    planned = flow.gitexp("run", "flow", "scale=9", "--plan", "--json").json
    made_by = {task["name"]: task["reused_from"] for task in planned["tasks"]}
    assert made_by == {"load": first["experiment"], "left": None, "right": first["experiment"], "train": None}
    recorded = flow.gitexp("run", "flow", "scale=9", "--record-only", "--json").json
    assert statuses(recorded) == dict.fromkeys(("load", "left", "right", "train"), "recorded")
    assert flow.gitexp("launch", "latest", "--json").json["status"] == "completed"


def test_no_reuse_runs_every_stage(flow: Work) -> None:
    flow.gitexp("run", "flow")
    ran(flow)
    done = flow.gitexp("run", "flow", "--again", "--no-reuse", "--json").json
    assert ran(flow) == ["left", "load", "right", "train"]
    assert {task["reused_from"] for task in done["tasks"]} == {None}


DAG = """\
import os, time

def a(): return 1
def b(a): raise ValueError("no good")
def c(b): return 3
def d(a):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return 4
def e(c, d): return 5
def f(d): return {"six": 6}
"""
DAG_DEFINITION = """\
purpose: Fail in the middle
stages:
  a: {function: "dag:a"}
  b: {function: "dag:b", dependencies: [a]}
  c: {function: "dag:c", dependencies: [b]}
  d: {function: "dag:d", dependencies: [a]}
  e: {function: "dag:e", dependencies: [c, d]}
  f: {function: "dag:f", dependencies: [d]}
"""


@pytest.fixture
def dag(tmp_path: Path) -> Work:
    files = {"dag.py": DAG, "experiments/dag/experiment.yaml": DAG_DEFINITION}
    return make_work(tmp_path / "work", tmp_path / "home", files=files)


def statuses(document: dict) -> dict[str, str]:
    return {task["name"]: task["status"] for task in document["tasks"]}


def test_a_failure_stops_its_descendants_only_and_a_re_run_resumes(dag: Work) -> None:
    answer = dag.gitexp("run", "dag", "--json", code=1)
    failed = answer.json
    assert failed["status"] == "failed"
    assert statuses(failed) == {
        "a": "completed",
        "b": "failed",
        "c": "skipped",
        "d": "completed",
        "e": "skipped",
        "f": "completed",
    }
    assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "stage b: no good")
    assert failed["error"]["exit_code"] == 1
    assert any('raise ValueError("no good")' in line for line in failed["error"]["log_tail"])
    assert tasks(failed)["e"]["error"]["message"] == "stage c was skipped"
    assert "── b ──" in dag.gitexp("logs", "latest").out

    dag.write("dag.py", DAG.replace('raise ValueError("no good")', "return 2"))
    mended = dag.gitexp("run", "dag", "--json").json
    assert mended["status"] == "completed"
    reused = {name for name, task in tasks(mended).items() if task["reused_from"] == failed["experiment"]}
    assert reused == {"a", "d", "f"}


def test_a_stage_whose_worker_is_killed_is_lost_and_the_rest_is_skipped(dag: Work) -> None:
    dag.write("dag.py", DAG.replace('raise ValueError("no good")', "return 2"))
    dag.env["SLOW"] = "30"
    started = dag.gitexp("run", "dag", "--detach", "--json").json
    (run,) = _run_directories(dag, started["experiment"])
    wait_until((run / "stages/d/child.json").exists)
    for name in ("started", "child"):
        pid = json.loads((run / f"stages/d/{name}.json").read_text())["pid"]
        if name == "started":
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: dag.gitexp("show", "latest", "--json").json["status"] == "lost")
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    lost = dag.gitexp("show", "latest", "--json").json
    assert statuses(lost)["d"] == "lost"
    assert statuses(lost)["f"] == "skipped"
    dag.env["SLOW"] = "0"
    done = dag.gitexp("launch", "latest", "--json").json
    assert done["status"] == "completed"


def test_everything_killed_at_once_is_lost_and_can_be_launched_again(dag: Work) -> None:
    dag.write("dag.py", DAG.replace('raise ValueError("no good")', "return 2"))
    dag.env["SLOW"] = "30"
    started = dag.gitexp("run", "dag", "--detach", "--json").json
    (run,) = _run_directories(dag, started["experiment"])
    wait_until((run / "stages/d/child.json").exists)
    files = [run / "supervisor.json", *run.glob("stages/*/started.json")]
    for pid in [json.loads(file.read_text())["pid"] for file in files]:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: dag.gitexp("show", "latest", "--json").json["status"] == "lost")
    lost = dag.gitexp("show", "latest", "--json").json
    assert statuses(lost)["a"] == "completed"
    dag.env["SLOW"] = "0"
    assert dag.gitexp("launch", "latest", "--json").json["status"] == "completed"


def test_cancelling_ends_running_stages_and_those_that_wait(dag: Work) -> None:
    dag.write("dag.py", DAG.replace('raise ValueError("no good")', "return 2"))
    dag.env["SLOW"] = "60"
    started = dag.gitexp("run", "dag", "--detach", "--json").json
    (run,) = _run_directories(dag, started["experiment"])
    wait_until((run / "stages/d/child.json").exists)
    begun = time.monotonic()
    assert dag.gitexp("status", "--json").json["experiments"][0]["status"] == "running"
    live = statuses(dag.gitexp("show", "latest", "--json").json)
    assert (live["a"], live["d"], live["f"]) == ("completed", "running", "launched")
    cancelled = dag.gitexp("cancel", "latest", "--json").json
    assert cancelled["status"] == "cancelled"
    assert statuses(cancelled)["d"] == "cancelled"
    assert time.monotonic() - begun < 30


def _run_directories(work: Work, sha: str) -> list[Path]:
    root = work.root / ".git/gitexp/runs"
    wait_until(lambda: list(root.glob(f"{sha}.*")))
    return list(root.glob(f"{sha}.*"))


def test_stages_run_side_by_side_where_the_dag_allows(tmp_path: Path) -> None:
    meet = """\
import os, time
from pathlib import Path

def together(mine, other):
    place = Path(os.environ["MEET"])
    (place / mine).touch()
    end = time.monotonic() + 30
    while not (place / other).exists():
        assert time.monotonic() < end, "the other stage does not run at the same time"
        time.sleep(0.01)

def first(): return 1
def near(first): together("near", "far")
def slow_road(first): return 2
def far(slow_road): together("far", "near")
"""
    stages = "".join(
        f'  {name}: {{function: "meet:{name}", dependencies: [{needs}]}}\n'
        for name, needs in {"first": "", "near": "first", "slow_road": "first", "far": "slow_road"}.items()
    )
    (tmp_path / "meet").mkdir()
    files = {"meet.py": meet, "experiments/meet/experiment.yaml": f"purpose: Meet\nstages:\n{stages}"}
    work = make_work(tmp_path / "work", tmp_path / "home", files=files, MEET=str(tmp_path / "meet"))
    assert work.gitexp("run", "meet", "--json").json["status"] == "completed"  # no level waits for a whole one


def test_commands_are_stages_and_get_the_directories_of_those_before(tmp_path: Path) -> None:
    definition = """\
purpose: Commands
config: {word: hello}
stages:
  write: {command: "python write.py {config.word} {outputs}"}
  copy:
    command: bash -c 'cp "$1"/word.txt "$2"/copy.txt; test -f "$GITEXP_RESULTS"' _ {stages.write} {outputs}
    dependencies: [write]
    outputs: [copy.txt]
  read: {function: "read:read", dependencies: [copy]}
"""
    files = {
        "write.py": "import sys\nopen(f'{sys.argv[2]}/word.txt', 'w').write(sys.argv[1])\n",
        "read.py": "def read(results):\n    return {'length': len((results['copy'] / 'copy.txt').read_text())}\n",
        "experiments/shell/experiment.yaml": definition,
    }
    work = make_work(tmp_path / "work", tmp_path / "home", files=files)
    done = work.gitexp("run", "shell", "--json").json
    assert done["metrics"] == {"length": 5}
    keys = {name: task["key"] for name, task in tasks(done).items()}
    assert keys["write"].startswith("sha256:")
    assert keys["copy"] is keys["read"] is None  # which program runs is known in the job alone
    assert work.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json["met"]


@pytest.mark.parametrize(
    "change, message",
    [
        ("dependencies: [laod]", "did you mean load?"),
        ("dependencies: [left]", "wait for each other"),
        ("config: [scael]", "scael, which is not there"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused_before_anything_is_recorded(
    flow: Work, change: str, message: str
) -> None:
    flow.write("experiments/flow/experiment.yaml", DEFINITION.replace("dependencies: [load]}", change + "}", 1))
    answer = flow.gitexp("run", "flow", "--json", code=3).json
    assert answer["error"]["type"] == "DefinitionError"
    assert message in answer["error"]["message"] + answer["error"]["hint"]
    assert flow.refs() == {}


def test_a_result_that_no_file_stands_for_fails_its_stage_with_the_place(flow: Work) -> None:
    flow.write("flow.py", FLOW.replace('"where": "here"', '"where": object()'))
    answer = flow.gitexp("run", "flow", "--json", code=1).json
    assert answer["error"]["type"] == "StageResultError"
    assert "stage load: result['where'] is of type object" in answer["error"]["message"]


def test_a_stage_that_does_not_make_its_output_fails(flow: Work) -> None:
    flow.write("experiments/flow/experiment.yaml", DEFINITION.replace("[notes.txt]", "[notes.txt, more.txt]"))
    answer = flow.gitexp("run", "flow", "--json", code=1).json
    assert answer["error"]["type"] == "MissingOutputError"
    assert statuses(answer)["right"] == "failed"
    assert statuses(answer)["train"] == "skipped"


def test_a_metric_that_two_stages_log_tells_whose_it_is(tmp_path: Path) -> None:
    code = "def a(): return {'loss': 1}\ndef b(a): return {'loss': 2, 'more': 3}\n"
    stages = 'stages:\n  a: {function: "two:a"}\n  b: {function: "two:b", dependencies: [a]}\n'
    files = {"two.py": code, "experiments/two/experiment.yaml": "purpose: Two\n" + stages}
    work = make_work(tmp_path / "work", tmp_path / "home", files=files)
    assert work.gitexp("run", "two", "--json").json["metrics"] == {"a/loss": 1, "b/loss": 2, "more": 3}


def test_a_stage_that_writes_into_the_workspace_is_run_again_for_others_may_have_read_that(tmp_path: Path) -> None:
    code = """\
def a():
    open("beside.txt", "w").write("made by a")
    return 1
def b(a, n):
    return {"length": len(open("beside.txt").read()) * n}
"""
    stages = 'stages:\n  a: {function: "side:a"}\n  b: {function: "side:b", dependencies: [a]}\n'
    files = {"side.py": code, "experiments/side/experiment.yaml": "purpose: Side\nconfig: {n: 1}\n" + stages}
    work = make_work(tmp_path / "work", tmp_path / "home", files=files)
    assert work.gitexp("run", "side", "--json").json["metrics"] == {"length": 9}
    done = work.gitexp("run", "side", "n=2", "--json").json
    assert done["metrics"] == {"length": 18}
    assert {task["reused_from"] for task in done["tasks"]} == {None}


def test_a_stage_that_changes_what_another_made_fails(flow: Work) -> None:
    changed = FLOW.replace('mark("train")', 'results["right"]["notes"].write_text("seed 7 ")')
    flow.write("flow.py", changed.replace('notes"].read_text() ==', 'notes"].read_text().strip() =='))
    answer = flow.gitexp("run", "flow", "--json", code=1).json
    assert answer["error"]["type"] == "ResultsChangedError"
    assert "stage train: the outputs of stage right were changed" in answer["error"]["message"]


def test_many_stages_take_turns(tmp_path: Path) -> None:
    code = """\
import os, time
def work_hard(outputs):
    place = os.environ["COUNTED"]
    open(f"{place}/{outputs.name}", "w").close()
    count = len(os.listdir(place))
    time.sleep(0.1)
    os.unlink(f"{place}/{outputs.name}")
    return {"at_once": count}
"""
    stages = "".join(f'  s{number}: {{function: "many:work_hard"}}\n' for number in range(12))
    (tmp_path / "counted").mkdir()
    files = {"many.py": code, "experiments/many/experiment.yaml": f"purpose: Many\nstages:\n{stages}"}
    work = make_work(tmp_path / "work", tmp_path / "home", files=files, COUNTED=str(tmp_path / "counted"))
    done = work.gitexp("run", "many", "--json").json
    assert done["status"] == "completed"
    assert max(done["metrics"].values()) <= max(4, os.cpu_count() or 1)


def test_a_pipeline_is_reproduced_whole(flow: Work) -> None:
    flow.gitexp("run", "flow")
    answer = flow.gitexp("reproduce", "latest", "--steps", "2", "--json", code=2).json
    assert "a pipeline is reproduced whole" in answer["error"]["message"]
