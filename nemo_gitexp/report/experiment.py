"""One experiment as text (`show`), the summary after `run`, and the table of `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nemo_gitexp.comparison import flatten_config
from nemo_gitexp.documents import ChildDoc, ErrorDoc, ExperimentDoc, InputDoc, LinkDoc, OutputDoc
from nemo_gitexp.metrics import MetricRow, Number, row_metrics
from nemo_gitexp.record import Imported
from nemo_gitexp.report.terminal import (
    STATUS_TINTS,
    Cell,
    Style,
    Table,
    heading,
    human_duration,
    human_number,
    human_size,
    human_time,
    log_line,
    plural,
    render_table,
    safe_text,
    short_hash,
    short_pin,
    sparkline,
    value_text,
)

_LOG_LINES = 20
_LISTED = 20
_UNFINISHED = frozenset({"launched", "running", "requeued"})


def render_experiment(
    document: ExperimentDoc,
    *,
    style: Style,
    rows: Sequence[MetricRow] = (),
    remarks: Sequence[str] = (),
    is_repeatable: bool = True,
    imported: Imported | None = None,
) -> str:
    """Return everything about one experiment, and the commands to reproduce, compare and review it.

    Args:
        document: the experiment.
        style: colours and width.
        rows: its metric stream, for the curves.
        remarks: what is odd about its run, from `remarks.experiment_remarks`.
        is_repeatable: whether a command runs it again.
        imported: where it comes from, if another tool recorded it.
    """
    parts = [
        _title(document, style),
        _about(document, imported, style),
        "".join(f"  {style.paint('note'.ljust(12), 'yellow')} {safe_text(remark)}\n" for remark in remarks),
        _error(document["error"], style) if document["error"] else "",
        _metrics(document, rows, style),
        _config(document, style),
        _code(document, style),
        _inputs(document["inputs"], style),
        _children(document.get("children", []), style),
        _outputs(document["outputs"], style),
        _links(document.get("links", []), style),
        _tasks(document["tasks"], style),
        _next_commands(document, style, is_repeatable=is_repeatable),
    ]
    return "\n".join(part for part in parts if part)


def render_run_summary(document: ExperimentDoc, *, style: Style) -> str:
    """Return the few lines that end `run`: how it went, the numbers, the error, what to type next."""
    if document["duplicate_of"]:
        return _duplicate(document, style)
    lines = [_title(document, style)]
    if document["error"]:
        lines.append(_error(document["error"], style))
    return "".join(lines) + _after_run(document)


def render_outputs(outputs: Iterable[OutputDoc]) -> str:
    """Return one line an output: path, size, where it is kept, digest."""
    return "".join(
        f"{safe_text(item['path'])}  {item['size_bytes']} bytes  {item['keep']}  {item['digest'] or item['sha256']}\n"
        for item in outputs
    )


def render_status(documents: Iterable[ExperimentDoc], *, style: Style) -> str:
    """Return one line an experiment: where it stands, where it runs, since when."""
    rows: list[tuple[Cell | str, ...]] = [
        (
            Cell(short_hash(doc["experiment"]), "yellow"),
            f"{doc['study']}/{doc['name']}",
            Cell(status_text(doc), STATUS_TINTS.get(doc["status"], "")),
            progress_text(doc) or "-",
            " ".join([doc["executor"] or "-", *doc["jobs"]]),
            human_time(doc["started"])[5:16] or "-",
            human_duration(doc["duration_s"]),
        )
        for doc in documents
    ]
    header: tuple[str, ...] = ("experiment", "name", "status", "progress", "where", "started", "took")
    if all(row[3] == "-" for row in rows):
        rows, header = [(*row[:3], *row[4:]) for row in rows], (*header[:3], *header[4:])
    return render_table(Table(header, rows, shrink=1), style) or "no experiments here\n"


def status_text(document: ExperimentDoc) -> str:
    """Return the status; where only another machine said so, how long ago that was."""
    progress = document.get("progress")
    if progress is None or not progress["elsewhere"]:
        return document["status"]
    return f"{document['status']} {human_duration(progress['age_s'])} ago"


def progress_text(document: ExperimentDoc) -> str:
    """Return `step 120  loss 0.3` of an unfinished experiment; empty when nothing is known."""
    progress = document.get("progress")
    if progress is None:
        return ""
    step = [] if progress["step"] is None else [f"step {progress['step']}"]
    return "  ".join([*step, metrics_line(progress["metrics"], 2)]).strip()


def metrics_line(metrics: Mapping[str, Number], limit: int = 4) -> str:
    """Return `accuracy 0.95  loss 0.18`, and how many more there are."""
    shown = [f"{safe_text(name)} {human_number(metrics[name])}" for name in sorted(metrics)[:limit]]
    more = [f"(+{len(metrics) - limit} more)"] if len(metrics) > limit else []
    return "  ".join(shown + more)


def reproductions_text(document: ExperimentDoc) -> str:
    """Return what re-runs have shown so far; never that anything *is* reproducible."""
    best, count = document["reproductions"]["best"], document["reproductions"]["count"]
    if not count:
        return "not re-run yet" + ("; its state was restored and is equal" if best else "")
    return f"{safe_text(best or 'recorded')} (best of {plural(count, 're-run')})"


def _title(document: ExperimentDoc, style: Style) -> str:
    status = document["status"]
    word = "for" if status in _UNFINISHED else "after"
    took = f" {word} {human_duration(document['duration_s'])}" if document["duration_s"] is not None else ""
    tint = f"bold {STATUS_TINTS.get(status, 'cyan')}"
    marks = [mark for mark in ("archived", "withdrawn") if document["archived" if mark == "archived" else "withdrawn"]]
    names = f"{safe_text(document['study'])}  {safe_text(document['name'])}"
    first = f"{style.paint(short_hash(document['experiment']), 'yellow')}  {style.paint(names, 'bold')}"
    second = "  ".join([style.paint(safe_text(status_text(document)), tint) + took, *marks])
    numbers = metrics_line(document["metrics"])
    return f"{first}\n{second}{'   ' + numbers if numbers else ''}\n"


def _about(document: ExperimentDoc, imported: Imported | None, style: Style) -> str:
    unknown = "known only in the job" if imported is None else "unknown"
    facts: dict[str, str] = {
        "purpose": document["purpose"],
        "expected": document["expected"],
        "experiment": document["experiment"],
        "result": document["result"] or "none yet",
        "ref": document["ref"].removeprefix("refs/"),
        "branch": document["branch"] or "none",
        "sweep": document["sweep"] or "",
        "progress": progress_text(document),
        "started": f"{human_time(document['started'])} UTC" if document["started"] else "",
        "executor": " ".join([document["executor"] or "", *document["jobs"]]).strip(),
        "seed": f"{document['seed']}  determinism {document['determinism']}",
        "identity": (document["identity"] or unknown).removeprefix("sha256:"),
        "environment": (document["environment_key"] or unknown).removeprefix("sha256:"),
        "topology": "  ".join(
            f"{key} {value_text(value)}"
            for key, value in sorted(document["topology"].items())
            if value not in (None, {})
        ),
        "reproduced": reproductions_text(document) if imported is None else "",
        "imported": _origin(imported) if imported else "",
    }
    lines = [f"  {style.paint(f'{name:<12}', 'dim')} {safe_text(text)}\n" for name, text in facts.items() if text]
    return "".join(lines)


def _origin(imported: Imported) -> str:
    """Return where an imported run comes from, and how it stands there."""
    group = f"{imported.group}/" if imported.group else ""
    text = f"{imported.title} run {imported.run} ({group}{imported.name}, {imported.status}) of {imported.source}"
    return f"{text}  {imported.url}" if imported.url else text


def _error(error: ErrorDoc, style: Style) -> str:
    how = f"killed by signal {error['signal']}" if error["signal"] else f"exit code {error['exit_code']}"
    known = error["signal"] is not None or error["exit_code"] is not None
    text = heading("Error", how if known else "", style)
    told = safe_text(f"{error['type']}: {error['message']}".strip(": \n"), multiline=True).replace("\n", "\n  ")
    text += f"  {style.paint(told, 'red')}\n"
    return text + "".join(f"  | {log_line(line)}\n" for line in error["log_tail"][-_LOG_LINES:])


def _metrics(document: ExperimentDoc, rows: Sequence[MetricRow], style: Style) -> str:
    if not document["metric_stats"]:
        return ""
    table_rows = []
    for name, stats in sorted(document["metric_stats"].items()):
        numbers = [human_number(stats["last"]), human_number(stats["min"]), human_number(stats["max"]), str(stats["n"])]
        curve = sparkline([value for row in rows if (value := row_metrics(row).get(name)) is not None])
        table_rows.append((name, *numbers, curve))
    table = Table(("metric", "last", "min", "max", "steps", ""), table_rows, "lrrrr", 0, 2, "dim")
    return heading("Metrics", "", style) + render_table(table, style)


def _config(document: ExperimentDoc, style: Style) -> str:
    leaves = flatten_config(document["config"])
    rows = [(key, value_text(value)) for key, value in sorted(leaves.items())]
    note = safe_text(document["config_hash"])
    return heading("Config", note, style) + (render_table(Table((), rows, indent=2), style) or "  empty\n")


def _code(document: ExperimentDoc, style: Style) -> str:
    code = document["code"]
    state = "with uncommitted changes" if code["dirty"] else "clean"
    text = heading("Code", "", style)
    text += f"  commit {safe_text(code['commit'])}\n  from   {safe_text(code['base'])} ({state})\n"
    for path in code["untracked"][:_LISTED]:
        text += f"  captured untracked file {safe_text(path)}\n"
    if len(code["untracked"]) > _LISTED:
        text += f"  … and {len(code['untracked']) - _LISTED} more\n"
    return text


def _inputs(inputs: Sequence[InputDoc], style: Style) -> str:
    rows = [
        (
            item["path"],
            short_pin(item["pin"]),
            human_size(item["size_bytes"]),
            f"pinned by {'name' if item['strength'] == 'named' else item['strength']}",
            _origin_text(item),
        )
        for item in inputs
    ]
    return heading("Data", "", style) + render_table(Table((), rows, "llrll", 0, 2), style) if rows else ""


def _origin_text(item: InputDoc) -> str:
    """Return where an input came from that is no data of this repository."""
    origin = item.get("origin") or {}
    if origin.get("kind") == "exp":
        made_by = f"{origin['study']}/{origin['name']}"
        return f"{origin['output']} of {short_hash(str(origin['experiment']))} {made_by}"
    return str(origin.get("asked", ""))


def _children(children: Sequence[ChildDoc], style: Style) -> str:
    rows = [(Cell(short_hash(item["experiment"]), "yellow"), f"{item['study']}/{item['name']}") for item in children]
    return heading("Made from it", "", style) + render_table(Table((), rows, indent=2), style) if rows else ""


def _outputs(outputs: Sequence[OutputDoc], style: Style) -> str:
    rows = [
        (
            item["path"],
            short_hash(item["digest"] or item["sha256"], 12),
            human_size(item["size_bytes"]),
            f"keep {item['keep']}" + ("  digest of contents" if item["digest"] else ""),
        )
        for item in outputs
    ]
    return heading("Outputs", "", style) + render_table(Table((), rows, "llr", 0, 2), style) if rows else ""


def _links(links: Sequence[LinkDoc], style: Style) -> str:
    rows = [(item["tracker"], item["name"] or item["run"] or "", item["url"] or item["path"] or "") for item in links]
    return heading("Trackers", "", style) + render_table(Table((), rows, indent=2), style) if rows else ""


def _tasks(tasks: Sequence[Mapping[str, object]], style: Style) -> str:
    if len(tasks) < 2:
        return ""
    rows = [
        (
            str(task.get("name", "?")),
            Cell(str(task.get("status", "?")), STATUS_TINTS.get(str(task.get("status")), "")),
            f"result of {short_hash(str(task['reused_from']))}" if task.get("reused_from") else "",
            _task_metrics(task.get("metrics")),
        )
        for task in tasks
    ]
    return heading("Tasks", "", style) + render_table(Table((), rows, indent=2), style)


def _task_metrics(metrics: object) -> str:
    return metrics_line(metrics) if isinstance(metrics, Mapping) else ""


def _next_commands(document: ExperimentDoc, style: Style, *, is_repeatable: bool) -> str:
    if not document["experiment"]:
        return ""  # planned, not recorded: there is no name to call it by
    sha = short_hash(document["experiment"], 12)
    base, tip = short_hash(document["code"]["base"], 12), short_hash(document["result"] or document["experiment"], 12)
    commands = [
        ("reproduce", f"nemo-gitexp reproduce {sha}"),
        ("compare", f"nemo-gitexp diff {sha}"),
        ("review", f"git log -p --reverse {base}..{tip}"),
        ("files", f"nemo-gitexp outputs {sha} --get DIR"),
    ]
    if not document["outputs"]:
        commands.pop()
    if not is_repeatable:
        commands.pop(0)
    elif document["status"] in {"recorded", "lost"}:
        commands.insert(0, ("run it", f"nemo-gitexp launch {sha}"))
    return heading("Next", "", style) + render_table(Table((), commands, indent=2), style)


def _after_run(document: ExperimentDoc) -> str:
    sha = short_hash(document["experiment"], 12)
    status = document["status"]
    if status in _UNFINISHED:
        return f"follow: nemo-gitexp logs {sha} -f\n"
    if status in {"recorded", "lost"}:
        return f"run it: nemo-gitexp launch {sha}\n"
    if status == "completed":
        return f"reproduce: nemo-gitexp reproduce {sha}\ncompare: nemo-gitexp diff {sha}\n"
    return f"whole log: nemo-gitexp logs {sha}\n"


def _duplicate(document: ExperimentDoc, style: Style) -> str:
    running = document["status"] in _UNFINISHED
    said = "is running already" if running else "was run before, with the same code, config, seed, data and environment"
    sha = short_hash(document["experiment"], 12)
    advice = f"follow: nemo-gitexp logs {sha} -f\n" if running else "run it once more: add --again\n"
    return f"this experiment {said}\n{_title(document, style)}{advice}"
