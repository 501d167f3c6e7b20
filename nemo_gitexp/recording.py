"""From what a person asked for to a recorded experiment: define, snapshot, pin, identify, record.

Runs nothing. The user's index, HEAD and files stay as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.addresses import DEFAULT_PLACE
from nemo_gitexp.asked import Asked, Defined, define
from nemo_gitexp.catalog import Site
from nemo_gitexp.command import live_paths, require_script, require_workdir
from nemo_gitexp.definition import DEFAULT_SEED, OutputSpec, StudyDefinition
from nemo_gitexp.entry import CommandEntry, Entry, expand_placeholders
from nemo_gitexp.environment import Environment, available_cores, capture_environment
from nemo_gitexp.errors import (
    GitCommandError,
    SnapshotRefusedError,
    UsageError,
)
from nemo_gitexp.filtered import look_at_filtered
from nemo_gitexp.git.changes import code_key
from nemo_gitexp.git.objects import find_objects, list_files
from nemo_gitexp.git.repository import Identities, Repository
from nemo_gitexp.git.snapshot import (
    MEGABYTE,
    Look,
    Snapshot,
    SnapshotLimits,
    begin_look,
    require_harmless,
    take_snapshot,
)
from nemo_gitexp.inputpin import InputPin, input_files
from nemo_gitexp.interpreters import probe_interpreter, resolve_interpreter
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.naming import ExperimentNaming
from nemo_gitexp.record import CodeState, ExperimentRecord, identity_of
from nemo_gitexp.secretcheck import require_no_secrets
from nemo_gitexp.settings import require_executor
from nemo_gitexp.sitevalues import bind_site
from nemo_gitexp.stages import AnyEntry, StagesEntry, python_of, simple_entries, visible_config
from nemo_gitexp.store import Draft, Experiment, record_directory, write_experiment
from nemo_gitexp.tips import write_branch
from nemo_gitexp.topology import shaped, topology
from nemo_gitexp.versioning import config_hash
from nemo_gitexp.worker.publicurl import public_url


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment ready to be recorded, and what surrounds it.

    `carried` goes into the record beside the documents; `notes` are worth a line each.
    """

    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    environment: bytes
    carried: Mapping[str, bytes]
    snapshot: Snapshot
    interpreter: Path | None
    probe_interpreter: Path | None
    notes: tuple[str, ...]


def plan_experiment(site: Site, asked: Asked, now: datetime, look: Look | None = None) -> Plan:
    """Return the experiment that `asked` means in the present state of the work tree; `look` is a start on it.

    Side effects: git objects for the snapshot; with `commit_data` the user's DVC pointers.

    Raises:
        GitexpError: whatever makes it impossible, before anything is recorded.
    """
    return plan_defined(site, asked, define(site.repository.root, asked), now, look)


def plan_defined(site: Site, asked: Asked, defined: Defined, now: datetime, look: Look | None = None) -> Plan:
    """Return the experiment that a definition means in the present state of the work tree.

    Args:
        site: where.
        asked: what the person wants beside the definition: seed, executor, determinism.
        defined: what runs, with its resolved configuration.
        now: dates the experiment's name.
        look: a look at the work tree under way, if one was started earlier.

    Side effects: git objects for the snapshot; with `commit_data` the user's DVC pointers.

    Raises:
        GitexpError: whatever makes it impossible, before anything is recorded.
    """
    repository = site.repository
    if not asked.brings_executor:
        require_executor(site.settings, _executor(asked, defined.definition))
    _require_reason(asked, defined.definition)
    if asked.commit_data:
        _commit_data(repository, defined.definition)
        look = None
    require_harmless(defined.carried, snapshot_limits(site))
    require_no_secrets(defined, asked.env, snapshot_limits(site).allows)
    look = look or begin_look(repository)
    # Before the snapshot: git is still looking at the files.
    interpreter, probe, environment = _environment(site, defined.entry, asked)
    snapshot = take_snapshot(repository, snapshot_limits(site), look)
    if asked.require_clean and (snapshot.dirty or snapshot.untracked):
        raise SnapshotRefusedError(
            "the work tree differs from HEAD", hint="git status; git commit -a, or leave out --require-clean"
        )
    defined = _resolved(site, asked, defined, snapshot, interpreter)
    record = _record(site, asked, defined, snapshot, environment.key if environment else None, now)
    _check_placeholders(record, defined.config, site.settings.site)
    notes = [*_notes(record), *_live_notes(record, repository.root)]
    return Plan(
        record=record,
        config=defined.config,
        environment=render_json(environment.to_json() if environment else {"schema": 1, "captured": "job"}),
        carried=defined.carried,
        snapshot=snapshot,
        interpreter=interpreter,
        probe_interpreter=probe,
        notes=tuple(notes),
    )


def _resolved(site: Site, asked: Asked, defined: Defined, snapshot: Snapshot, interpreter: Path | None) -> Defined:
    if not defined.unresolved or interpreter is None:
        return defined
    from nemo_gitexp.recipes import Surroundings, resolve_calls  # 20 ms that others need not pay

    places = [spec.path or DEFAULT_PLACE for spec in defined.definition.data]
    _require_scripts(site, defined, list_files(site.repository, snapshot.tree), places)
    made = resolve_calls(site, defined, snapshot, Surroundings(interpreter, asked.env), asked.seed)
    require_no_secrets(made, asked.env, snapshot_limits(site).allows)
    return made


