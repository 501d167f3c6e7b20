"""How an experiment stands now: what is known beside its commits, and may change while they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from nemo_gitexp.documents import ExperimentDoc, ProgressDoc

ENDED = ("completed", "failed", "cancelled", "lost", "skipped")
STATUSES = ("recorded", "launched", "running", "requeued", *ENDED)
VERDICTS = ("recorded", "restored", "executed", "metrics", "bitwise")


class Progress(NamedTuple):
    """How far a run is: `at` (ISO 8601 UTC) it was at `step` with these metrics, `age_s` ago when this was made.

    `is_hearsay`: not seen on this machine, but said by a fact; then nobody here knows whether it still goes on.
    """

    at: str
    age_s: float
    step: int | None
    metrics: tuple[tuple[str, float | str], ...]
    is_hearsay: bool


class Standing(NamedTuple):
    """Where its ref is, how its run stands, what was learned since. A tuple: listings make thousands."""

    ref: str
    status: str
    branch: str | None
    best_verdict: str | None = None
    reproductions: int = 0
    archived: bool = False
    withdrawn: bool = False
    jobs: tuple[str, ...] = ()
    started: str | None = None
    progress: Progress | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is known of a live run."""
        return not self.jobs and self.started is None and self.progress is None

    def at_rest(self) -> Standing:
        """Return it without what a live run alone knows."""
        return self._replace(jobs=(), started=None, progress=None)


def stand(document: ExperimentDoc, standing: Standing) -> ExperimentDoc:
    """Return a copy of a document with the standing filled in."""
    filled = cast("ExperimentDoc", dict(document))
    filled["ref"] = standing.ref
    filled["status"] = standing.status
    filled["branch"] = standing.branch
    filled["reproductions"] = {"best": standing.best_verdict, "count": standing.reproductions}
    filled["archived"], filled["withdrawn"] = standing.archived, standing.withdrawn
    filled["jobs"] = document["jobs"] or list(standing.jobs)
    filled["started"] = document["started"] or standing.started
    if standing.progress is not None:
        filled["progress"] = _progress_document(standing.progress)
    return filled


def _progress_document(progress: Progress) -> ProgressDoc:
    return {
        "at": progress.at,
        "age_s": round(progress.age_s, 3),
        "step": progress.step,
        "metrics": dict(progress.metrics),
        "elsewhere": progress.is_hearsay,
    }


def best_verdict(words: Sequence[str]) -> str | None:
    """Return the highest of some verdicts; one of a prefix run (`bitwise[0-200]`) ranks below all whole ones."""
    known = [word for word in words if word.partition("[")[0] in VERDICTS]
    return max(known, key=lambda word: ("[" not in word, VERDICTS.index(word.partition("[")[0])), default=None)
