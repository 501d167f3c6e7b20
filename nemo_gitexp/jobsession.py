"""A tracked experiment inside a job of nemo-gitexp: nothing new is recorded, the job's own streams are written.

Where the job repeats a tracked experiment, only that part of the program writes; the others run and leave nothing.
Where it is an ordinary job, the first tracked part is the experiment. Needs no git and no repository.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.definition import DEFAULT_SEED
from nemo_gitexp.metriclog import Discard, MetricLog, is_first_rank
from nemo_gitexp.reproducibility import apply_determinism
from nemo_gitexp.rundir import RunPaths, unwritable
from nemo_gitexp.session import Ending, Session, Told, counted_start, is_child_process
from nemo_gitexp.worker.documents import read_document, write_document
from nemo_gitexp.worker.finish import TRACKED_FILE

if TYPE_CHECKING:
    from nemo_gitexp.jsontext import JsonValue

_BAD = ("failed", "cancelled")
_BEGUN: list[str] = []


@dataclass(eq=False, slots=True)
class JobSession(Session):
    """A tracked part of a job; `said` is where it tells the worker how it ended, `is_main` the one that the job is.

    Of other parts the worker hears only that they failed: then the job has failed, whatever else it does.
    """

    said: Path | None = field(default=None, repr=False)
    is_main: bool = field(default=False, repr=False)

    def _record_end(self, ending: Ending) -> str:
        """Leave word for the worker."""
        if self.said is not None:
            said_before = (read_document(str(self.said)) or {}).get("status")
            if ending.status in _BAD or (self.is_main and said_before not in _BAD):
                _write(self.said, ending)
        return ending.status


def begin_in_job(told: Told, run_dir: Path) -> JobSession:
    """Go on as a part of the job.

    Args:
        told: what the program says.
        run_dir: the job's run directory.

    Raises:
        StateDirectoryError: the metrics cannot be written.
    """
    plan: Mapping[str, JsonValue] = read_document(str(run_dir / "plan.json")) or {}
    wanted = plan.get("tracked")
    if isinstance(wanted, Mapping):
        return _begin_part(told, run_dir, plan, wanted)
    return _begin_ordinary(told, run_dir, plan)


def _begin_part(
    told: Told, run_dir: Path, plan: Mapping[str, JsonValue], wanted: Mapping[str, JsonValue]
) -> JobSession:
    """Go on in a job that repeats one part of this program: as that part, or as one that leaves nothing."""
    seed, determinism = told.decided(told.tracked_definition(Path(str(plan.get("workspace", ".")))))
    with counted_start(told, seed) as ordinal:
        mine = (told.study, told.given, told.config_hash, seed, ordinal)
    apply_determinism(seed, determinism)
    asked = (plan.get("study"), wanted.get("name"), wanted.get("config_hash"), plan.get("seed"), wanted.get("ordinal"))
    said = run_dir / TRACKED_FILE
    if mine != asked or not is_first_rank() or is_child_process() or not _claim(said):
        scratch = run_dir / "scratch"
        scratch.mkdir(exist_ok=True)
        return _session(told, seed, Path(tempfile.mkdtemp(dir=scratch)), Discard())
    session = _session(told, seed, run_dir / "outputs", MetricLog(str(run_dir / "metrics.jsonl")))
    session.said, session.is_main = said, True
    session.name, session.sha = str(plan.get("name") or session.name), str(plan.get("experiment"))
    return session


def _begin_ordinary(told: Told, run_dir: Path, plan: Mapping[str, JsonValue]) -> JobSession:
    """Go on in a job whose experiment is the whole program: the first part writes as the job, others by their name."""
    own = _number(plan.get("seed"), os.environ.get("GITEXP_SEED"))
    seed = next(value for value in (told.seed, own, DEFAULT_SEED) if value is not None)
    with _unnoted() if seed == own else contextlib.nullcontext():
        apply_determinism(seed, told.said.determinism or str(plan.get("determinism") or "seeded"))
    said = run_dir / TRACKED_FILE
    is_first = not _BEGUN and (not is_first_rank() or _claim(said))
    _BEGUN.append(told.given)
    outputs = Path(os.environ.get("GITEXP_OUTPUTS") or run_dir / "outputs")
    outputs = outputs if is_first else outputs / told.study
    outputs.mkdir(parents=True, exist_ok=True)
    place = os.environ.get("GITEXP_METRICS") or str(run_dir / "metrics.jsonl")
    sink = MetricLog(place, "" if is_first else f"{told.given}/") if is_first_rank() else Discard()
    session = _session(told, seed, outputs, sink)
    session.sha = str(plan.get("experiment")) if plan.get("experiment") else None
    if is_first_rank() and (is_first or not is_child_process()):
        session.said, session.is_main = said, is_first
    return session


def _claim(place: Path) -> bool:
    """Begin to say how the experiment ends; return False where another process of the job has begun to.

    Raises:
        StateDirectoryError: it cannot be written.
    """
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as fault:
        raise unwritable(RunPaths(place.parent), fault) from fault
    _write(place, Ending("running"))
    return True


def _write(place: Path, ending: Ending) -> None:
    """Leave word for the worker.

    Raises:
        StateDirectoryError: the disk is full, the directory is gone.
    """
    try:
        write_document(str(place), ending.to_json())
    except OSError as fault:
        raise unwritable(RunPaths(place.parent), fault) from fault


def _session(told: Told, seed: int, outputs: Path, sink: MetricLog | Discard) -> JobSession:
    return JobSession(
        study=told.study,
        name=told.name or told.given,
        config=dict(told.config),
        config_hash=told.config_hash,
        seed=seed,
        outputs=outputs,
        sink=sink,
    )


def _number(*values: object) -> int | None:
    """Return the first that is a whole number."""
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.isdigit():
            return int(value)
    return None


@contextlib.contextmanager
def _unnoted() -> Iterator[None]:
    """Keep the worker from noting a seed as the job's own when it is the one that the worker itself set."""
    covered = []
    for module, name in (("random", "seed"), ("numpy.random", "seed"), ("torch", "manual_seed")):
        covering = getattr(sys.modules.get(module), name, None)
        original = getattr(covering, "__wrapped__", None)
        if original is not None:
            covered.append((sys.modules[module], name, covering))
            setattr(sys.modules[module], name, original)
    try:
        yield
    finally:
        for holder, name, covering in covered:
            setattr(holder, name, covering)
