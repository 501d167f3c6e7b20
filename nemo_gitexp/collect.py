"""From a finished run directory to the result commit, by whoever looks first.

The bytes depend on record and run directory alone: two collectors anywhere make the same commit.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from nemo_gitexp.continued import parse_continued_lines
from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.changes import changed_after_run, quarantine_damaged
from nemo_gitexp.data.restore import parse_restored_input
from nemo_gitexp.data.store import ObjectStore, object_stores, own_store
from nemo_gitexp.data.verified import hash_file
from nemo_gitexp.errors import CorruptDataError, DocumentError
from nemo_gitexp.git.repository import CommitSha, Repository
from nemo_gitexp.git.worktree import remove_worktree
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metricform import render_metric_rows
from nemo_gitexp.metrics import (
    STEP,
    MetricRows,
    parse_metric_lines,
    parse_metrics_file,
)
from nemo_gitexp.moments import iso_second
from nemo_gitexp.owners import owner_token
from nemo_gitexp.plainlinks import drop_link
from nemo_gitexp.result import (
    LOG_TAIL_LINES,
    LogDigest,
    RunLeavings,
    build_result,
    mapping,
    mappings,
    merged_settings,
    sequence,
    without_places,
)
from nemo_gitexp.rundir import RunPaths, move_once, unwritable
from nemo_gitexp.runs import RunState, end_orphans, give_up, job_names, last_write, read_state_file
from nemo_gitexp.store import Experiment, write_result
from nemo_gitexp.submission import parse_submission
from nemo_gitexp.worker.lastword import ended_result
from nemo_gitexp.worker.merge import merged_result
from nemo_gitexp.worker.segments import FILE as SEGMENTS
from nemo_gitexp.worker.segments import read_segments

if TYPE_CHECKING:
    from nemo_gitexp.remote import RemoteHost
    from nemo_gitexp.worker.shapes import OutputPlan

_TAIL_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024


def output_store(repository: Repository) -> ObjectStore:
    """Return where outputs and logs go: beside DVC's cache, or below the git directory without DVC."""
    return own_store(repository.root, repository.main_root, repository.state_dir)


def collect_run(repository: Repository, experiment: Experiment, run: RunState) -> CommitSha | None:
    """Turn a finished or dead run into the experiment's result; its workspace goes.

    Returns:
        The result commit; None when somebody else moved the ref meanwhile, or the run lives after all (look again).
    """
    if run.status == "dead" and not give_up(run.paths):
        return None
    end_orphans(run.paths)
    store = output_store(repository)
    left = read_leavings(experiment, run)
    keep_outputs(store, run.paths, left.worker)
    left = replace(left, log=_keep_log(store, run.paths, left.worker or {}, left.places))
    files = build_result(experiment.record, left, store.add_bytes)
    sha = write_result(repository, experiment, files, left.ended)
    if sha is not None:
        discard_workspace(repository, run.paths)
    return sha


def read_leavings(experiment: Experiment, run: RunState) -> RunLeavings:
    """Return all that a run directory says about its run, but for the log."""
    paths = run.paths
    plan = read_state_file(paths.plan)
    worker = read_state_file(paths.result) or merged_result(str(paths.root)) or _ended_worker(paths, plan)
    parts = [(part, _own_result(part, paths, worker)) for part in _in_order(paths, plan)]
    streams = {part.run: read_metric_rows(part, result) for part, result in parts}
    started = str((worker or {}).get("started") or "") or run.started
    # Dates of files are taken in whole seconds, as every copy has them.
    ended = str((worker or {}).get("ended") or "") or _not_before(started, _iso(last_write(paths)))
    return RunLeavings(
        record_sha=experiment.sha,
        run=paths.run,
        executor=experiment.record.executor,
        jobs=job_names(paths),
        worker=cast("Mapping[str, JsonValue] | None", worker),
        job=merged_settings([read_back_settings(part) for part, _ in parts]),
        streams={name: rows for name, (rows, _) in streams.items()},
        bad_metric_lines=sum(bad for _, bad in streams.values()),
        log=None,
        started=started or None,
        ended=ended,
        places={**run_places(plan), **node_places(paths)},
        lost_reason=None if worker else run.reason,
        segments=[segment for part, _ in parts for segment in _segments(part, paths)],
    )


def _segments(part: RunPaths, run: RunPaths) -> list[Mapping[str, JsonValue]]:
    if not (part.root / SEGMENTS).exists():
        return []
    from nemo_gitexp.segmentlist import read_run_segments  # for what a scheduler had

    return read_run_segments(part, run)


