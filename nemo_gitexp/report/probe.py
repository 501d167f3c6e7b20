"""What a probe found, as text: whether the first steps come out the same, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_gitexp.documents import DivergenceDoc, ProbeDoc, ProbeMetricDoc, ProbeVariationDoc
from nemo_gitexp.report.terminal import Cell, Style, Table, human_number, plural, render_table, safe_text


def render_probe(document: ProbeDoc, *, style: Style) -> str:
    """Return the sentence, the table of what was varied, and the metrics that differ."""
    tint = "bold green" if document["equal"] else "bold red"
    parts = [style.paint(probe_sentence(document), tint) + "\n", _table(document, style)]
    parts += [_metrics("nothing changed", document["metrics"], style)] if not document["equal"] else []
    parts += [
        _metrics(item["vary"], item["metrics"], style) for item in document["variations"] if item["equal"] is False
    ]
    return "\n".join(part for part in [*parts, _conclusion(document)] if part)


def probe_sentence(document: ProbeDoc) -> str:
    """Return `equal bit for bit over 10 steps, run twice`, or where they first differ."""
    first = document["first_divergence"]
    if first is None:
        less = "" if document["steps"] >= document["asked_steps"] else ", all there are"
        return f"equal bit for bit over {plural(document['steps'], 'step')}, run twice{less}"
    return f"two runs of the same differ from step {first['step']} on ({safe_text(first['metric'])})"


def _table(document: ProbeDoc, style: Style) -> str:
    rows: list[tuple[Cell | str, ...]] = [("nothing", *_found(document["first_divergence"], document["metrics"]))]
    rows += [(_change(item), *_varied(item)) for item in document["variations"]]
    return render_table(Table(("changed", "first divergence", "largest difference"), rows, shrink=1), style)


def _change(item: ProbeVariationDoc) -> str:
    return item["vary"] if item["before"] is None else f"{item['vary']} {item['before']} -> {item['after']}"


def _varied(item: ProbeVariationDoc) -> tuple[Cell | str, str]:
    if not item["tried"]:
        return Cell(f"not tried: {item['why']}", "yellow"), ""
    return _found(item["first_divergence"], item["metrics"])


def _found(first: DivergenceDoc | None, metrics: Sequence[ProbeMetricDoc]) -> tuple[Cell | str, str]:
    if first is None:
        return Cell("none", "green"), "0"
    known = [value for metric in metrics if (value := metric["largest_difference"]) is not None]
    return Cell(f"step {first['step']}, {first['metric']}", "red"), human_number(max(known)) if known else "-"


def _metrics(changed: str, metrics: Sequence[ProbeMetricDoc], style: Style) -> str:
    rows = [
        (
            metric["name"],
            "never" if metric["equal"] else f"step {metric['first_divergence']}",
            human_number(metric["largest_difference"]),
            "" if metric["largest_at"] is None else f"at step {metric['largest_at']}",
        )
        for metric in metrics
    ]
    table = Table((changed, "differs from", "by at most", ""), rows, "llrl", 0, 2, "dim")
    return render_table(table, style)


def _conclusion(document: ProbeDoc) -> str:
    lines = []
    if document["depends_on"]:
        lines.append(f"the result depends on {', '.join(document['depends_on'])}")
    if document["independent_of"]:
        lines.append(f"these steps do not depend on {', '.join(document['independent_of'])}")
    return "".join(f"{line}\n" for line in lines)
