"""What a program tracked itself is reproduced from the command line, and in a job the same program writes the job's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from builder import Work
from data_work import copy_template, make_template
from tracked import listed, record_of, result_of, run_command, run_python, stream_of

TRAIN = """\
import os, random, sys
import numpy
import nemo_gitexp as gitexp
import helper

random.random()  # what is drawn before a block has no part in it
gitexp.log_metrics({"outside": 1.0})
assert open("data.txt").read() == "data\\n", os.getcwd()


def train(lr, **said):
    with gitexp.track("digits", config={"lr": lr}, **said) as exp:
        for step in range(3):
            exp.log({"loss": helper.scale(random.random()) * lr, "other": numpy.random.rand()}, step=step)
        exp.output("weights.txt").write_text(f"{random.random()} {sys.argv[1:]}")
        gitexp.log_metrics({"final": random.random()})
    return exp


assert "GITEXP_METRICS" not in os.environ
train(0.1, seed=1)
train(0.1, seed=1)
train(0.2)
sys.exit(4)  # which is no business of the blocks
"""
FILES = {"wörk/train me.py": TRAIN, "wörk/helper.py": "def scale(x):\n    return 2 * x\n", "wörk/data.txt": "data\n"}
ARGUMENTS = ("--name", "{seed}", "{unknown}", "${site:none}", "a b")


def bitwise(work: Work, experiment: str) -> dict:
    """Reproduce bit for bit and return the verdict."""
    answer = work.gitexp("reproduce", experiment, "--require", "bitwise", "--json", code=None)
    assert answer.code == 0, answer.out + answer.err
    return answer.json


def test_each_block_of_a_script_is_reproduced_by_itself(work: Work) -> None:
    for path, text in FILES.items():
        work.write(path, text)
    run_command(work, [sys.executable, "train me.py", *ARGUMENTS], cwd=work.root / "wörk", code=4)
    found = listed(work)
    assert [record_of(work, document)["tracked"]["ordinal"] for document in found] == [1, 2, 1]
    assert record_of(work, found[0])["workdir"] == "wörk"
    assert record_of(work, found[0])["entry"] == {
        "kind": "script",
        "interpreter": "python",
        "interpreter_flags": [],
        "args": list(ARGUMENTS),
        "path": "train me.py",
    }
    work.write("wörk/helper.py", "def scale(x):\n    return 3 * x\n")
    for document in found[1:]:
        assert list(stream_of(work, document)[-1]) == ["final", "step"]
        verdict = bitwise(work, document["experiment"])
        assert (verdict["environment"], len(verdict["metrics"]), len(verdict["outputs"])) == ("same", 3, 1)
    assert work.gitexp("show", found[1]["experiment"], "--json").json["reproductions"] == {
        "best": "bitwise",
        "count": 1,
    }
    difference = work.gitexp("diff", found[0]["experiment"], found[2]["experiment"], "--json", code=None).json
    assert difference["config"]["changed"] == {"lr": {"a": 0.1, "b": 0.2}}
    assert difference["seed"] == {"a": 1, "b": 42}
    worktree = work.gitexp("diff", found[0]["experiment"], "--worktree", "--json", code=None).json
    assert [change["path"] for change in worktree["code"]["files"]] == ["wörk/helper.py"]


def test_a_module_started_by_hand_is_reproduced(work: Work) -> None:
    work.write("pkg/__init__.py", "")
    work.write(
        "pkg/train.py",
        "import random\nimport nemo_gitexp as gitexp\nwith gitexp.track('digits') as exp:\n"
        "    exp.log({'loss': random.random()}, step=0)\n",
    )
    run_command(work, [sys.executable, "-m", "pkg.train"])
    bitwise(work, "latest")


TRACKER = """\
import random
import nemo_gitexp as gitexp
tracker = gitexp.ExperimentTracker("digits")
for lr in (0.1, 0.2):
    started = tracker.start_experiment(f"lr {lr}", {"lr": lr, "seed": 3})
    gitexp.log_metrics({"loss": random.random() * lr}, step=0)
    started.complete({"accuracy": random.random()})
