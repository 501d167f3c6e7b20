"""Jobs that log into TensorBoard, W&B and MLflow: their metrics, links and verdicts are those of any other job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builder import Work, make_work

TENSORBOARD = """\
import os, torch
from torch.utils.tensorboard import SummaryWriter
out = os.environ["GITEXP_OUTPUTS"]
writers = [SummaryWriter(os.path.join(out, "tb")), SummaryWriter(), SummaryWriter(out)]
for step in range(3):
    writers[0].add_scalar("loss", 1 / (step + 1), step)
    writers[1].add_scalar("accuracy", step / 2, step)
    writers[2].add_scalar("rate", 0.5, step)
writers[0].add_text("notes", "a text", 0)
for writer in writers:
    writer.close()
torch.save({"weight": torch.rand(3)}, os.path.join(out, "model.pt"))
"""
WANDB = """\
import json, os, wandb
run = wandb.init(project="proj", config={"lr": 0.1})
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step in range(3):
        stream.write(json.dumps({"step": step, "loss": 7.0}) + "\\n")
        run.log({"loss": 1 / (step + 1), "accuracy": step / 2, "system/x": step, "image": wandb.Html("<b>x</b>")})
run.finish()
with open(os.environ["IDS"], "a") as ids:
    print(run.id, run.name, os.environ["WANDB_RESUME"], file=ids)
"""
MLFLOW = """\
import mlflow
with mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metric("system/cpu", 50, step=step)
    mlflow.log_param("lr", 0.1)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("trackers")
    files = {"board.py": TENSORBOARD, "bees.py": WANDB, "flow.py": MLFLOW}
    store = (place / "store").as_uri()
    return make_work(
        place / "work",
        place / "home",
        files=files,
        IDS=str(place / "ids"),
        WANDB_MODE="offline",
        WANDB_API_KEY="x" * 40,
        MLFLOW_ALLOW_FILE_STORE="true",
        MLFLOW_TRACKING_URI=store,
    )


def test_scalars_of_tensorboard_are_metrics_and_its_files_are_compared_by_what_was_logged(work: Work) -> None:
    document = work.gitexp("run", "--json", "--", "python", "board.py").json
    assert document["metrics"] == {"loss": pytest.approx(1 / 3, abs=1e-7), "accuracy": 1.0, "rate": 0.5}
    assert document["metric_stats"]["loss"]["n"] == 3
    assert {link["tracker"] for link in document["links"]} == {"tensorboard"}
    places = [link["path"] for link in document["links"]]
    assert "{run}/outputs/tb" in places
    assert any(place.startswith("{workspace}/runs/") for place in places)
    assert "{run}/outputs/tb" in work.gitexp("show", document["experiment"]).out
    verdict = work.gitexp("reproduce", document["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"], verdict["first_divergence"]) == ("bitwise", True, None)
    assert all(output["equal"] for output in verdict["outputs"])
    assert len(verdict["outputs"]) == 3


def test_an_offline_run_of_wandb_is_read_and_a_reproduction_has_its_own(work: Work) -> None:
    document = work.gitexp("run", "--json", "--", "python", "bees.py").json
    assert document["metrics"] == {"loss": 7.0, "accuracy": 1.0}
    (link,) = document["links"]
    own = link["run"]
    assert own.startswith(document["experiment"][:16])
    assert (link["tracker"], link["name"], link["project"], link["url"]) == ("wandb", document["name"], "proj", None)
    assert link["path"].startswith("{run}/wandb/offline-run-")
    assert link["path"].endswith(own)
    assert work.gitexp("reproduce", document["experiment"], "--json").json["met"]
    first, again = Path(work.env["IDS"]).read_text().splitlines()
    assert first == f"{own} {document['name']} allow"
    other, name, resume = again.split()
    assert other != own
    assert other.startswith(document["experiment"][:16])
    assert (name, resume) == (f"{document['name']}-reproduction", "allow")
    assert "x" * 40 not in work.git("log", "-p", "--all")


def test_runs_in_a_store_of_mlflow_are_read_by_the_tag_that_the_job_was_given(work: Work) -> None:
    document = work.gitexp("run", "--json", "--", "python", "flow.py").json
    assert document["metrics"] == {"loss": pytest.approx(1 / 3)}
    (link,) = document["links"]
    assert (link["tracker"], link["name"]) == ("mlflow", document["name"])
    assert work.gitexp("reproduce", document["experiment"], "--json").json["met"]
    store = Path(work.env["MLFLOW_TRACKING_URI"].removeprefix("file://"))
    names = [path.read_text() for path in store.glob("*/*/tags/mlflow.runName")]
    assert sorted(names) == [document["name"], f"{document['name']}-reproduction"]
    assert (store / "0" / link["run"]).is_dir()
    tags = [path.read_text() for path in sorted(store.glob("*/*/tags/gitexp.experiment"))]
    assert tags == [document["experiment"]] * 2


TRACKED = """\
import nemo_gitexp as gitexp
from torch.utils.tensorboard import SummaryWriter
with gitexp.track("block", config={"lr": 0.1}, seed=1, purpose="a part of a program") as exp:
    mine, elsewhere = SummaryWriter(str(exp.outputs / "tb")), SummaryWriter()
    for step in range(3):
        mine.add_scalar("loss", 1 / (step + 1), step)
        elsewhere.add_scalar("whose", 1.0, step)
    mine.close()
    elsewhere.close()
"""


def test_a_block_of_a_program_has_what_was_logged_below_its_outputs(work: Work) -> None:
    work.write(".gitignore", "runs/\n")
    work.write("block.py", TRACKED)
    work.commit()
    subprocess.run([sys.executable, "block.py"], cwd=work.root, env=work.env, capture_output=True, check=True)
    document = work.gitexp("show", "latest:block", "--json").json
    assert document["metrics"] == {"loss": pytest.approx(1 / 3, abs=1e-7)}
    assert [link["path"] for link in document["links"]] == ["{run}/outputs/tb"]
    assert work.gitexp("reproduce", document["experiment"], "--require", "bitwise", "--json").json["met"]
