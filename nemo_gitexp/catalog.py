"""All experiments as documents, up to date: finished runs collected, live ones looked at, facts counted in.

A cache of documents (`listing.py`) makes listings fast; it may be deleted at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import GitexpError, RecordError
from nemo_gitexp.facts import Fact, list_facts
from nemo_gitexp.git.objects import find_ref
from nemo_gitexp.git.repository import Repository, Running
from nemo_gitexp.listing import Entry, list_documents
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import (
    GOES_ON,
    RunState,
    give_up,
    inspect_run,
    is_cut_short,
    is_reproduction,
    job_names,
    list_run_directories,
    stage_states,
)
from nemo_gitexp.settings import Settings, read_settings
from nemo_gitexp.standing import Progress, Standing, best_verdict, stand
from nemo_gitexp.tips import BRANCH_PREFIX, Tip, branch_name, list_tips

if TYPE_CHECKING:
    from nemo_gitexp.progress import Heard
    from nemo_gitexp.store import Experiment  # reading records takes 20 ms of imports, which most listings need not pay

FEW = 20
"""Of so many experiments the facts are asked for one by one; of more, all facts are read."""


def _unheard(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Site:
    """One repository on this machine with its settings: what every verb works on.

    `warn` is told of schedulers and machines that do not answer.
    """

    repository: Repository
    settings: Settings
    git_config: Mapping[str, str]
    warn: Callable[[str], None] = field(default=_unheard, compare=False)

    @property
    def run_root(self) -> Path:
        """Where run directories go."""
        return self.settings.run_root or self.repository.state_dir / "runs"

    @property
    def workspace_root(self) -> Path:
        """Where workspaces go."""
        return self.settings.workspace_root or self.repository.state_dir / "workspaces"

    @property
    def turns(self) -> Path:
        """The lock of those who decide whether an experiment is to be run."""
        return self.repository.state_dir / "turns.lock"


def open_site(repository: Repository, env: Mapping[str, str]) -> Site:
    """Read the settings of a repository.

    Raises:
        SettingsError: one of them has a wrong value.
    """
    git_config = repository.config()
    return Site(repository, read_settings(repository.root, git_config, env), git_config)


def refresh(site: Site, tips: Sequence[Tip], *, strictly: bool = False) -> tuple[list[Tip], dict[str, RunState]]:
    """Collect what has ended and return the same tips as they are now, with the live runs by record sha.

    A run whose result cannot be recorded now (a full disk, a repository of somebody else) counts as running.

    Args:
        site: where.
        tips: which experiments.
        strictly: a run that cannot be recorded is an error.

    Side effects: result commits for runs that finished or died; schedulers are asked, each once, and the
    site's `warn` is told of each that does not answer, whose runs are as they were last known.

    Raises:
        GitexpError: with `strictly`: one of them cannot be recorded.
    """
    unfinished = [tip for tip in tips if tip.status in (None, "lost") and tip.remote is None]
    if not unfinished:
        return list(tips), {}
    by_record = _runs_of(site, {tip.record for tip in unfinished}, site.warn)
    live: dict[str, RunState] = {}
    moved = False
    for tip in unfinished:
        run = _decisive(by_record.get(tip.record, []))
        if run is None:
            continue
        if run.status in GOES_ON:
            live[tip.record] = run
        elif run.status == "finished" or tip.status is None:
            try:
                moved = _collect(site, tip, run) or moved
            except (GitexpError, OSError):
                if strictly:
                    raise
                live[tip.record] = replace(run, status="running")
    return (_as_they_are(site.repository, tips) if moved else list(tips)), live


def _as_they_are(repository: Repository, tips: Sequence[Tip]) -> list[Tip]:
    now = {(tip.study, tip.name, tip.record): tip for tip in list_tips(repository)}
    return [now.get((tip.study, tip.name, tip.record), tip) for tip in tips]


def _runs_of(site: Site, records: Collection[str], warn: Callable[[str], None]) -> dict[str, list[RunState]]:
    """Return by record the runs that can become results, oldest first; those that nobody will start are removed."""
    found: dict[str, list[RunState]] = {}
    runs = [paths for paths in list_run_directories(site.run_root) if not is_reproduction(paths)]
    runs = [paths for paths in runs if paths.run.partition(".")[0] in records]
    cut_short = [paths for paths in runs if is_cut_short(paths)]
    unknown: Collection[str] = ()
    if cut_short:
        from nemo_gitexp.scheduled import settle_submissions

        unknown = settle_submissions(cut_short, warn)
    submitted = [paths for paths in runs if paths.submitted.exists()]
    if submitted:
        from nemo_gitexp.scheduled import look_at_runs

        look_at_runs(submitted, warn)
    for paths in runs:
        record = paths.run.partition(".")[0]
        state = inspect_run(paths)
        if paths.run in unknown:
            state = replace(state, status="launched")
        if state.status == "void":
            drop_void(site.repository, paths)
        else:
            found.setdefault(record, []).append(state)
    return found


def drop_void(repository: Repository, paths: RunPaths) -> None:
    """Remove a run that nobody will ever start: its experiment is recorded, no more and no less."""
    from nemo_gitexp.collect import discard_run

    with suppress(OSError):  # in somebody else's repository it is not ours to remove; another process was faster
        if give_up(paths):
            discard_run(repository, paths)


def _decisive(runs: Sequence[RunState]) -> RunState | None:
    """Return the run that decides: the first that finished, else one that goes on, else the last that died."""
    for status in ("finished", "running", "requeued", "launched"):
        for run in runs:
            if run.status == status:
                return run
    return runs[-1] if runs else None


def _collect(site: Site, tip: Tip, run: RunState) -> bool:
    from nemo_gitexp.collect import collect_run
    from nemo_gitexp.store import read_experiments

    try:
        (experiment,) = read_experiments(site.repository, [replace(tip, sha=tip.record, status=None)])
    except RecordError:
        return False
    experiment = replace(experiment, tip=tip)
    collect_run(site.repository, experiment, run)
    return True


def list_entries(site: Site, tips: Sequence[Tip], live: Mapping[str, RunState]) -> list[Entry | RecordError]:
    """Return each experiment, or why it cannot be read, in the order of the tips; both come from `refresh`."""
    repository = site.repository
    branches = _begin_branches(repository)
    facts = _group_facts(list_facts(repository, [tip.record for tip in tips] if len(tips) < FEW else None))
    heard = _hear(repository, tips, live, facts)
    names = _branch_names(branches)
    # By both: a ref that somebody copied shares the commit, and is none of that name.
    by_key = {f"{tip.sha} {tip.ref}": tip for tip in tips}
    standings = {
        key: _standing_of(tip, live.get(tip.record), facts.get(tip.record, ()), names, heard.get(tip.record))
        for key, tip in by_key.items()
    }

    def read(keys: Sequence[str]) -> dict[str, ExperimentDoc | RecordError]:
        return dict(zip(keys, _read_documents(repository, [by_key[key] for key in keys]), strict=True))

    found = list_documents(repository.state_dir / "listing.db", standings, read)
    return [found[key] for key in by_key]


@dataclass(frozen=True, slots=True)
class Found:
    """One experiment, up to date: as its commits hold it, and as verbs show it."""

    experiment: Experiment
    document: ExperimentDoc

    @property
    def tip(self) -> Tip:
        """Its ref as it is now."""
        return self.experiment.tip


def find_current(site: Site, text: str, tips: Sequence[Tip] | None = None) -> Found:
    """Return the one experiment that `text` names, after collecting its run if that has ended.

    Raises:
        UnknownExperimentError: nothing has this name.
        AmbiguousExperimentError: several have it.
        RecordError: it cannot be read.
    """
    from nemo_gitexp.lookup import find_experiment

    return read_current(site, find_experiment(site.repository, text, tips))


def read_current(site: Site, tip: Tip) -> Found:
    """Return an experiment as it is now, after collecting its run if that has ended.

    Raises:
        RecordError: it cannot be read.
    """
    from nemo_gitexp.store import read_experiments

    repository = site.repository
    branches = _begin_branches(repository)
    (now,), live = refresh(site, [tip])
    (experiment,) = read_experiments(repository, [now])
    facts = list_facts(repository, [now.record])
    run = live.get(now.record)
    heard = _hear(repository, [now], live, {now.record: facts}).get(now.record)
    document = stand(_document(experiment), _standing_of(now, run, facts, _branch_names(branches), heard))
    if run is not None:
        states = stage_states(run.paths)
        document["tasks"] = [{**task, **states.get(str(task["name"]), {})} for task in document["tasks"]]
    return Found(experiment, document)


def recorded_document(experiment: Experiment, branch: str | None, status: str = "recorded") -> ExperimentDoc:
    """Return the document of an experiment that was recorded this moment: nothing is known beside its commits."""
    document = _document(experiment)
    document["branch"], document["status"] = branch, status
    return document


def document_of(site: Site, tip: Tip) -> ExperimentDoc:
    """Return one experiment as a document, up to date.

    Raises:
        RecordError: it cannot be read.
    """
    (entry,) = list_entries(site, *refresh(site, [tip]))
    if isinstance(entry, RecordError):
        raise entry
    return entry.document


def _begin_branches(repository: Repository) -> Running:
    """Start listing the branches below `exp/`; `_branch_names` reads what it gives."""
    return repository.begin("for-each-ref", "--format=%(refname:lstrip=2)", f"refs/heads/{BRANCH_PREFIX}")


def _branch_names(listing: Running) -> set[str]:
    """Return the names of the branches in the listing."""
    return set(listing.wait().decode("utf-8", "replace").splitlines())


def _group_facts(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Return facts by the experiment that they are about."""
    grouped: dict[str, list[Fact]] = {}
    for fact in facts:
        grouped.setdefault(fact.record, []).append(fact)
    return grouped


