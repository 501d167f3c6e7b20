"""The segments of a run that a scheduler had, as run.json holds them: from its run directory alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metrics import read_metric_lines, row_step
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.worker.lastword import last_reason
from nemo_gitexp.worker.segments import read_segments

_TAIL_BYTES = 64 * 1024
_CANCELLED = re.compile(rb"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+))?")
"""What slurmstepd writes into the output of what it ends, seen on a real Slurm 22.05."""

_CAUSES = {
    b"TIME LIMIT": "time limit",
    b"PREEMPTION": "preempted",
    b"NODE FAILURE": "node failure",
    b"JOB REQUEUE": "requeued",
    b"": "cancelled",
}


def read_run_segments(part: RunPaths, run: RunPaths) -> list[Mapping[str, JsonValue]]:
    """Return the segments of one worker; none where no scheduler had it.

    Args:
        part: the worker's directory: the run's own, or a stage's, which `task` then names.
        run: the run.
    """
    segments = read_segments(str(part.root))
    if not segments:
        return []
    own: dict[str, JsonValue] = {} if part == run else {"task": part.run}
    stream = part.metrics.read_bytes() if part.metrics.is_file() else b""
    offsets = [cast("int", item.get("offset", 0)) for item in segments]
    found: list[Mapping[str, JsonValue]] = []
    for number, (item, begin, end) in enumerate(zip(segments, offsets, [*offsets[1:], len(stream)], strict=True), 1):
        rows, _ = read_metric_lines(stream[begin:end])
        steps = [step for row in rows if (step := row_step(row)) is not None]
        following = segments[number] if number < len(segments) else None
        found.append(
            {
                **own,
                **{key: item.get(key) for key in ("segment", "job", "restart", "host", "started", "ended")},
                "first_step": steps[0] if steps else None,
                "last_step": steps[-1] if steps else None,
                "reason": _end_reason(part, run, item, following),
            }
        )
    return found


def _end_reason(
    part: RunPaths, run: RunPaths, segment: Mapping[str, JsonValue], following: Mapping[str, JsonValue] | None
) -> str:
    """Return why a segment ended: by its worker's word, by the scheduler's, else by what came after it."""
    if isinstance(segment.get("reason"), str):
        return str(segment["reason"])
    said = last_reason(str(part.root), segment.get("job")) if following is None else None
    cause = said or _cause(run, segment)
    if cause is not None:
        return cause
    return "requeued" if following and following.get("job") == segment.get("job") else "unknown"


def _cause(run: RunPaths, segment: Mapping[str, JsonValue]) -> str | None:
    """Return what the scheduler wrote into the output of a start that it ended; None where it wrote nothing."""
    for path in _outputs(run, f"{segment.get('job')}_{segment.get('restart')}"):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            said = _CANCELLED.findall(file.read())
        if said:
            return _CAUSES.get(said[-1].strip(), "unknown")
    return None


def _outputs(run: RunPaths, start: str) -> Iterator[Path]:
    """Yield the files that NeMo Run has a start of a job write to: it names them by job and restart."""
    return (run.root / "nemo").rglob(f"log-*_{start}.out")
