"""What `import` did, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.report.log import render_log
from nemo_gitexp.report.terminal import Style, plural, safe_text, short_hash

_COLUMNS = ("experiment", "study", "name", "status", "metrics")
_LISTED = 20


def render_import(
    imported: Sequence[ExperimentDoc],
    already: Sequence[ExperimentDoc],
    skipped: Sequence[Mapping[str, str]],
    *,
    plan: bool,
    style: Style,
) -> str:
    """Return a table of what is new, what was there before, and what was left out with the reason.

    Args:
        imported: new experiments; with `plan` what they would be.
        already: those that were imported before.
        skipped: run and reason.
        plan: nothing was recorded.
        style: colours and width.
    """
    columns = _COLUMNS[1:] if plan else _COLUMNS
    parts = [render_log(imported[:_LISTED], columns, style=style)] if imported else []
    if len(imported) > _LISTED:
        parts.append(f"… and {len(imported) - _LISTED} more\n")
    parts += [
        f"already there: {short_hash(document['experiment'])} {safe_text(document['name'])}\n"
        for document in already[:_LISTED]
    ]
    if len(already) > _LISTED:
        parts.append(f"… and {len(already) - _LISTED} more that are there already\n")
    parts += [f"left out {safe_text(item['run'])}: {safe_text(item['reason'])}\n" for item in skipped]
    did = "would import" if plan else "imported"
    counts = [f"{did} {plural(len(imported), 'run')}", f"{len(already)} already there", f"{len(skipped)} left out"]
    return "".join(parts) + ", ".join(counts) + "\n"
