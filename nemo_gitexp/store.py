"""Experiments as git objects: writing them, reading them, checking them against their commits.

The record commit is the experiment; its ref is created before anything runs and moves to the result by
compare-and-swap. What a hostile repository put there is checked when it is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from nemo_gitexp.errors import DocumentError, GitCommandError, RecordError, StateDirectoryError
from nemo_gitexp.git.objects import (
    NewCommit,
    commit_tree,
    create_refs,
    delete_ref,
    find_ref,
    import_commit,
    import_commits,
    list_refs,
    list_tree,
    read_blobs,
    read_changes,
    read_commit,
    temporary_ref,
    write_commit,
)
from nemo_gitexp.git.repository import CommitSha, Identity, RefName, Repository
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue, parse_json
from nemo_gitexp.record import RESULT_FILES, ExperimentRecord, parse_document, parse_record, render_record
from nemo_gitexp.result import ResultFiles, check_result, check_run
from nemo_gitexp.tips import Tip, local_ref, move_branch
from nemo_gitexp.versioning import config_hash

Parsed = TypeVar("Parsed")

_FEW_NAMES = 100
"""Of so many names git is asked one by one whether they are taken; of more, all of the study are read."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment as its commits hold it."""

    tip: Tip
    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    result: Mapping[str, JsonValue] | None
    run: Mapping[str, JsonValue] | None

    @property
    def sha(self) -> CommitSha:
        """The record commit: THE experiment."""
        return self.tip.record


@dataclass(frozen=True, slots=True)
class Draft:
    """An experiment about to be recorded: complete but for the name's suffix and the code commit.

    `carried` are more files of the record, by name.
    """

    record: ExperimentRecord
    head: CommitSha
    config: bytes
    environment: bytes
    carried: Mapping[str, bytes]
    author: Identity
    committer: Identity
    sign: bool


def record_directory(study: str) -> str:
    """Return the directory that belongs to the machine, relative to the root."""
    return f"experiments/{study}/record"


def write_experiments(
    repository: Repository, drafts: Sequence[Draft], code: CommitSha | None = None
) -> list[Experiment]:
    """Record experiments of one snapshot, in as few git processes as one; all or nothing.

    They stand on one code commit: `code` where there is one already, HEAD where nothing differs from it.

    Raises:
        GitCommandError: git refused for another reason than the names.
    """
    if not drafts:
        return []
    code = code or _write_code(repository, drafts)
    for _ in range(5):  # each time somebody else took one of the names meanwhile
        named = _with_free_names(repository, drafts)
        refs = [local_ref(draft.record.study, draft.record.name) for draft in named]
        try:
            shas = _write_records(repository, refs, named, code)
        except GitCommandError:
            if not any(find_ref(repository, ref) for ref in refs):
                raise
            continue
        return [
            _written(ref, sha, _on_code(draft.record, code), draft.config)
            for ref, sha, draft in zip(refs, shas, named, strict=True)
        ]
    raise StateDirectoryError(f"no free name for {drafts[0].record.name}", hint="nemo-gitexp log --all")


