"""Runs of W&B: the logs that wandb leaves on disk, offline and online alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from nemo_gitexp.errors import DocumentError, ImportSourceError
from nemo_gitexp.imported import ForeignRun, Skipped, metric_rows
from nemo_gitexp.sources.place import is_url, recorded_place, require_known, require_place, shown_url, utc
from nemo_gitexp.worker.wandbfiles import (
    ENDING,
    WandbRun,
    find_wandb_logs,
    read_wandb_run,
    wandb_metric_rows,
    wandb_numbers,
)
from nemo_gitexp.yaml12 import parse_yaml

NO_PROJECT = "uncategorized"
"""What W&B itself calls the project of a run that names none."""


def read_wandb_runs(
    places: Sequence[str], cwd: Path, root: Path, runs: Sequence[str]
) -> tuple[list[ForeignRun], list[Skipped]]:
    """Return the runs below some directories; several logs of one run, which was resumed, are one.

    Args:
        places: `wandb`, a run's directory, a log, or any directory above them.
        cwd: what relative paths start from.
        root: of the repository, to which records name paths.
        runs: only those of these ids or names; empty: all.

    Raises:
        ImportSourceError: there is no such directory, it holds no run, or it is a server.
        UnknownRunError: a run that was asked for is not there.
    """
    logs: dict[str, str] = {}
    for place in places:
        if is_url(place):
            raise _not_here(place)
        directory = require_place(cwd / place, "wandb")
        logs.update(dict.fromkeys(find_wandb_logs(str(directory)), recorded_place(directory, root)))
    named = ", ".join(places)
    if not logs:
        hint = "nemo-gitexp import wandb wandb, the directory that wandb writes"
        raise ImportSourceError(f"{named} holds no log of W&B", hint=hint, source=named)
    parts: dict[tuple[str, str], dict[float | None, WandbRun]] = {}
    skipped = []
    for path in sorted(logs):
        found = _read(path)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            # Of copies, which began at the same moment, one will do.
            parts.setdefault((found.project, found.run_id), {}).setdefault(found.started, found)
    require_known(
        runs,
        {name for each in parts.values() for run in each.values() for name in (run.run_id, run.name)},
        "run",
        named,
    )
    joined = [list(each.values()) for each in parts.values()]
    chosen = [each for each in joined if not runs or any({run.run_id, run.name} & {*runs} for run in each)]
    return [_foreign(each, logs[each[0].path]) for each in chosen], [] if runs else skipped


def _not_here(url: str) -> ImportSourceError:
    return ImportSourceError(
        "runs of W&B are read from the directories that wandb writes, not from its server",
        hint="nemo-gitexp import wandb wandb, on the machine that ran them; online runs leave their log there too",
        source=shown_url(url),
    )


def _read(path: str) -> WandbRun | Skipped:
    try:
        run = read_wandb_run(path)
    except OSError as fault:
        return Skipped(_id(path), f"its log cannot be read: {fault.strerror}")
    if run.damaged and not (run.rows or run.config or run.started):
        return Skipped(run.run_id, "its log is damaged from its beginning")
    return run


def _id(path: str) -> str:
    return Path(path).name.removeprefix("run-").removesuffix(ENDING)


def _foreign(parts: Sequence[WandbRun], source: str) -> ForeignRun:
    """Return the run that one log tells of, or several: the later ones go on where the earlier ended."""
    ordered = sorted(parts, key=lambda part: (part.started or 0.0, part.path))
    last = ordered[-1]
    histories = [row for part in ordered for row in wandb_metric_rows(part)]
    rows, bad_lines = metric_rows([*histories, *_final(ordered, histories)])
    code, failed = last.exit_code, last.exit_code not in (0, None)
    metadata = next((part.metadata for part in ordered if part.metadata), {})
    git = metadata.get("git")
    named = git.get("commit") if isinstance(git, Mapping) else None
    return ForeignRun(
        tool="wandb",
        group=last.project or NO_PROJECT,
        run=last.run_id,
        name=last.name or last.run_id,
        source=source,
        status="no exit recorded" if code is None else f"exit code {code}",
        outcome=None if code is None else "failed" if failed else "completed",
        config=_config(ordered),
        rows=rows,
        bad_lines=bad_lines + sum(part.damaged for part in ordered),
        started=utc(ordered[0].started),
        ended=_ended(ordered),
        commit=ordered[0].commit or (named if isinstance(named, str) else None),
        error=("ExitCodeError", f"exit code {code}") if failed else None,
        remarks=tuple(_remarks(ordered)),
    )


def _final(parts: Iterable[WandbRun], histories: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return as a row without a step what the summary says beside the history."""
    logged = {name for row in histories for name in row}
    summary = {name: value for part in parts for name, value in wandb_numbers(part.summary).items()}
    beside = {name: value for name, value in summary.items() if name not in logged}
    return [{"step": None, **beside}] if beside else []


def _config(parts: Iterable[WandbRun]) -> dict[str, object]:
    config: dict[str, object] = {}
    for part in parts:
        config.update(part.config or _config_file(part.config_file))
    return config


def _config_file(path: str | None) -> dict[str, object]:
    """Return the configuration in a config.yaml of wandb, `{key: {"value": …}}`; one that cannot be read is empty."""
    if path is None:
        return {}
    try:
        document = parse_yaml(Path(path).read_bytes(), path)
    except (OSError, DocumentError):
        return {}
    items = document.items() if isinstance(document, Mapping) else ()
    return {
        key: item["value"]
        for key, item in items
        if isinstance(item, Mapping) and "value" in item and not key.startswith(("_wandb", "wandb_"))
    }


def _ended(parts: Sequence[WandbRun]) -> datetime | None:
    """Return the moment of the last that was logged: W&B records no end."""
    stamps = [row.get("_timestamp") for part in parts for row in (*part.rows, part.summary)]
    known = [float(stamp) for stamp in stamps if isinstance(stamp, (int, float))]
    runtime = parts[-1].summary.get("_runtime")
    if parts[-1].started is not None and isinstance(runtime, (int, float)):
        known.append(parts[-1].started + runtime)
    return utc(max(known, default=None))


def _remarks(parts: Sequence[WandbRun]) -> list[str]:
    remarks = []
    if len(parts) > 1:
        remarks.append(f"was resumed: {len(parts)} logs are joined")
    if any(Path(part.path).with_name("files").joinpath("diff.patch").is_file() for part in parts):
        remarks.append("had changes that were not committed (diff.patch of W&B), which are not in this record")
    return remarks
