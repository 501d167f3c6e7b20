"""Experiments as git objects: writing them, listing and reading them, moving their refs.

The record commit is the experiment; its ref is created before anything runs and moves to the result by
compare-and-swap. What a hostile repository put there is checked when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from nemo_gitexp.errors import DocumentError, GitCommandError, RecordError, StateDirectoryError
from nemo_gitexp.git.objects import (
    TEMPORARY_REFS,
    CommitWriter,
    NewCommit,
    delete_ref,
    find_ref,
    list_refs,
    list_tree,
    move_ref,
    read_blobs,
    read_changes,
    read_commit,
    signed_commit,
    temporary_ref,
    write_commit,
)
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, Identity, RefName, Repository
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue, parse_json
from nemo_gitexp.record import RESULT_FILES, ExperimentRecord, parse_document, parse_record, render_record
from nemo_gitexp.result import ResultFiles, check_result, check_run
from nemo_gitexp.versioning import config_hash

LOCAL_PREFIX = "refs/gitexp/"
REMOTE_PREFIX = "refs/gitexp-remotes/"
BRANCH_PREFIX = "exp/"
Parsed = TypeVar("Parsed")
_REMOTE_REF = re.compile(r"refs/gitexp-remotes/(?P<remote>[^/]+)/gitexp/(?P<rest>.+)")


@dataclass(frozen=True, slots=True)
class Tip:
    """One experiment's ref as listings see it, from trailers alone (an index: the files are the truth).

    `sha` is the tip, `record` the record commit; `status` None while there is no result. `parent` is what the
    listed commit stands on, None where a shallow clone ends.
    """

    ref: str
    study: str
    name: str
    sha: CommitSha
    record: CommitSha
    status: str | None
    identity: str | None
    config_hash: str
    seed: str
    created: str
    remote: str | None
    parent: str | None = None

    @property
    def result(self) -> CommitSha | None:
        """The result commit, if there is one."""
        return self.sha if self.sha != self.record else None


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
    """An experiment about to be recorded: complete but for the name's suffix and the code commit."""

    record: ExperimentRecord
    head: CommitSha
    config: bytes
    environment: bytes
    author: Identity
    committer: Identity
    sign: bool


def record_directory(study: str) -> str:
    """Return the directory that belongs to the machine, relative to the root."""
    return f"experiments/{study}/record"


def local_ref(study: str, name: str) -> RefName:
    """Return the ref that is the truth about an experiment."""
    return RefName(f"{LOCAL_PREFIX}{study}/{name}")


def branch_name(study: str, name: str) -> str:
    """Return the branch for people, without `refs/heads/`."""
    return f"{BRANCH_PREFIX}{study}/{name}"


def write_experiment(repository: Repository, draft: Draft) -> Experiment:
    """Record an experiment: code commit if the tree is dirty, record commit, ref; all or nothing.

    A name that is taken gets `-2`, `-3`, … so that no two experiments share a ref.

    Raises:
        GitCommandError: git refused for another reason than the name.
    """
    for suffix in range(1, 1000):
        name = draft.record.name if suffix == 1 else f"{draft.record.name}-{suffix}"
        ref = local_ref(draft.record.study, name)
        if find_ref(repository, ref) is not None:
            continue
        named = replace(draft, record=replace(draft.record, name=name))
        try:
            sha, code = _write_signed(repository, ref, named) if draft.sign else _write_plain(repository, ref, named)
        except GitCommandError:
            if find_ref(repository, ref) is None:
                raise
            continue
        return _written(ref, sha, _on_code(named.record, code), draft.config)
    raise StateDirectoryError(f"no free name for {draft.record.name}", hint="nemo-gitexp log --all")


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
    )
    return Experiment(tip, record, parse_config(config, "config.json"), None, None)


def _on_code(record: ExperimentRecord, code: CommitSha) -> ExperimentRecord:
    return replace(record, code=replace(record.code, commit=code))


def _write_plain(repository: Repository, ref: str, draft: Draft) -> tuple[CommitSha, CommitSha]:
    with CommitWriter(repository, ref) as writer:
        code = writer.add(_code_commit(draft)) if draft.record.code.dirty else draft.head
        return writer.add(_record_commit(draft, code)), code


def _write_signed(repository: Repository, ref: RefName, draft: Draft) -> tuple[CommitSha, CommitSha]:
    code = draft.head
    if draft.record.code.dirty:
        code = signed_commit(repository, _code_commit(draft), draft.record.code.tree)
    waiting = temporary_ref()
    commit = _record_commit(draft, code)
    with CommitWriter(repository, waiting) as writer:
        unsigned = writer.add(commit)
    try:
        tree = repository.text("rev-parse", f"{unsigned}^{{tree}}")
        sha = signed_commit(repository, commit, tree)
        if not move_ref(repository, ref, sha, None):
            raise GitCommandError(f"{ref} was taken by another process")
        return sha, code
    finally:
        delete_ref(repository, waiting, unsigned)


def _code_commit(draft: Draft) -> NewCommit:
    record = draft.record
    captured = "".join(f"untracked: {path}\n" for path in record.code.untracked[:50])
    title = f"gitexp code: {record.study}/{record.name}"
    message = f"{title}\n\nThe work tree as it was, on top of {record.code.base}\n{captured}"
    return NewCommit(message, draft.author, draft.committer, parent=draft.head, tree=record.code.tree)


def _record_commit(draft: Draft, code: CommitSha) -> NewCommit:
    record = _on_code(draft.record, code)
    directory = record_directory(record.study)
    files = {
        f"{directory}/experiment.json": render_record(record),
        f"{directory}/config.json": draft.config,
        f"{directory}/environment.json": draft.environment,
    }
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
        **(extra or {}),
    }
    return "".join(f"{key}: {_one_line(value)}\n" for key, value in values.items())


