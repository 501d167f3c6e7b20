"""The command line and the Python API agree: what one records, the other shows, compares and reproduces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from builder import Work, make_work

LEARN = """\
import json, os, sys

def learn(lr):
    return [lr / (step + 1) for step in range(3)]
"""
LAUNCHED = """\
import json, os, sys
from learn import learn
config = json.load(open(sys.argv[1]))
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step, loss in enumerate(learn(config["lr"])):
        stream.write(json.dumps({"step": step, "loss": loss}) + "\\n")
"""
TRACKED = """\
import nemo_gitexp as gitexp
from learn import learn

with gitexp.track("toy", config={"lr": 0.4}, seed=7) as exp:
    for step, loss in enumerate(learn(0.4)):
        exp.log({"loss": loss}, step=step)

tracker = gitexp.ExperimentTracker("toy")
tracker.start_experiment("named", {"lr": 0.5}, seed=7)
for step, loss in enumerate(learn(0.5)):
    gitexp.log_metrics({"loss": loss}, step=step)
tracker.complete_experiment("named", {})
"""
CELLS = ["import nemo_gitexp as gitexp\nfrom learn import learn\n", TRACKED.split("\n\n")[1].replace("0.4", "0.8")]
DEFINITION = """\
purpose: Agree
config: {lr: 0.1}
seed: 7
command: python launched.py {config}
metrics: {loss: {goal: min}}
"""
ASKED = """\
import json
import nemo_gitexp as gitexp

tracker = gitexp.ExperimentTracker("toy")
summary = tracker.get_experiment_summary()
names = sorted(tracker.experiments)
compared = gitexp.ExperimentComparator.compare_configurations(names)
metrics = gitexp.ExperimentComparator.compare_metrics(names, ["loss"])
print(json.dumps({
    "completed": summary["completed"],
    "total": summary["total_experiments"],
    "metrics": {name: found.metrics["loss"] for name, found in tracker.experiments.items()},
    "differences": sorted(compared["config_differences"]),
    "n": metrics["loss"]["n"],
    "best": metrics["loss"]["min"],
}))
"""


def notebook(cells: list[str]) -> str:
    shown = [
        {"cell_type": "code", "execution_count": None, "id": f"c{at}", "metadata": {}, "outputs": [], "source": cell}
        for at, cell in enumerate(cells)
    ]
    return json.dumps({"cells": shown, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def execute(work: Work, name: str) -> None:
    """Run a notebook in a kernel of its own, as Jupyter does."""
    code = (
        "import sys, nbformat, nbclient\n"
        f"book = nbformat.read({name!r}, as_version=4)\n"
        "nbclient.NotebookClient(book, timeout=120, resources={'metadata': {'path': '.'}}).execute()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=work.root, env=work.env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def python(work: Work, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=work.root, env=work.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_one_records_the_other_shows_compares_and_reproduces(tmp_path: Path) -> None:
    files = {
        "learn.py": LEARN,
        "launched.py": LAUNCHED,
        "tracked.py": TRACKED,
        "asked.py": ASKED,
        "book.ipynb": notebook(CELLS),
        "experiments/toy/experiment.yaml": DEFINITION,
        ".gitignore": "__pycache__/\n.ipynb_checkpoints/\n",
    }
    work = make_work(tmp_path / "work", tmp_path / "home", files=files)
    work.gitexp("run", "toy")
    work.gitexp("run", "toy", "lr=0.2")
    python(work, "tracked.py")
    execute(work, "book.ipynb")

    listed = work.gitexp("log", "--json", "--study", "toy", "--sort", "metrics.loss").json["experiments"]
    assert [item["config"]["lr"] for item in listed] == [0.1, 0.2, 0.4, 0.5, 0.8]
    assert {item["status"] for item in listed} == {"completed"}
    assert {item["seed"] for item in listed} == {7}
    assert {item["purpose"] for item in listed} == {"Agree"}

    answered = json.loads(python(work, "asked.py"))
    assert (answered["completed"], answered["total"], answered["n"]) == (5, 5, 5)
    assert answered["metrics"] == {item["name"]: item["metrics"]["loss"] for item in listed}
    assert answered["differences"] == ["lr"]
    assert answered["best"] == listed[0]["metrics"]["loss"]

    launched, noted = listed[0]["experiment"], listed[4]["experiment"]
    difference = work.gitexp("diff", launched, noted, "--json").json
    assert difference["config"]["changed"] == {"lr": {"a": 0.1, "b": 0.8}}
    assert difference["metrics"]["loss"]["better"] == "a"
    assert "book.ipynb" in work.git("ls-tree", "--name-only", noted)
    for item in listed:
        verdict = work.gitexp("reproduce", item["experiment"], "--require", "bitwise", "--json").json
        assert (verdict["verdict"], verdict["met"]) == ("bitwise", True), item["name"]