print(tracker.get_experiment_summary()["completed"])
"""


def test_what_a_tracker_started_is_reproduced(work: Work) -> None:
    assert run_python(work, TRACKER).out == "2\n"
    for document in listed(work):
        bitwise(work, document["experiment"])


FED = """\
import sys
import nemo_gitexp as gitexp
for name in sys.stdin.read().split():
    with gitexp.track(name) as exp:
        exp.log({"loss": 1.0})
"""


def test_a_block_that_the_program_never_reaches_again_is_no_reproduction(work: Work) -> None:
    work.write("fed.py", FED)
    run_command(work, [sys.executable, "fed.py"], stdin="digits")
    verdict = work.gitexp("reproduce", "latest", "--json", code=1).json
    assert verdict["verdict"] == "restored"
    kept = next((work.root / ".git/gitexp/runs").glob("*.repro.*"))
    error = json.loads((kept / "result.json").read_text())["error"]
    assert error == {"type": "TrackedBlockError", "message": "digits was never started by the job"}


JOB = """\
import random, sys
import nemo_gitexp as gitexp
gitexp.log_metrics({"before": 1.0})
with gitexp.track("digits", config={"lr": 0.1}) as exp:
    exp.log({"loss": random.random()}, step=0)
    exp.output("a.txt").write_text("a")
    print(exp.seed, exp.sha)
with gitexp.track("more", seed=7) as exp:
    exp.log({"loss": 0.5}, step=0)
    gitexp.log_metrics({"best": 0.25})
    exp.output("a.txt").write_text("b")
"""


def test_in_a_job_nothing_new_is_recorded_and_the_blocks_write_the_jobs_own_result(work: Work) -> None:
    work.write("job.py", JOB)
    ran = work.gitexp("run", "--json", "--seed", "11", "--", "python", "job.py").json
    assert len(listed(work)) == 1
    assert ran["metrics"].keys() == {"before", "loss", "more/loss", "more/best"}
    assert [output["path"] for output in ran["outputs"]] == ["a.txt", "more"]
    assert f"11 {ran['experiment']}" in work.gitexp("logs", "latest").out
    noted = result_of(work, ran, "run.json")["settings"]["self_seeded"]
    assert noted == {"python": [7]}
    bitwise(work, ran["experiment"])


SWALLOWED = """\
import nemo_gitexp as gitexp
try:
    with gitexp.track("digits") as exp:
        exp.log({"loss": 1.0})
        raise ValueError("no luck")
except ValueError:
    pass
"""
FAILED = """\
import nemo_gitexp as gitexp
tracker = gitexp.ExperimentTracker()
tracker.start_experiment("digits", {})
gitexp.log_metrics({"loss": 1.0})
tracker.fail_experiment("digits", "text")
"""
FAILURES = [
    (SWALLOWED, {"type": "ValueError", "message": "no luck", "paths": []}, "ValueError: no luck"),
    (FAILED, {"type": "ExperimentFailure", "message": "text", "paths": []}, None),
]


@pytest.mark.parametrize("text, error, tail", FAILURES)
def test_a_block_that_fails_makes_the_jobs_experiment_fail_although_the_job_goes_on(
    work: Work, text: str, error: dict, tail: str | None
) -> None:
    work.write("job.py", text)
    ran = work.gitexp("run", "--json", "--", "python", "job.py", code=None).json
    assert (ran["status"], ran["metrics"]) == ("failed", {"loss": 1.0})
    assert result_of(work, ran)["error"] == error
    assert tail is None or tail in ran["error"]["log_tail"]


def test_in_a_job_neither_git_nor_a_repository_is_needed(work: Work, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "outputs").mkdir(parents=True)
    (tmp_path / "job.py").write_text(JOB + TRACKER)
    env = {"GITEXP_RUN_DIR": str(run_dir), "GITEXP_METRICS": str(run_dir / "metrics.jsonl"), "PATH": "/nowhere"}
    run_command(work, [sys.executable, "job.py"], cwd=tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path), **env)
    names = {name for line in (run_dir / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert {"before", "loss", "more/best", "lr 0.1/loss", "lr 0.2/accuracy"} <= names
    assert json.loads((run_dir / "tracked.json").read_text())["status"] == "completed"


TORCHRUN = """\
import os, random
import nemo_gitexp as gitexp
with gitexp.track("digits", seed=1) as exp:
    exp.log({"loss": random.random()}, step=0)
    exp.output(f"rank{os.environ['RANK']}.txt").write_text(str(random.random()))
    print(os.environ["RANK"], exp.sha, random.random())
