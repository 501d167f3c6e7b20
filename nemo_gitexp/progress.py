"""How far runs are: seen in their directory here, or said by the facts of whoever runs them elsewhere.

The fact is `launched`; each says how it stood at a moment, and the latest counts until there is a result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nemo_gitexp.errors import RecordError
from nemo_gitexp.facts import Fact, write_facts
from nemo_gitexp.git.objects import read_blobs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue
from nemo_gitexp.moments import iso_exact, iso_second
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import RunState
from nemo_gitexp.standing import STATUSES, Progress
from nemo_gitexp.store import read_experiments_or_faults
from nemo_gitexp.tips import Tip

KIND = "launched"
_TAIL_BYTES = 16 * 1024
"""Of a long stream only the last lines are read: a listing may look at a hundred runs."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the latest fact about a launched experiment says: its status at that moment, and how far it was."""

    status: str
    at_s: float
    progress: Progress | None


def see_progress(run: RunState, now_s: float) -> Progress | None:
    """Return how far a live run is, by the last lines of its metric stream; None before the first."""
    found: tuple[float, RunPaths] | None = None
    for part in run.paths.parts():
        try:
            written = part.metrics.stat().st_mtime
        except OSError:
            continue
        found = max(found or (written, part), (written, part), key=lambda item: item[0])
    if found is None:
        return None
    row = _last_row(found[1])
    if not row:
        return None
    from nemo_gitexp.metrics import row_metrics, row_step

    metrics = tuple(sorted(row_metrics(row).items()))
    return Progress(_iso(found[0]), max(0.0, now_s - found[0]), row_step(row), metrics, is_hearsay=False)


def _last_row(part: RunPaths) -> Mapping[str, JsonValue]:
    from nemo_gitexp.metrics import parse_metric_lines  # for those who have something running

    with part.metrics.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read()
    rows, _ = parse_metric_lines(text[: text.rfind(b"\n") + 1])
    return rows[-1] if rows else {}


def write_progress(
    repository: Repository, runs: Sequence[tuple[str, RunState | None, str]], now: datetime
) -> dict[str, str]:
    """Write how experiments stand, each as a fact, all at once.

    Args:
        repository: where.
        runs: record sha, the live run (None: there is none any more), the executor.
        now: when.

    Returns:
        The refs of the facts, by record sha.
    """
    if not runs:
        return {}
    documents = {record: _document(run, executor, now) for record, run, executor in runs}
    # The moment stands in the subject, so that the latest of many facts is found without reading them.
    words = [(record, f"{item['status']} {item['at']}", item) for record, item in documents.items()]
    return dict(zip(documents, write_facts(repository, KIND, words, repository.committer()), strict=True))


def write_standings(repository: Repository, tips: Sequence[Tip], live: Mapping[str, RunState], now: datetime) -> None:
    """Write how these experiments stand now; one without a live run has none any more."""
    read = read_experiments_or_faults(repository, tips)
    executors = {item.sha: item.record.executor for item in read if not isinstance(item, RecordError)}
    runs = [(sha, live.get(sha), executor) for sha, executor in executors.items()]
    write_progress(repository, runs, now)


def _document(run: RunState | None, executor: str, now: datetime) -> dict[str, JsonValue]:
    at = iso_exact(now)
    if run is None:
        return {"at": at, "run": None, "executor": executor, "status": "recorded"}
    seen = see_progress(run, now.timestamp())
    return {
        "at": at,
        "run": run.paths.run,
        "executor": executor,
        "status": run.status,
        "started": run.started,
        "seen": seen.at if seen else None,
        "step": seen.step if seen else None,
        "metrics": dict(seen.metrics) if seen else {},
    }


def latest_heard(repository: Repository, facts: Sequence[Fact]) -> dict[str, Heard]:
    """Return by record sha what the latest fact about each launched experiment says; only those are read."""
    latest: dict[str, Fact] = {}
    for fact in facts:
        if fact.kind == KIND and (fact.record not in latest or _moment(fact) >= _moment(latest[fact.record])):
            latest[fact.record] = fact
    names = [f"{fact.commit}:fact.json" for fact in latest.values()]
    texts = read_blobs(repository, names, limit_bytes=MAX_DOCUMENT_BYTES)
    now_s = time.time()
    return {record: _parse_heard(text or b"", now_s) for record, text in zip(latest, texts, strict=True)}


def _moment(fact: Fact) -> str:
    """Return when a fact was written, in a form that sorts; empty where its subject does not say."""
    return fact.word.partition(" ")[2]


def _parse_heard(text: bytes, now_s: float) -> Heard:
    """Return what one fact says; whatever it holds was written by somebody else, and one without sense is old."""
    try:
        document = json.loads(text)
        at = datetime.fromisoformat(document["at"])
        at_s = at.timestamp()
        status, step, metrics = document.get("status"), document.get("step"), document.get("metrics")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return Heard("running", 0.0, None)
    known = metrics.items() if isinstance(metrics, dict) else ()
    numbers = tuple(sorted((str(name), value) for name, value in known if isinstance(value, (int, float, str))))
    where = step if isinstance(step, int) else None
    progress = Progress(_iso(at_s), max(0.0, now_s - at_s), where, numbers, is_hearsay=True)
    return Heard(status if status in STATUSES else "running", at_s, progress)


def _iso(seconds: float) -> str:
    return iso_second(datetime.fromtimestamp(seconds, UTC))
