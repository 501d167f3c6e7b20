"""Who runs what of several planned experiments: decided by one process at a time, so that nothing runs twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_gitexp.catalog import Site, refresh
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.duplicates import find_earlier_ones
from nemo_gitexp.git.repository import Identities
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.record import ExperimentRecord, combination_of
from nemo_gitexp.recording import Plan, record_plans
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.store import Experiment, read_experiments
from nemo_gitexp.tips import Tip, list_tips


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of one plan: an experiment to be run in `paths` by whoever claimed it, or an earlier one.

    `outcome` is new, adopted (recorded before and never finished), duplicate or ongoing; `earlier` is the document of
    the latter two.
    """

    outcome: str
    experiment: Experiment | None = None
    paths: RunPaths | None = None
    earlier: ExperimentDoc | None = None


def claim_plans(
    site: Site,
    plans: Sequence[Plan],
    who: Identities,
    *,
    again: bool = False,
    within_study: bool = True,
    of_sweep: Sequence[Experiment] = (),
) -> list[Claim]:
    """Record the plans that nobody has run yet, all at once, and reserve their runs.

    Args:
        site: where.
        plans: of one snapshot, see `recording.plan_many`; no two of one identity.
        who: the user, whom git was asked for earlier.
        again: whatever ran before is run once more.
        within_study: an experiment of another study does not count.
        of_sweep: experiments of the sweep that is repeated or extended. Unfinished, they are run instead of a plan for
            the same combination; completed, they count for it even where only the job knows the environment.

    Raises:
        GitexpError: nothing was recorded.
    """
    with taking_turns(site.turns):  # two of the same at once must not both run
        tips = list_tips(site.repository)
        found = [None] * len(plans) if again else find_earlier_ones(
            site, plans, tips, within_study=within_study, of_sweep=of_sweep
        )  # fmt: skip
        waiting = _waiting(site, of_sweep)
        keys = [combination_of(plan.record) for plan in plans]
        missing = [
            plan for plan, key, earlier in zip(plans, keys, found, strict=True)
            if earlier is None and key not in waiting
        ]  # fmt: skip
        recorded = iter(record_plans(site, missing, who))
        claims: list[Claim] = []
        for key, earlier in zip(keys, found, strict=True):
            if earlier is not None:
                claims.append(Claim(earlier[0], earlier=earlier[1]))
            elif key in waiting:
                (experiment,) = read_experiments(site.repository, [waiting[key]])
                claims.append(_claimed(site, "adopted", experiment))
            else:
                claims.append(_claimed(site, "new", next(recorded)))
    return claims


def claim_unfinished(site: Site, tips: Sequence[Tip]) -> list[Claim]:
    """Reserve a run for each experiment that is recorded only, or lost; others are left out."""
    with taking_turns(site.turns):
        experiments = read_experiments(site.repository, _unfinished(site, tips))
        return [_claimed(site, "adopted", experiment) for experiment in experiments]


def _claimed(site: Site, outcome: str, experiment: Experiment) -> Claim:
    return Claim(outcome, experiment, reserve_run(site.run_root, site.workspace_root, experiment.sha))


def _waiting(site: Site, of_sweep: Sequence[Experiment]) -> dict[str | None, Tip]:
    """Return the unfinished experiments of a sweep by combination."""
    keys = {item.tip.record: combination_of(item.record) for item in of_sweep}
    unfinished = _unfinished(site, [item.tip for item in of_sweep])
    return {key: tip for tip in unfinished if (key := keys[tip.record]) is not None}


def _unfinished(site: Site, tips: Sequence[Tip]) -> list[Tip]:
    """Return the experiments that have no result and no run, as they are now."""
    now, live = refresh(site, tips)
    return [tip for tip in now if tip.status in (None, "lost") and tip.record not in live]


def same_run_key(record: ExperimentRecord) -> tuple[str, ...]:
    """Return what two records have in common if they stand for one combination of one sweep."""
    known = combination_of(record)
    return (record.config_hash, str(record.seed)) if known is None else (known,)
