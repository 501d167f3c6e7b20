"""A sweep in words: how it goes, and the comparison that it ends in. Strings in, strings out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nemo_gitexp.comparison import Goal
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metrics import Number
from nemo_gitexp.ranking import Ranked, Spread, best_seed
from nemo_gitexp.report.experiment import metrics_line
from nemo_gitexp.report.terminal import (
    STATUS_TINTS,
    Cell,
    Style,
    Table,
    human_duration,
    human_number,
    plural,
    render_table,
    safe_text,
    short_hash,
    shorten,
    value_text,
)

_MORE_METRICS = 2
_ORDER = ("running", "launched", "completed", "failed", "cancelled", "lost", "unstarted", "waiting")


def values_text(values: Mapping[str, JsonValue]) -> str:
    """Return a combination in one line, `lr=0.1 seed=3`."""
    return " ".join(f"{safe_text(key)}={value_text(value)}" for key, value in values.items()) or "the one combination"


def counts_text(statuses: Sequence[str]) -> str:
    """Return `3 completed, 2 running, 5 waiting`."""
    counted = Counter(statuses)
    known = [status for status in _ORDER if counted[status]]
    others = sorted(counted.keys() - set(known))
    return ", ".join(f"{counted[status]} {safe_text(status)}" for status in (*known, *others))


def render_ended(
    values: Mapping[str, JsonValue], status: str, document: ExperimentDoc, said: str | None, place: str, *, style: Style
) -> str:
    """Return one line about a combination that has ended; `said` is why it could not be started."""
    error = document["error"]
    why = said or (f"{error['type']}: {error['message']}" if error else metrics_line(document["metrics"]))
    took = "" if document["duration_s"] is None else human_duration(document["duration_s"])
    word = style.paint(status, STATUS_TINTS.get(status, "red" if said else ""))
    parts = (place, word, values_text(values), safe_text(why), took)
    return "  ".join(part for part in parts if part)


def render_progress(
    rows: Sequence[tuple[str, Mapping[str, JsonValue], Mapping[str, Number]]],
    statuses: Sequence[str],
    elapsed_s: float,
    *,
    style: Style,
) -> str:
    """Return the table of those that run, and a line about all."""
    cells = [
        (
            Cell(status, STATUS_TINTS.get(status, "")),
            values_text(values),
            shorten(metrics_line(metrics), max(10, style.width // 2)),
        )
        for status, values, metrics in rows
    ]
    table = render_table(Table((), cells, shrink=1, indent=2), style)
    ended = sum(status not in ("waiting", "running", "launched") for status in statuses)
    line = f"{ended}/{len(statuses)}  {counts_text(statuses)}  {human_duration(elapsed_s)}"
    return f"{table}{shorten(line, style.width)}\n"


def render_sweep(
    documents: Sequence[ExperimentDoc],
    ranking: Sequence[Ranked],
    metric: str | None,
    goal: Goal | None,
    *,
    sweep: str | None,
    style: Style,
) -> str:
    """Return the comparison that ends a sweep: combinations best first, over their seeds, and what did not complete."""
    statuses = [document["status"] for document in documents]
    title = f"sweep {safe_text(sweep or '-')}: {plural(len(documents), 'experiment')}, {counts_text(statuses)}"
    parts = [style.paint(title, "bold") + "\n"]
    if ranking:
        parts.append(_ranking_table(ranking, metric, goal, style))
        if goal is None:
            parts.append("none of these metrics has a goal in experiment.yaml, so nothing is ranked\n")
    rest = [document for document in documents if document["status"] not in ("completed", "planned")]
    parts += [_unfinished_line(document, style) for document in rest[:10]]
    if len(rest) > 10:
        parts.append(f"and {len(rest) - 10} more that did not complete\n")
    if sweep is not None:
        parts.append(f"nemo-gitexp log --where 'sweep == \"{safe_text(sweep)}\"'\n")
        if any(status in ("recorded", "cancelled", "lost", "launched", "running") for status in statuses):
            parts.append(f"nemo-gitexp sweep --resume {safe_text(sweep)}\n")
    return "".join(parts)


def render_planned(documents: Sequence[ExperimentDoc], values: Sequence[Mapping[str, JsonValue]], style: Style) -> str:
    """Return the combinations as they would be run."""
    rows = []
    for document, own in zip(documents, values, strict=True):
        status, sha = document["status"], document["experiment"]
        known = f"completed before: {short_hash(sha, 12)}" if status == "completed" else status
        rows.append((Cell("would run" if status == "planned" else known), values_text(own)))
    fresh = sum(document["status"] == "planned" for document in documents)
    return render_table(Table((), rows), style) + f"{plural(len(documents), 'combination')}, {fresh} to run\n"


def _ranking_table(ranking: Sequence[Ranked], metric: str | None, goal: Goal | None, style: Style) -> str:
    keys = list(dict.fromkeys(key for item in ranking for key in item.values))
    others = sorted({name for item in ranking for name in item.metrics} - {metric or ""})[:_MORE_METRICS]
    has_seeds = any(len(item.documents) > 1 for item in ranking)
    header = ["", *keys, *(["n"] if has_seeds else [])]
    header += [f"{metric} ({goal})" if goal else str(metric)] if metric else []
    header += [
        *(["± std", "worst to best" if goal else "range"] if has_seeds and metric else []),
        *others,
        "experiment",
    ]
    rows = []
    for number, item in enumerate(ranking, 1):
        spread = item.metrics.get(metric or "", Spread(0, None, None, None, None))
        row = [Cell(str(number) if goal else "", "bold" if number == 1 else "")]
        row += [Cell(value_text(item.values[key]) if key in item.values else "-") for key in keys]
        row += [Cell(str(len(item.documents)))] if has_seeds else []
        row += [Cell(human_number(spread.mean), "green" if number == 1 and goal else "")] if metric else []
        row += [Cell(human_number(spread.std)), Cell(_range(spread, goal))] if has_seeds and metric else []
        row += [Cell(human_number(item.metrics[name].mean if name in item.metrics else None)) for name in others]
        row.append(Cell(short_hash(best_seed(item, metric, goal)["experiment"], 12), "yellow"))
        rows.append(row)
    align = "r" + "r" * (len(header) - 2) + "l"
    return render_table(Table(tuple(header), rows, align), style)


def _range(spread: Spread, goal: Goal | None) -> str:
    ends = (spread.high, spread.low) if goal == "min" else (spread.low, spread.high)
    return " to ".join(human_number(end) for end in ends)


def _unfinished_line(document: ExperimentDoc, style: Style) -> str:
    status, error = document["status"], document["error"]
    said = f"  {safe_text(error['type'])}: {safe_text(error['message'])}" if error else ""
    word = style.paint(status, STATUS_TINTS.get(status, ""))
    return f"{word}  {short_hash(document['experiment'], 12)}  {safe_text(document['name'])}{said}\n"
