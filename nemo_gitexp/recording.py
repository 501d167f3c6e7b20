"""From what a person asked for to a recorded experiment: define, snapshot, pin, identify, record.

Runs nothing. The user's index, HEAD and files stay as they are.
"""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.catalog import Site
from nemo_gitexp.command import anchor_script, find_workdir, live_paths, require_script
from nemo_gitexp.definition import DEFAULT_SEED, StudyDefinition, parse_definition
from nemo_gitexp.entry import (
    CommandEntry,
    Entry,
    FunctionEntry,
    expand_placeholders,
    parse_command,
    reads_program_from_stdin,
)
from nemo_gitexp.environment import Environment, available_cores, capture_environment, find_interpreter
from nemo_gitexp.errors import (
    DefinitionError,
    EnvironmentCaptureError,
    GitCommandError,
    SnapshotRefusedError,
    UnknownStudyError,
    UsageError,
)
from nemo_gitexp.git.changes import code_key, list_files
from nemo_gitexp.git.objects import find_objects
from nemo_gitexp.git.repository import Identity, Repository
from nemo_gitexp.git.snapshot import MEGABYTE, Look, Snapshot, SnapshotLimits, take_snapshot
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.naming import ExperimentNaming, require_name, slug
from nemo_gitexp.overrides import apply_overrides, parse_adhoc_arguments
from nemo_gitexp.record import CodeState, ExperimentRecord, Input, identity_of
from nemo_gitexp.settings import require_executor
from nemo_gitexp.sitevalues import bind_site
from nemo_gitexp.store import Draft, Experiment, write_experiment
from nemo_gitexp.tips import write_branch
from nemo_gitexp.topology import topology
from nemo_gitexp.versioning import config_hash, plain_config
from nemo_gitexp.yaml12 import parse_yaml


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person typed; exactly one of `study` and `command` is not None."""

    cwd: Path
    env: Mapping[str, str]
    study: str | None = None
    command: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    base_config: Mapping[str, JsonValue] | None = None
    seed: int | None = None
    executor: str | None = None
    determinism: str | None = None
    message: str | None = None
    purpose: str | None = None
    commit_data: bool = False
    require_clean: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment ready to be recorded, and what surrounds it.

    `notes` are worth a line each.
    """

    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    environment: bytes
    snapshot: Snapshot
    interpreter: Path | None
    probe_interpreter: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Defined:
    study: str
    definition: StudyDefinition
    entry: Entry
    config: Mapping[str, JsonValue]
    ad_hoc: bool
    workdir: str


