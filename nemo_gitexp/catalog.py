"""All experiments as documents, up to date: finished runs collected, live ones looked at, facts counted in.

A cache of documents by tip sha makes listings fast; it may be deleted at any time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import GitexpError, RecordError
from nemo_gitexp.facts import Fact, list_facts
from nemo_gitexp.git.objects import find_ref, list_refs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.result import Standing, experiment_document
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import RunState, give_up, inspect_run, is_reproduction, list_run_directories
from nemo_gitexp.settings import Settings, read_settings
from nemo_gitexp.store import (
    BRANCH_PREFIX,
    Experiment,
    Tip,
    branch_name,
    list_tips,
    read_experiments,
    read_experiments_or_faults,
)

CACHE_VERSION = 1
_WITHDRAWN, _RESTORED = "withdrawn", "restored"


@dataclass(frozen=True, slots=True)
class Site:
    """One repository on this machine with its settings: what every verb works on."""

    repository: Repository
    settings: Settings
    git_config: Mapping[str, str]

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


@dataclass(frozen=True, slots=True)
class Listed:
    """One listed experiment: its tip, its document, or why it cannot be read."""

    tip: Tip
    document: ExperimentDoc | None
    fault: RecordError | None


def refresh(site: Site, tips: Sequence[Tip], *, strictly: bool = False) -> tuple[list[Tip], dict[str, RunState]]:
    """Collect what has ended and return the same tips as they are now, with the live runs by record sha.

    A run whose result cannot be recorded now (a full disk, a repository of somebody else) counts as running.

    Side effects: result commits for runs that finished or died.

    Raises:
        GitexpError: with `strictly`: one of them cannot be recorded.
    """
    unfinished = [tip for tip in tips if tip.status in (None, "lost") and tip.remote is None]
    if not unfinished:
        return list(tips), {}
    by_record = _runs_of(site, {tip.record for tip in unfinished})
    live: dict[str, RunState] = {}
    moved = False
    for tip in unfinished:
        run = _decisive(by_record.get(tip.record, []))
        if run is None:
            continue
        if run.status in ("launched", "running"):
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


def _runs_of(site: Site, records: Collection[str]) -> dict[str, list[RunState]]:
    """Return by record the runs that can become results, oldest first; those that nobody will start are removed."""
    found: dict[str, list[RunState]] = {}
    for paths in list_run_directories(site.run_root):
        record = paths.run.partition(".")[0]
        if record not in records or is_reproduction(paths):
            continue
        state = inspect_run(paths)
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
    for status in ("finished", "running", "launched"):
        for run in runs:
            if run.status == status:
                return run
    return runs[-1] if runs else None


def _collect(site: Site, tip: Tip, run: RunState) -> bool:
    from nemo_gitexp.collect import collect_run  # 20 ms that most listings need not pay

    try:
        (experiment,) = read_experiments(site.repository, [replace(tip, sha=tip.record, status=None)])
    except RecordError:
        return False
    experiment = replace(experiment, tip=tip)
    collect_run(site.repository, experiment, run)
    return True


def list_entries(site: Site, tips: Sequence[Tip] | None = None, *, only: Iterable[Tip] | None = None) -> list[Listed]:
    """Return experiments as documents, in the order of `tips`; `only` restricts what is read, not what is refreshed."""
    repository = site.repository
    known, live = refresh(site, list_tips(repository) if tips is None else tips)
    if only is not None:
        names = {(tip.study, tip.name) for tip in only}
        known = [tip for tip in known if (tip.study, tip.name) in names]
    branches = list_branches(repository)
    facts = group_facts(list_facts(repository, [tip.record for tip in known] if len(known) < 20 else None))
    static = _static_documents(repository, known)
    entries = []
    for tip in known:
        item = static[tip.sha]
        if isinstance(item, RecordError):
            entries.append(Listed(tip, None, item))
            continue
        standing = standing_of(tip, live.get(tip.record), facts.get(tip.record, []), branches)
        entries.append(Listed(tip, apply_standing(item, tip, standing), None))
    return entries


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
    return read_current(site, find_experiment(site.repository, text, tips))


def read_current(site: Site, tip: Tip) -> Found:
    """Return an experiment as it is now, after collecting its run if that has ended.

    Raises:
        RecordError: it cannot be read.
    """
    repository = site.repository
    (now,), live = refresh(site, [tip])
    (experiment,) = read_experiments(repository, [now])
    facts = list_facts(repository, [now.record])
    standing = standing_of(now, live.get(now.record), facts, list_branches(repository))
    return Found(experiment, apply_standing(_document(experiment), now, standing))


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
    (entry,) = list_entries(site, [tip])
    if entry.document is None:
        raise entry.fault or RecordError(f"{tip.name} cannot be read")
    return entry.document


def list_branches(repository: Repository) -> set[str]:
    """Return the names of the branches below `exp/`."""
    return {row[0] for row in list_refs(repository, f"refs/heads/{BRANCH_PREFIX}", fields=("refname:lstrip=2",))}


def group_facts(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Return facts by the experiment that they are about."""
    grouped: dict[str, list[Fact]] = {}
    for fact in facts:
        grouped.setdefault(fact.record, []).append(fact)
    return grouped


