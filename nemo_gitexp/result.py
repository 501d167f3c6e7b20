"""What a run gave, as values: result.json, run.json and metrics.jsonl from what the worker left.

Pure. result.json holds what two equal runs of one record have in common, byte for byte; run.json what
differs from run to run and is never compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from nemo_gitexp.documents import CodeDoc, ErrorDoc, ExperimentDoc, InputDoc, LinkDoc, MetricStats, OutputDoc
from nemo_gitexp.errors import RecordError
from nemo_gitexp.fields import MD5, FieldReader
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.lineage import parents_of
from nemo_gitexp.metricform import render_metric_rows, stream_digest
from nemo_gitexp.metrics import STEP, MetricRows, metric_stats, split_volatile
from nemo_gitexp.record import SCHEMA, CodeState, ExperimentRecord
from nemo_gitexp.stages import StagesEntry

FINAL_STATUSES = ("completed", "failed", "cancelled", "lost", "skipped")
METRICS_IN_GIT_BYTES = 256 * 1024
"""A longer metric stream leaves git for the store: listings and clones must not carry it."""

LOG_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class LogDigest:
    """The full log: its pin in the store (md5 of the compressed bytes), its size uncompressed, its last lines."""

    pin: str
    size_bytes: int
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunLeavings:
    """All that a run directory says, read once.

    `worker` is the worker's result.json, None when the run was lost; `ended` the moment to date the result by.
    `segments` are those of a run that a scheduler had, as run.json holds them. `streams` are the metrics of each
    worker, by the name of its stage. `places` maps absolute directories of this run to the words that replace them in
    messages.
    """

    record_sha: str
    run: str
    executor: str
    jobs: tuple[str, ...]
    worker: Mapping[str, JsonValue] | None
    job: Mapping[str, JsonValue]
    streams: Mapping[str, MetricRows]
    bad_metric_lines: int
    log: LogDigest | None
    started: str | None
    ended: str
    places: Mapping[str, str]
    lost_reason: str | None = None
    segments: Sequence[Mapping[str, JsonValue]] = ()

    @property
    def rows(self) -> MetricRows:
        """The metric stream of the run: of stages one after the other; a name that several have tells whose it is."""
        names = {stage: {name for row in rows for name in row if name != STEP} for stage, rows in self.streams.items()}
        seen = [name for each in names.values() for name in each]
        shared = {name for name in seen if seen.count(name) > 1}
        while clashing := {f"{stage}/{name}" for stage in names for name in shared} & set(seen) - shared:
            shared |= clashing
        return tuple(
            {f"{stage}/{name}" if name in shared else name: value for name, value in row.items()}
            for stage, rows in self.streams.items()
            for row in rows
        )


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The three files of a result commit; `metrics` None when there is no stream, or it is too long for git."""

    status: str
    result: bytes
    run: bytes
    metrics: bytes | None


def build_result(record: ExperimentRecord, left: RunLeavings, keep_long: Callable[[bytes], str]) -> ResultFiles:
    """Return the result of a run; equal leavings give equal bytes.

    Args:
        record: the experiment.
        left: what the run directory says.
        keep_long: puts a stream over `METRICS_IN_GIT_BYTES` into the store and returns its pin.
    """
    volatile = frozenset(goal.name for goal in record.metrics.goals if goal.volatile)
    rows, volatile_rows = split_volatile(left.rows, volatile)
    stream = render_metric_rows(rows) if rows else None
    long = stream is not None and len(stream) > METRICS_IN_GIT_BYTES
    pin = keep_long(stream) if stream is not None and long else None
    stats = metric_stats(rows)
    worker: Mapping[str, JsonValue] = left.worker or {}
    status = str(worker.get("status", "lost"))
    outputs = reported_outputs(left)
    error = _error_json(left)
    result: dict[str, JsonValue] = {
        "schema": SCHEMA,
        "record": left.record_sha,
        "status": status,
        "exit_code": worker.get("exit_code"),
        "signal": worker.get("signal"),
        "error": error,
        "metrics": cast("JsonValue", stats),
        "outputs": outputs,
        "missing_outputs": reported_missing(left),
        "stream": {
            "digest": stream_digest(rows),
            "rows": len(rows),
            "pin": pin,
        },
    }
    task: JsonValue = {
        "name": record.study,
        "status": status,
        "exit_code": worker.get("exit_code"),
        "metrics": {name: item["last"] for name, item in stats.items()},
        "outputs": [item["path"] for item in outputs],
        "reused_from": None,
    }
    stages = mappings(worker.get("tasks"))
    result["tasks"] = [_stage_json(stage, left, volatile, keep_long) for stage in stages] or [task]
    run = _run_json(left, worker, cast("JsonValue", metric_stats(volatile_rows)))
    return ResultFiles(
        status=status,
        result=render_json(result),
        run=render_json(run),
        metrics=None if long else stream,
    )