def plan_experiment(site: Site, asked: Asked, now: datetime, look: Look | None = None) -> Plan:
    """Return the experiment that `asked` means in the present state of the work tree; `look` is a start on it.

    Side effects: git objects for the snapshot; with `commit_data` the user's DVC pointers.

    Raises:
        GitexpError: whatever makes it impossible, before anything is recorded.
    """
    repository = site.repository
    defined = _define(site, asked)
    definition = defined.definition
    executor = asked.executor or definition.executor or "local"
    require_executor(site.settings, executor)
    if asked.commit_data:
        _commit_data(repository, definition)
        look = None
    snapshot = take_snapshot(repository, snapshot_limits(site), look)
    if asked.require_clean and (snapshot.dirty or snapshot.untracked):
        raise SnapshotRefusedError(
            "the work tree differs from HEAD", hint="git status; git commit -a, or leave out --require-clean"
        )
    listing = list_files(repository, snapshot.tree)
    data = [spec.path for spec in definition.data]
    require_script(defined.entry, repository.root, defined.workdir, listing, data)
    inputs = _pin(repository, definition, snapshot.tree, listing)
    interpreter, probe, environment = _environment(site, defined.entry, asked)
    seed = _seed(asked, definition)
    determinism = asked.determinism or definition.determinism
    _require_reason(determinism, asked, definition)
    shape = topology(determinism, asked.env, site.settings.threads or available_cores(), seed)
    config_files = [definition.config_file] if definition.config_file else []
    key = code_key(listing, paths=definition.code, config_files=config_files)
    hashed = config_hash(defined.config)
    environment_key = environment.key if environment else None
    record = ExperimentRecord(
        study=defined.study,
        name=_name(definition, hashed, now),
        nonce=uuid.uuid4().hex[:8],
        created=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        purpose=definition.purpose,
        expected=definition.expected,
        model=definition.model,
        dataset=definition.dataset,
        type=definition.type,
        sweep=None,
        code=CodeState(
            commit=snapshot.head,
            tree=snapshot.tree,
            key=key,
            base=snapshot.head,
            dirty=snapshot.dirty,
            untracked=snapshot.untracked,
            remote=_remote(site.git_config),
            submodules=snapshot.submodules,
        ),
        config_hash=hashed,
        config_file=definition.config_file,
        seed=seed,
        seed_is_default=asked.seed is None and definition.seed is None,
        determinism=determinism,
        determinism_reason=definition.determinism_reason or (asked.message if determinism == "off" else None),
        topology=shape,
        inputs=tuple(inputs),
        environment_key=environment_key,
        entry=defined.entry,
        ad_hoc=defined.ad_hoc,
        workdir=defined.workdir,
        outputs=definition.outputs,
        metrics=definition.metrics,
        executor=executor,
        identity=identity_of(
            code_key=key,
            config_hash=hashed,
            seed=seed,
            inputs=inputs,
            entry=defined.entry,
            workdir=defined.workdir,
            determinism=determinism,
            topology=shape,
            environment_key=environment_key,
        ),
    )
    _check_placeholders(record, defined.config, site.settings.site)
    notes = [*_notes(record), *_live_notes(record, repository.root)]
    return Plan(
        record=record,
        config=defined.config,
        environment=render_json(environment.to_json() if environment else {"schema": 1, "captured": "job"}),
        snapshot=snapshot,
        interpreter=interpreter,
        probe_interpreter=probe,
        notes=tuple(notes),
    )