def standing_of(tip: Tip, run: RunState | None, facts: Sequence[Fact], branches: set[str]) -> Standing:
    """Return what is known about an experiment beside its commits."""
    kinds = [fact.kind for fact in facts]
    verdicts = [fact.word for fact in facts if fact.kind in ("reproduced", "verified")]
    branch = branch_name(tip.study, tip.name)
    status = tip.status or (run.status if run else "running" if tip.remote and "launched" in kinds else "recorded")
    if run is not None and tip.status == "lost":
        status = run.status
    return Standing(
        status=status,
        branch=branch if branch in branches else None,
        best_verdict=_best(verdicts),
        reproductions=kinds.count("reproduced"),
        archived=kinds.count("archived") > kinds.count("unarchived"),
        withdrawn=kinds.count(_WITHDRAWN) > kinds.count(_RESTORED),
        jobs=_jobs(run),
        started=run.started if run else None,
    )


def _jobs(run: RunState | None) -> tuple[str, ...]:
    from nemo_gitexp.runs import read_state_file

    if run is None:
        return ()
    pid = read_state_file(run.paths.supervisor).get("pid")
    return (f"pid-{pid}",) if pid else ()


def _best(words: Sequence[str]) -> str | None:
    ranks = ("recorded", "restored", "executed", "metrics", "bitwise")
    known = [word for word in words if word.partition("[")[0] in ranks]
    return max(known, key=lambda word: ("[" not in word, ranks.index(word.partition("[")[0])), default=None)


def apply_standing(static: ExperimentDoc, tip: Tip, standing: Standing) -> ExperimentDoc:
    """Return a cached document with what may have changed since filled in."""
    document = cast("ExperimentDoc", dict(static))
    document["ref"] = tip.ref
    document["status"] = standing.status
    document["branch"] = standing.branch
    document["reproductions"] = {"best": standing.best_verdict, "count": standing.reproductions}
    document["archived"], document["withdrawn"] = standing.archived, standing.withdrawn
    document["jobs"] = document["jobs"] or list(standing.jobs)
    document["started"] = document["started"] or standing.started
    return document


def _static_documents(repository: Repository, tips: Sequence[Tip]) -> dict[str, ExperimentDoc | RecordError]:
    """Return by tip sha the documents that depend on commits alone, from the cache where it has them."""
    cache = repository.state_dir / "listing.db"
    found: dict[str, ExperimentDoc | RecordError] = dict(_read_cache(cache, [tip.sha for tip in tips]))
    missing = [tip for tip in tips if tip.sha not in found]
    fresh: dict[str, ExperimentDoc] = {}
    for tip, item in zip(missing, read_experiments_or_faults(repository, missing), strict=True):
        if isinstance(item, RecordError):
            found[tip.sha] = item
        else:
            found[tip.sha] = fresh[tip.sha] = _document(item)
    if fresh:
        _write_cache(cache, fresh)
    return found


def _document(experiment: Experiment) -> ExperimentDoc:
    tip = experiment.tip
    return experiment_document(
        sha=tip.record,
        ref=tip.ref,
        record=experiment.record,
        config=experiment.config,
        result_sha=tip.result,
        result=experiment.result,
        run=experiment.run,
        standing=Standing(status=tip.status or "recorded", branch=None),
    )


def _read_cache(path: Path, shas: Sequence[str]) -> dict[str, ExperimentDoc]:
    if not path.exists():
        return {}
    wanted = set(shas)
    try:
        with closing(sqlite3.connect(path)) as database:
            if len(wanted) > 200:
                rows = database.execute("SELECT tip, document FROM documents WHERE version = ?", (CACHE_VERSION,))
            else:
                marks = ",".join("?" * len(wanted))
                query = f"SELECT tip, document FROM documents WHERE version = ? AND tip IN ({marks})"  # noqa: S608
                rows = database.execute(query, (CACHE_VERSION, *wanted))
            return {tip: json.loads(document) for tip, document in rows if tip in wanted}
    except (sqlite3.Error, ValueError):
        return {}


def _write_cache(path: Path, documents: Mapping[str, ExperimentDoc]) -> None:
    rows = [(tip, CACHE_VERSION, json.dumps(document)) for tip, document in documents.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=1)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS documents (tip TEXT PRIMARY KEY, version INT, document TEXT)")
            database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", rows)
    except (sqlite3.Error, OSError):
        # A cache that cannot be written (read-only, full disk) costs time, never an answer.
        return


def current_tip(repository: Repository, tip: Tip) -> Tip:
    """Return the tip as its ref stands now."""
    sha = find_ref(repository, tip.ref)
    if sha == tip.sha:
        return tip
    return _as_they_are(repository, [tip])[0]
