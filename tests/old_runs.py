"""Runs that other tools recorded: `python old_runs.py mlflow|wandb`, in a repository, logs with the tool itself.

`make_old_work` makes a repository with stores of MLflow and W&B and with experiments of DVC, all written by the tools.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

from builder import Work, make_work

DVC_TRAIN = """\
import json, pathlib, sys
lr = float(next(line.split(":")[1] for line in open("params.yaml") if "lr:" in line))
json.dump({"loss": lr * 2, "val": {"acc": 0.5}}, open("metrics.json", "w"))
pathlib.Path("model.txt").write_text(str(lr))
"""
DVC_YAML = """\
stages:
  train:
    cmd: python train_dvc.py
    deps: [data/x.txt, train_dvc.py]
    params: [model]
    outs: [model.txt]
    metrics: [{metrics.json: {cache: false}}]
"""
PARAMS = "seed: 7\nmodel:\n  lr: 0.1\n  hidden: 64\n"
IGNORED = "mlruns\nwandb\n"


def log_mlflow() -> None:
    """Three seeds, a failed and a killed run, one that goes on, and one of another experiment."""
    import mlflow

    mlflow.set_tracking_uri(Path("mlruns").resolve().as_uri())
    mlflow.set_experiment("other")
    with mlflow.start_run(run_name="elsewhere"):
        mlflow.log_param("lr", 1)
    mlflow.set_experiment("digits")
    for seed in range(3):
        with mlflow.start_run(run_name=f"seed-{seed}"):
            mlflow.log_params({"lr": 0.1, "model.hidden": 64, "seed": seed, "sizes": [1, 2], "limit": None})
            mlflow.log_params({"optimizer": "adam", "amp": True, "api_key": "hunter2", "max_tokens": 512})
            for step in range(3):
                mlflow.log_metrics({"loss": 1 / (step + 1 + seed), "val/acc": 0.5 + seed / 10}, step=step)
            mlflow.log_metric("odd", math.nan, step=2)
    for name, status in (("broke", "FAILED"), ("stopped", "KILLED")):
        mlflow.start_run(run_name=name)
        mlflow.log_param("lr", 9)
        mlflow.end_run(status)
    mlflow.start_run(run_name="goes-on")
    mlflow.log_params({"lr": 0.5, "seed": 1})
    mlflow.log_metric("loss", 2.0, step=0)
    os._exit(0)  # as a killed process leaves it


def log_wandb() -> None:
    """One run that completed, one that failed, and one in two parts."""
    import wandb

    for name, code in (("good", 0), ("bad", 3)):
        config = {"lr": 0.2, "model": {"hidden": 64}, "seed": 5, "hub": {"hf_token": "hf_" + "a" * 34}}
        run = wandb.init(project="digits", mode="offline", name=name, config=config)
        for step in range(3):
            run.log({"loss": 1 / (step + 1), "val": {"acc": step / 3}})
        run.summary.update({"best": 0.5, "is_done": True, "test": {"acc": 0.75, "step": 9}, "step": 7})
        run.finish(exit_code=code)
    for part in range(2):
        run = wandb.init(project="digits", mode="offline", id="resumed1", name="twice", config={"lr": 0.3})
        run.log({"loss": 1.0 - part / 10}, step=part)
        run.finish()


def make_old_work(directory: Path, home: Path) -> Work:
    """Make the repository: stores of MLflow and W&B beside the code, two experiments of DVC in git."""
    work = make_work(
        directory,
        home,
        files={
            "old_runs.py": Path(__file__).read_text(),
            "builder.py": Path(__file__).with_name("builder.py").read_text(),
            "params.yaml": PARAMS,
            "dvc.yaml": DVC_YAML,
            "train_dvc.py": DVC_TRAIN,
            "data/x.txt": "hello\n",
            ".gitignore": IGNORED,
        },
        MLFLOW_ALLOW_FILE_STORE="true",
        WANDB_SILENT="true",
        WANDB_CACHE_DIR=str(home / "wandb"),
    )
    work.git("rm", "-q", "--cached", "data/x.txt")
    for words in (["init", "-q"], ["add", "-q", "data/x.txt"]):
        dvc(work, *words)
    work.commit("data")
    both = [subprocess.Popen([sys.executable, "old_runs.py", tool], cwd=work.root, env=work.env) for tool in TOOLS]
    dvc(work, "exp", "run", "--name", "one")
    work.write("params.yaml", PARAMS.replace("0.1", "0.3"))
    work.write("metrics.json", '{"loss": 0.6, "val": {"acc": 0.7}}')
    dvc(work, "exp", "save", "--name", "two", "--force", "--include-untracked", "metrics.json")
    assert [process.wait() for process in both] == [0, 0]
    work.git("checkout", "-q", ".")
    work.git("clean", "-qfd")
    return work


def dvc(work: Work, *args: str) -> str:
    """Run dvc itself."""
    # Its git library reads dates as git writes them, not as people do.
    env = {**work.env, "GIT_AUTHOR_DATE": "1767323045 +0000", "GIT_COMMITTER_DATE": "1767323045 +0000"}
    call = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(call, cwd=work.root, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def copy_work(old: Work, directory: Path) -> Work:
    """Return a copy of a repository, stores and all."""
    shutil.copytree(old.root, directory, symlinks=True)
    return Work(directory, dict(old.env))


def shared_old_work(base: Path) -> Work:
    """Return the repository that all workers of a test session share; the first one makes it. Only copies change."""
    home, place = base / "old-home", base / "old-runs"
    with (base / "old-runs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "old-runs.done").exists():
            env = make_old_work(place, home).env
            (base / "old-runs.done").write_text(json.dumps(env))
        return Work(place, json.loads((base / "old-runs.done").read_text()))


TOOLS = {"mlflow": log_mlflow, "wandb": log_wandb}

if __name__ == "__main__":
    TOOLS[sys.argv[1]]()