def _stage_json(
    stage: Mapping[str, JsonValue], left: RunLeavings, volatile: Collection[str], keep: Callable[[bytes], str]
) -> JsonValue:
    """Return the entry of one stage; `key` and `stream` let a later run take its result instead of running it."""
    name = str(stage.get("name"))
    rows, _ = split_volatile(left.streams.get(name, ()), volatile)
    return {
        "name": name,
        "status": stage.get("status"),
        "exit_code": stage.get("exit_code"),
        "error": _without_traces(stage.get("error"), left.places),
        "metrics": {metric: item["last"] for metric, item in metric_stats(rows).items()},
        "outputs": stage.get("outputs", []),
        "reused_from": stage.get("reused_from"),
        "key": stage.get("key"),
        "stream": keep(render_metric_rows(rows)) if rows else None,
    }


def merged_settings(reports: Sequence[Mapping[str, JsonValue]]) -> dict[str, JsonValue]:
    """Return the settings read back in the workers of one run as one report; where stages differ the last one counts.

    Mappings are joined, so that every package that any of them loaded is there.
    """
    merged: dict[str, JsonValue] = {}
    for report in reports:
        for key, value in report.items():
            if isinstance(value, Mapping):
                merged[key] = {**mapping(merged.get(key)), **value}
            elif value or key not in merged:
                merged[key] = value
    return merged


def check_result(result: Mapping[str, JsonValue], record_sha: str, source: str) -> None:
    """Check that a result document belongs to its record and has the shape that listings rely on.

    Raises:
        RecordError: it names another record, or no known status, or a field is missing or of a wrong type.
    """
    if result.get("record") != record_sha:
        raise RecordError(f"{source} is the result of another record, {result.get('record')}", source=source)
    if result.get("status") not in FINAL_STATUSES:
        raise RecordError(f"{source} has no known status: {result.get('status')!r}", source=source)
    fields = FieldReader(result, source)
    fields.number_or_none("exit_code")
    fields.number_or_none("signal")
    fields.section_or_none("error")
    _check_stats(fields, "metrics")
    for output in fields.sections("outputs"):
        for key in ("path", "keep", "sha256"):
            output.text(key)
        output.matching("md5", MD5)
        output.text_or_none("digest")
        output.number("size_bytes")
    fields.texts("missing_outputs")
    fields.section("stream").matching_or_none("pin", MD5)
    fields.sections("tasks")
    fields.require_no_faults()


def check_run(run: Mapping[str, JsonValue], source: str) -> None:
    """Check that a run document has the shape that listings rely on.

    Raises:
        RecordError: a field is missing or of a wrong type.
    """
    fields = FieldReader(run, source)
    fields.text("run")
    for key in ("started", "ended"):
        fields.text_or_none(key)
    fields.real_or_none("duration_s")
    fields.texts("jobs")
    fields.sections("links")
    _check_stats(fields, "volatile_metrics")
    log = fields.section_or_none("log")
    if log is not None:
        log.matching("pin", MD5)
        log.texts("tail")
    fields.require_no_faults()


def _check_stats(fields: FieldReader, key: str) -> None:
    for stats in fields.sections_by_name(key):
        for name in ("last", "min", "max"):
            stats.metric(name)
        stats.number("n")