"""


def test_under_torchrun_the_first_rank_records_and_the_job_is_reproduced_with_as_many(work: Work) -> None:
    work.write("train.py", TORCHRUN)
    command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2", "train.py"]
    said = run_command(work, command)
    (document,) = listed(work)
    assert {line.split()[1] for line in said.out.splitlines()} == {"None", document["experiment"]}
    record = record_of(work, document)
    assert record["entry"]["argv"] == ["torchrun", "--standalone", "--nproc-per-node=2", "train.py"]
    assert (record["topology"]["nodes"], record["topology"]["tasks_per_node"]) == (1, 2)
    assert [output["path"] for output in document["outputs"]] == ["rank0.txt"]
    assert "torch" in result_of(work, document, "run.json")["environment"]["packages"]
    verdict = bitwise(work, document["experiment"])
    assert verdict["environment"] == "same"


ROUGH = """\
import os
import nemo_gitexp as gitexp
with gitexp.track("digits") as exp:
    exp.log({"loss": os.getpid() % 7})
"""


def test_a_tracked_experiment_reproduces_metrics_within_its_tolerance(work: Work) -> None:
    work.write(
        "experiments/digits/experiment.yaml",
        "purpose: p\ncommand: python train.py\nmetrics: {loss: {goal: min, tolerance: 10}}\n",
    )
    run_python(work, ROUGH)
    assert work.gitexp("reproduce", "latest", "--require", "metrics", "--json").json["verdict"] in (
        "metrics",
        "bitwise",
    )


def test_a_log_lists_tracked_and_launched_experiments_alike(work: Work) -> None:
    run_python(work, TRACKER)
    work.gitexp("run", "--", "python", "train.py")
    assert len(listed(work)) == 3
    table = work.gitexp("log").out
    assert "lr-0.1" in table
    assert "accuracy" in table


SUMMING = """\
import pathlib, sys
import nemo_gitexp as gitexp
try:
    with gitexp.track("sums", data=["data/points.bin", "data/raw"]) as exp:
        total = sum(pathlib.Path("data/points.bin").read_bytes()) + len(list(pathlib.Path("data/raw").glob("*.txt")))
        exp.log({"total": total})
except gitexp.GitexpError as error:
    sys.exit(type(error).__name__)
