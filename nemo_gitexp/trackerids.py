"""What a job is told to call itself in W&B and MLflow: the same over restarts of a run, another for each run. Pure."""

from __future__ import annotations

import hashlib

from nemo_gitexp.worker.trackerenv import RECORD_LETTERS

MOST_NAME = 128
"""Characters that W&B takes as a name."""


def tracker_ids(
    record_sha: str, run: str, name: str, stage: str | None = None, *, reproduction: bool
) -> dict[str, str]:
    """Return `run_id` and `name` of one run of an experiment, or of one stage of it.

    The id is lower-case letters and digits, as W&B asks for. It begins with those of the record, so that runs and
    reproductions are found together.

    Args:
        record_sha: the experiment.
        run: the run directory's name: a requeued or resumed run keeps it, any other run has its own.
        name: the experiment's.
        stage: the stage of a pipeline, whose jobs run at the same time and must not share an id.
        reproduction: whether the run repeats the experiment.
    """
    whole = run if stage is None else f"{run}\0{stage}"
    tail = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    ending = ("" if stage is None else f"/{stage}") + ("-reproduction" if reproduction else "")
    return {"run_id": record_sha[:RECORD_LETTERS] + tail, "name": name[: MOST_NAME - len(ending)] + ending}