def experiment_document(
    *,
    sha: str,
    ref: str,
    record: ExperimentRecord,
    config: Mapping[str, JsonValue],
    status: str,
    result_sha: str | None = None,
    result: Mapping[str, JsonValue] | None = None,
    run: Mapping[str, JsonValue] | None = None,
) -> ExperimentDoc:
    """Return one experiment as its commits alone tell; `stand` fills in what may change."""
    got: Mapping[str, JsonValue] = result or {}
    ran: Mapping[str, JsonValue] = run or {}
    stats = cast("dict[str, MetricStats]", dict(mapping(got.get("metrics")) | mapping(ran.get("volatile_metrics"))))
    document = ExperimentDoc(
        schema=SCHEMA,
        experiment=sha,
        ref=ref,
        branch=None,
        study=record.study,
        name=record.name,
        purpose=record.purpose,
        expected=record.expected,
        sweep=record.sweep,
        identity=record.identity,
        config_hash=record.config_hash,
        config=config,
        seed=record.seed,
        determinism=record.determinism,
        topology=record.topology,
        code=_code_document(record.code),
        inputs=input_documents(record),
        environment_key=record.environment_key,
        status=status,
        result=result_sha,
        metrics={name: item["last"] for name, item in stats.items()},
        metric_stats=stats,
        started=_text(ran.get("started")),
        ended=_text(ran.get("ended")),
        duration_s=cast("float | None", ran.get("duration_s")),
        error=_error_doc(got, ran),
        outputs=[output_document(item) for item in mappings(got.get("outputs"))],
        tasks=list(mappings(got.get("tasks"))) or planned_tasks(record),
        executor=record.executor,
        jobs=[str(job) for job in sequence(ran.get("jobs"))],
        reproductions={"best": None, "count": 0},
        archived=False,
        withdrawn=False,
        duplicate_of=None,
    )
    if record.parents:
        document["parents"] = parents_of(document)
    if links := [_link_document(item) for item in mappings(ran.get("links"))]:
        document["links"] = links
    return document


def _code_document(code: CodeState) -> CodeDoc:
    return {
        "commit": code.commit,
        "tree": code.tree,
        "key": code.key,
        "base": code.base,
        "dirty": code.dirty,
        "untracked": list(code.untracked),
    }


def planned_tasks(record: ExperimentRecord) -> list[Mapping[str, JsonValue]]:
    """Return the tasks of a pipeline that has no result yet; none for anything else."""
    if not isinstance(record.entry, StagesEntry):
        return []
    nothing: dict[str, JsonValue] = dict.fromkeys(("exit_code", "error", "reused_from", "key", "stream"))
    nothing |= {"metrics": {}, "outputs": []}
    return [{"name": stage.name, "status": "recorded", **nothing} for stage in record.entry.stages]


def input_documents(record: ExperimentRecord) -> list[InputDoc]:
    """Return the inputs of a record as documents show them."""
    return [_input_document(item) for item in record.inputs]


def _input_document(item: InputPin) -> InputDoc:
    document = InputDoc(path=item.path, pin=item.pin, strength=item.strength, size_bytes=item.size_bytes)
    if item.origin is not None:
        document["origin"] = item.origin.to_json()
    return document


def mapping(value: JsonValue) -> dict[str, JsonValue]:
    """Return the value as a dictionary, empty when it is no mapping."""
    return dict(value) if isinstance(value, Mapping) else {}


def mappings(value: JsonValue) -> list[Mapping[str, JsonValue]]:
    """Return the mappings in a list, none when it is no list."""
    return [item for item in sequence(value) if isinstance(item, Mapping)]


def sequence(value: JsonValue) -> Sequence[JsonValue]:
    """Return the value as a sequence, empty when it is none."""
    return value if isinstance(value, (list, tuple)) else ()


def without_places(text: str, places: Mapping[str, str]) -> str:
    """Return a message with this run's directories as words: equal runs say equal things, paths stay private."""
    for directory, word in sorted(places.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<![\w.-]){re.escape(directory)}(?![\w-]|\.\w)", word, text)
    return text