def _ended_worker(paths: RunPaths, plan: Mapping[str, JsonValue]) -> Mapping[str, object] | None:
    """Return what stands for the result of a run that its scheduler ended, with the outputs that are there by then."""
    ended = ended_result(str(paths.root))
    if ended is None or not plan or not ended["job_started"]:
        return ended
    from nemo_gitexp.worker.outputs import declared_outputs, hash_output  # few runs end like this

    wanted = cast("list[OutputPlan]", [dict(item) for item in mappings(plan.get("outputs"))])
    # Whether the run made what lies outside of its directory, nobody can tell any more.
    own = [output for output in wanted if not Path(output["path"]).is_absolute()]
    place = str(paths.outputs)
    found = (
        {} if wanted and not own else {item["path"]: hash_output(place, item) for item in declared_outputs(place, own)}
    )
    made = [report for report in found.values() if report is not None]
    return {**ended, "outputs": made, "missing_outputs": [path for path, report in found.items() if report is None]}


def read_back_settings(paths: RunPaths) -> dict[str, JsonValue]:
    """Return what was in force in a job, as rank 0 says it; `rank_seeds` by rank what the others were seeded with."""
    settings: dict[str, JsonValue] = dict(mapping(read_state_file(paths.job)))
    seeds = {str(rank): read_state_file(path).get("seeds") for rank, path in paths.rank_jobs().items()}
    return {**settings, "rank_seeds": cast("JsonValue", seeds)} if seeds else settings


def _in_order(paths: RunPaths, plan: Mapping[str, JsonValue]) -> list[RunPaths]:
    """Return the directories of a run's workers in the order of its stages; the run's own where it has none."""
    return [paths.stage(str(stage["name"])) for stage in mappings(plan.get("stages"))] or [paths]


def _own_result(part: RunPaths, paths: RunPaths, worker: Mapping[str, object] | None) -> Mapping[str, JsonValue]:
    result = worker if part == paths else read_state_file(part.result)
    return cast("Mapping[str, JsonValue]", result or {})


def read_metric_rows(paths: RunPaths, worker: Mapping[str, JsonValue]) -> tuple[MetricRows, int]:
    """Return the metric stream of one worker: logged lines, the declared file, what a function returned."""
    lines = paths.metrics.read_bytes() if paths.metrics.is_file() else b""
    offsets = [cast("int", segment["offset"]) for segment in read_segments(str(paths.root)) if "offset" in segment]
    rows, bad = parse_continued_lines(lines, offsets)
    declared = worker.get("metrics_file")
    if isinstance(declared, str):
        try:
            more = parse_metrics_file((paths.root / declared).read_bytes(), Path(declared).suffix)
            rows, worse = parse_metric_lines(render_metric_rows((*rows, *more)))
            bad += worse
        except (OSError, DocumentError):
            bad += 1
    returned = mapping(worker.get("function_metrics"))
    if returned:
        rows, worse = parse_metric_lines(render_metric_rows((*rows, {"step": None, **returned})))
        bad += worse
    damaged = mapping(worker.get("trackers")).get("damaged")
    rows, worse = _with_tracked(rows, paths)
    return rows, bad + worse + (damaged if isinstance(damaged, int) else 0)


def _with_tracked(rows: MetricRows, paths: RunPaths) -> tuple[MetricRows, int]:
    """Return the stream with what the job told W&B, MLflow and TensorBoard alone: its own word on a name counts."""
    if not paths.tracker_metrics.is_file():
        return rows, 0
    tracked, bad = parse_metric_lines(paths.tracker_metrics.read_bytes())
    own = {name for row in rows for name in row if name != STEP}
    more = [{name: value for name, value in row.items() if name not in own} for row in tracked]
    stepped = [row for row in rows if row[STEP] is not None]
    results = [row for row in rows if row[STEP] is None]  # what stands for the whole run comes last
    joined, worse = parse_metric_lines(render_metric_rows((*stepped, *(row for row in more if len(row) > 1), *results)))
    return joined, bad + worse


