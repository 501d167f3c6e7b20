"""What a reader of a run's numbers should know about it, as lines of text that go on after "the job"."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.entry import InteractiveEntry
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.report.terminal import plural, value_text
from nemo_gitexp.stages import AnyEntry

_NAMED = 5


def experiment_remarks(
    record: ExperimentRecord, document: ExperimentDoc, run: Mapping[str, JsonValue]
) -> tuple[str, ...]:
    """Return the remarks on an experiment's run, none when nothing is odd.

    Args:
        record: its record.
        document: how it stands.
        run: run.json of its result, empty when there is none.
    """
    # A tracked program seeds itself where its block begins, whatever started it.
    is_seeded = record.tracked is not None or not document["result"]
    seeding = () if is_seeded else _seeding_remarks(record.entry, record.determinism)
    return (
        *_run_remarks(run),
        *_metrics_remarks(record.metrics.file, document),
        *seeding,
        *_interactive_remarks(record.entry),
        *_imported_remarks(record),
    )


def _run_remarks(run: Mapping[str, JsonValue]) -> tuple[str, ...]:
    settings = run.get("settings")
    return (
        *_self_seeded(settings if isinstance(settings, Mapping) else {}),
        *_listed(run, "inputs_changed", "changed its own input{s}: {names}"),
        *_listed(run, "undeclared_outputs", "made {count} that nobody declared, not kept: {names}"),
        *_listed(run, "stray_files", "wrote {count} into its workspace, not kept: {names}"),
        *_bad_lines(run.get("bad_metric_lines")),
        *_own_remarks(run.get("remarks")),
    )


def _metrics_remarks(declared_file: str | None, document: ExperimentDoc) -> tuple[str, ...]:
    """Return what to say about a completed run that declares a metrics file and has no metric."""
    if declared_file is None or document["status"] != "completed" or document["metrics"]:
        return ()
    return (f"has no metrics: nothing could be read from its metrics file {declared_file}",)


def _seeding_remarks(entry: AnyEntry, determinism: str) -> tuple[str, ...]:
    """Return what to say about a command whose interpreter is not ours to seed."""
    if not entry.wrapped or determinism == "off":
        return ()
    return (f"starts Python itself, if at all: of determinism {determinism} it has the variables, not the seeds",)


def _interactive_remarks(entry: AnyEntry) -> tuple[str, ...]:
    if not isinstance(entry, InteractiveEntry):
        return ()
    return (f"ran in {entry.why}: no command runs it again, neither reproduce nor launch",)


def _imported_remarks(record: ExperimentRecord) -> list[str]:
    """Return what a record of another tool's run cannot tell."""
    imported = record.imported
    if imported is None:
        return []
    remarks = [f"ran elsewhere and was imported from {imported.title}: no command runs it again, nor reproduces it"]
    if not imported.knows_code:
        remarks.append("ran code that is not known: the commit named here is where it was imported")
    if record.seed_is_default:
        remarks.append(f"had a seed that nobody recorded: {record.seed} stands for it")
    return remarks


def _own_remarks(remarks: JsonValue) -> list[str]:
    """Return what the run said about itself."""
    return [str(remark) for remark in remarks] if isinstance(remarks, (list, tuple)) else []


def _self_seeded(settings: Mapping[str, JsonValue]) -> list[str]:
    seeded = settings.get("self_seeded")
    if not isinstance(seeded, Mapping) or not seeded:
        return []
    how = "; ".join(f"{name} {_values(values)}" for name, values in sorted(seeded.items()))
    return [f"seeds itself, whatever the experiment's seed is: {how}"]


def _values(values: JsonValue) -> str:
    return ", ".join(map(value_text, values)) if isinstance(values, (list, tuple)) else value_text(values)


def _listed(run: Mapping[str, JsonValue], key: str, text: str) -> list[str]:
    found = run.get(key)
    if not isinstance(found, (list, tuple)) or not found:
        return []
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    names = ", ".join(str(name) for name in found[:_NAMED]) + more
    return [text.format(names=names, count=plural(len(found), "file"), s="" if len(found) == 1 else "s")]


def _bad_lines(count: JsonValue) -> list[str]:
    return [f"logged {plural(count, 'metric line')} that cannot be read"] if isinstance(count, int) and count else []