def _private(value: JsonValue, places: Mapping[str, str]) -> JsonValue:
    """Return a document with this run's directories as words in all of its texts."""
    if isinstance(value, str):
        return without_places(value, places)
    if isinstance(value, Mapping):
        return {key: _private(item, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_private(item, places) for item in value]
    return value


def _run_json(left: RunLeavings, worker: Mapping[str, JsonValue], volatile: JsonValue) -> JsonValue:
    log: JsonValue = None
    if left.log is not None:
        log = {"pin": left.log.pin, "size_bytes": left.log.size_bytes, "tail": list(left.log.tail)}
    segment: JsonValue = {"started": left.started, "ended": left.ended, "status": worker.get("status", "lost")}
    segments: list[JsonValue] = [
        {"task": stage.get("name"), **{key: stage.get(key) for key in ("started", "ended", "duration_s", "status")}}
        for stage in mappings(worker.get("tasks"))
    ]
    return {
        "schema": SCHEMA,
        "record": left.record_sha,
        "run": left.run,
        "started": left.started,
        "ended": left.ended,
        "duration_s": worker.get("duration_s"),
        "executor": left.executor,
        "jobs": list(left.jobs),
        "segments": list(left.segments) or segments or [segment],
        "volatile_metrics": volatile,
        "log": log,
        "settings": _private(left.job, left.places),
        "hardware": worker.get("hardware", {}),
        "environment": worker.get("job_environment"),
        "inputs_changed": worker.get("inputs_changed", []),
        "undeclared_outputs": worker.get("undeclared_outputs", []),
        "stray_files": worker.get("stray_files", []),
        "bad_metric_lines": left.bad_metric_lines,
        "remarks": _private(worker.get("remarks", []), left.places),
        "links": _private(worker.get("links", []), left.places),
        "lost_reason": _private(left.lost_reason, left.places),
    }


def reported_outputs(left: RunLeavings) -> list[dict[str, JsonValue]]:
    """Return what a run made, as result.json holds it."""
    keys = ("keep", "sha256", "md5", "digest", "size_bytes", "is_dir")
    made = mappings((left.worker or {}).get("outputs"))
    return [{"path": _declared(item.get("path"), left), **{key: item.get(key) for key in keys}} for item in made]


def reported_missing(left: RunLeavings) -> list[str]:
    """Return the declared outputs that a run did not make."""
    return [_declared(path, left) for path in sequence((left.worker or {}).get("missing_outputs"))]


def _declared(path: JsonValue, left: RunLeavings) -> str:
    """Return an output's path as the definition wrote it: with the names of this machine's values."""
    names = {place: word for place, word in left.places.items() if word.startswith("${site:")}
    return without_places(str(path), names)


def _error_json(left: RunLeavings) -> JsonValue:
    if left.worker is None:
        reason = without_places(left.lost_reason or "nobody knows why", left.places)
        return {"type": "LostRunError", "message": f"the run ended without a result: {reason}"}
    return _without_traces(left.worker.get("error"), left.places)


def _without_traces(error: JsonValue, places: Mapping[str, str]) -> JsonValue:
    """Return an error with this run's directories as words."""
    if not isinstance(error, Mapping):
        return None
    return {
        "type": error.get("type"),
        "message": without_places(str(error.get("message", "")), places),
        "paths": _private(error.get("paths", []), places),
    }


def _error_doc(result: Mapping[str, JsonValue], run: Mapping[str, JsonValue]) -> ErrorDoc | None:
    error = result.get("error")
    if not isinstance(error, Mapping):
        return None
    return ErrorDoc(
        type=str(error.get("type")),
        message=str(error.get("message")),
        exit_code=cast("int | None", result.get("exit_code")),
        signal=cast("int | None", result.get("signal")),
        log_tail=[str(line) for line in sequence(mapping(run.get("log")).get("tail"))],
    )


def output_document(item: Mapping[str, JsonValue]) -> OutputDoc:
    """Return an output of a result or of a worker's report as documents show it."""
    return OutputDoc(
        path=str(item.get("path")),
        sha256=str(item.get("sha256")),
        digest=_text(item.get("digest")),
        size_bytes=cast("int", item.get("size_bytes") or 0),
        keep=str(item.get("keep")),
    )


def _link_document(item: Mapping[str, JsonValue]) -> LinkDoc:
    return LinkDoc(
        tracker=str(item.get("tracker")),
        run=_text(item.get("run")),
        name=_text(item.get("name")),
        project=_text(item.get("project")),
        url=_text(item.get("url")),
        path=_text(item.get("path")),
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
