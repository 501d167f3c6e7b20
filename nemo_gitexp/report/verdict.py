"""The verdict of a reproduction as text: what was reached, what differs, and what may explain it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from nemo_gitexp.documents import DriftDoc, ExperimentDoc, VerdictDoc, VerdictMetricDoc, VerdictOutputDoc
from nemo_gitexp.report.terminal import (
    Cell,
    Style,
    Table,
    heading,
    human_duration,
    number_pair,
    plural,
    render_table,
    safe_text,
    short_hash,
)
from nemo_gitexp.topology import count_devices
from nemo_gitexp.verdict import WHOLE

_SHOWN_DRIFT = 15
_WHOLE_RAN, _PREFIX_RAN = "ran to its end", "ran as far as it was asked to"
_MISSED = {
    "recorded": "the state could not be restored",
    "restored": "the run did not finish well with all its outputs",
    "executed": "it {ran}, but its metrics are not within the tolerances",
    "metrics": "the metrics are within the tolerances, but not everything is equal bit for bit",
}
_REACHED = {
    "recorded": "recorded",
    "restored": "restored: the state is proven equal, nothing was run",
    "executed": f"executed: {_WHOLE_RAN} with all its outputs",
}


def render_verdict(document: VerdictDoc, *, style: Style, runs: int = 1) -> str:
    """Return the verdict, the comparison it rests on, and the ranked drift.

    Args:
        document: from `verdict.judge`.
        style: colours and width.
        runs: how many re-runs this verdict holds for.
    """
    parts = [
        _first_lines(document, runs, style),
        _metrics(document["metrics"], style),
        _outputs(document["outputs"], style),
        _divergence(document),
        _drift(document["drift"], style),
    ]
    return "\n".join(part for part in parts if part)


def verdict_sentence(document: VerdictDoc, runs: int = 1) -> str:
    """Return `bitwise: matched on 2 re-runs`, or what was missed; never that anything *is* reproducible."""
    level = document["verdict"]
    scope = "" if document["scope"] == WHOLE else f"[{document['scope']}]"
    if level in {"metrics", "bitwise"} and document["met"]:
        return f"{level}{scope}: matched on {plural(runs, 're-run')}"
    if document["met"] and scope:
        return f"{level}{scope}: {_PREFIX_RAN}"
    if document["met"]:
        return _REACHED[level]
    return f"{level}{scope}, {document['required']} not reached: {_why_missed(document)}"


def cost_words(document: ExperimentDoc) -> str:
    """Return `3 h 10 min on 2 nodes with 8 devices each`."""
    nodes, devices = count_devices(document["topology"])
    each = f"{plural(nodes, 'node')} with {plural(devices, 'device')} each" if nodes > 1 else plural(devices, "device")
    return f"{human_duration(document['duration_s'])} on {each}"


def _why_missed(document: VerdictDoc) -> str:
    metrics = document["metrics"]
    if document["verdict"] == "executed" and metrics and all(metric["recorded"] is None for metric in metrics):
        return "the experiment has no recorded metrics to compare with"
    if document["verdict"] != "executed" or not all(metric["ok"] for metric in metrics):
        return _MISSED[document["verdict"]].format(ran=_WHOLE_RAN if document["scope"] == WHOLE else _PREFIX_RAN)
    if metrics:
        return "its metric stream does not start at the recorded first step"
    return "its outputs differ" if document["outputs"] else "there is nothing to compare"


def _first_lines(document: VerdictDoc, runs: int, style: Style) -> str:
    tint = "bold green" if document["met"] else "bold red"
    weakest = document["weakest_input"]
    facts = [
        short_hash(document["experiment"]),
        f"required {document['required']}",
        f"environment {document['environment']}",
        "no inputs" if weakest == "none" else f"inputs pinned by {'name' if weakest == 'named' else weakest}",
    ]
    sentence = textwrap.fill(verdict_sentence(document, runs), max(style.width, 40))
    return f"{style.paint(sentence, tint)}\n{safe_text('  '.join(facts))}\n"


def _metrics(metrics: Sequence[VerdictMetricDoc], style: Style) -> str:
    if not metrics:
        return ""
    rows = []
    for metric in metrics:
        recorded, got = number_pair(metric["recorded"], metric["got"])
        tolerance = "exact" if metric["tolerance"] is None else f"±{metric['tolerance']:g}"
        rows.append((metric["name"], recorded, got, tolerance, _mark("ok", good=metric["ok"])))
    table = Table(("metric", "recorded", "here", "tolerance", ""), rows, "lrrr", 0, 2, "dim")
    return heading("Metrics", "", style) + render_table(table, style)


def _outputs(outputs: Sequence[VerdictOutputDoc], style: Style) -> str:
    rows = [
        (
            output["path"],
            short_hash(output["recorded"], 12),
            short_hash(output["got"], 12),
            _mark("equal", good=output["equal"]),
        )
        for output in outputs
    ]
    table = Table(("output", "recorded", "here", ""), rows, "", 0, 2, "dim")
    return heading("Outputs", "", style) + render_table(table, style) if rows else ""


def _divergence(document: VerdictDoc) -> str:
    first = document["first_divergence"]
    if first is None:
        return ""
    where = "" if first["step"] is None else f", at step {first['step']}"
    return f"The metric streams first differ in {safe_text(first['metric'])}{where}\n"


def _drift(drift: Sequence[DriftDoc], style: Style) -> str:
    if not drift:
        return ""
    rows = [
        (item["kind"], item["name"], f"{item['recorded'] or 'absent'} -> {item['here'] or 'absent'}")
        for item in drift[:_SHOWN_DRIFT]
    ]
    text = heading("What differs here", "likeliest explanation first", style)
    text += render_table(Table((), rows, shrink=2, indent=2), style)
    return text + (f"  … and {len(drift) - _SHOWN_DRIFT} more\n" if len(drift) > _SHOWN_DRIFT else "")


def _mark(word: str, *, good: bool) -> Cell:
    return Cell(word, "green") if good else Cell("differs", "red")
