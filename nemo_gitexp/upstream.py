"""Outputs of other experiments as inputs: from an `exp://` address to the content it means now, and where from."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from nemo_gitexp.addresses import DEFAULT_PLACE, split_output
from nemo_gitexp.catalog import Found, Site, find_current
from nemo_gitexp.data.refused import missing_output
from nemo_gitexp.data.store import ObjectStore, own_store
from nemo_gitexp.definition import InputSpec
from nemo_gitexp.errors import AmbiguousExperimentError, UnknownExperimentError, UpstreamError
from nemo_gitexp.inputpin import InputPin, OutputOrigin
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.result import mappings
from nemo_gitexp.store import verify_experiment
from nemo_gitexp.tips import list_tips

_UNFINISHED = ("launched", "running", "requeued")
_NOT_RUN = ("recorded", "lost")


def pin_output(site: Site, spec: InputSpec) -> InputPin:
    """Return the content that an `exp://` address means now, pinned by its hash.

    Side effects: a run of that experiment that has ended is collected.

    Raises:
        UnknownExperimentError, AmbiguousExperimentError: it names no one experiment.
        UpstreamError: that one is unfinished, failed or withdrawn, or has no such output, or did not keep it.
        MissingDataError: the content is not on this machine.
        RecordError: its record disagrees with its commits.
    """
    found, output = _resolve(site, spec.address)
    _require_usable(found)
    verify_experiment(site.repository, found.experiment)
    repository = site.repository
    store = own_store(repository.root, repository.main_root, repository.state_dir)
    md5, size_bytes = _content(found, output, store)
    tip = found.tip
    return InputPin(
        path=spec.path or posixpath.join(DEFAULT_PLACE, tip.study, output),
        pin=md5,
        size_bytes=size_bytes,
        n_files=len(store.entries(md5)) if md5.endswith(".dir") else 1,
        origin=_origin(spec.address, found, output),
    )


def _resolve(site: Site, address: str) -> tuple[Found, str]:
    """Return experiment and output: of the readings that name an experiment the first one that has the output."""
    tips = list_tips(site.repository)
    named: list[tuple[Found, str]] = []
    faults: list[UnknownExperimentError | AmbiguousExperimentError] = []
    for text, output in split_output(address):
        try:
            named.append((find_current(site, text, tips), output))
        except (UnknownExperimentError, AmbiguousExperimentError) as fault:
            faults.append(fault)
            continue
        if _find_output(named[-1][0], output) is not None:
            return named[-1]
    if named:
        return named[0]
    raise next((fault for fault in faults if isinstance(fault, AmbiguousExperimentError)), faults[0])


def _require_usable(found: Found) -> None:
    status, short = found.document["status"], found.tip.record[:12]
    others = f"name one that completed: nemo-gitexp log --study {found.tip.study} --status completed"
    if found.document["withdrawn"]:
        raise _refusal(found, "was withdrawn", others)
    if status in _UNFINISHED:
        raise _refusal(found, f"is {status}: it has no outputs yet", f"nemo-gitexp logs {short} -f, then run again")
    if status in _NOT_RUN:
        why = "was recorded only, and never run" if status == "recorded" else "was lost before it ended"
        raise _refusal(found, why, f"nemo-gitexp launch {short}")
    if status != "completed":
        raise _refusal(found, f"did not complete: {status}", others)


def _content(found: Found, output: str, store: ObjectStore) -> tuple[str, int | None]:
    """Return md5 and size of an output, or of a file in an output that is a directory."""
    made = _find_output(found, output)
    if made is None:
        known = ", ".join(item["path"] for item in found.document["outputs"])
        raise _refusal(found, f"has no output {output}", f"it has: {known or 'none'}")
    path, md5 = str(made["path"]), str(made["md5"])
    if made.get("keep") != "dvc":
        hint = f"declare outputs: [{path}] without keep:, run it again, and use that one"
        raise _refusal(found, f"did not keep its output {path} (keep: {made.get('keep')})", hint)
    if not store.has(md5):
        raise missing_output(_origin("", found, path))
    size = made.get("size_bytes")
    if path == output:
        return md5, size if isinstance(size, int) else None
    below = posixpath.relpath(output, path)
    inner = dict(store.entries(md5)).get(below)
    if inner is None:
        names = ", ".join(name for name, _ in store.entries(md5)[:5])
        raise _refusal(found, f"has no file {below} in its output {path}", f"it holds: {names}")
    return inner, store.path_of(inner).stat().st_size


def _origin(address: str, found: Found, output: str) -> OutputOrigin:
    tip = found.tip
    return OutputOrigin(address, tip.record, str(tip.result), tip.study, tip.name, output)


def _find_output(found: Found, output: str) -> Mapping[str, JsonValue] | None:
    """Return the output of this path, else the innermost directory that it lies in."""
    made = {str(item["path"]): item for item in mappings((found.experiment.result or {}).get("outputs"))}
    above = output
    while above:
        item = made.get(above)
        if item is not None and (above == output or item.get("is_dir")):
            return item
        above = posixpath.dirname(above)
    return None


def _refusal(found: Found, why: str, hint: str) -> UpstreamError:
    tip = found.tip
    return UpstreamError(
        f"{tip.study}/{tip.name} ({tip.record[:12]}) cannot be an input: it {why}",
        hint=hint,
        experiment=tip.record,
        status=found.document["status"],
        why=why,
    )
