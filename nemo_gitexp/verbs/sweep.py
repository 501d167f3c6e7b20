"""`sweep`: every combination an experiment of its own, all recorded at once, so many run at a time, compared."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nemo_gitexp.asked import Asked, Defined, define, find_study
from nemo_gitexp.catalog import Site, document_of, list_entries, refresh
from nemo_gitexp.claims import Claim, claim_plans, claim_unfinished, same_run_key
from nemo_gitexp.comparison import Goal
from nemo_gitexp.definition import MetricGoal
from nemo_gitexp.destination import fitting_launcher, require_destination
from nemo_gitexp.documents import SCHEMA, ExperimentDoc
from nemo_gitexp.duplicates import ONGOING, find_earlier_ones
from nemo_gitexp.ensemble import SEED_KEY, Member, compare_configurations, compare_metric
from nemo_gitexp.errors import GitexpError, RecordError, UsageError
from nemo_gitexp.execution import Conditions
from nemo_gitexp.interpreters import find_recorded_interpreter, probe_interpreter
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.ranking import Ranked, Spread, best_seed, rank, varying
from nemo_gitexp.recording import Plan, plan_many
from nemo_gitexp.renewal import renew_experiments
from nemo_gitexp.result import experiment_document
from nemo_gitexp.store import Experiment, read_experiments_or_faults
from nemo_gitexp.sweepgrammar import combine, parse_axes
from nemo_gitexp.sweeping import ENDED, Board, Child, Sweep, child_of
from nemo_gitexp.sweeps import choose_standing, find_repeated, find_sweep
from nemo_gitexp.tips import Tip, list_tips, local_ref
from nemo_gitexp.versioning import config_hash

if TYPE_CHECKING:
    from datetime import datetime

    from nemo_gitexp.git.repository import Identities
    from nemo_gitexp.git.snapshot import Look
    from nemo_gitexp.profiles import ExecutorProfile
    from nemo_gitexp.verbs.launch import LauncherFactory


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What `sweep` is to do: `jobs` at most at a time (None: as the executor has it), `resume_id` None: the latest."""

    jobs: int | None = None
    zipped: bool = False
    plan_only: bool = False
    resume: bool = False
    resume_id: str | None = None
    again: bool = False
    keep: bool = False
    reuse: bool = True


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """What a sweep came to.

    `documents` has every combination in its order, `values` what it does not share with the others, `faults` by record
    sha why one could not be started; `goals` what the study says about its metrics, the first decides.
    """

    sweep: str | None
    documents: list[ExperimentDoc]
    values: list[dict[str, JsonValue]]
    faults: Mapping[str, GitexpError]
    goals: tuple[MetricGoal, ...] = ()
    planned: bool = False
    interrupted: bool = False

    @property
    def metric(self) -> tuple[str | None, Goal | None]:
        """The metric that decides, and whether more or less of it is better."""
        known = {name for document in self.documents for name in document["metrics"]}
        wanted = [item for item in self.goals if item.goal is not None and not item.volatile and item.name in known]
        return (wanted[0].name, wanted[0].goal) if wanted else (min(known, default=None), None)

    @property
    def ranking(self) -> list[Ranked]:
        """The combinations that completed, over their seeds, best first."""
        completed = [number for number, document in enumerate(self.documents) if document["status"] == "completed"]
        values = [self.values[number] for number in completed]
        return rank([self.documents[number] for number in completed], *self.metric, values)

    @property
    def is_whole(self) -> bool:
        """Whether every combination completed."""
        return all(document["status"] == "completed" for document in self.documents)

    def to_json(self) -> dict[str, object]:
        """Return the answer of `sweep --json`."""
        members = [_member(document) for document in self.documents if document["status"] == "completed"]
        names = sorted({name for member in members for name in member.metrics})
        goals = {item.name: item.goal for item in self.goals}
        metric, goal = self.metric
        ranking = self.ranking
        return {
            "schema": SCHEMA,
            "sweep": self.sweep,
            "planned": self.planned,
            "experiments": self.documents,
            "combinations": [
                {"values": values, "experiment": document["experiment"], "status": document["status"]}
                for values, document in zip(self.values, self.documents, strict=True)
            ],
            "best": _ranked_json(ranking[0], metric, goal) if ranking and goal else None,
            "ranking": [_ranked_json(item, metric, goal) for item in ranking],
            "config": compare_configurations(members) if len(members) > 1 else {},
            "metrics": {name: compare_metric(members, name, goals.get(name)) for name in names},
            "unstarted": [
                {"experiment": sha, "type": type(fault).__name__, "message": fault.message, "hint": fault.hint}
                for sha, fault in self.faults.items()
            ],
        }


