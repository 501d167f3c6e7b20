"""Recording the runs of another tool: each once, as an experiment with its result, many in one git.

A run is recognised by a trailer (`Imported.key`), also where only a remote's refs have it. The refs appear with the
results: nobody ever sees an imported experiment without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nemo_gitexp.asked import read_study
from nemo_gitexp.catalog import Site, list_entries
from nemo_gitexp.collect import output_store
from nemo_gitexp.definition import MetricGoal
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import RecordError, RepositoryError
from nemo_gitexp.git.changes import code_key
from nemo_gitexp.git.objects import (
    NewCommit,
    commit_tree,
    delete_ref,
    find_objects,
    import_commits,
    list_many_files,
    list_refs,
    parse_tree,
    temporary_ref,
)
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, Identity, Repository, TreeSha
from nemo_gitexp.groundwork import remote_url
from nemo_gitexp.imported import ForeignRun, Prepared, Skipped, UnfitRunError, left_by, prepare_run
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.naming import slug
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.record import CodeState, parse_record, render_record
from nemo_gitexp.result import build_result, experiment_document
from nemo_gitexp.store import Draft, read_experiments, record_commit, result_commit, write_result
from nemo_gitexp.tips import LOCAL_PREFIX, Tip, list_tips, local_ref

TOGETHER = 100
"""So many runs are written by one git, all or none; more would wait long in memory."""

UNKNOWN_ENVIRONMENT = render_json({"schema": 1, "captured": "unknown"})


@dataclass(frozen=True, slots=True)
class ImportAnswer:
    """What is recorded now, what was before, and what was left out, with the reason."""

    experiments: list[ExperimentDoc]
    already: list[ExperimentDoc]
    skipped: list[Skipped]


def import_runs(
    site: Site,
    runs: Sequence[ForeignRun],
    *,
    study: str | None,
    now: datetime,
    say: Callable[[str], None],
    plan_only: bool = False,
) -> ImportAnswer:
    """Record runs that are not recorded yet, and the end of those that had none when they were imported.

    Args:
        site: where.
        runs: what was read.
        study: where they go; None: the study named after what each belongs to in its tool.
        now: dates runs of which nobody knows when they were.
        say: told how it goes.
        plan_only: record nothing; `experiments` are what would be recorded.

    Raises:
        RepositoryError: there is no commit to record anything on.
        IdentityMissingError: git does not know the user.
        GitCommandError: git refused; what it took before is recorded.
    """
    repository = site.repository
    who = repository.begin_identities()
    unique = {run.key: run for run in runs}
    tips = _by_key(repository)
    new = [run for key, run in unique.items() if key not in tips or _has_ended_since(run, tips[key])]
    prepared, skipped = _prepare(site, new, study, now)
    if plan_only:
        names = _free_names(repository, prepared)
        planned = [_planned(item, name) for item, name in zip(prepared, names, strict=True)]
        already, damaged = _documents(site, {key: unique[key] for key in unique.keys() - {run.key for run in new}})
        return ImportAnswer(planned, already, skipped + damaged)
    author, committer = who.wait()
    with taking_turns(site.turns):  # two imports at once must not record a run twice
        tips = _by_key(repository)
        known = [(item, tips[item.foreign.key]) for item in prepared if item.foreign.key in tips]
        late = [(item, tip) for item, tip in known if _has_ended_since(item.foreign, tip)]
        skipped += [left for item, tip in late if (left := _finish(site, item, tip)) is not None]
        mine = [item for item in prepared if item.foreign.key not in tips]
        names = _free_names(repository, mine)
        drafts = [_draft(site, item, name, author, committer) for item, name in zip(mine, names, strict=True)]
        for start in range(0, len(mine), TOGETHER):
            _write(repository, mine[start : start + TOGETHER], drafts[start : start + TOGETHER])
            if len(mine) > TOGETHER:
                say(f"recorded {min(start + TOGETHER, len(mine))} of {len(mine)}")
    unfit = {item.key for item in skipped}
    done = {item.foreign.key for item in [*mine, *(item for item, _ in late)]} - unfit
    recorded, unread = _documents(site, {key: run for key, run in unique.items() if key in done})
    already, damaged = _documents(site, {key: run for key, run in unique.items() if key not in done | unfit})
    return ImportAnswer(recorded, already, skipped + unread + damaged)


def _by_key(repository: Repository) -> dict[str, Tip]:
    """Return the imported experiments by what tells their runs apart, a local one before a remote's."""
    return {tip.imported: tip for tip in reversed(list_tips(repository)) if tip.imported is not None}