"""


def test_data_is_pinned_and_restored_for_the_reproduction(tmp_path: Path) -> None:
    work = copy_template(make_template(tmp_path / "template"), tmp_path / "copy")
    run_python(work, SUMMING)
    (document,) = listed(work)
    assert [(item["path"], item["strength"]) for item in document["inputs"]] == [
        ("data/points.bin", "content"),
        ("data/raw", "content"),
    ]
    work.write("data/points.bin", b"changed")
    assert run_python(work, SUMMING, code=1).err.strip().endswith("DataDriftError")
    assert len(listed(work)) == 1
    assert bitwise(work, document["experiment"])["weakest_input"] == "content"


def test_a_lost_block_can_be_launched(work: Work) -> None:
    text = "import os, sys\nimport nemo_gitexp as gitexp\nwith gitexp.track('digits') as exp:\n"
    text += "    exp.log({'loss': 1.0})\n    'GITEXP_RUN_DIR' in os.environ or os.kill(os.getpid(), 9)\n"
    run_python(work, text, code=-9)
    assert listed(work)[0]["status"] == "lost"
    assert work.gitexp("launch", "latest", "--json").json["status"] == "completed"
    assert [document["metrics"] for document in listed(work)] == [{"loss": 1.0}]


def test_a_prefix_of_a_block_is_reproduced(work: Work) -> None:
    text = "import time\nimport nemo_gitexp as gitexp\nwith gitexp.track('digits') as exp:\n"
    text += "    for step in range(4):\n        exp.log({'loss': step}, step=step)\n        time.sleep(0.3)\n"
    run_python(work, text)
    verdict = work.gitexp("reproduce", "latest", "--steps", "2", "--json").json
    assert verdict["verdict"] in ("metrics", "bitwise")
    assert verdict["scope"] == "0-2"


TWICE = """\
import multiprocessing, os, subprocess, sys
import nemo_gitexp as gitexp
def part(loss):
    with gitexp.track("digits") as exp:
        exp.log({"loss": loss})
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=part, args=(1.0,))
    child.start()
    child.join()
    part(2.0)
    if len(sys.argv) == 1:
        subprocess.run([sys.executable, __file__, "again"], check=True)
"""


def test_what_other_processes_of_a_job_track_does_not_get_into_the_experiment(work: Work) -> None:
    run_python(work, TWICE)
    first, second, third, fourth = listed(work)
    assert [item["metrics"]["loss"] for item in (first, second, third, fourth)] == [1.0, 2.0, 1.0, 2.0]
    bitwise(work, second["experiment"])
    ran = work.gitexp("run", "--json", "--", "python", "tracked.py").json
    assert ran["metrics"]["loss"] == 1.0  # who comes first in a job is its experiment
    assert ran["metrics"]["digits/loss"] == 2.0


@pytest.mark.parametrize("order", [("one", "bad"), ("bad", "one")])
def test_whichever_block_fails_the_jobs_experiment_has_failed(work: Work, order: tuple[str, str]) -> None:
    blocks = {
        "one": 'with gitexp.track("one") as exp:\n    exp.log({"x": 1})\n',
        "bad": 'try:\n    with gitexp.track("bad"):\n        raise ValueError("no good")\nexcept ValueError: pass\n',
    }
    work.write("two.py", "import nemo_gitexp as gitexp\n" + "".join(blocks[name] for name in order))
    failed = work.gitexp("run", "--json", "--", "python", "two.py", code=1).json
    assert (failed["status"], failed["error"]["type"]) == ("failed", "ValueError")


def test_each_thread_and_each_task_logs_into_its_own_experiment(work: Work) -> None:
    script = """\
import asyncio, threading
import nemo_gitexp as gitexp

both = threading.Barrier(2)

def learn(number):
    with gitexp.track("threads", config={"n": number}, seed=1):
        both.wait()
        for step in range(3):
            gitexp.log_metrics({"loss": number}, step=step)
        both.wait()

threads = [threading.Thread(target=learn, args=(number,)) for number in (1, 2)]
for thread in threads: thread.start()
for thread in threads: thread.join()

async def task(number):
    with gitexp.track("tasks", config={"n": number}, seed=1):
        for step in range(3):
            gitexp.log_metrics({"loss": number}, step=step)
            await asyncio.sleep(0.01)

async def main():
    await asyncio.gather(task(3), task(4))

asyncio.run(main())
"""
    run_python(work, script)
    for found in work.gitexp("log", "--json").json["experiments"]:
        stats = found["metric_stats"]["loss"]
        assert stats == {"last": found["config"]["n"], "min": found["config"]["n"], "max": found["config"]["n"], "n": 3}
