"""Runs that another tool recorded, as values: what its reader found, and the experiment that comes of it.

Where runs are read is `sources`, where they are recorded `importing`. What nobody knows of such a run (its command, its
environment, often its seed) is said to be unknown, never guessed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from nemo_gitexp.definition import DEFAULT_SEED, MAX_SEED, MetricGoal, MetricsSpec
from nemo_gitexp.entry import ImportedEntry
from nemo_gitexp.errors import CanonicalFormError, DocumentError
from nemo_gitexp.git.repository import CommitSha
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue, render_json
from nemo_gitexp.keypath import render_key
from nemo_gitexp.metrics import MetricRows, parse_metric_lines
from nemo_gitexp.moments import iso_exact
from nemo_gitexp.naming import ExperimentNaming, model_type
from nemo_gitexp.record import TOOLS, CodeState, ExperimentRecord, Imported
from nemo_gitexp.result import RunLeavings
from nemo_gitexp.secretwords import holds_secret, is_secret_name
from nemo_gitexp.versioning import config_hash, plain_config
from nemo_gitexp.worker.publicurl import public_url
from nemo_gitexp.yaml12 import parse_scalar

EXECUTOR: Final = "imported"
_NESTED = re.compile(r"[^.]+(?:\.[^.]+)+")


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """One run of another tool, as its reader found it.

    Args:
        tool: mlflow, wandb or dvc.
        group: what it belongs to there, empty where there is no such thing.
        run: its id there.
        name: what people call it there.
        source: the store, without paths of a machine.
        status: how it stands there, in the tool's word.
        outcome: completed, failed or cancelled; None while it goes on there, as far as its store tells.
        config: its parameters; texts of parameters that had another type once are read by `typed_params`.
        rows: its metric stream.
        bad_lines: how much of it could not be read.
        started: UTC, None where the tool does not say.
        ended: UTC, the same.
        commit: what it names as its code.
        error: type and message, where the tool tells.
        url: where it can be looked at.
        remarks: what its reader has to say, in words that follow "the job".
        inputs: pinned data.
        config_files: files of the code that hold its parameters and results, and are no code.
    """

    tool: str
    group: str
    run: str
    name: str
    source: str
    status: str
    outcome: str | None
    config: Mapping[str, object]
    rows: MetricRows = ()
    bad_lines: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    commit: str | None = None
    error: tuple[str, str] | None = None
    url: str | None = None
    remarks: tuple[str, ...] = ()
    inputs: tuple[InputPin, ...] = ()
    config_files: tuple[str, ...] = ()

    def origin(self, *, knows_code: bool) -> Imported:
        """Return what the record says about where it comes from."""
        return Imported(
            tool=self.tool,
            group=_line(self.group),
            run=_line(self.run),
            name=_line(self.name) or _line(self.run),
            source=_line(self.source),
            status=_line(self.status),
            url=None if self.url is None else public_url(_line(self.url)),
            knows_code=knows_code,
        )

    @property
    def key(self) -> str:
        """What tells it from all other runs."""
        return self.origin(knows_code=False).key


@dataclass(frozen=True, slots=True)
class Skipped:
    """A run that is not imported, and why; `is_damaged` where it cannot be read, and not only has not ended.

    `key` tells it from all other runs, whose ids may be the same; empty where not even that could be read.
    """

    run: str
    reason: str
    is_damaged: bool = True
    key: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run as the experiment that it becomes, but for a free name: its `record` holds the name that it wants."""

    foreign: ForeignRun
    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    remarks: tuple[str, ...]


class UnfitRunError(Exception):
    """A run that no record can hold; its text says why."""