def sweep(
    site: Site,
    asked: Asked,
    options: SweepOptions,
    make_launcher: LauncherFactory,
    board: Board,
    *,
    now: datetime,
    look: Look | None = None,
) -> SweepAnswer:
    """Record every combination and run those that were not run before, or go on with an earlier sweep.

    Args:
        site: where.
        asked: study, seed, executor; its overrides name what varies.
        options: how.
        make_launcher: starts the launcher, before it is needed.
        board: told how it goes.
        now: dates the experiments' names.
        look: a look at the work tree under way, if one was started earlier.

    Raises:
        GitexpError: nothing was recorded.
    """
    _require_sense(asked, options)
    with nullcontext() if options.plan_only else make_launcher() as launcher:
        study = find_study(site.repository.root, asked)
        known = find_sweep(site, study, options.resume_id) if options.resume else []
        if options.resume and not asked.overrides:
            if launcher is None:
                seen = [Child({}, document_of(site, item.tip), ENDED) for item, _ in choose_standing(site, known)]
                return _answer(site, known[0].record.sweep, seen, planned=True)
            prepared = _go_on(site, asked, options, known, now)
        else:
            who = site.repository.begin_identities()
            wanted = plan_many(site, _wanted(site, asked, options), now, look)
            plans = list({same_run_key(plan.record): plan for plan in wanted}.values())
            if launcher is None:
                return _planned(site, plans, known, again=options.again)
            for note in dict.fromkeys(note for plan in plans for note in plan.notes):
                board.say(note)
            prepared = _begin(site, asked, options, known, plans, who)
        children = prepared.children
        _name_values(children)
        _say_begin(board, children, prepared.sweep)
        width = options.jobs or (1 if prepared.profile.kind == "local" else len(children))
        with fitting_launcher(site, launcher, prepared.profile) as fitting:
            interrupted = Sweep(site, children, fitting, width, board).run()
    return _answer(site, _sweep_of(children, prepared.sweep), children, interrupted=interrupted)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A sweep of which everything is recorded and reserved."""

    sweep: str | None
    children: list[Child]
    profile: ExecutorProfile


def _begin(
    site: Site,
    asked: Asked,
    options: SweepOptions,
    known: Sequence[Experiment],
    plans: Sequence[Plan],
    who: Identities,
) -> _Prepared:
    """Record what is planned, as far as nobody has run it, into the earlier sweep that it repeats or a new one."""
    profile = require_destination(site, plans[0].record.executor, asked.env)
    if not options.again:
        known = known or find_repeated(site, plans)
    sweep_id = known[0].record.sweep if known else uuid.uuid4().hex[:12]
    plans = [replace(plan, record=replace(plan.record, sweep=sweep_id)) for plan in plans]
    claims = claim_plans(site, plans, who, again=options.again, of_sweep=known)
    return _Prepared(sweep_id, _children(plans, claims, _common(options, profile)), profile)


def _go_on(site: Site, asked: Asked, options: SweepOptions, known: Sequence[Experiment], now: datetime) -> _Prepared:
    """Reserve what an earlier sweep has left."""
    profile = require_destination(site, known[-1].record.executor, asked.env)
    return _Prepared(known[0].record.sweep, _resumed(site, asked, _common(options, profile), known, now), profile)


def _require_sense(asked: Asked, options: SweepOptions) -> None:
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs} runs nothing", hint="--jobs 2")
    if options.resume and options.again:
        raise UsageError("--resume goes on, --again begins anew", hint="leave one of them out")
    if asked.study is None and not options.resume:
        raise UsageError("what is to be swept?", hint="nemo-gitexp sweep STUDY lr=0.1,0.2 seed=1..3")
    if not asked.overrides and not options.resume:
        raise UsageError("nothing varies", hint=f"nemo-gitexp sweep {asked.study} KEY=A,B seed=1..3")
    if options.resume and asked.study is None and asked.overrides:
        raise UsageError("what is to be swept?", hint="nemo-gitexp sweep STUDY KEY=A,B --resume")


# --------------------------------------------------------------------------------------------------- what is to be run


def _wanted(site: Site, asked: Asked, options: SweepOptions) -> list[tuple[Asked, Defined]]:
    """Return the combinations as they would be asked for one by one."""
    axes = parse_axes(asked.overrides)
    root = site.repository.root
    seeds = next((axis for axis in axes if axis.key == SEED_KEY and axis.changes[0].action == "set"), None)
    if seeds is not None and asked.seed is not None:
        raise UsageError("--seed and seed= both say the seed", hint="leave --seed out")
    has_seed_key = seeds is None or SEED_KEY in define(root, replace(asked, overrides=())).config
    wanted = []
    for changes in combine(axes, zipped=options.zipped):
        tokens = tuple(change.token for change in changes if change.key != SEED_KEY or has_seed_key)
        seed = next((_seed(change.value) for change in changes if change.key == SEED_KEY), asked.seed)
        one = replace(asked, overrides=tokens, seed=asked.seed if seeds is None else seed)
        wanted.append((one, define(root, one)))
    return wanted


def _seed(value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{value!r} is no seed", hint="seed=1..5")
    return value


def _children(plans: Sequence[Plan], claims: Sequence[Claim], common: Conditions) -> list[Child]:
    """Return a child for each claim."""
    return [
        child_of(
            claim,
            {},
            replace(common, interpreter=plan.interpreter, probe_interpreter=plan.probe_interpreter),
        )
        for plan, claim in zip(plans, claims, strict=True)
    ]


def _common(options: SweepOptions, profile: ExecutorProfile) -> Conditions:
    """Return what is common to how all combinations are run."""
    return Conditions(None, keep=options.keep, reuse=options.reuse, profile=profile)


def _planned(site: Site, plans: Sequence[Plan], known: Sequence[Experiment], *, again: bool) -> SweepAnswer:
    """Return every combination as it would be recorded, or as it completed before."""
    found: list[tuple[str, ExperimentDoc] | None] = [None] * len(plans)
    if not again:
        of_sweep = known or find_repeated(site, plans)
        found = find_earlier_ones(site, plans, list_tips(site.repository), within_study=True, of_sweep=of_sweep)
    documents = [
        earlier[1] if earlier is not None else _planned_document(plan)
        for plan, earlier in zip(plans, found, strict=True)
    ]
    return SweepAnswer(None, documents, varying(documents), {}, plans[0].record.metrics.goals, planned=True)


def _planned_document(plan: Plan) -> ExperimentDoc:
    record = plan.record
    return experiment_document(
        sha="",
        ref=local_ref(record.study, record.name),
        record=replace(record, sweep=None, code=replace(record.code, commit=plan.snapshot.head)),
        config=plan.config,
        status="planned",
    )


# ----------------------------------------------------------------------------------------------------------- resuming


def _resumed(site: Site, asked: Asked, common: Conditions, known: Sequence[Experiment], now: datetime) -> list[Child]:
    """Return the combinations of an earlier sweep: what has ended stays, what was cancelled is recorded once more.

    The state of the work tree does not matter: they are run as they were recorded.
    """
    chosen = choose_standing(site, known)
    cancelled = [item for item, status in chosen if status == "cancelled"]
    who = site.repository.begin_identities()
    renewed = dict(zip([item.sha for item in cancelled], renew_experiments(site, cancelled, now, who), strict=True))
    current = [renewed.get(item.sha, item) for item, _ in chosen]
    claims = {
        claim.experiment.sha: claim
        for claim in claim_unfinished(site, [item.tip for item in current])
        if claim.experiment
    }
    entries = list_entries(site, *refresh(site, [item.tip for item in current]))
    children = []
    for item, found in zip(current, entries, strict=True):
        if isinstance(found, RecordError):
            raise found
        entry = item.record.entry
        interpreter = find_recorded_interpreter(site, item.record, asked.env, common.profile)
        probe = probe_interpreter(entry, asked.env, site.repository.root)
        conditions = replace(common, interpreter=interpreter, probe_interpreter=probe)
        claim = claims.get(item.sha)
        if claim is None:
            is_over = found.standing.status not in ONGOING
            claim = Claim("duplicate" if is_over else "ongoing", earlier=found.document)
        children.append(child_of(claim, {}, conditions))
    return children


# --------------------------------------------------------------------------------------------------------- the answer


def _sweep_of(children: Sequence[Child], sweep_id: str | None) -> str | None:
    """Return the sweep of the experiments: of those that are new, else the one that all were made in."""
    found = {child.document["sweep"] for child in children}
    return sweep_id if sweep_id in found or len(found) != 1 else next(iter(found))


def _name_values(children: Sequence[Child]) -> None:
    for child, values in zip(children, varying([child.document for child in children]), strict=True):
        child.values = values


def _say_begin(board: Board, children: Sequence[Child], sweep_id: str | None) -> None:
    known = sum(child.was_known for child in children)
    before = f", {known} of them ended before" if known else ""
    board.say(f"sweep {sweep_id}: {len(children)} combinations{before}")


def _answer(
    site: Site, sweep_id: str | None, children: Sequence[Child], *, interrupted: bool = False, planned: bool = False
) -> SweepAnswer:
    """Return the answer with every experiment as it is now."""
    by_ref = {tip.ref: tip for tip in list_tips(site.repository)}
    tips = [by_ref[child.document["ref"]] for child in children if child.document["ref"] in by_ref]
    documents = _documents(site, tips, children, sweep_id)
    faults = {child.document["experiment"]: child.fault for child in children if child.fault is not None}
    experiments = read_experiments_or_faults(site.repository, tips[:1])
    goals = next((item.record.metrics.goals for item in experiments if not isinstance(item, RecordError)), ())
    return SweepAnswer(sweep_id, documents, varying(documents), faults, goals, interrupted=interrupted, planned=planned)


def _documents(site: Site, tips: Sequence[Tip], children: Sequence[Child], sweep_id: str | None) -> list[ExperimentDoc]:
    """Return each experiment as it is now; one that was deleted meanwhile, or cannot be read, as it was last seen."""
    read = [item.document for item in list_entries(site, *refresh(site, tips)) if not isinstance(item, RecordError)]
    now = {document["ref"]: document for document in read}
    documents = [now.get(child.document["ref"], child.document) for child in children]
    for document, child in zip(documents, children, strict=True):
        if child.was_known and document["sweep"] != sweep_id:
            document["duplicate_of"] = document["experiment"]
    return documents


def _member(document: ExperimentDoc) -> Member:
    pins: JsonValue = {item["path"]: item["pin"] for item in document["inputs"]}
    return Member(document["name"], document["config"], document["metrics"], document["seed"], config_hash(pins))


def _ranked_json(item: Ranked, metric: str | None, goal: Goal | None) -> dict[str, object]:
    spread = item.metrics.get(metric or "", Spread(0, None, None, None, None))
    best = best_seed(item, metric, goal)
    return {
        "values": item.values,
        "metric": metric,
        "goal": goal,
        **spread.to_json(),
        "experiment": best["experiment"],
        "name": best["name"],
        "experiments": [document["experiment"] for document in item.documents],
    }