def _has_ended_since(run: ForeignRun, tip: Tip) -> bool:
    """Return whether a run was imported before it had ended, and has ended by now."""
    return tip.status == "lost" and tip.remote is None and run.outcome is not None


def _finish(site: Site, item: Prepared, tip: Tip) -> Skipped | None:
    """Replace the result of a run that was imported before it had ended; None: done, or somebody was faster."""
    if item.record.config_hash != tip.config_hash:
        reason = f"its parameters have changed since it was imported as {tip.record[:12]}, before it had ended"
        return Skipped(item.foreign.run, reason, is_damaged=False, key=item.foreign.key)
    try:
        (found,) = read_experiments(site.repository, [replace(tip, sha=tip.record, status=None)])
    except RecordError as fault:
        return _unread(item.foreign, tip, fault)
    left = left_by(replace(item, record=found.record), found.sha)
    files = build_result(found.record, left, output_store(site.repository).add_bytes)
    write_result(site.repository, replace(found, tip=tip), files, left.ended)
    return None


def _prepare(
    site: Site, runs: Sequence[ForeignRun], study: str | None, now: datetime
) -> tuple[list[Prepared], list[Skipped]]:
    codes = _Codes(site, runs)
    goals: dict[str, tuple[MetricGoal, ...]] = {}
    prepared, skipped = [], []
    for run in runs:
        place = study or slug(run.group or run.tool)
        if place not in goals:
            goals[place] = _goals(site, place)
        try:
            item = prepare_run(run, place, codes.of(run), goals[place], now, knows_code=codes.knows(run))
            parse_record(render_record(item.record), "experiment.json")
            prepared.append(item)
        except UnfitRunError as fault:
            skipped.append(Skipped(run.run, str(fault), key=run.key))
        except RecordError as fault:
            skipped.append(Skipped(run.run, f"no record can hold it: {fault.message}", key=run.key))
    return sorted(prepared, key=lambda item: (item.record.created, item.foreign.key)), skipped


def _goals(site: Site, study: str) -> tuple[MetricGoal, ...]:
    root = site.repository.root
    has_definition = (root / "experiments" / study / "experiment.yaml").is_file()
    return read_study(root, study).metrics.goals if has_definition else ()


class _Codes:
    """The code of runs: the commits that they name, as far as they are here; HEAD stands for all others."""

    def __init__(self, site: Site, runs: Sequence[ForeignRun]) -> None:
        repository = site.repository
        head = repository.head()
        if head is None and runs:
            raise RepositoryError(
                "there is no commit yet that an experiment could stand on",
                hint='git add -A && git commit -m "first commit"',
            )
        self._head = CommitSha(head or "")
        named = {run.commit.lower() for run in runs if run.commit and FULL_SHA.fullmatch(run.commit.lower())}
        self._trees = _trees(repository, sorted({self._head, *named})) if runs else {}
        self._remote = remote_url(site.git_config)
        self._keys: dict[tuple[str, tuple[str, ...]], str] = {}
        self._submodules: dict[str, tuple[tuple[str, str], ...]] = {}
        self._look(repository, runs)

    def _look(self, repository: Repository, runs: Sequence[ForeignRun]) -> None:
        """Note what records say about each tree: its key, without the files that a run says are no code; submodules."""
        wanted: dict[str, set[tuple[str, ...]]] = {}
        for run in runs:
            wanted.setdefault(self._trees[self._commit(run)], set()).add(run.config_files)
        for tree, listing in list_many_files(repository, wanted):
            for files in wanted[tree]:
                self._keys[tree, files] = code_key(listing, paths=(), config_files=files)
            links = parse_tree(listing) if b"160000 commit" in listing else []
            self._submodules[tree] = tuple((entry.path, entry.sha) for entry in links if entry.kind == "commit")

    def _commit(self, run: ForeignRun) -> CommitSha:
        return CommitSha(str(run.commit).lower()) if self.knows(run) else self._head

    def knows(self, run: ForeignRun) -> bool:
        """Return whether the code that a run names is here."""
        return run.commit is not None and run.commit.lower() in self._trees

    def of(self, run: ForeignRun) -> CodeState:
        """Return the code of a run, or what stands for it."""
        commit = self._commit(run)
        tree = self._trees[commit]
        return CodeState(
            commit=commit,
            tree=tree,
            key=self._keys[tree, run.config_files],
            base=commit,
            dirty=False,
            untracked=(),
            remote=self._remote,
            submodules=self._submodules[tree],
            filtered=None,
        )