def _record(
    site: Site, asked: Asked, defined: Defined, snapshot: Snapshot, environment_key: str | None, now: datetime
) -> ExperimentRecord:
    """Return the record of this snapshot; its code commit is not made yet and stands as HEAD."""
    repository, definition = site.repository, defined.definition
    listing = list_files(repository, snapshot.tree)
    pins = _pin(site, definition, snapshot.tree, listing, asked.env)
    _require_scripts(site, defined, listing, [pin.path for pin in pins])
    hashed = config_hash(defined.config)
    seed = _seed(asked, definition)
    determinism = _determinism(asked, definition)
    record = ExperimentRecord(
        study=defined.study,
        name=defined.name or experiment_name(definition, hashed, now),
        nonce=uuid.uuid4().hex[:8],
        created=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        purpose=definition.purpose,
        expected=definition.expected,
        model=definition.model,
        dataset=definition.dataset,
        type=definition.type,
        sweep=asked.sweep,
        code=_code(site, definition, snapshot, listing),
        config_hash=hashed,
        config_file=definition.config_file,
        seed=seed,
        seed_is_default=asked.seed is None and definition.seed is None,
        determinism=determinism,
        determinism_reason=definition.determinism_reason or (asked.message if determinism == "off" else None),
        topology=_topology(site, asked, defined, determinism, seed),
        inputs=tuple(pins),
        environment_key=environment_key,
        entry=defined.entry,
        ad_hoc=defined.ad_hoc,
        workdir=defined.workdir,
        outputs=_outputs(defined),
        metrics=definition.metrics,
        executor=_executor(asked, definition),
        identity=None,
        tracked=defined.tracked,
    )
    return replace(record, identity=identity_of(record))


def _require_scripts(site: Site, defined: Defined, listing: bytes, inputs: Sequence[str]) -> None:
    """Check that scripts and working directory are part of what is recorded: the code, the record itself, an input."""
    known = [*inputs, *(f"{record_directory(defined.study)}/{name}" for name in defined.carried)]
    for entry in simple_entries(defined.entry):
        require_script(entry, site.repository.root, defined.workdir, listing, known)
    if defined.tracked is None:
        require_workdir(defined.workdir, listing, known)


def _topology(site: Site, asked: Asked, defined: Defined, determinism: str, seed: int) -> Mapping[str, JsonValue]:
    if defined.topology is not None:
        return defined.topology
    found = topology(determinism, asked.env, site.settings.threads or available_cores(), seed)
    return found if defined.shape is None else shaped(found, defined.shape)


def _outputs(defined: Defined) -> tuple[OutputSpec, ...]:
    """Return what the job must make: of a pipeline every stage's directory, and the files in them that are named."""
    if not isinstance(defined.entry, StagesEntry):
        return defined.definition.outputs
    return tuple(
        OutputSpec(f"{stage.name}/{path}".rstrip("/"))
        for stage in defined.entry.stages
        for path in ("", *stage.outputs)
    )


def _code(site: Site, definition: StudyDefinition, snapshot: Snapshot, listing: bytes) -> CodeState:
    repository = site.repository
    config_files = [definition.config_file] if definition.config_file else []
    return CodeState(
        commit=snapshot.head,
        tree=snapshot.tree,
        key=code_key(listing, paths=definition.code, config_files=config_files),
        base=snapshot.head,
        dirty=snapshot.dirty,
        untracked=snapshot.untracked,
        remote=remote_url(site.git_config),
        submodules=snapshot.submodules,
        filtered=look_at_filtered(repository, repository.root, listing, snapshot.submodules),
    )


def record_plan(site: Site, plan: Plan, who: Identities) -> tuple[Experiment, str | None]:
    """Record the experiment and return it with its branch for people.

    There is no branch (None) for one of a sweep, and when a name stands in its way.

    Args:
        site: where.
        plan: what.
        who: the user, whom git was asked for earlier.

    Raises:
        IdentityMissingError: git does not know the user.
        GitCommandError: git refused (full disk, read-only).
    """
    repository = site.repository
    author, committer = who.wait()
    draft = Draft(
        record=plan.record,
        head=plan.snapshot.head,
        config=render_json(plan.config),
        environment=plan.environment,
        carried=plan.carried,
        author=author,
        committer=committer,
        sign="commit.gpgsign" in site.git_config and repository.flag("commit.gpgsign"),
    )
    try:
        experiment = write_experiment(repository, draft)
    except GitCommandError:
        if not _snapshot_was_pruned(site, plan.snapshot):
            raise
        experiment = write_experiment(repository, draft)
    return experiment, None if plan.record.sweep else write_branch(repository, experiment.tip)


def _snapshot_was_pruned(site: Site, snapshot: Snapshot) -> bool:
    """Return whether a `git gc` elsewhere took the snapshot's objects, which nothing names yet; they are made anew."""
    repository = site.repository
    if find_objects(repository, [snapshot.tree])[0] is not None:
        return False
    return take_snapshot(repository, snapshot_limits(site), begin_look(repository)).tree == snapshot.tree