def run_places(plan: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return this run's directories, and those of its user, with the words that stand for them in records."""
    words = {"workspace": "{workspace}", "run_dir": "{run}", "user_root": "{root}", "home": "~"}
    places = {str(plan[key]): word for key, word in words.items() if plan.get(key)}
    places |= {value: str(word) for value, word in mapping(plan.get("site")).items()}
    interpreter = plan.get("interpreter")
    if isinstance(interpreter, str) and not interpreter.startswith("/usr/"):  # which is the same on every machine
        places.setdefault(str(Path(interpreter).parent.parent), "{python}")
    # A short value (a partition called "a100") would turn up in words that have nothing to do with it.
    return {place: word for place, word in places.items() if len(Path(place).parts) > 1}


def node_places(paths: RunPaths) -> dict[str, str]:
    """Return the directories of a run that its node saw under other names, with the same words for them."""
    if not paths.relocated.exists():
        return {}
    from nemo_gitexp.relocation import find_relocation  # most runs work where they lie

    relocation = find_relocation(paths)
    return relocation.places() if relocation else {}


def keep_outputs(store: ObjectStore, paths: RunPaths, worker: Mapping[str, JsonValue] | None) -> None:
    """Put the outputs that are kept into the store; their hashes are checked on the way.

    What was removed or changed since the job ended is recorded by its hash all the same; its content is nowhere, and
    whoever asks for it is told so.
    """
    for output in mappings((worker or {}).get("outputs")):
        if output.get("keep") != "dvc" or output.get("is_taken"):
            continue
        place = paths.outputs / str(output["path"])
        files = sequence(output.get("files"))
        if output.get("is_dir"):
            rows = [(str(row[0]), str(row[1])) for row in files if isinstance(row, (list, tuple))]
            kept = [_keep_file(store, place / name, md5) for name, md5 in rows]
            if all(kept):
                store.add_dir(rows)
        else:
            _keep_file(store, place, str(output["md5"]))


def _keep_file(store: ObjectStore, place: Path, md5: str) -> bool:
    try:
        store.add_file(place, md5, link=True)  # which also replaces a damaged one
    except (FileNotFoundError, NotADirectoryError, CorruptDataError):
        return store.has(md5)
    return True


def discard_workspace(
    repository: Repository, paths: RunPaths, *, kept_too: bool = False, silent: set[RemoteHost] | None = None
) -> None:
    """Remove the workspace of a run that is over, unless it was to be kept or belongs to another clone.

    Args:
        repository: of the run.
        paths: its directory.
        kept_too: also one that was to be kept.
        silent: machines that did not answer just now, which are not asked again; more are added.

    Side effects: the copy on another machine goes, too, at once or when that answers again; the variables that its job
    was given go in any case, they may be secret.
    """
    for part in dict.fromkeys((paths, *paths.parts())):
        part.variables.unlink(missing_ok=True)
    drop_link(paths)
    plan = read_state_file(paths.plan)
    place = read_state_file(paths.launching).get("workspace")
    # A workspace is named after its run: a file that says anything else is not ours, and must not remove anything.
    if not isinstance(place, str) or Path(place).name != paths.run:
        return
    pointer = Path(place, ".git")
    named = pointer.read_bytes() if pointer.is_file() else None
    is_ours = named is None or os.fsencode(repository.common_dir) in named
    if not is_ours:
        return
    is_kept = bool(plan.get("keep_workspace")) and not kept_too
    if Path(place).exists():
        protect_cache(repository, Path(place), plan)
        if not is_kept:
            remove_worktree(repository, Path(place))
    if paths.relocated.exists():
        from nemo_gitexp.transfer import drop_carried

        drop_carried(paths, is_kept=is_kept, silent=set() if silent is None else silent)
    if not is_kept:
        _drop_backend(paths)


def _drop_backend(paths: RunPaths) -> None:
    """Remove NeMo Run's files of jobs that it alone could be asked about: they hold the executor, secrets and all."""
    submission = parse_submission(read_state_file(paths.submitted))
    backend = None if submission is None else submission.backend
    if backend is not None and Path(backend.home).parent == paths.root:
        shutil.rmtree(backend.home, ignore_errors=True)


def discard_run(repository: Repository, paths: RunPaths) -> None:
    """Remove all of a run whose job never started: its workspace and its directory."""
    discard_workspace(repository, paths, kept_too=True)
    gone = paths.root.with_name(f".{owner_token()}.{paths.run}")
    try:
        # By rename first: a launcher that wakes up late finds nothing, not half of it.
        paths.root.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def protect_cache(repository: Repository, workspace: Path, plan: Mapping[str, JsonValue]) -> None:
    """Move cache objects aside that the job wrote through: as root, a read-only hard link stops nobody (measured)."""
    restored = [parse_restored_input(item) for item in mappings(plan.get("inputs"))]
    changed = changed_after_run(workspace, restored)
    if changed:
        near = changed[0].path
        cache = find_cache(repository.root, near, main_root=repository.main_root)
        stores = [output_store(repository), *(object_stores(cache) if cache else ())]
        quarantine_damaged(list(dict.fromkeys(stores)), changed)


def read_log(repository: Repository, run: Mapping[str, JsonValue]) -> Iterator[bytes] | None:
    """Return the full log that a run.json pins, in pieces; None when it has none or the store lacks it."""
    pin = mapping(run.get("log")).get("pin")
    store = output_store(repository)
    if not isinstance(pin, str) or not store.has(pin):
        return None
    packed = io.BytesIO(store.read(pin))
    return read_pieces(lambda: cast("BinaryIO", gzip.GzipFile(fileobj=packed)))


def read_pieces(open_file: Callable[[], BinaryIO]) -> Iterator[bytes]:
    """Open a file, return what is left of it piece by piece, close it: a log may be larger than the memory."""
    with open_file() as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def log_heading(stage: str) -> bytes:
    """Return the line that says which stage wrote what follows in a log."""
    return f"── {stage} ──\n".encode()


def section_of(text: str, stage: str) -> list[str]:
    """Return the lines that one stage wrote, of a log with headings."""
    lines: list[str] = []
    heading = log_heading(stage).decode().strip()
    is_ours = False
    for line in text.splitlines():
        if line.startswith("── ") and line.endswith(" ──"):
            is_ours = line == heading
        elif is_ours:
            lines.append(line)
    return lines


def log_pieces(paths: RunPaths) -> Iterator[bytes]:
    """Return the log of a run so far, piece by piece; of a pipeline the logs of its stages in order, with headings."""
    for part in _in_order(paths, read_state_file(paths.plan)):
        if not part.log.is_file() or not part.log.stat().st_size:
            continue
        if part != paths:
            yield log_heading(part.run)
        yield from _file_pieces(part.log)


def _file_pieces(path: Path) -> Iterator[bytes]:
    return read_pieces(lambda: path.open("rb"))


def _keep_log(
    store: ObjectStore, paths: RunPaths, worker: Mapping[str, JsonValue], places: Mapping[str, str]
) -> LogDigest | None:
    logs = [part.log for part in paths.parts() if part.log.is_file()]
    if not logs:
        return None
    blamed = worker.get("blamed")
    own = paths.stage(blamed).log if isinstance(blamed, str) else paths.log
    telling = own if own.is_file() else logs[-1]
    with telling.open("rb") as log:
        log.seek(max(0, log.seek(0, io.SEEK_END) - _TAIL_BYTES))
        tail = tail_lines(log.read())
    packed, size_bytes = _packed_log(paths)
    pin = hash_file(packed)
    store.add_file(packed, pin)
    return LogDigest(pin, size_bytes, tuple(without_places(line, places) for line in tail))


def _packed_log(paths: RunPaths) -> tuple[Path, int]:
    """Return the compressed log in the run directory, and its size uncompressed.

    zlibs differ, so the first collector packs it for all.
    """
    if paths.packed_log.exists():
        return paths.packed_log, sum(map(len, log_pieces(paths)))
    beside = paths.packed_log.with_name(f".{owner_token()}.log.gz")
    size_bytes = 0
    try:
        with beside.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as target:
            for piece in log_pieces(paths):
                size_bytes += len(piece)
                target.write(piece)
        move_once(beside, paths.packed_log)
    except OSError as fault:
        raise unwritable(paths, fault) from fault
    finally:
        beside.unlink(missing_ok=True)
    return paths.packed_log, size_bytes


def tail_lines(content: bytes, count: int = LOG_TAIL_LINES) -> list[str]:
    """Return the last lines of a log as text; a progress bar's carriage returns keep only its last state."""
    text = content[-_TAIL_BYTES:].decode("utf-8", "replace")
    return [line.rpartition("\r")[2] for line in re.split(r"\r?\n", text.rstrip("\r\n"))[-count:] if text.strip()]


def _not_before(started: str | None, ended: str) -> str:
    """Return when a run ended: no run ends before it began. As texts, moments of other precision do not sort."""
    try:
        is_before = started and datetime.fromisoformat(ended) < datetime.fromisoformat(started)
    except ValueError:
        return ended  # it began at no time that can be read
    return started if started and is_before else ended


def _iso(seconds: float) -> str:
    return iso_second(datetime.fromtimestamp(seconds, UTC))