def prepare_run(
    run: ForeignRun, study: str, code: CodeState, goals: Sequence[MetricGoal], now: datetime, *, knows_code: bool
) -> Prepared:
    """Return the experiment that a run becomes.

    Args:
        run: what was read.
        study: where it goes.
        code: the commit that it ran, or the one that stands for it.
        goals: of the study's metrics, as far as people said.
        now: dates a run of which nobody knows when it was.
        knows_code: whether it ran that commit.

    Raises:
        UnfitRunError: its parameters have no stable form, or are too large.
    """
    config, remarks = _config(run)
    hashed = config_hash(config)
    seed = _seed(config)
    moment = run.started or run.ended or now
    model = model_type(config)
    origin = run.origin(knows_code=knows_code)
    record = ExperimentRecord(
        study=study,
        name=_name(origin, moment, hashed),
        nonce=hashlib.sha256(origin.key.encode("utf-8", "replace")).hexdigest()[:8],
        created=iso_exact(moment),
        purpose=f"imported from {origin.title}: {f'{origin.group}/' if origin.group else ''}{origin.name}",
        expected="",
        model=model if isinstance(model, str) and model.strip() else "none",
        dataset="none",
        type="imported",
        sweep=None,
        code=code,
        config_hash=hashed,
        config_file=None,
        seed=DEFAULT_SEED if seed is None else seed,
        seed_is_default=seed is None,
        determinism="off",
        determinism_reason=f"imported from {origin.title}: what was set there is not known",
        topology=dict.fromkeys(("nodes", "tasks_per_node", "devices", "launcher", "image")) | {"environment": {}},
        inputs=run.inputs,
        environment_key=None,
        entry=ImportedEntry(origin.title),
        ad_hoc=False,
        workdir=".",
        outputs=(),
        metrics=MetricsSpec(None, tuple(goals)),
        executor=EXECUTOR,
        identity=None,
        imported=origin,
    )
    return Prepared(run, record, config, (*run.remarks, *remarks))


def left_by(prepared: Prepared, record_sha: CommitSha) -> RunLeavings:
    """Return what the run left, in the form that results are made of; one that has not ended there counts as lost."""
    run = prepared.foreign
    started, ended = (None if moment is None else _iso(moment) for moment in (run.started, run.ended))
    duration = None
    if run.started is not None and run.ended is not None:
        duration = round(max(0.0, (run.ended - run.started).total_seconds()), 6)
    error = run.error
    if run.outcome is None:
        error = ("LostRunError", f"it had not ended in {TOOLS[run.tool]} when it was imported: {run.status}")
    worker: dict[str, JsonValue] = {
        "status": run.outcome or "lost",
        "error": None if error is None else {"type": error[0], "message": error[1], "paths": []},
        "duration_s": duration,
        "remarks": list(prepared.remarks),
        "links": _links(run.origin(knows_code=False)),
    }
    return RunLeavings(
        record_sha=record_sha,
        run=run.run,
        executor=EXECUTOR,
        jobs=(),
        worker=worker,
        job={},
        streams={"": run.rows},
        bad_metric_lines=run.bad_lines,
        log=None,
        started=started,
        ended=ended or started or prepared.record.created,
        places={},
    )


def _links(origin: Imported) -> list[JsonValue]:
    """Return the run as runs of trackers that a job made itself are linked; DVC is none."""
    if origin.tool == "dvc":
        return []
    link: dict[str, JsonValue] = {"tracker": origin.tool, "run": origin.run, "name": origin.name}
    return [{**link, "project": origin.group, "url": origin.url, "path": None if origin.url else origin.source}]


def metric_rows(rows: Iterable[Mapping[str, object]]) -> tuple[MetricRows, int]:
    """Return a metric stream of rows as a tool has them, those of one step joined, and how many values are no numbers.

    Args:
        rows: names to values, the step at `step`; numbers that are not finite are fine.
    """
    lines = (json.dumps(row, default=str, separators=(",", ":")) for row in rows)
    return parse_metric_lines("\n".join(lines).encode("utf-8", "replace"))


def typed_params(params: Mapping[str, str]) -> dict[str, object]:
    """Return parameters that a tool keeps as text with the types that they had, as far as text tells.

    YAML 1.2, as everywhere here (`0.1`, `true`, `[1, 2]`), and Python's `None`, which a tool in Python writes. What
    cannot be read so is the text that it is.
    """
    return {name: _typed(text) for name, text in params.items()}