def _hear(
    repository: Repository, tips: Sequence[Tip], live: Mapping[str, RunState], facts: Mapping[str, Sequence[Fact]]
) -> dict[str, Heard]:
    """Return what others say of experiments that are unfinished and do not run here; our own facts say nothing."""
    asked = [tip for tip in tips if tip.status is None and tip.record not in live and tip.record in facts]
    said = [fact for tip in asked for fact in facts[tip.record] if tip.remote or fact.is_fetched]
    if not any(fact.kind == "launched" for fact in said):
        return {}
    from nemo_gitexp.progress import latest_heard

    return latest_heard(repository, said)


def _standing_of(
    tip: Tip, run: RunState | None, facts: Sequence[Fact], branches: Collection[str], heard: Heard | None
) -> Standing:
    """Return what is known about an experiment beside its commits."""
    kinds = [fact.kind for fact in facts]
    branch = branch_name(tip.study, tip.name)
    status = tip.status or (run.status if run else heard.status if heard else "recorded")
    if run is not None and tip.status == "lost":
        status = run.status
    standing = Standing(tip.ref, status, branch if branch in branches else None)
    if not facts and run is None:
        return standing
    return standing._replace(
        best_verdict=best_verdict([fact.word for fact in facts if fact.kind in ("reproduced", "verified")]),
        reproductions=kinds.count("reproduced"),
        archived=kinds.count("archived") > kinds.count("unarchived"),
        withdrawn=kinds.count("withdrawn") > kinds.count("restored"),
        jobs=_jobs(run),
        started=run.started if run else None,
        progress=_progress(run, heard),
    )