def _with_free_names(repository: Repository, drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts with names that nobody has: the wanted one, or that with `-2`, `-3`, …."""
    prefixes = dict.fromkeys(f"{local_ref(draft.record.study, draft.record.name)}*" for draft in drafts)
    if len(prefixes) > _FEW_NAMES:
        prefixes = dict.fromkeys(f"{local_ref(draft.record.study, '')}" for draft in drafts)
    taken = {row[0] for row in list_refs(repository, *prefixes, fields=("refname",))}
    names: dict[str, Iterator[str]] = {}
    named: list[Draft] = []
    for draft in drafts:
        record = draft.record
        wanted = names.setdefault(local_ref(record.study, record.name), _names_like(record.name))
        name = next(name for name in wanted if local_ref(record.study, name) not in taken)
        named.append(replace(draft, record=replace(record, name=name)))
    return named


def _names_like(name: str) -> Iterator[str]:
    yield name
    for suffix in itertools.count(2):
        yield f"{name}-{suffix}"


def _write_records(
    repository: Repository, refs: Sequence[RefName], drafts: Sequence[Draft], code: CommitSha
) -> list[CommitSha]:
    """Write the record commits and create their refs, all or none."""
    commits = [record_commit(draft, code) for draft in drafts]
    if len(drafts) == 1 and not drafts[0].sign:
        return [import_commit(repository, refs[0], commits[0])]
    waiting = temporary_ref()
    shas = unsigned = import_commits(repository, [(waiting, commit) for commit in commits])
    try:
        if drafts[0].sign:
            trees = repository.text("rev-parse", *(f"{sha}^{{tree}}" for sha in shas)).split()
            shas = [
                commit_tree(repository, commit, tree, sign=True) for commit, tree in zip(commits, trees, strict=True)
            ]
        create_refs(repository, dict(zip(refs, shas, strict=True)))
        return shas
    finally:
        delete_ref(repository, waiting, unsigned[-1])


def _written(ref: RefName, sha: CommitSha, record: ExperimentRecord, config: bytes) -> Experiment:
    tip = Tip(
        ref=ref,
        study=record.study,
        name=record.name,
        sha=sha,
        record=sha,
        status=None,
        identity=record.identity,
        config_hash=record.config_hash,
        seed=str(record.seed),
        created=record.created,
        remote=None,
        parents=record.parents,
    )
    return Experiment(tip, record, parse_config(config, "config.json"), None, None)


def _on_code(record: ExperimentRecord, code: CommitSha) -> ExperimentRecord:
    return replace(record, code=replace(record.code, commit=code))


@contextmanager
def holding_experiment(repository: Repository, draft: Draft) -> Iterator[Experiment]:
    """Write an experiment that is none: its commits are there to be run, under a temporary ref, and nobody lists it.

    Should this process be killed, tidying takes the ref.
    """
    waiting, code = temporary_ref(), _write_code(repository, [replace(draft, sign=False)])
    sha = import_commit(repository, waiting, record_commit(draft, code))
    try:
        yield _written(waiting, sha, _on_code(draft.record, code), draft.config)
    finally:
        delete_ref(repository, waiting, sha)


def _write_code(repository: Repository, drafts: Sequence[Draft]) -> CommitSha:
    """Return the commit that holds the code of all drafts: HEAD where nothing differs from it."""
    draft = drafts[0]
    if not draft.record.code.dirty:
        return draft.head
    return commit_tree(repository, _code_commit(draft, len(drafts)), draft.record.code.tree, sign=draft.sign)


def _code_commit(draft: Draft, count: int) -> NewCommit:
    record = draft.record
    captured = "".join(f"untracked: {path}\n" for path in record.code.untracked[:50])
    title = f"gitexp code: {record.study}/{record.name}" + (f" and {count - 1} more" if count > 1 else "")
    message = f"{title}\n\nThe work tree as it was, on top of {record.code.base}\n{captured}"
    return NewCommit(message, draft.author, draft.committer, parent=draft.head, tree=record.code.tree)


def record_commit(draft: Draft, code: CommitSha) -> NewCommit:
    """Return the record commit of a draft on its code."""
    record = _on_code(draft.record, code)
    directory = record_directory(record.study)
    documents = {
        "experiment.json": render_record(record),
        "config.json": draft.config,
        "environment.json": draft.environment,
    }
    files = {f"{directory}/{name}": content for name, content in {**draft.carried, **documents}.items()}
    message = f"gitexp record: {record.study}/{record.name}\n\n{_one_line(record.purpose)}\n\n{_trailers(record)}"
    return NewCommit(message, draft.author, draft.committer, parent=code, removed=(directory,), files=files)


def _trailers(record: ExperimentRecord, extra: Mapping[str, str] | None = None) -> str:
    values = {
        "Gitexp-Study": record.study,
        "Gitexp-Name": record.name,
        "Gitexp-Created": record.created,
        "Gitexp-Identity": record.identity or "unknown",
        "Gitexp-Config": record.config_hash,
        "Gitexp-Seed": str(record.seed),
        "Gitexp-Code": record.code.key,
        **({"Gitexp-Imported": record.imported.key} if record.imported else {}),
        **({"Gitexp-Parents": " ".join(parents)} if (parents := record.parents) else {}),
        **(extra or {}),
    }
    return "".join(f"{key}: {_one_line(value)}\n" for key, value in values.items())


def _one_line(text: str) -> str:
    # A newline in a value would inject a trailer; a purpose shaped like one ("Key: value") stands in its own paragraph.
    return " ".join(text.split()) or "-"


def write_result(repository: Repository, experiment: Experiment, files: ResultFiles, ended: str) -> CommitSha | None:
    """Write the result commit and move the experiment's ref from what it was to it.

    The bytes depend on record and run directory alone: author and committer are the record's, the date is
    the run's end, nothing is signed. A lost result is replaced, never built upon.

    Returns:
        The result commit, or None when the ref had moved to something else meanwhile.
    """
    record = experiment.record
    commit = result_commit(record, experiment.sha, files, _record_author(repository, experiment.sha, ended))
    sha = write_commit(repository, local_ref(record.study, record.name), commit, experiment.tip.sha)
    if sha is not None:
        move_branch(repository, experiment.tip, experiment.tip.sha, sha)
    return sha


def result_commit(record: ExperimentRecord, record_sha: CommitSha, files: ResultFiles, who: Identity) -> NewCommit:
    """Return the result commit of an experiment."""
    directory = record_directory(record.study)
    wanted = {"result.json": files.result, "run.json": files.run}
    if files.metrics is not None:
        wanted["metrics.jsonl"] = files.metrics
    trailers = _trailers(record, {"Gitexp-Record": record_sha, "Gitexp-Status": files.status})
    message = (
        f"gitexp result: {record.study}/{record.name}: {files.status}\n\n{_one_line(record.purpose)}\n\n{trailers}"
    )
    content = {f"{directory}/{name}": text for name, text in wanted.items()}
    return NewCommit(message, who, who, parent=record_sha, files=content)


def _record_author(repository: Repository, record_sha: str, ended: str) -> Identity:
    line = read_commit(repository, record_sha).author_line
    name, _, rest = line.partition(" <")
    seconds = int(datetime.fromisoformat(ended).timestamp())
    return Identity(name, rest.partition("> ")[0], f"{seconds} +0000")


def read_experiments(repository: Repository, tips: Sequence[Tip]) -> list[Experiment]:
    """Return the experiments of the tips, all objects in one process.

    Raises:
        RecordError: one of them is damaged; use `read_experiments_or_faults` to go on.
    """
    experiments = []
    for item in read_experiments_or_faults(repository, tips):
        if isinstance(item, RecordError):
            raise item
        experiments.append(item)
    return experiments


def read_experiments_or_faults(repository: Repository, tips: Sequence[Tip]) -> list[Experiment | RecordError]:
    """Return for each tip its experiment, or why it cannot be read."""
    files = ("experiment.json", "config.json", "result.json", "run.json")
    names = [f"{tip.sha}:{record_directory(tip.study)}/{file}" for tip in tips for file in files]
    blobs = read_blobs(repository, names, limit_bytes=MAX_DOCUMENT_BYTES)
    found: list[Experiment | RecordError] = []
    for number, tip in enumerate(tips):
        try:
            found.append(_parse_experiment(tip, blobs[number * 4 : number * 4 + 4]))
        except RecordError as fault:
            found.append(fault)
    return found


def _parse_experiment(tip: Tip, blobs: Sequence[bytes | None]) -> Experiment:
    texts = dict(zip(("experiment.json", "config.json", "result.json", "run.json"), blobs, strict=True))
    source = f"{tip.sha[:12]}:{record_directory(tip.study)}"
    if texts["experiment.json"] is None or texts["config.json"] is None:
        hint = f"git show {tip.sha[:12]} --stat; in a partial clone: git fetch, where its remote can be reached"
        raise RecordError(f"{source} holds no experiment, or not here", hint=hint, source=source)
    record = _document(parse_record, texts["experiment.json"], f"{source}/experiment.json")
    if (record.study, record.name) != (tip.study, tip.name):
        raise RecordError(
            f"{source} calls itself {record.study}/{record.name}", hint="git log " + tip.ref, source=source
        )
    if tip.parent not in (None, tip.record if tip.result else record.code.commit, tip.record):
        message = f"{source} does not stand on the commit that it names"
        raise RecordError(message, hint=_rewritten(tip.sha), source=source)
    config = _document(parse_config, texts["config.json"], f"{source}/config.json")
    result = run = None
    if tip.result is not None:
        if texts["result.json"] is None or texts["run.json"] is None:
            raise RecordError(f"{source} holds no result", hint=f"git show {tip.sha[:12]} --stat", source=source)
        result = _document(parse_document, texts["result.json"], f"{source}/result.json")
        run = _document(parse_document, texts["run.json"], f"{source}/run.json")
        check_result(result, tip.record, f"{source}/result.json")
        check_run(run, f"{source}/run.json")
    elif texts["result.json"] is not None:
        raise RecordError(
            f"{source} holds a result that its commit does not name", hint="git log " + tip.ref, source=source
        )
    return Experiment(tip, record, config, result, run)


def _document(parse: Callable[[bytes, str], Parsed], text: bytes, source: str) -> Parsed:
    try:
        return parse(text, source)
    except RecordError:
        raise
    except DocumentError as fault:
        raise RecordError(fault.message, hint="git fsck; nemo-gitexp log shows the others", source=source) from fault


def parse_config(text: bytes, source: str) -> Mapping[str, JsonValue]:
    """Return the configuration in a config.json."""
    config = parse_json(text, source)
    if not isinstance(config, Mapping):
        raise RecordError(f"{source} is no JSON mapping", source=source)
    return config


def verify_experiment(repository: Repository, experiment: Experiment) -> None:
    """Check that a record agrees with its own commits: nothing was rebased, edited or swapped.

    Raises:
        RecordError: the parent is not the code it names, a commit changes more than its part of the record, a file
            of the record is no plain file, or the configuration does not have the recorded hash.
    """
    record, sha = experiment.record, experiment.sha
    hint = _rewritten(sha)
    try:
        parents, changed = read_changes(repository, sha)
        tree = repository.text("rev-parse", f"{parents[0]}^{{tree}}") if parents else None
    except GitCommandError as fault:
        raise RecordError(f"{sha[:12]} is not whole in this repository", hint=deepen_hint(repository)) from fault
    if tree is None:
        raise RecordError(f"the code of {sha[:12]} is not in this repository", hint=deepen_hint(repository))
    if parents != (record.code.commit,) or tree != record.code.tree:
        raise RecordError(f"{sha[:12]} does not stand on the code that it names", hint=hint, experiment=sha)
    directory = record_directory(record.study)
    _require_inside(changed, [directory], sha, hint)
    if experiment.tip.result is not None:
        own = [f"{directory}/{name}" for name in RESULT_FILES]
        _require_inside(read_changes(repository, experiment.tip.sha)[1], own, experiment.tip.sha, hint)
    entries = list_tree(repository, experiment.tip.sha, directory + "/", recursive=False)
    odd = [entry.path for entry in entries if entry.mode != "100644"]
    if odd:
        raise RecordError(f"the record of {sha[:12]} holds something that is no plain file", hint=hint, paths=odd)
    if config_hash(experiment.config) != record.config_hash:
        raise RecordError(f"the configuration of {sha[:12]} does not have the recorded hash", hint=hint, experiment=sha)


def _rewritten(sha: str) -> str:
    return f"git log --stat {sha[:12]}; the experiment was rewritten after it was recorded"


def _require_inside(changed: Sequence[str], places: Sequence[str], sha: str, hint: str) -> None:
    outside = [path for path in changed if not any(path == place or path.startswith(f"{place}/") for place in places)]
    if outside:
        named = ", ".join(outside[:5])
        raise RecordError(f"{sha[:12]} changes more than its own files: {named}", hint=hint, paths=outside)


def deepen_hint(repository: Repository) -> str:
    """Return what to type when history is missing."""
    return "git fetch --unshallow" if repository.shallow else "git fetch --all"


def read_environment(repository: Repository, experiment: Experiment) -> Mapping[str, JsonValue]:
    """Return the environment document of an experiment."""
    name = f"{experiment.sha}:{record_directory(experiment.record.study)}/environment.json"
    (text,) = read_blobs(repository, [name], limit_bytes=MAX_DOCUMENT_BYTES)
    if text is None:
        raise RecordError(
            f"{experiment.sha[:12]} holds no environment.json", hint=f"git show {experiment.sha[:12]} --stat"
        )
    return _document(parse_document, text, name)


def read_metrics(repository: Repository, experiment: Experiment) -> bytes | None:
    """Return the committed metric stream, None when there is none in git."""
    name = f"{experiment.tip.sha}:{record_directory(experiment.record.study)}/{RESULT_FILES[2]}"
    (text,) = read_blobs(repository, [name], limit_bytes=MAX_DOCUMENT_BYTES)
    if text is not None and len(text) > MAX_DOCUMENT_BYTES:
        raise RecordError(f"{name} is longer than any stream that is kept in git", source=name)
    return text
