"""Stages that a scheduler starts, each once what it depends on has ended: nobody waits for what never comes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from run_directory import Run, new_run, script

from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import conclude, inspect_run, stage_states
from nemo_gitexp.worker.merge import merged_result

WORK = "import os; open(os.environ['GITEXP_OUTPUTS'] + '/made', 'w').write('x')"


def pipeline(run: Run, **needs: list[str]) -> dict[str, Run]:
    """Prepare a scheduled run of stages in the order given; return the worker's directory of each."""
    run.put("train.py", WORK)
    run.prepare(scheduled={"kind": "slurm"})
    stages = [{"name": name, "dependencies": before, "key": None} for name, before in needs.items()]
    (run.dir / "plan.json").write_text(json.dumps({**run.plan, "stages": stages}))
    (run.dir / "submitted.json").write_text("{}")
    found: dict[str, Run] = {}
    for name, before in needs.items():
        directory, outputs = run.dir / "stages" / name, run.outputs / name
        directory.mkdir(parents=True)
        plan = {
            **run.plan,
            "entry": script("train.py"),
            "run_dir": str(directory),
            "outputs_dir": str(outputs),
            "env": {"PYTHONHASHSEED": "0", "GITEXP_OUTPUTS": str(outputs)},
            "outputs": [{"path": "made", "keep": "dvc"}],
            "stage": {"name": name, "run": str(run.dir), "dependencies": before, "results": {}, "slots": 1},
        }
        (directory / "plan.json").write_text(json.dumps(plan))
        found[name] = Run(run.root, plan)
    return found


def go(run: Run, stage: str) -> int:
    argv = [*run.argv[:2], str(run.dir / "stages" / stage / "plan.json")]
    return subprocess.run(argv, cwd=run.root, timeout=100, check=False, stderr=subprocess.DEVNULL).returncode


def say(run: Run, stage: str, state: str, **more: object) -> None:
    """Write the scheduler's last word on a stage."""
    (run.dir / "stages" / stage / "scheduler.json").write_text(json.dumps({"state": state, **more}))


def test_a_stage_whose_dependency_left_nothing_is_skipped_and_the_last_word_tells_why(run: Run) -> None:
    pipeline(run, load=[], train=["load"], check=["train"], other=[])
    paths = RunPaths(run.dir)
    assert inspect_run(paths).status == "launched"
    begun = time.monotonic()
    assert go(run, "train") == 1  # load was cancelled while it waited in the queue
    assert time.monotonic() - begun < 60
    assert go(run, "check") == 1
    assert go(run, "other") == 0
    assert merged_result(str(run.dir)) is None  # what became of load is not known yet
    assert inspect_run(paths).status == "running"
    skipped = json.loads((run.dir / "stages/train/result.json").read_text())
    assert (skipped["status"], skipped["error"]["message"]) == ("skipped", "stage load ended without a result")

    say(run, "load", "CANCELLED", signal=15)
    assert (inspect_run(paths).status, inspect_run(paths).reason) == ("dead", "cancelled at the scheduler")
    conclude(paths)
    result = run.json("result.json")
    assert [task["status"] for task in result["tasks"]] == ["cancelled", "skipped", "skipped", "completed"]
    assert (result["status"], result["error"]["message"]) == ("cancelled", "stage load: cancelled at the scheduler")
    assert inspect_run(paths).status == "finished"


def test_a_word_that_is_known_already_skips_at_once_and_the_last_stage_concludes(run: Run) -> None:
    pipeline(run, load=[], train=["load"])
    say(run, "load", "TIMEOUT")
    assert go(run, "train") == 1
    result = run.json("result.json")
    assert [task["status"] for task in result["tasks"]] == ["failed", "skipped"]
    assert result["error"] == {
        "type": "TimeLimitError",
        "message": "stage load: the scheduler stopped it at its time limit",
    }


def test_a_stage_that_is_interrupted_is_requeued_and_the_run_with_it(run: Run) -> None:
    pipeline(run, load=[], train=["load"])
    directory = run.dir / "stages" / "load"
    lines = [{"segment": 1, "job": "1", "restart": 0, "started": "x"}, {"segment": 1, "ended": "y", "reason": None}]
    (directory / "segments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = RunPaths(run.dir)
    assert (inspect_run(paths).status, stage_states(paths)["load"]["status"]) == ("requeued", "requeued")
    assert go(run, "load") == 0
    assert go(run, "train") == 0
    assert run.json("result.json")["status"] == "completed"


@pytest.mark.parametrize("name", ["load", "train"])
def test_stages_do_not_wait_for_places_where_a_scheduler_gives_them(tmp_path: Path, name: str) -> None:
    run = new_run(tmp_path)
    pipeline(run, load=[], train=[])
    assert go(run, name) == 0
    assert not (run.dir / "slots").exists()
