"""`sweep` with the installed command: each combination an experiment, none twice, whatever is interrupted or killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from builder import Work, make_work, wait_until
from gated import is_alive
from residue import expect_nothing_left

TRAIN = """\
import json, os, pathlib, sys, time
config = json.load(open(os.environ["GITEXP_CONFIG"]))
gate = pathlib.Path(os.environ["GATE"])
with open(gate / "ran", "a") as file:
    file.write(f"{config['lr']} {os.environ['GITEXP_SEED']}\\n")
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    loss = config["lr"] * 10 + int(os.environ["GITEXP_SEED"]) / 100
    stream.write(json.dumps({"step": 0, "loss": loss, "steps": 1}) + "\\n")
while (gate / "closed").exists() and not (gate / "open").exists():
    time.sleep(0.02)
if config["lr"] == 0.666:
    raise SystemExit("no such luck")
pathlib.Path(os.environ["GITEXP_OUTPUTS"], "weights.txt").write_text(str(config["lr"]))
"""
STUDY = """\
purpose: something small
command: python toy.py
config: {lr: 0.1, layers: 2, model: {hidden: 8, name: mlp}}
metrics: {loss: {goal: min}}
"""
RECIPE = """\
import nemo_run as run
def fit(lr: float = 0.1, hidden: int = 8):
    print("lr", lr, "hidden", hidden)
base = run.Partial(fit)
def small(lr: float = 0.1) -> run.Partial:
    if lr < 0.15:
        base.hidden = 9  # the next call must not see it
    base.lr = lr
    return base
