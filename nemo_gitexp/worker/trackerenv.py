"""Tells a job who it is for W&B and MLflow, and keeps a reproduction out of the original's run there.

What the user has set wins, in the environment of the launch or in the definition; only in a reproduction no id does,
because it would be the original's.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import MutableMapping, Optional

    from .shapes import Plan

RUN_TAG = "gitexp.run"
EXPERIMENT_TAG = "gitexp.experiment"
NAME_TAG = "mlflow.runName"
RECORD_LETTERS = 16
"""So many letters of an id are the record's, after which run directories are named, too."""

CONTEXT = "MLFLOW_RUN_CONTEXT"
"""Tags, as JSON, for every run that MLflow starts; also what tells the jobs of a job that they were given ids."""

IDS_OF_OTHERS = ("MLFLOW_RUN_ID", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")


def run_id_of(plan: Plan, rank: int = 0) -> Optional[str]:
    """Return the id that a process of this run has; None in runs whose plan knows none."""
    ids = plan.get("tracker_ids")
    return None if ids is None else ids["run_id"] + (f"r{rank}" if rank else "")


def hand_over_ids(env: MutableMapping[str, str], plan: Plan, rank: int) -> None:
    """Put ids and names into the environment of the job.

    Args:
        env: the environment so far: the launch's, and above it the definition's.
        plan: the launcher's plan.
        rank: the global rank; processes that all write must not share one id.
    """
    run_id = run_id_of(plan, rank)
    if run_id is None:
        return
    inherited = [name for name in _inherited(env) if name not in plan["env"]]
    is_reproduction = plan["kind"] == "reproduction"
    for name in (*inherited, *(IDS_OF_OTHERS if is_reproduction else ())):
        env.pop(name, None)
    name = plan["tracker_ids"]["name"]
    handed = {"WANDB_NAME": name, "WANDB_DIR": plan["run_dir"], "MLFLOW_RUN_NAME": name}
    if not env.get("WANDB_RUN_ID"):
        handed.update(WANDB_RUN_ID=run_id, WANDB_RESUME="allow")  # a requeued job goes on in its run
    # MLflow itself reads the name from the tags only; MLFLOW_RUN_NAME is for code that looks there.
    tags = {EXPERIMENT_TAG: plan.get("experiment", ""), RUN_TAG: run_id, NAME_TAG: env.get("MLFLOW_RUN_NAME") or name}
    handed[CONTEXT] = json.dumps(tags)
    env.update({name: value for name, value in handed.items() if not env.get(name)})


def _inherited(env: MutableMapping[str, str]) -> list[str]:
    """Return what a job that launches another was handed here itself: no wish of the user's."""
    try:
        tags = json.loads(env.get(CONTEXT, "{}"))
    except ValueError:
        return []
    run_id = tags.get(RUN_TAG) if isinstance(tags, dict) else None
    if not isinstance(run_id, str):
        return []
    found = [CONTEXT] + [name for name in ("WANDB_NAME", "MLFLOW_RUN_NAME") if env.get(name) == tags.get(NAME_TAG)]
    if env.get("WANDB_RUN_ID") == run_id:
        found += ["WANDB_RUN_ID", "WANDB_RESUME"]
    if run_id[:RECORD_LETTERS] in env.get("WANDB_DIR", ""):
        found.append("WANDB_DIR")
    return found