def record_plan(site: Site, plan: Plan) -> tuple[Experiment, str | None]:
    """Record the experiment and return it with its branch for people, None when a name stands in that one's way.

    Raises:
        IdentityMissingError: git does not know the user.
        GitCommandError: git refused (full disk, read-only).
    """
    repository = site.repository
    author, committer = repository.identities()
    draft = Draft(
        record=plan.record,
        head=plan.snapshot.head,
        config=render_json(plan.config),
        environment=plan.environment,
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
    return experiment, write_branch(repository, experiment.tip)


def _snapshot_was_pruned(site: Site, snapshot: Snapshot) -> bool:
    """Return whether a `git gc` elsewhere took the snapshot's objects, which nothing names yet; they are made anew."""
    repository = site.repository
    if find_objects(repository, [snapshot.tree])[0] is not None:
        return False
    return take_snapshot(repository, snapshot_limits(site)).tree == snapshot.tree


def snapshot_limits(site: Site) -> SnapshotLimits:
    """Return the settings that guard snapshots."""
    settings = site.settings
    return SnapshotLimits(
        max_untracked_file_bytes=int(settings.max_untracked_file_mb * MEGABYTE),
        max_untracked_total_bytes=int(settings.max_untracked_total_mb * MEGABYTE),
        secrets_allowed=settings.secrets_allowed,
    )


def list_studies(root: Path) -> list[str]:
    """Return the studies that have a definition."""
    return sorted(path.parent.name for path in (root / "experiments").glob("*/experiment.yaml"))


def read_study(root: Path, study: str) -> StudyDefinition:
    """Return a study's definition.

    Raises:
        UnknownStudyError: there is no `experiments/<study>/experiment.yaml`.
        DefinitionError: it has faults.
    """
    if "=" in study:
        raise UsageError(
            f"{study} changes a study, and no study is named", hint=f"nemo-gitexp run STUDY {shlex.quote(study)}"
        )
    if study.partition(":")[0].endswith(".py"):
        raise UsageError(
            f"{study} is a recipe, which this version cannot run", hint="nemo-gitexp run -- python FILE.py"
        )
    require_name(study, "study")
    path = root / "experiments" / study / "experiment.yaml"
    if not path.is_file():
        known = list_studies(root)
        near = difflib.get_close_matches(study, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"nemo-gitexp init --study {study}"
        if not near and shutil.which(study):
            hint = f"nemo-gitexp run -- {study} …, for a command"
        raise UnknownStudyError(
            f"there is no study {study}", hint=hint, study=study, nearest=near[0] if near else None, known=known
        )
    return parse_definition(path.read_bytes(), f"experiments/{study}/experiment.yaml")


def _pin(repository: Repository, definition: StudyDefinition, tree: str, listing: bytes) -> list[Input]:
    if not definition.data:
        return []
    from nemo_gitexp.inputs import pin_inputs  # 20 ms that a study without data need not pay

    return pin_inputs(repository, definition.data, tree, listing)


def _commit_data(repository: Repository, definition: StudyDefinition) -> None:
    if definition.data:
        from nemo_gitexp.inputs import commit_inputs

        commit_inputs(repository, definition.data)


def _define(site: Site, asked: Asked) -> _Defined:
    return _define_command(site, asked) if asked.command is not None else _define_study(site, asked)


def _define_command(site: Site, asked: Asked) -> _Defined:
    command = asked.command or ()
    if not command:
        raise UsageError("there is no command after --", hint="nemo-gitexp run -- python train.py --lr 0.1")
    if asked.overrides:
        raise UsageError(
            "key=value changes a study; a command's own arguments are its configuration",
            hint="nemo-gitexp run -- COMMAND ARGS",
        )
    entry = parse_command(command)
    if reads_program_from_stdin(command):
        raise UsageError(
            f"{shlex.join(command)} reads its program from stdin, and a job has none",
            hint="write it into a file: nemo-gitexp run -- python FILE.py",
        )
    definition = StudyDefinition(
        purpose=asked.purpose or asked.message or shlex.join(command), type="adhoc", command=tuple(command)
    )
    config = plain_config(parse_adhoc_arguments(entry.arguments))
    root = site.repository.root
    workdir = find_workdir(root, asked.cwd, entry)
    anchored = anchor_script(entry, root, workdir)
    return _Defined(slug(entry.study_stem), definition, anchored, config, ad_hoc=True, workdir=workdir)


def _define_study(site: Site, asked: Asked) -> _Defined:
    root = site.repository.root
    study = asked.study or ""
    definition = read_study(root, study)
    if definition.recipe is not None or definition.stages is not None:
        kind = "recipe" if definition.recipe is not None else "stages"
        raise DefinitionError(
            f"experiments/{study}/experiment.yaml uses {kind}:, which this version cannot run",
            hint="use command: or function:",
            faults=[kind],
        )
    config = dict(definition.config)
    if asked.base_config is not None:
        config = dict(asked.base_config)
    elif definition.config_file is not None:
        config = _read_config_file(root, definition.config_file)
    config = plain_config(apply_overrides(config, asked.overrides))
    entry: Entry = (
        FunctionEntry(definition.function) if definition.function else parse_command(definition.command or ())
    )
    definition = replace(definition, purpose=asked.purpose or definition.purpose)
    entry = anchor_script(entry, root, definition.workdir)
    return _Defined(study, definition, entry, config, ad_hoc=False, workdir=definition.workdir)


def _read_config_file(root: Path, name: str) -> dict[str, JsonValue]:
    path = root / name
    if not path.is_file():
        raise DefinitionError(f"the configuration file {name} does not exist", hint=f"write {name}", faults=[name])
    document = parse_yaml(path.read_bytes(), name)
    if not isinstance(document, Mapping):
        raise DefinitionError(f"{name} is no mapping of keys to values", hint=f"edit {name}", faults=[name])
    return dict(document)


def _seed(asked: Asked, definition: StudyDefinition) -> int:
    if asked.seed is not None:
        return asked.seed
    return DEFAULT_SEED if definition.seed is None else definition.seed


def _require_reason(determinism: str, asked: Asked, definition: StudyDefinition) -> None:
    if determinism == "off" and not definition.determinism_reason and not asked.message:
        raise UsageError(
            "determinism off needs a reason",
            hint='--determinism off -m "why", or determinism_reason: in experiment.yaml',
        )


def _name(definition: StudyDefinition, hashed: str, now: datetime) -> str:
    name = ExperimentNaming.create_experiment_name(definition.model, definition.dataset, definition.type, now)
    return f"{name}_v{hashed.removeprefix('sha256:')[:8]}"


def _check_placeholders(record: ExperimentRecord, config: Mapping[str, JsonValue], site: Mapping[str, str]) -> None:
    """Find unknown placeholders and missing site values now, not when the job is about to start."""
    values = {"config": "-", "outputs": "-", "seed": "-"}
    words = record.entry.argv if isinstance(record.entry, CommandEntry) else record.entry.arguments
    expanded = expand_placeholders(words, values, config, strict=not record.ad_hoc)
    bind_site([config, expanded, [output.path for output in record.outputs]], site)


def _live_notes(record: ExperimentRecord, root: Path) -> list[str]:
    live = live_paths(record.entry, root)
    return [f"warning: the job reads the live {path}; a relative path names the recorded one" for path in live]


def _notes(record: ExperimentRecord) -> list[str]:
    captured = record.code.untracked
    if not captured:
        return []
    shown = ", ".join(captured[:8]) + (f" and {len(captured) - 8} more" if len(captured) > 8 else "")
    return [f"captured {len(captured)} untracked file{'s' if len(captured) != 1 else ''}: {shown}"]


def _environment(site: Site, entry: Entry, asked: Asked) -> tuple[Path | None, Path | None, Environment | None]:
    """Return the job's interpreter, the one to ask inside the job, and the environment if it can be known now."""
    root = site.repository.root
    if isinstance(entry, CommandEntry):
        return None, probe_interpreter(entry, asked.env, root), None
    interpreter = resolve_interpreter(site, entry, asked.env)
    environment = capture_environment(
        interpreter,
        root=root,
        cache_dir=site.repository.state_dir / "cache",
        env=asked.env,
        flags=entry.python.flags,
    )
    return interpreter, None, environment


def resolve_interpreter(site: Site, entry: Entry, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that an entry names, None for commands that bring their own.

    A bare `python` or `python3` is the one of the setting `python`, else the first on PATH.
    """
    if isinstance(entry, CommandEntry):
        return None
    name = entry.python.interpreter
    if name in ("python", "python3") and site.settings.python:
        name = site.settings.python
    return find_interpreter(name, env, cwd=site.repository.root)


def probe_interpreter(entry: CommandEntry, env: Mapping[str, str], root: Path) -> Path | None:
    """Return the Python that a wrapped command most likely runs: its own launcher's, else the first on PATH."""
    for name in (_shebang(entry.argv[0], env), "python3", "python"):
        try:
            if name:
                return find_interpreter(name, env, cwd=root)
        except EnvironmentCaptureError:
            continue
    return None


def _shebang(program: str, env: Mapping[str, str]) -> str | None:
    """Return the interpreter in the first line of a Python console script (torchrun, accelerate)."""
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        return None
    with Path(found).open("rb") as file:
        line = file.readline(512).decode("utf-8", "replace").strip()
    match = re.fullmatch(r"#!\s*(\S*/python[\d.]*)", line)
    return match[1] if match else None


def _remote(git_config: Mapping[str, str]) -> str | None:
    """Return the URL of origin without credentials; a local path is nobody's business."""
    url = git_config.get("remote.origin.url")
    if url is None or url.startswith(("/", ".", "~", "file:")):
        return None
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def identity_for_facts(site: Site) -> Identity:
    """Return who writes facts now."""
    return site.repository.identities()[1]