def _trees(repository: Repository, commits: Sequence[str]) -> dict[str, TreeSha]:
    """Return the trees of those commits that this repository has."""
    found = find_objects(repository, [f"{commit}^{{tree}}" for commit in commits])
    own = find_objects(repository, [f"{commit}^{{commit}}" for commit in commits])
    pairs = zip(commits, found, own, strict=True)
    return {commit: TreeSha(tree) for commit, tree, sha in pairs if tree is not None and sha == commit}


def _free_names(repository: Repository, prepared: Sequence[Prepared]) -> list[str]:
    """Return a name for each that no other experiment of its study has."""
    taken = {row[0] for row in list_refs(repository, LOCAL_PREFIX, fields=("refname",))}
    names = []
    for item in prepared:
        name, number = item.record.name, 1
        while local_ref(item.record.study, name) in taken:
            number += 1
            name = f"{item.record.name}-{number}"
        taken.add(local_ref(item.record.study, name))
        names.append(name)
    return names


def _draft(site: Site, item: Prepared, name: str, author: Identity, committer: Identity) -> Draft:
    return Draft(
        record=replace(item.record, name=name),
        head=CommitSha(item.record.code.commit),
        config=render_json(item.config),
        environment=UNKNOWN_ENVIRONMENT,
        carried={},
        author=author,
        committer=committer,
        sign="commit.gpgsign" in site.git_config and site.repository.flag("commit.gpgsign"),
    )


def _write(repository: Repository, prepared: Sequence[Prepared], drafts: Sequence[Draft]) -> None:
    """Write experiments with their results, then create their refs."""
    waiting = temporary_ref()
    commits = [record_commit(draft, draft.head) for draft in drafts]
    shas = import_commits(repository, [(waiting, commit) for commit in commits])
    last = shas[-1]
    try:
        if drafts[0].sign:
            trees = find_objects(repository, [f"{sha}^{{tree}}" for sha in shas])
            shas = [
                commit_tree(repository, commit, str(tree), sign=True)
                for commit, tree in zip(commits, trees, strict=True)
            ]
        import_commits(repository, list(_results(repository, prepared, drafts, shas)))
    finally:
        delete_ref(repository, waiting, last)


def _results(
    repository: Repository, prepared: Sequence[Prepared], drafts: Sequence[Draft], shas: Sequence[CommitSha]
) -> Iterator[tuple[str, NewCommit]]:
    store = output_store(repository)
    for item, draft, sha in zip(prepared, drafts, shas, strict=True):
        files = build_result(draft.record, left_by(item, sha), store.add_bytes)
        commit = result_commit(draft.record, sha, files, draft.author)
        yield local_ref(draft.record.study, draft.record.name), commit


def _planned(item: Prepared, name: str) -> ExperimentDoc:
    record = replace(item.record, name=name)
    ref = local_ref(record.study, name)
    return experiment_document(sha="", ref=ref, record=record, config=item.config, status="planned")


def _documents(site: Site, runs: Mapping[str, ForeignRun]) -> tuple[list[ExperimentDoc], list[Skipped]]:
    """Return the experiments that are these runs, by key, oldest first, and which of them cannot be read."""
    found = [tip for key, tip in _by_key(site.repository).items() if key in runs]
    tips = sorted(found, key=lambda tip: (tip.created, tip.name))
    documents, unread = [], []
    for tip, item in zip(tips, list_entries(site, tips, {}) if tips else [], strict=True):
        if isinstance(item, RecordError):
            unread.append(_unread(runs[str(tip.imported)], tip, item))
        else:
            documents.append(item.document)
    return documents, unread


def _unread(run: ForeignRun, tip: Tip, fault: RecordError) -> Skipped:
    reason = f"it is recorded as {tip.record[:12]}, which cannot be read: {fault.message}"
    return Skipped(run.run, reason, key=run.key)
