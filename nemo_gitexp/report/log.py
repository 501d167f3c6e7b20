"""The table of experiments: for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.jsontext import render_json_line
from nemo_gitexp.metrics import as_float
from nemo_gitexp.report.experiment import metrics_line, status_text
from nemo_gitexp.report.terminal import (
    STATUS_TINTS,
    Cell,
    Style,
    Table,
    human_duration,
    human_number,
    human_time,
    render_table,
    short_hash,
    shorten,
    value_text,
)
from nemo_gitexp.where import MISSING, parse_where_path, resolve

_METRIC_COLUMNS = 2
_WIDEST_TITLE = 40
_TITLES = {"duration_s": "took", "reproductions": "reproduced"}
_CSV_COLUMNS = (
    "experiment", "study", "name", "status", "started", "duration_s", "seed", "config_hash", "purpose",
)  # fmt: skip


def default_columns(documents: Sequence[ExperimentDoc], *, metric_columns: int = _METRIC_COLUMNS) -> tuple[str, ...]:
    """Return the columns of the plain table: what every experiment has, and the metrics most of them have."""
    counted = Counter(name for document in documents for name in document["metrics"])
    common = sorted(counted, key=lambda name: (-counted[name], name))[:metric_columns]
    study = ("study",) if len({document["study"] for document in documents}) > 1 else ()
    reproduced = ("reproductions",) if any(document["reproductions"]["count"] for document in documents) else ()
    metrics = (f"metrics.`{name}`" for name in sorted(common))
    return ("experiment", *study, "name", "status", *reproduced, *metrics, "duration_s")


def render_log(documents: Sequence[ExperimentDoc], columns: Sequence[str] | None = None, *, style: Style) -> str:
    """Return one line an experiment, in the order given.

    Args:
        documents: the experiments.
        columns: paths as in `--where` (`config.lr`, `metrics.accuracy`, `lr`); None for `default_columns`.
        style: colours and width; a long name gives way.
    """
    if not documents:
        return "no experiments here\n"
    chosen = tuple(columns or default_columns(documents))
    readers = [_column_reader(column) for column in chosen]
    rows = [[read(document) for read in readers] for document in documents]
    header = tuple(_title(column) for column in chosen)
    shrink = chosen.index("name") if "name" in chosen else len(chosen) - 1
    return render_table(Table(header, rows, _alignment(rows, chosen), shrink), style)


def render_log_csv(documents: Sequence[ExperimentDoc], columns: Sequence[str] | None = None) -> str:
    """Return the table as CSV with full values; without columns: the usual ones, every config key and every metric."""
    chosen = tuple(columns or _all_columns(documents))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.replace("`", "") for column in chosen])
    paths = [parse_where_path(column) for column in chosen]
    writer.writerows([_exact(resolve(document, path)) for path in paths] for document in documents)
    return text.getvalue()


def _all_columns(documents: Sequence[ExperimentDoc]) -> tuple[str, ...]:
    metrics = {f"metrics.`{name}`" for document in documents for name in document["metrics"]}
    config = {f"config.`{name}`" for document in documents for name in document["config"]}
    return (*_CSV_COLUMNS, *sorted(metrics), *sorted(config))


def _column_reader(column: str) -> Callable[[ExperimentDoc], Cell]:
    special = _SPECIAL.get(column)
    if special is not None:
        return special
    path = parse_where_path(column)
    return lambda document: Cell(_shown(resolve(document, path)))


_SPECIAL: dict[str, Callable[[ExperimentDoc], Cell]] = {
    "experiment": lambda document: Cell(short_hash(document["experiment"]), "yellow"),
    "result": lambda document: Cell(short_hash(document["result"])),
    "status": lambda document: Cell(status_text(document), STATUS_TINTS.get(document["status"], "")),
    "metrics": lambda document: Cell(metrics_line(document["metrics"])),
    "reproductions": lambda document: Cell(_reproduced(document)),
    "duration_s": lambda document: Cell(human_duration(document["duration_s"])),
    "started": lambda document: Cell(human_time(document["started"])),
    "ended": lambda document: Cell(human_time(document["ended"])),
    "config_hash": lambda document: Cell(short_hash(document["config_hash"])),
    "identity": lambda document: Cell(short_hash(document["identity"])),
}


def _reproduced(document: ExperimentDoc) -> str:
    """Return the best level of so many re-runs, `bitwise x2`."""
    best, count = document["reproductions"]["best"], document["reproductions"]["count"]
    return f"{best} x{count}" if best and count else "-"


def _shown(value: object) -> str:
    if value is MISSING or value is None:
        return "-"
    if isinstance(value, str):
        return value
    number = as_float(value)
    if number is not None and isinstance(value, (int, float)):
        return human_number(value)
    return value_text(value)  # type: ignore[arg-type]  # what a document holds is JSON


def _exact(value: object) -> str:
    if value is MISSING or value is None:
        return ""
    return value if isinstance(value, str) else render_json_line(value).decode().strip()  # type: ignore[arg-type]


def _title(column: str) -> str:
    title = _TITLES.get(column)
    if title is not None:
        return title
    name = ".".join(parse_where_path(column)).removeprefix("metrics.").removeprefix("config.")
    return shorten(name, _WIDEST_TITLE)


def _alignment(rows: Sequence[Sequence[Cell]], columns: Sequence[str]) -> str:
    """Columns of numbers stand to the right."""

    def is_numeric(place: int) -> bool:
        texts = [row[place].text for row in rows if row[place].text != "-"]
        return bool(texts) and all(text[:1].isdigit() or text[:1] in "-." for text in texts)

    ids = {"experiment", "result", "config_hash", "identity", "name", "started", "ended"}
    return "".join("r" if name not in ids and is_numeric(place) else "l" for place, name in enumerate(columns))
