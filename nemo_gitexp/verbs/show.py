"""`show` and `outputs`: everything about one experiment, and what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import MissingDataError, StateDirectoryError, UsageError
from nemo_gitexp.metrics import MetricRows
from nemo_gitexp.report.remarks import run_remarks
from nemo_gitexp.result import mappings
from nemo_gitexp.store import verify_experiment
from nemo_gitexp.streams import recorded_rows


@dataclass(frozen=True, slots=True)
class ShowAnswer:
    """One experiment, its metric stream, and what is odd about its run."""

    document: ExperimentDoc
    rows: MetricRows
    remarks: tuple[str, ...]


def show(site: Site, text: str) -> ShowAnswer:
    """Return everything about one experiment, after checking that its record agrees with its commits.

    Raises:
        RecordError: it does not.
    """
    found = find_current(site, text)
    verify_experiment(site.repository, found.experiment)
    rows = recorded_rows(site.repository, found.experiment)
    return ShowAnswer(found.document, rows, run_remarks(found.experiment.run or {}))


@dataclass(frozen=True, slots=True)
class OutputsAnswer:
    """The outputs of an experiment, and the files that were written on request."""

    document: ExperimentDoc
    written: tuple[Path, ...]


def outputs(site: Site, text: str, paths: Sequence[str], target: Path | None) -> OutputsAnswer:
    """Return the outputs of an experiment; with `target`, write them (or those named) into that directory.

    Raises:
        UsageError: it has no such output.
        MissingDataError: the store does not have its content.
        StateDirectoryError: something else lies at the target.
    """
    found = find_current(site, text)
    tip, document = found.tip, found.document
    known = [output["path"] for output in document["outputs"]]
    unknown = [path for path in paths if path not in known]
    if unknown:
        raise UsageError(
            f"{tip.name} has no output {unknown[0]}", hint=f"it has: {', '.join(known) or 'none'}", paths=unknown
        )
    if target is None:
        return OutputsAnswer(document, ())
    wanted = set(paths or known)
    pins = {
        str(item["path"]): str(item["md5"])
        for item in mappings((found.experiment.result or {}).get("outputs"))
        if item["path"] in wanted
    }
    return OutputsAnswer(document, _write(site, tip.record, pins, target))


def _write(site: Site, sha: str, pins: dict[str, str], target: Path) -> tuple[Path, ...]:
    from nemo_gitexp.collect import output_store  # `show` need not pay for the data rooms

    store = output_store(site.repository)
    missing = [path for path, md5 in pins.items() if not store.has(md5)]
    if missing:
        raise MissingDataError(
            f"the content of {', '.join(missing)} is not on this machine",
            hint=f"nemo-gitexp reproduce {sha[:12]} --keep makes it again",
            missing=missing,
        )
    taken = [str(target / path) for path in pins if (target / path).exists() or (target / path).is_symlink()]
    if taken:
        raise StateDirectoryError(f"{taken[0]} is there already", hint="choose an empty directory", paths=taken)
    written = []
    for path, md5 in pins.items():
        place = target / path
        if not place.resolve().is_relative_to(target.resolve()):
            raise UsageError(f"output {path} would lie outside {target}", hint="nemo-gitexp show says where it is kept")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            store.checkout(md5, place)
        except OSError as fault:
            raise StateDirectoryError(f"cannot write {place}: {fault.strerror}", path=str(place)) from fault
        written.append(place)
    return tuple(written)