"""


@dataclass(slots=True)
class Swept:
    """A repository with a study whose jobs note that they ran, and wait at a gate while that is closed."""

    work: Work
    gate: Path

    def ran(self) -> list[str]:
        """Return what was run so far, `lr seed`, in order of combination."""
        file = self.gate / "ran"
        return sorted(file.read_text().splitlines()) if file.exists() else []

    def close(self) -> None:
        """Make jobs wait."""
        (self.gate / "open").unlink(missing_ok=True)
        (self.gate / "closed").touch()

    def open(self) -> None:
        """Let them go on."""
        (self.gate / "open").touch()

    def sweep(self, *words: str, code: int = 0) -> dict:
        """Sweep over the study and return the JSON answer."""
        return self.work.gitexp("sweep", "toy", *words, "--json", code=code).json


@pytest.fixture
def swept(tmp_path: Path) -> Swept:
    gate = tmp_path / "gate"
    gate.mkdir()
    files = {"toy.py": TRAIN, "experiments/toy/experiment.yaml": STUDY}
    return Swept(make_work(tmp_path / "work", tmp_path / "home", files=files, GATE=str(gate)), gate)


def statuses(answer: dict) -> list[str]:
    return [item["status"] for item in answer["combinations"]]


def values(answer: dict) -> list[dict]:
    return [item["values"] for item in answer["combinations"]]


def test_a_grid_over_seeds_is_one_sweep_of_one_snapshot_ranked_by_the_goal(swept: Swept) -> None:
    swept.work.write("toy.py", TRAIN + "# changed\n")
    answer = swept.sweep("lr=0.2,0.1", "seed=1..2", "--jobs", "2")
    assert values(answer) == [{"lr": lr, "seed": seed} for lr in (0.2, 0.1) for seed in (1, 2)]
    experiments = answer["experiments"]
    assert {item["sweep"] for item in experiments} == {answer["sweep"]}
    assert {item["branch"] for item in experiments} == {None}
    assert swept.work.refs("refs/heads/exp/") == {}
    assert len({item["code"]["commit"] for item in experiments}) == 1
    assert {swept.work.git("rev-parse", f"{item['experiment']}^") for item in experiments} == {
        experiments[0]["code"]["commit"]
    }
    best = answer["best"]
    assert (best["values"], best["metric"], best["goal"], best["n"]) == ({"lr": 0.1}, "loss", "min", 2)
    assert best["mean"] == pytest.approx(1.015)
    assert best["experiment"] == experiments[2]["experiment"]
    assert [item["values"] for item in answer["ranking"]] == [{"lr": 0.1}, {"lr": 0.2}]
    assert answer["config"]["config_differences"]["lr"] == {item["name"]: item["config"]["lr"] for item in experiments}
    assert answer["metrics"]["loss"]["n"] == 4
    listed = swept.work.gitexp("log", "--where", f"sweep == '{answer['sweep']}'", "--json").json["experiments"]
    assert len(listed) == 4
    assert swept.work.git("status", "--porcelain") == "M toy.py"
    expect_nothing_left(swept.work)


def test_a_sweep_that_is_repeated_runs_nothing_and_one_that_is_extended_the_rest(swept: Swept) -> None:
    first = swept.sweep("lr=0.1,0.2")
    assert swept.ran() == ["0.1 42", "0.2 42"]
    plan = swept.work.gitexp("sweep", "toy", "lr=0.1,0.2,0.3", "--plan").out
    assert plan.count("completed before") == 2
    assert plan.endswith("3 combinations, 1 to run\n")
    again = swept.sweep("lr=0.1,0.2")
    assert (again["sweep"], statuses(again)) == (first["sweep"], ["completed"] * 2)
    extended = swept.sweep("lr=range(0.1,0.4,0.1)")
    assert swept.ran() == ["0.1 42", "0.2 42", "0.3 42"]
    assert {item["sweep"] for item in extended["experiments"]} == {first["sweep"]}
    other = swept.sweep("lr=0.2", "layers=2,3")  # shares one with the first, and is another sweep
    assert [item["duplicate_of"] is not None for item in other["experiments"]] == [True, False]
    assert other["sweep"] != first["sweep"]
    assert len(swept.ran()) == 4
    swept.sweep("lr=0.1,0.2", "--again")
    assert len(swept.ran()) == 6


def test_lists_are_zipped_on_request_and_keys_below_others_vary_too(swept: Swept) -> None:
    answer = swept.sweep("lr=0.1,0.2", "model.hidden=4,16", "+model.extra=on", "--zip", "--seed", "7")
    assert values(answer) == [{"lr": 0.1, "model.hidden": 4}, {"lr": 0.2, "model.hidden": 16}]
    assert {(item["seed"], item["config"]["model"]["extra"]) for item in answer["experiments"]} == {(7, "on")}
    text = swept.work.gitexp("sweep", "toy", "lr=0.1,0.2", "model.hidden=4,16", "+model.extra=on", "--zip", "--seed=7")
    assert text.out.splitlines()[1].split()[:3] == ["lr", "model.hidden", "loss"]


def test_one_that_fails_stops_none_of_the_others_and_is_no_best(swept: Swept) -> None:
    answer = swept.sweep("lr=0.666,0.1,0.2", code=1)
    assert statuses(answer) == ["failed", "completed", "completed"]
    assert answer["best"]["values"] == {"lr": 0.1}
    shown = swept.work.gitexp("sweep", "toy", "lr=0.666,0.1,0.2", code=1)
    assert swept.ran().count("0.666 42") == 2  # what failed does not count as run
    assert "failed" in shown.out
    assert "no such luck" in swept.work.gitexp("logs", answer["combinations"][0]["experiment"]).out


def test_ctrl_c_cancels_what_runs_and_resume_goes_on_with_the_recorded_state(swept: Swept) -> None:
    swept.close()
    process = swept.work.start("sweep", "toy", "lr=0.1,0.2,0.3", "--jobs", "1")
    wait_until(lambda: len(swept.ran()) == 1)
    os.kill(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    listed = swept.work.gitexp("log", "--json", "--all").json["experiments"]
    assert sorted(item["status"] for item in listed) == ["cancelled", "recorded", "recorded"]
    swept.open()
    swept.work.write("toy.py", "raise SystemExit('another state')\n")
    answer = swept.sweep("--resume", "-j2")
    assert statuses(answer) == ["completed"] * 3
    assert sorted(item["config"]["lr"] for item in answer["experiments"]) == [0.1, 0.2, 0.3]
    assert {item["sweep"] for item in answer["experiments"]} == {listed[0]["sweep"]} == {answer["sweep"]}
    assert swept.ran() == ["0.1 42", "0.1 42", "0.2 42", "0.3 42"]
    assert statuses(swept.work.gitexp("sweep", "--resume", answer["sweep"], "--json").json) == ["completed"] * 3
    assert len(swept.ran()) == 4
    expect_nothing_left(swept.work)


def test_a_killed_sweep_goes_on_with_its_jobs_collected_and_a_killed_job_lost(swept: Swept) -> None:
    swept.close()
    process = swept.work.start("sweep", "toy", "lr=0.1,0.2,0.3", "--jobs", "2")
    wait_until(lambda: len(swept.ran()) == 2)
    runs = swept.work.root / ".git/gitexp/runs"
    started = [run for run in runs.iterdir() if (run / "started.json").exists()]
    process.kill()
    process.communicate()
    states = {item["experiment"]: item["status"] for item in status(swept.work)}
    assert sorted(states.values()) == ["recorded", "running", "running"]
    for name in ("supervisor", "started", "child"):  # all of one run
        os.kill(json.loads((started[0] / f"{name}.json").read_text())["pid"], signal.SIGKILL)
    swept.open()
    wait_until(lambda: sorted(item["status"] for item in status(swept.work)) == ["recorded"])
    listed = swept.work.gitexp("log", "--json").json["experiments"]
    assert sorted(item["status"] for item in listed) == ["completed", "lost", "recorded"]
    answer = swept.sweep("--resume")
    assert statuses(answer) == ["completed"] * 3
    assert {item["experiment"] for item in answer["experiments"]} == {item["experiment"] for item in listed}
    assert len(swept.ran()) == 4


def status(work: Work) -> list[dict]:
    return work.gitexp("status", "--json").json["experiments"]


def test_a_killed_nursery_takes_no_run_along_and_another_one_serves_the_rest(swept: Swept) -> None:
    swept.close()
    process = swept.work.start("sweep", "toy", "lr=0.1,0.2,0.3", "--json")
    wait_until(lambda: len(swept.ran()) == 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (nursery,) = [pid for pid in children if b"nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(nursery), signal.SIGKILL)
    swept.open()
    out, _ = process.communicate()
    assert statuses(json.loads(out)) == ["completed"] * 3
    assert swept.ran() == ["0.1 42", "0.2 42", "0.3 42"]
    assert not is_alive(int(nursery))


def test_two_processes_that_sweep_over_the_same_run_each_combination_once(swept: Swept) -> None:
    first, second = (
        swept.work.start("sweep", "toy", *words, "--json") for words in (("lr=0.1,0.2,0.3",), ("lr=0.2,0.3,0.4",))
    )
    answers = [json.loads(process.communicate()[0]) for process in (first, second)]
    assert [statuses(answer) for answer in answers] == [["completed"] * 3] * 2
    assert swept.ran() == ["0.1 42", "0.2 42", "0.3 42", "0.4 42"]


def test_what_another_process_leaves_unfinished_is_taken_over(swept: Swept) -> None:
    swept.close()
    first = swept.work.start("sweep", "toy", "lr=0.1,0.2")
    wait_until(lambda: len(swept.ran()) == 1)
    second = swept.work.start("sweep", "toy", "lr=0.1,0.2", "--json")
    while b"combinations" not in (line := second.stderr.readline()):
        assert line
    first.kill()
    first.communicate()
    swept.open()
    out, _ = second.communicate()
    assert statuses(json.loads(out)) == ["completed"] * 2
    assert swept.ran() == ["0.1 42", "0.2 42"]


def test_a_combination_that_is_cancelled_while_it_waits_never_starts(swept: Swept) -> None:
    swept.close()
    process = swept.work.start("sweep", "toy", "lr=0.1,0.2", "--json")
    wait_until(lambda: len(swept.ran()) == 1)
    (waiting,) = [item for item in status(swept.work) if item["status"] == "launched"]
    asked = swept.work.start("cancel", waiting["experiment"], "--json")
    wait_until(lambda: list((swept.work.root / ".git/gitexp/runs").glob("*/cancel.json")))
    swept.open()
    out, _ = process.communicate()
    assert (process.returncode, statuses(json.loads(out))) == (1, ["completed", "cancelled"])
    assert json.loads(asked.communicate()[0])["status"] == "cancelled"
    assert swept.ran() == ["0.1 42"]


def test_on_a_terminal_a_table_follows_the_runs_and_goes_when_they_have_ended(swept: Swept) -> None:
    terminal, end = os.openpty()
    process = subprocess.Popen(
        swept.work.command("sweep", "toy", "lr=0.1,0.2"),
        cwd=swept.work.root,
        env={**swept.work.env, "TERM": "xterm", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=end,
    )
    os.close(end)
    said = b""
    with contextlib.suppress(OSError):  # what a terminal says when nobody writes any more
        while piece := os.read(terminal, 65536):
            said += piece
    os.close(terminal)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "0/2  1 running, 1 waiting" in said.decode()
    assert said.decode().count("\x1b[") == 2 * said.decode().count("\x1b[J")  # up and clear, and no colours
    assert said.decode().rstrip().endswith("\x1b[J")
    assert out.decode().startswith("sweep ")


def test_a_recipe_is_swept_over_with_one_process_that_resolves_it(work: Work) -> None:
    work.write("recipes.py", RECIPE)
    work.commit()
    words = ("sweep", "recipes.py:small", "lr=0.1,0.2", "seed=3,4", "--plan", "--json")
    plan = work.gitexp(*words, timeout_s=280).json  # it imports NeMo Run with torch
    assert [(item["config"]["lr"], item["config"]["hidden"], item["seed"]) for item in plan["experiments"]] == [
        (0.1, 9, 3), (0.1, 9, 4), (0.2, 8, 3), (0.2, 8, 4),
    ]  # fmt: skip
    resumed = work.gitexp("sweep", "recipes.py:small", "--resume", code=3)
    assert "there is no sweep of small here" in resumed.err  # by the name of its study
    assert work.refs() == {}


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["lrr=1,2"], 2, "did you mean lr?"),
        (["lr=interval(0,1)"], 2, "range or choice"),
        (["lr=0.1..1"], 2, "0.1..1:STEP"),
        (["lr=1,2", "lr=3,4"], 2, "given twice"),
        (["lr=1,2", "layers=1,2,3", "--zip"], 2, "lr has 2, layers has 3"),
        (["lr=1..100000"], 2, "more than 10,000"),
        (["seed=1..3", "--seed", "1"], 2, "both say the seed"),
        (["seed=a,b"], 2, "no seed"),
        ([], 2, "nothing varies"),
        (["lr=1,2", "--jobs", "0"], 2, "runs nothing"),
        (["--resume"], 3, "there is no sweep of toy"),
        (["lr=1,2", "abc"], 2, "no key=value"),
        (["lr=1,2", "--executor", "nowhere"], 2, "no executor is named nowhere"),
        (["lr=1,2", "--determinism", "off"], 2, "needs a reason"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_recorded(
    refusing: Work, words: list[str], code: int, said: str
) -> None:
    answered = refusing.gitexp("sweep", "toy", *words, code=code)
    assert said in answered.err
    assert answered.out == ""
    assert refusing.refs() == {}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("refusing")
    return make_work(place / "work", place / "home", files={"experiments/toy/experiment.yaml": STUDY})


def test_a_sweep_whose_environment_only_its_jobs_know_is_repeated_and_extended_within_itself(swept: Swept) -> None:
    swept.work.write("experiments/toy/experiment.yaml", STUDY.replace("python toy.py", "sh toy.sh"))
    swept.work.write("toy.sh", "exec python toy.py\n")
    first = swept.sweep("lr=0.1,0.2")
    assert {item["identity"] for item in first["experiments"]} == {None}
    assert statuses(swept.sweep("lr=0.1,0.2", "--plan")) == ["completed", "completed"]
    repeated, extended = swept.sweep("lr=0.1,0.2"), swept.sweep("lr=0.1,0.2,0.3")
    assert repeated["sweep"] == extended["sweep"] == first["sweep"]
    assert swept.ran() == ["0.1 42", "0.2 42", "0.3 42"]
    other = swept.sweep("lr=0.1,0.4")  # another sweep: nobody knows whether it runs in the same environment
    assert other["sweep"] != first["sweep"]
    assert len(swept.ran()) == 5
    swept.work.write("toy.py", TRAIN + "# changed\n")
    assert swept.sweep("lr=0.1,0.4")["sweep"] not in (first["sweep"], other["sweep"])
    assert len(swept.ran()) == 7
    swept.sweep("lr=0.1,0.4", "--again")
    assert len(swept.ran()) == 9