def snapshot_limits(site: Site) -> SnapshotLimits:
    """Return the settings that guard snapshots."""
    settings = site.settings
    return SnapshotLimits(
        max_untracked_file_bytes=int(settings.max_untracked_file_mb * MEGABYTE),
        max_untracked_total_bytes=int(settings.max_untracked_total_mb * MEGABYTE),
        secrets_allowed=settings.secrets_allowed,
    )


def _pin(site: Site, definition: StudyDefinition, tree: str, listing: bytes, env: Mapping[str, str]) -> list[InputPin]:
    if not definition.data:
        return []
    from nemo_gitexp.inputs import pin_inputs  # 20 ms that a study without data need not pay

    return pin_inputs(site, definition.data, tree, listing, env)


def _commit_data(repository: Repository, definition: StudyDefinition) -> None:
    if definition.data:
        from nemo_gitexp.inputs import commit_inputs

        commit_inputs(repository, definition.data)


def _seed(asked: Asked, definition: StudyDefinition) -> int:
    if asked.seed is not None:
        return asked.seed
    return DEFAULT_SEED if definition.seed is None else definition.seed


def _determinism(asked: Asked, definition: StudyDefinition) -> str:
    return asked.determinism or definition.determinism


def _executor(asked: Asked, definition: StudyDefinition) -> str:
    return asked.executor or definition.executor or "local"


def _require_reason(asked: Asked, definition: StudyDefinition) -> None:
    if _determinism(asked, definition) == "off" and not definition.determinism_reason and not asked.message:
        raise UsageError(
            "determinism off needs a reason",
            hint='--determinism off -m "why", or determinism_reason: in experiment.yaml',
        )


def experiment_name(definition: StudyDefinition, hashed: str, now: datetime) -> str:
    """Return the name of an experiment: time, model, dataset, type and the short hash of its configuration."""
    name = ExperimentNaming.create_experiment_name(definition.model, definition.dataset, definition.type, now)
    return f"{name}_v{hashed.removeprefix('sha256:')[:8]}"


def _check_placeholders(record: ExperimentRecord, config: Mapping[str, JsonValue], site: Mapping[str, str]) -> None:
    """Find unknown placeholders and missing site values now, not when the job is about to start."""
    if record.tracked is not None:
        return  # what a running program was started with is no template
    values = {"config": "-", "outputs": "-", "seed": "-"}
    values |= {f"inputs.{name}": "-" for name in input_files({item.path: "" for item in record.inputs})}
    bind_site([config, [output.path for output in record.outputs]], site)
    for entry, known, seen in _scopes(record.entry, values, config):
        words = entry.argv if isinstance(entry, CommandEntry) else entry.arguments
        given = words if entry.verbatim else expand_placeholders(words, known, seen, strict=not record.ad_hoc)
        bind_site(list(given), site)


def _scopes(
    entry: AnyEntry, values: Mapping[str, str], config: Mapping[str, JsonValue]
) -> list[tuple[Entry, Mapping[str, str], Mapping[str, JsonValue]]]:
    """Return each simple entry with the placeholders and the configuration that it may use."""
    if not isinstance(entry, StagesEntry):
        return [(entry, values, config)]
    return [
        (
            stage.entry,
            {**values, "results": "-", **{f"stages.{name}": "-" for name in entry.ancestors(stage.name)}},
            visible_config(stage, config),
        )
        for stage in entry.stages
    ]


def _live_notes(record: ExperimentRecord, root: Path) -> list[str]:
    live = [path for entry in simple_entries(record.entry) for path in live_paths(entry, root)]
    return [f"warning: the job reads the live {path}; a relative path names the recorded one" for path in live]


def _notes(record: ExperimentRecord) -> list[str]:
    captured = record.code.untracked
    if not captured:
        return []
    shown = ", ".join(captured[:8]) + (f" and {len(captured) - 8} more" if len(captured) > 8 else "")
    return [f"captured {len(captured)} untracked file{'s' if len(captured) != 1 else ''}: {shown}"]


def _environment(site: Site, entry: AnyEntry, asked: Asked) -> tuple[Path | None, Path | None, Environment | None]:
    """Return the job's interpreter, the one to ask inside the job, and the environment if it can be known now."""
    root, python = site.repository.root, python_of(entry)
    interpreter = resolve_interpreter(site, entry, asked.env)
    probe = probe_interpreter(entry, asked.env, root)
    if interpreter is None or entry.wrapped:
        return interpreter, probe, None
    environment = capture_environment(
        interpreter,
        root=root,
        cache_dir=site.repository.state_dir / "cache",
        env=asked.env,
        flags=python.flags if python else (),
    )
    return interpreter, None, environment


def remote_url(git_config: Mapping[str, str]) -> str | None:
    """Return the URL of origin without credentials and query; a local path is nobody's business."""
    url = git_config.get("remote.origin.url")
    return None if url is None or url.startswith(("/", ".", "~", "file:")) else public_url(url)
