"""From what a person asked for to a recorded experiment: define, snapshot, pin, identify, record.

Runs nothing. The user's index, HEAD and files stay as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from nemo_gitexp.addresses import DEFAULT_PLACE
from nemo_gitexp.asked import Asked, Defined, define
from nemo_gitexp.catalog import Site
from nemo_gitexp.command import live_paths, require_script, require_workdir
from nemo_gitexp.definition import DEFAULT_SEED, OutputSpec, StudyDefinition
from nemo_gitexp.entry import CommandEntry, Entry, expand_placeholders
from nemo_gitexp.errors import (
    GitCommandError,
    SnapshotRefusedError,
    UsageError,
)
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
from nemo_gitexp.groundwork import Groundwork, executor_of
from nemo_gitexp.inputpin import input_files
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.naming import ExperimentNaming
from nemo_gitexp.record import ExperimentRecord, identity_of
from nemo_gitexp.recordedtopology import recorded_topology
from nemo_gitexp.secretcheck import require_no_secrets
from nemo_gitexp.settings import SITE_FILE
from nemo_gitexp.sitevalues import bind_site
from nemo_gitexp.stages import AnyEntry, StagesEntry, simple_entries, visible_config
from nemo_gitexp.store import Draft, Experiment, holding_experiment, record_directory, write_experiments
from nemo_gitexp.tips import write_branch
from nemo_gitexp.versioning import config_hash

Item = TypeVar("Item")


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
    return plan_many(site, [(asked, defined)], now, look)[0]


def plan_many(
    site: Site, wanted: Sequence[tuple[Asked, Defined]], now: datetime, look: Look | None = None
) -> list[Plan]:
    """Return several experiments in one state of the work tree: one snapshot, one look at environment and inputs.

    What is asked for on behalf of all (`commit_data`, `require_clean`, the environment) is taken from the first.

    Side effects and errors: as `plan_defined`.
    """
    repository, (first, _) = site.repository, wanted[0]
    ground = Groundwork(site)
    for asked, defined in wanted:
        ground.shape(asked, defined)
        _require_reason(asked, defined.definition)
    if first.commit_data:
        for definition in _unlike([defined.definition for _, defined in wanted], lambda item: item.data):
            _commit_data(repository, definition)
        look = None
    for asked, defined in wanted:
        require_harmless(defined.carried, snapshot_limits(site))
        require_no_secrets(defined, asked.env, snapshot_limits(site).allows)
    look = look or begin_look(repository)
    for asked, defined in wanted:  # before the snapshot: git is still looking at the files
        ground.environment(asked, defined)
    snapshot = take_snapshot(repository, snapshot_limits(site), look)
    if first.require_clean and (snapshot.dirty or snapshot.untracked):
        raise SnapshotRefusedError(
            "the work tree differs from HEAD", hint="git status; git commit -a, or leave out --require-clean"
        )
    resolved = _resolved(site, wanted, snapshot, ground)
    ground.take(snapshot)
    _require_no_site_file(ground.listing, snapshot_limits(site))
    return [_plan(site, asked, defined, ground, now) for asked, defined in resolved]


def _require_no_site_file(listing: bytes, limits: SnapshotLimits) -> None:
    """Check that git does not track what is this machine's alone: experiments are pushed.

    Raises:
        SnapshotRefusedError: it does, and `secrets_allowed` does not name it.
    """
    if not limits.allows(SITE_FILE) and f"\t{SITE_FILE}\0".encode() in listing:
        raise SnapshotRefusedError(
            f"git tracks {SITE_FILE}, which belongs to this machine and to no experiment",
            hint=f"git rm --cached {SITE_FILE}; nemo-gitexp init has git ignore it",
            paths=[SITE_FILE],
        )


def _plan(site: Site, asked: Asked, defined: Defined, ground: Groundwork, now: datetime) -> Plan:
    interpreter, probe, environment = ground.environment(asked, defined)
    record = _record(site, asked, defined, ground, environment.key if environment else None, now)
    _check_placeholders(record, defined.config, site.settings.site)
    notes = [*ground.shape(asked, defined).notes, *_notes(record), *_live_notes(record, site.repository.root)]
    return Plan(
        record=record,
        config=defined.config,
        environment=render_json(environment.to_json() if environment else {"schema": 1, "captured": "job"}),
        carried=defined.carried,
        snapshot=ground.snapshot,
        interpreter=interpreter,
        probe_interpreter=probe,
        notes=tuple(notes),
    )


def _unlike(items: Sequence[Item], key: Callable[[Item], object]) -> list[Item]:
    """Return those that differ from all before them."""
    found: list[Item] = []
    for item in items:
        if all(key(item) != key(other) for other in found):
            found.append(item)
    return found


def _resolved(
    site: Site, wanted: Sequence[tuple[Asked, Defined]], snapshot: Snapshot, ground: Groundwork
) -> list[tuple[Asked, Defined]]:
    """Return what was defined with every configuration filled in that only the recorded code can make."""
    asked, first = wanted[0]
    interpreter = ground.environment(asked, first)[0]
    if not any(defined.unresolved for _, defined in wanted) or interpreter is None:
        return list(wanted)
    from nemo_gitexp.recipes import Surroundings, resolve_many  # 20 ms that others need not pay

    places = [spec.path or DEFAULT_PLACE for spec in first.definition.data]
    _require_scripts(site, first, list_files(site.repository, snapshot.tree), places)
    around = Surroundings(interpreter, asked.env)
    pairs = [(defined, each.seed) for each, defined in wanted]
    made = resolve_many(site, pairs, snapshot, around)
    for defined in made:
        require_no_secrets(defined, asked.env, snapshot_limits(site).allows)
    return [(each, defined) for (each, _), defined in zip(wanted, made, strict=True)]


def _record(
    site: Site, asked: Asked, defined: Defined, ground: Groundwork, environment_key: str | None, now: datetime
) -> ExperimentRecord:
    """Return the record of the snapshot; its code commit is not made yet and stands as HEAD."""
    definition = defined.definition
    pins = ground.pins(definition, asked.env)
    _require_scripts(site, defined, ground.listing, [pin.path for pin in pins])
    hashed = config_hash(defined.config)
    seed = _seed(asked, definition)
    determinism = _determinism(asked, definition)
    record = ExperimentRecord(
        study=defined.study,
        name=defined.name or experiment_name(definition, hashed, now),
        nonce=new_nonce(),
        created=created_text(now),
        purpose=definition.purpose,
        expected=definition.expected,
        model=definition.model,
        dataset=definition.dataset,
        type=definition.type,
        sweep=asked.sweep,
        code=ground.code(definition),
        config_hash=hashed,
        config_file=definition.config_file,
        seed=seed,
        seed_is_default=asked.seed is None and definition.seed is None,
        determinism=determinism,
        determinism_reason=definition.determinism_reason or (asked.message if determinism == "off" else None),
        topology=recorded_topology(site, asked, defined, ground.shape(asked, defined), determinism, seed),
        inputs=tuple(pins),
        environment_key=environment_key,
        entry=defined.entry,
        ad_hoc=defined.ad_hoc,
        workdir=defined.workdir,
        outputs=_outputs(defined),
        metrics=definition.metrics,
        executor=executor_of(asked, definition),
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


def _outputs(defined: Defined) -> tuple[OutputSpec, ...]:
    """Return what the job must make: of a pipeline every stage's directory, and the files in them that are named."""
    if not isinstance(defined.entry, StagesEntry):
        return defined.definition.outputs
    return tuple(
        OutputSpec(f"{stage.name}/{path}".rstrip("/"))
        for stage in defined.entry.stages
        for path in ("", *stage.outputs)
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
    (experiment,) = record_plans(site, [plan], who)
    return experiment, None if plan.record.sweep else write_branch(site.repository, experiment.tip)


def record_plans(site: Site, plans: Sequence[Plan], who: Identities) -> list[Experiment]:
    """Record experiments of one snapshot on one code commit, all or none, and return them; branches are not made.

    Args and errors: as `record_plan`.
    """
    repository = site.repository
    drafts = [draft_of(site, plan, who) for plan in plans]
    try:
        return write_experiments(repository, drafts)
    except GitCommandError:
        if not plans or not _snapshot_was_pruned(site, plans[0].snapshot):
            raise
        return write_experiments(repository, drafts)


def new_nonce() -> str:
    """Return what tells a record from one of the same moment."""
    return uuid.uuid4().hex[:8]


def created_text(now: datetime) -> str:
    """Return a moment as records have it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def holding_plan(site: Site, plan: Plan, who: Identities) -> Iterator[Experiment]:
    """Give the experiment of a plan to be run, and forget it afterwards: nothing is recorded.

    Raises:
        IdentityMissingError: git does not know the user.
    """
    with holding_experiment(site.repository, draft_of(site, plan, who)) as experiment:
        yield experiment


def draft_of(site: Site, plan: Plan, who: Identities) -> Draft:
    """Return what a plan makes of commits.

    Raises:
        IdentityMissingError: git does not know the user.
    """
    author, committer = who.wait()
    return Draft(
        record=plan.record,
        head=plan.snapshot.head,
        config=render_json(plan.config),
        environment=plan.environment,
        carried=plan.carried,
        author=author,
        committer=committer,
        sign=is_signing(site),
    )


def is_signing(site: Site) -> bool:
    """Return whether the user has their commits signed."""
    return "commit.gpgsign" in site.git_config and site.repository.flag("commit.gpgsign")


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
        left_out=(SITE_FILE,),
    )


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
