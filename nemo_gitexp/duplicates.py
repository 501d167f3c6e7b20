"""Whether an experiment was made before: the same identity, or nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nemo_gitexp.catalog import Site, list_entries, refresh
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import RecordError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.record import ExperimentRecord, combination_of
from nemo_gitexp.recording import Plan
from nemo_gitexp.store import Experiment, read_experiments_or_faults
from nemo_gitexp.tips import Tip, list_tips

ONGOING = ("launched", "running", "requeued")


def find_earlier(
    site: Site, plan: Plan, say: Callable[[str], None], *, within_study: bool = False
) -> tuple[str, ExperimentDoc] | None:
    """Return an experiment of the same identity that completed ("duplicate") or still goes on ("ongoing").

    With `within_study` one of another study does not count. One that is nearly the same is worth a line to `say`.
    """
    tips = list_tips(site.repository)
    (earlier,) = find_earlier_ones(site, [plan], tips, within_study=within_study)
    near = near_duplicate(site.repository, plan, tips) if earlier is None else None
    if near is not None:
        say(f"like {near[0].name} but for: {', '.join(near[1])}")
    return earlier


def find_earlier_ones(
    site: Site,
    plans: Sequence[Plan],
    tips: Sequence[Tip],
    *,
    within_study: bool = False,
    of_sweep: Sequence[Experiment] = (),
) -> list[tuple[str, ExperimentDoc] | None]:
    """Return for each plan what `find_earlier` says, all experiments looked at once.

    A plan without identity is a duplicate of none but those `of_sweep`, the sweep that it repeats or extends.
    """
    same = [
        [tip for tip in find_duplicates(plan, tips) if not within_study or tip.study == plan.record.study]
        or _same_of_sweep(plan, tips, of_sweep)
        for plan in plans
    ]
    wanted = list({tip.ref: tip for found in same for tip in found}.values())
    entries = list_entries(site, *refresh(site, wanted)) if wanted else []
    listed = {entry.document["ref"]: entry.document for entry in entries if not isinstance(entry, RecordError)}
    return [_counting([listed[tip.ref] for tip in found if tip.ref in listed]) for found in same]


def _same_of_sweep(plan: Plan, tips: Sequence[Tip], of_sweep: Sequence[Experiment]) -> list[Tip]:
    """Return the experiments of a sweep that stand for the combination of a plan without identity, as they are now."""
    wanted = combination_of(plan.record)
    if plan.record.identity is not None or wanted is None:
        return []
    refs = {item.tip.ref for item in of_sweep if combination_of(item.record) == wanted}
    return [tip for tip in tips if tip.ref in refs]


def _counting(documents: Sequence[ExperimentDoc]) -> tuple[str, ExperimentDoc] | None:
    """Return which of several equal experiments makes another run needless, and why."""
    for wanted, outcome in ((("completed",), "duplicate"), (ONGOING, "ongoing")):
        found = [document for document in documents if document["status"] in wanted and not document["withdrawn"]]
        if found:
            document = max(found, key=lambda item: item["name"])
            document["duplicate_of"] = document["experiment"]
            return outcome, document
    return None


def find_duplicates(plan: Plan, tips: Sequence[Tip]) -> list[Tip]:
    """Return the experiments of the same identity, newest first; their status is for the caller to judge."""
    same = [tip for tip in tips if plan.record.identity and tip.identity == plan.record.identity]
    return sorted(same, key=lambda tip: tip.created, reverse=True)


def near_duplicate(repository: Repository, plan: Plan, tips: Sequence[Tip]) -> tuple[Tip, tuple[str, ...]] | None:
    """Return the newest completed experiment that differs only in environment or code, and in which of them."""
    record = plan.record
    alike = [
        tip
        for tip in tips
        if tip.status == "completed"
        and (tip.study, tip.config_hash, tip.seed) == (record.study, record.config_hash, str(record.seed))
    ]
    newest = sorted(alike, key=lambda tip: tip.created, reverse=True)[:1]
    for tip, item in zip(newest, read_experiments_or_faults(repository, newest), strict=True):
        if not isinstance(item, Exception):
            parts = _differing_parts(item.record, record)
            if parts and set(parts) <= {"environment", "code"}:
                return tip, parts
    return None


def _differing_parts(a: ExperimentRecord, b: ExperimentRecord) -> tuple[str, ...]:
    pairs = {
        "code": ((a.code.key, a.code.filtered), (b.code.key, b.code.filtered)),
        "environment": (a.environment_key, b.environment_key),
        "inputs": ([(i.path, i.pin) for i in a.inputs], [(i.path, i.pin) for i in b.inputs]),
        "command": (a.entry.to_json(), b.entry.to_json()),
        "working directory": (a.workdir, b.workdir),
        "determinism": (a.determinism, b.determinism),
        "topology": (render_json(a.topology), render_json(b.topology)),
    }
    return tuple(name for name, (x, y) in pairs.items() if x != y)
