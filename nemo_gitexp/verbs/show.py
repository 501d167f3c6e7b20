"""`show` and `outputs`: everything about one experiment, and what it made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.entry import is_repeatable
from nemo_gitexp.errors import DataError, MissingDataError, StateDirectoryError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.lineage import children_by_parent, with_lineage
from nemo_gitexp.metrics import MetricRows
from nemo_gitexp.record import Imported
from nemo_gitexp.report.remarks import experiment_remarks
from nemo_gitexp.result import mappings
from nemo_gitexp.sitevalues import bind_text
from nemo_gitexp.store import verify_experiment
from nemo_gitexp.streams import recorded_rows
from nemo_gitexp.tips import list_tips


@dataclass(frozen=True, slots=True)
class ShowAnswer:
    """One experiment, its metric stream, what is odd about its run, whether a command runs it again, its origin."""

    document: ExperimentDoc
    rows: MetricRows
    remarks: tuple[str, ...]
    is_repeatable: bool = True
    imported: Imported | None = None


def show(site: Site, text: str) -> ShowAnswer:
    """Return everything about one experiment, after checking that its record agrees with its commits.

    A metric stream that lies in another machine's store is a remark.

    Raises:
        RecordError: it does not.
    """
    tips = list_tips(site.repository)
    found = find_current(site, text, tips)
    verify_experiment(site.repository, found.experiment)
    remarks = experiment_remarks(found.experiment.record, found.document, found.experiment.run or {})
    rows: MetricRows = ()
    try:
        rows = recorded_rows(site.repository, found.experiment)
    except DataError as fault:
        remarks = (*remarks, f"has no curves here: {fault.message}")
    record = found.experiment.record
    related = with_lineage(found.document, children_by_parent(tips))
    # One that nothing was made from is the same document as in a listing.
    document = related if related["children"] else found.document
    return ShowAnswer(document, rows, remarks, is_repeatable(record.entry), record.imported)


@dataclass(frozen=True, slots=True)
class OutputsAnswer:
    """The outputs of an experiment, and the files that were written on request."""

    document: ExperimentDoc
    written: tuple[Path, ...]


def outputs(
    site: Site, text: str, paths: Sequence[str], target: Path | None, say: Callable[[str], None]
) -> OutputsAnswer:
    """Return the outputs of an experiment; with `target`, write them (or those named) into that directory.

    What the store here lacks is asked from the DVC remote.

    Raises:
        RecordError: its record disagrees with its commits.
        UsageError: it has no such output.
        MissingDataError: the store does not have its content.
        StateDirectoryError: something else lies at the target.
        SettingsError: this machine has no value for a `${site:NAME}` in an output's path.
    """
    found = find_current(site, text)
    verify_experiment(site.repository, found.experiment)
    tip, document = found.tip, found.document
    known = [output["path"] for output in document["outputs"]]
    unknown = [path for path in paths if path not in known]
    if unknown:
        raise UsageError(
            f"{tip.name} has no output {unknown[0]}", hint=f"it has: {', '.join(known) or 'none'}", paths=unknown
        )
    if target is None:
        return OutputsAnswer(document, ())
    wanted = [
        item for item in mappings((found.experiment.result or {}).get("outputs")) if item["path"] in set(paths or known)
    ]
    # A pipeline's stage is a directory; the files in it that were declared come with it.
    wanted = [item for item in wanted if not any(_is_below(str(item["path"]), str(other["path"])) for other in wanted)]
    from nemo_gitexp.shipping import bring_needed  # `show` need not pay for the data rooms

    bring_needed(site, found.experiment, say, "output")
    run = str((found.experiment.run or {}).get("run", ""))
    return OutputsAnswer(document, _write(site, tip.record, [_Made.find(site, run, item) for item in wanted], target))


def _is_below(path: str, other: str) -> bool:
    return path.startswith(f"{other}/")


@dataclass(frozen=True, slots=True)
class _Made:
    """An output, its path below the target, and where it may still lie besides the store: where the job put it."""

    path: str
    md5: str
    name: str
    place: Path

    @classmethod
    def find(cls, site: Site, run: str, item: Mapping[str, JsonValue]) -> _Made:
        path = str(item["path"])
        bound = bind_text(path, site.settings.site)
        name = Path(bound).name if Path(bound).is_absolute() else path
        return cls(path, str(item["md5"]), name, site.run_root / run / "outputs" / bound)


def _write(site: Site, sha: str, wanted: Sequence[_Made], target: Path) -> tuple[Path, ...]:
    from nemo_gitexp.collect import output_store  # `show` need not pay for the data rooms
    from nemo_gitexp.data.store import copy_verified

    store = output_store(site.repository)
    missing = [made.path for made in wanted if not store.has(made.md5) and not made.place.exists()]
    if missing:
        raise MissingDataError(
            f"the content of {', '.join(missing)} is not on this machine",
            hint=f"nemo-gitexp reproduce {sha[:12]} --keep makes it again",
            missing=missing,
        )
    taken = [str(target / made.name) for made in wanted if os.path.lexists(target / made.name)]
    if taken:
        raise StateDirectoryError(f"{taken[0]} is there already", hint="choose an empty directory", paths=taken)
    written = []
    for made in wanted:
        goal = target / made.name
        if not goal.resolve().is_relative_to(target.resolve()):
            hint = "nemo-gitexp show says where it is kept"
            raise UsageError(f"output {made.path} would lie outside {target}", hint=hint)
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            if store.has(made.md5):
                store.checkout(made.md5, goal)
            else:
                copy_verified(made.place, made.md5, goal)
        except OSError as fault:
            raise StateDirectoryError(f"cannot write {goal}: {fault.strerror}", path=str(goal)) from fault
        written.append(goal)
    return tuple(written)