def _typed(text: str) -> object:
    if text == "None":
        return None
    try:
        return parse_scalar(text) if text.strip() else text
    except DocumentError:
        return text


def nested_params(params: Mapping[str, object]) -> dict[str, object]:
    """Return flat parameters (`model.hidden`) as nested ones, where no other parameter stands in the way.

    Experiments are compared by dotted path, so both are spelled alike.
    """
    above = {".".join(parts[:size]) for name in params for parts in [name.split(".")] for size in range(1, len(parts))}
    nested: dict[str, object] = {}
    for name, value in params.items():
        parts = name.split(".")
        clashes = name in above or any(".".join(parts[:size]) in params for size in range(1, len(parts)))
        if clashes or not _NESTED.fullmatch(name):
            nested[name] = value
            continue
        inner = nested
        for part in parts[:-1]:
            found = inner.setdefault(part, {})
            inner = found if isinstance(found, dict) else inner
        inner[parts[-1]] = value
    return nested


def public_config(config: Mapping[str, object]) -> tuple[dict[str, object], list[str], list[str]]:
    """Return a configuration without secrets, the paths of what was left out, and those of values that were NaN.

    NaN, which equals nothing, becomes the text that names it.
    """
    secrets: list[str] = []
    undefined: list[str] = []

    def clean(value: object, path: tuple[str | int, ...]) -> object:
        if isinstance(value, Mapping):
            kept = {key: item for key, item in value.items() if not _is_secret(str(key), item)}
            secrets.extend(render_key((*path, str(key))) for key in value if key not in kept)
            return {key: clean(item, (*path, str(key))) for key, item in kept.items()}
        if isinstance(value, (list, tuple)):
            return [clean(item, (*path, place)) for place, item in enumerate(value)]
        if isinstance(value, float) and math.isnan(value):
            undefined.append(render_key(path))
            return "NaN"
        if isinstance(value, str) and holds_secret(value):
            secrets.append(render_key(path))
            return None
        return value

    cleaned = clean(config, ())
    return (cleaned if isinstance(cleaned, dict) else {}), secrets, undefined


def _is_secret(name: str, value: object) -> bool:
    """Return whether a parameter is left out: by its name whatever it is, but for what says that nothing was given."""
    if isinstance(value, str) and holds_secret(value):
        return True
    is_given = value.strip() not in ("", "None", "***") if isinstance(value, str) else value not in (None, [], (), {})
    return holds_secret(name) or (is_given and not isinstance(value, bool) and is_secret_name(name))


def _config(run: ForeignRun) -> tuple[dict[str, JsonValue], list[str]]:
    cleaned, secrets, undefined = public_config(run.config)
    try:
        config = plain_config(cleaned)
    except CanonicalFormError as fault:
        raise UnfitRunError(f"its parameter {fault.message}") from fault
    if len(render_json(config)) > MAX_DOCUMENT_BYTES:
        raise UnfitRunError(f"its parameters are longer than {MAX_DOCUMENT_BYTES} bytes")
    remarks = []
    if secrets:
        remarks.append(f"had parameters that look like secrets, left out: {', '.join(secrets)}")
    if undefined:
        remarks.append(f"had parameters that were NaN, recorded as that text: {', '.join(undefined)}")
    return config, remarks


def _name(origin: Imported, moment: datetime, hashed: str) -> str:
    """Return the name: when, what people call it there, where it is from, and the short hash of its configuration."""
    name = ExperimentNaming.create_experiment_name(origin.name, origin.tool, "imported", moment)
    return f"{name}_v{hashed.removeprefix('sha256:')[:8]}"


def _iso(moment: datetime) -> str:
    return iso_exact(moment).removesuffix("Z").rstrip("0").rstrip(".") + "Z"


def _line(text: str) -> str:
    """Return a text of another tool in one line, without control characters: trailers and listings rely on that."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _seed(config: Mapping[str, JsonValue]) -> int | None:
    seed = config.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED else None