def _progress(run: RunState | None, heard: Heard | None) -> Progress | None:
    if run is None:
        return heard.progress if heard is not None and heard.status != "recorded" else None
    from nemo_gitexp.progress import see_progress

    return see_progress(run, time.time())


def _jobs(run: RunState | None) -> tuple[str, ...]:
    return () if run is None else job_names(run.paths)


def _read_documents(repository: Repository, tips: Sequence[Tip]) -> list[ExperimentDoc | RecordError]:
    """Return for each tip its document as the commits tell it, or why it cannot be read."""
    from nemo_gitexp.store import read_experiments_or_faults

    items = read_experiments_or_faults(repository, tips)
    return [item if isinstance(item, RecordError) else _document(item) for item in items]


def _document(experiment: Experiment) -> ExperimentDoc:
    from nemo_gitexp.result import experiment_document

    tip = experiment.tip
    return experiment_document(
        sha=tip.record,
        ref=tip.ref,
        record=experiment.record,
        config=experiment.config,
        status=tip.status or "recorded",
        result_sha=tip.result,
        result=experiment.result,
        run=experiment.run,
    )


def current_tip(repository: Repository, tip: Tip) -> Tip:
    """Return the tip as its ref stands now."""
    sha = find_ref(repository, tip.ref)
    if sha == tip.sha:
        return tip
    return _as_they_are(repository, [tip])[0]