def _one_line(text: str) -> str:
    # A newline in a value would inject a trailer; a purpose shaped like one ("Key: value") stands in its own paragraph.
    return " ".join(text.split()) or "-"


def write_branch(repository: Repository, tip: Tip) -> str | None:
    """Create the branch for people; return its name, or None when a name stands in the way."""
    branch = branch_name(tip.study, tip.name)
    return branch if move_ref(repository, RefName(f"refs/heads/{branch}"), tip.sha, None) else None


def write_result(repository: Repository, experiment: Experiment, files: ResultFiles, ended: str) -> CommitSha | None:
    """Write the result commit and move the experiment's ref from what it was to it.

    The bytes depend on record and run directory alone: author and committer are the record's, the date is
    the run's end, nothing is signed. A lost result is replaced, never built upon.

    Returns:
        The result commit, or None when the ref had moved to something else meanwhile.
    """
    record = experiment.record
    directory = record_directory(record.study)
    who = _record_author(repository, experiment.sha, ended)
    wanted = {"result.json": files.result, "run.json": files.run}
    if files.metrics is not None:
        wanted["metrics.jsonl"] = files.metrics
    trailers = _trailers(record, {"Gitexp-Record": experiment.sha, "Gitexp-Status": files.status})
    message = (
        f"gitexp result: {record.study}/{record.name}: {files.status}\n\n{_one_line(record.purpose)}\n\n{trailers}"
    )
    commit = NewCommit(
        message,
        who,
        who,
        parent=experiment.sha,
        files={f"{directory}/{name}": content for name, content in wanted.items()},
    )
    sha = write_commit(repository, local_ref(record.study, record.name), commit, experiment.tip.sha)
    if sha is not None:
        move_branch(repository, experiment.tip, experiment.tip.sha, sha)
    return sha


def _record_author(repository: Repository, record_sha: str, ended: str) -> Identity:
    line = read_commit(repository, record_sha).author_line
    name, _, rest = line.partition(" <")
    seconds = int(datetime.fromisoformat(ended).timestamp())
    return Identity(name, rest.partition("> ")[0], f"{seconds} +0000")


def move_branch(repository: Repository, tip: Tip, old: CommitSha, new: CommitSha) -> None:
    """Move an experiment's branch along, unless somebody moved it or has it checked out."""
    ref = RefName(f"refs/heads/{branch_name(tip.study, tip.name)}")
    if find_ref(repository, ref) != old:
        return
    listed = repository.text("worktree", "list", "--porcelain", "-z").split("\0")
    if f"branch {ref}" not in listed:
        move_ref(repository, ref, new, old)


def list_tips(repository: Repository, *, remotes: bool = True) -> list[Tip]:
    """Return every experiment's ref, local ones first; a remote's copy counts only where it knows more.

    Reads commit messages only; one process.
    """
    prefixes = [LOCAL_PREFIX, REMOTE_PREFIX] if remotes else [LOCAL_PREFIX]
    fields = ("refname", "objectname", "objecttype", "parent", "contents:body")
    tips = [_parse_tip(*row) for row in list_refs(repository, *prefixes, fields=fields)]
    found: dict[tuple[str, str, str], Tip] = {}
    # Git lists refs/gitexp-remotes/ before refs/gitexp/.
    for tip in sorted(filter(None, tips), key=lambda tip: tip.remote is not None):
        key = (tip.study, tip.name, tip.record)
        known = found.get(key)
        # A local "lost" gives way to somebody's real result; in all else the local ref is the truth.
        if known is None or (known.status in (None, "lost") and tip.status not in (None, "lost")):
            found[key] = tip
    return list(found.values())


def _parse_tip(ref: str, sha: str, kind: str, parent: str, body: str) -> Tip | None:
    remote, rest = None, ref.removeprefix(LOCAL_PREFIX)
    if ref.startswith(REMOTE_PREFIX):
        match = _REMOTE_REF.fullmatch(ref)
        if match is None:
            return None
        remote, rest = match["remote"], match["rest"]
    study, slash, name = rest.partition("/")
    if not slash or "/" in name or kind != "commit":
        return None
    values = dict(line.partition(": ")[::2] for line in body.splitlines() if line.startswith("Gitexp-"))
    record = values.get("Gitexp-Record", sha)
    if not FULL_SHA.fullmatch(record):
        return None
    identity = values.get("Gitexp-Identity")
    return Tip(
        ref=ref,
        study=study,
        name=name,
        sha=CommitSha(sha),
        record=CommitSha(record),
        status=values.get("Gitexp-Status"),
        identity=None if identity == "unknown" else identity,
        config_hash=values.get("Gitexp-Config", ""),
        seed=values.get("Gitexp-Seed", ""),
        created=values.get("Gitexp-Created", ""),
        remote=remote,
        parent=parent or None,
    )


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
        raise RecordError(f"{source} holds no experiment", hint=f"git show {tip.sha[:12]} --stat", source=source)
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
    return read_blobs(repository, [name], limit_bytes=MAX_DOCUMENT_BYTES)[0]


def remove_stale_locks(repository: Repository, older_than_s: float, now_s: float) -> None:
    """Delete lock files on our own refs that a killed process left; nobody else's."""
    for prefix in (LOCAL_PREFIX, "refs/gitexp-facts/", TEMPORARY_REFS):
        directory = Path(repository.common_dir, *prefix.strip("/").split("/"))
        for lock in directory.rglob("*.lock"):
            try:
                if now_s - lock.stat().st_mtime > older_than_s:
                    lock.unlink()
            except OSError:  # gone meanwhile, or not ours to remove
                continue
