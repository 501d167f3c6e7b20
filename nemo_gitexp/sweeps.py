"""Earlier sweeps, read from the records of their experiments: there is no other trace of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nemo_gitexp.catalog import Site, refresh
from nemo_gitexp.claims import same_run_key
from nemo_gitexp.errors import RecordError, UnknownExperimentError
from nemo_gitexp.record import combination_of
from nemo_gitexp.recording import Plan
from nemo_gitexp.store import Experiment, read_experiments_or_faults
from nemo_gitexp.tips import Tip, list_tips

_BEST_FIRST = ("completed", "running", "launched", "requeued", "recorded", "lost", "failed", "skipped", "cancelled")
"""Of several experiments of one combination in one sweep, that of the earliest word here stands for it."""


def find_repeated(site: Site, plans: Sequence[Plan]) -> list[Experiment]:
    """Return the experiments of the latest sweep that these combinations repeat or extend: they hold all of its own."""
    wanted = {combination_of(plan.record) for plan in plans} - {None}
    identities = {plan.record.identity for plan in plans}  # None: only the records themselves can be compared
    study = plans[0].record.study
    tips = [tip for tip in list_tips(site.repository, remotes=False) if tip.study == study]
    if not any(tip.identity in identities for tip in tips):
        return []
    sweeps = _group_sweeps(site, tips)
    held = (group for group in reversed(sweeps.values()) if {combination_of(item.record) for item in group} <= wanted)
    return next(held, [])


def _group_sweeps(site: Site, tips: Sequence[Tip]) -> dict[str, list[Experiment]]:
    """Return the experiments of each sweep, oldest first, in the order in which sweeps were last added to."""
    ordered = sorted(tips, key=lambda tip: (tip.created, len(tip.name), tip.name))
    groups: dict[str, list[Experiment]] = {}
    for item in read_experiments_or_faults(site.repository, ordered):
        if not isinstance(item, RecordError) and item.record.sweep:
            groups.setdefault(item.record.sweep, []).append(item)
    return dict(sorted(groups.items(), key=lambda group: group[1][-1].tip.created))


def find_sweep(site: Site, study: str | None, sweep_id: str | None) -> list[Experiment]:
    """Return the experiments of a sweep, oldest first; of the latest one where none is named.

    Raises:
        UnknownExperimentError: there is none.
    """
    tips = [tip for tip in list_tips(site.repository, remotes=False) if study in (None, tip.study)]
    sweeps = _group_sweeps(site, tips)
    names = [name for name in sweeps if name.startswith(sweep_id or "")]
    if not names:
        which = f"sweep {sweep_id}" if sweep_id else "sweep"
        of = f" of {study}" if study else ""
        hint = "nemo-gitexp log --columns sweep,name,status"
        raise UnknownExperimentError(f"there is no {which}{of} here", hint=hint)
    if len(names) > 1 and sweep_id is not None:
        raise UnknownExperimentError(f"{sweep_id} begins several sweeps: {', '.join(names)}", hint="type more of it")
    return sweeps[names[-1]]


def choose_standing(site: Site, experiments: Sequence[Experiment]) -> list[tuple[Experiment, str]]:
    """Return for each combination the experiment that stands for it, and how it stands now."""
    by_record = {str(item.sha): item for item in experiments}
    now, live = refresh(site, [item.tip for item in experiments])
    groups: dict[tuple[str, ...], list[tuple[Experiment, str]]] = {}
    for tip in now:
        status = live[tip.record].status if tip.record in live else tip.status or "recorded"
        item = replace(by_record[tip.record], tip=tip)
        groups.setdefault(same_run_key(item.record), []).append((item, status))
    return [min(group, key=lambda pair: _BEST_FIRST.index(pair[1])) for group in groups.values()]
