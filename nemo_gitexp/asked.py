"""What a person asked for, as a definition: a study with its changes, or a command with its arguments.

Reads the definition and the configuration in the work tree, nothing else.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nemo_gitexp.addresses import EXPERIMENT, address_fault, is_address
from nemo_gitexp.command import anchor_script, find_file, find_workdir
from nemo_gitexp.definition import InputSpec, MetricsSpec, StudyDefinition, parse_definition
from nemo_gitexp.entry import CallEntry, FunctionEntry, parse_command, reads_program_from_stdin
from nemo_gitexp.errors import DefinitionError, UnknownStudyError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key
from nemo_gitexp.naming import require_name, slug
from nemo_gitexp.overrides import apply_overrides, parse_adhoc_arguments
from nemo_gitexp.plainform import canonical_text
from nemo_gitexp.record import Tracked
from nemo_gitexp.signatures import Signature, find_signature
from nemo_gitexp.stages import AnyEntry, Stage, StagesEntry, fit_stage
from nemo_gitexp.topology import TaskShape
from nemo_gitexp.versioning import plain_config
from nemo_gitexp.worker.rebuild import TARGET, is_target
from nemo_gitexp.yaml12 import parse_yaml

_MODULE_ENDS = (".py", "/__init__.py")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person typed; exactly one of `study` and `command` is not None, unless a program gives the definition.

    `sweep` is shared by experiments that were asked for together. `brings_executor`: `executor` is what the program's
    own one is called, and no profile has to have that name.
    """

    cwd: Path
    env: Mapping[str, str]
    study: str | None = None
    command: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    base_config: Mapping[str, JsonValue] | None = None
    seed: int | None = None
    executor: str | None = None
    brings_executor: bool = False
    determinism: str | None = None
    message: str | None = None
    purpose: str | None = None
    sweep: str | None = None
    commit_data: bool = False
    require_clean: bool = False


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A call whose configuration is made from the recorded code, once that is known.

    Args:
        recipe: `file.py:name` that makes it; None where `config` says what is called.
        config: what a call was given (`described.describe_call`), or an earlier experiment's configuration.
        overrides: as typed.
        task: which task of several it is, whose configuration stands below its name; None: the one there is.
    """

    recipe: str | None
    config: Mapping[str, JsonValue] | None = None
    overrides: tuple[str, ...] = ()
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Defined:
    """An entry point with its definition and resolved configuration; `workdir` is relative to the root.

    `unresolved` are calls that `config` does not hold yet. `carried` are files that the record itself holds, by name:
    functions that no module of the repository has.
    `tracked` is set for a part of a program that runs already: then `topology` is what it really runs in, its arguments
    are no templates, and `name` may be one that its author chose. `shape` is that of a single task of NeMo Run.
    """

    study: str
    definition: StudyDefinition
    entry: AnyEntry
    config: Mapping[str, JsonValue]
    ad_hoc: bool
    workdir: str
    unresolved: tuple[Unresolved, ...] = ()
    carried: Mapping[str, bytes] = field(default_factory=dict)
    tracked: Tracked | None = None
    topology: Mapping[str, JsonValue] | None = None
    shape: TaskShape | None = None
    name: str | None = None


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
    if "/" in study:
        parts = [part for part in study.split("/") if part not in ("", ".", "experiments", "experiment.yaml")]
        if len(parts) == 1:
            raise UsageError(f"{study} is a path; a study is named", hint=f"nemo-gitexp run {shlex.quote(parts[0])}")
    require_name(study, "study")
    path = root / "experiments" / study / "experiment.yaml"
    if not path.is_file():
        known = [name for name in list_studies(root) if name != study]
        near = difflib.get_close_matches(study, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"nemo-gitexp init --study {study}"
        if not near and shutil.which(study):
            hint = f"nemo-gitexp run -- {study} …, for a command"
        raise UnknownStudyError(
            f"there is no study {study}", hint=hint, study=study, nearest=near[0] if near else None, known=known
        )
    return parse_definition(path.read_bytes(), f"experiments/{study}/experiment.yaml")


def define(root: Path, asked: Asked) -> Defined:
    """Return what was asked for in the work tree below `root`.

    Raises:
        UsageError: it makes no sense.
        UnknownStudyError: there is no such study.
        DefinitionError: its definition has faults.
    """
    return _define_command(root, asked) if asked.command is not None else _define_study(root, asked)


def tracked_definition(
    root: Path,
    study: str,
    *,
    purpose: str | None = None,
    expected: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    data: Sequence[str] | None = None,
) -> StudyDefinition:
    """Return the definition of an experiment that a running program declares.

    Where the study has an `experiment.yaml`, that gives what is not said here: purpose, expected outcome, model,
    dataset, data, code, goals of metrics, seed and determinism. What runs, its configuration and its outputs are the
    program's own.

    Raises:
        DefinitionError: the study's definition has faults.
    """
    base = StudyDefinition(purpose=f"tracked as {study}", type="tracked")
    if (root / "experiments" / study / "experiment.yaml").is_file():
        base = read_study(root, study)
    return replace(
        base,
        purpose=purpose or base.purpose,
        expected=expected or base.expected,
        model=model or base.model,
        dataset=dataset or base.dataset,
        data=base.data if data is None else tuple(_input(root, path) for path in data),
        outputs=(),
        metrics=MetricsSpec(None, base.metrics.goals),
        config_file=None,
        executor=None,
        workdir=".",
    )


def _input(root: Path, path: str) -> InputSpec:
    """Return an input named by a program: a URL, or a path relative to the root or below it."""
    if is_address(path):
        if fault := address_fault(path):
            raise UsageError(f"{path} {fault}", hint='data=["exp://EXPERIMENT/OUTPUT"]')
        return InputSpec("", "content" if path.startswith(EXPERIMENT) else "named", path)
    place = Path(os.path.realpath(root / path))
    top = Path(os.path.realpath(root))
    return InputSpec(place.relative_to(top).as_posix() if place.is_relative_to(top) else path)


def _define_command(root: Path, asked: Asked) -> Defined:
    command = asked.command or ()
    if not command:
        raise UsageError("there is no command after --", hint="nemo-gitexp run -- python train.py --lr 0.1")
    if asked.overrides:
        raise UsageError(
            "key=value changes a study; a command's own arguments are its configuration",
            hint="nemo-gitexp run -- COMMAND ARGS",
        )
    if asked.base_config is not None:
        raise UsageError(
            "--from starts a study from a configuration; a command's own arguments are its configuration",
            hint="nemo-gitexp run STUDY --from EXP",
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
    workdir = find_workdir(root, asked.cwd, entry)
    anchored = anchor_script(entry, root, workdir)
    return Defined(slug(entry.study_stem), definition, anchored, config, ad_hoc=True, workdir=workdir)


def _define_study(root: Path, asked: Asked) -> Defined:
    study = asked.study or ""
    if is_recipe(study):
        return _define_recipe(root, asked, study)
    _require_no_half_recipe(study)
    definition = read_study(root, study)
    if definition.recipe is not None:
        own = definition.config if definition.config_file is None else _read_config_file(root, definition.config_file)
        overrides = [*([] if asked.base_config is not None else _assignments(own)), *asked.overrides]
        return _of_recipe(root, asked, study, definition, definition.recipe, overrides)
    config = dict(definition.config)
    if asked.base_config is not None:
        config = dict(asked.base_config)
    elif definition.config_file is not None:
        config = _read_config_file(root, definition.config_file)
    config = plain_config(apply_overrides(config, asked.overrides))
    definition = replace(definition, purpose=asked.purpose or definition.purpose)
    entry = _entry(root, definition, config)
    return Defined(study, definition, entry, config, ad_hoc=False, workdir=definition.workdir)


_RECIPE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")


def is_recipe(text: str) -> bool:
    """Return whether a word names a recipe, `file.py:name`, and no study."""
    return _RECIPE.fullmatch(text) is not None


def _require_no_half_recipe(study: str) -> None:
    file, _, name = study.partition(":")
    if name or study.endswith((".py", ":")):
        typed = f"{file.removesuffix('.py')}.py:{name or 'RECIPE'}"
        raise UsageError(f"{study} is neither a study nor a recipe", hint=f"nemo-gitexp run {shlex.quote(typed)}")


def _define_recipe(root: Path, asked: Asked, text: str) -> Defined:
    """Return the definition of a typed recipe: of the study in whose directory its file lies, else of its name's."""
    path, name, study = _find_recipe(root, asked, text)
    if (root / "experiments" / study / "experiment.yaml").is_file():
        definition = read_study(root, study)
    else:
        typed = " ".join((text, *asked.overrides))
        definition = StudyDefinition(purpose=asked.message or typed, model=slug(name.replace("_", "-")))
    return _of_recipe(root, asked, study, definition, f"{path}:{name}", asked.overrides)


def _find_recipe(root: Path, asked: Asked, text: str) -> tuple[str, str, str]:
    """Return the file of a typed recipe from the root, its name, and its study."""
    file, _, name = text.rpartition(":")
    path = find_file(root, asked.cwd, file)
    parts = path.split("/")
    return path, name, parts[1] if len(parts) > 2 and parts[0] == "experiments" else slug(name)


def find_study(root: Path, asked: Asked) -> str | None:
    """Return the study that was named, also by a recipe; None where none was.

    Raises:
        UsageError: there is no file of the recipe.
    """
    if asked.study is None or not is_recipe(asked.study):
        return asked.study
    return _find_recipe(root, asked, asked.study)[2]


def _of_recipe(
    root: Path, asked: Asked, study: str, definition: StudyDefinition, recipe: str, overrides: Sequence[str]
) -> Defined:
    file = recipe.rpartition(":")[0]
    if not (root / file).is_file():
        raise UsageError(f"there is no file {file}", hint="paths are relative to the root of the repository", path=file)
    folder = posixpath.dirname(file) or "."
    if asked.base_config is not None and not is_target(asked.base_config.get(TARGET)):
        raise UsageError(
            "--from starts from the configuration of a call, and that experiment runs something else",
            hint=f"nemo-gitexp log --study {study}",
        )
    search = tuple(dict.fromkeys((_package_base(root, folder), folder, definition.workdir)))
    definition = replace(
        definition, purpose=asked.purpose or definition.purpose, recipe=recipe, command=None, function=None, stages=None
    )
    wanted = Unresolved(recipe, asked.base_config, tuple(overrides))
    entry = CallEntry("", search=search, recipe=recipe)
    return Defined(study, definition, entry, {}, ad_hoc=False, workdir=definition.workdir, unresolved=(wanted,))


def _package_base(root: Path, folder: str) -> str:
    """Return the directory in which the name of a module begins that lies in a folder, as its `__init__.py` say."""
    while folder != "." and (root / folder / "__init__.py").is_file():
        folder = posixpath.dirname(folder) or "."
    return folder


def _assignments(config: Mapping[str, JsonValue], above: tuple[str, ...] = ()) -> list[str]:
    """Return a configuration's leaves as `key=value`, as they would be typed."""
    lines: list[str] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            lines += _assignments(value, (*above, key))
        else:
            lines.append(f"{render_key((*above, key))}={canonical_text(value)}")
    return lines


def _entry(root: Path, definition: StudyDefinition, config: Mapping[str, JsonValue]) -> AnyEntry:
    if definition.stages is not None:
        return _stages(root, definition.stages, definition.workdir, config)
    if definition.function is not None:
        return FunctionEntry(definition.function)
    return anchor_script(parse_command(definition.command or ()), root, definition.workdir)


def _stages(root: Path, stages: Sequence[Stage], workdir: str, config: Mapping[str, JsonValue]) -> StagesEntry:
    """Return the pipeline; where the source of a stage's function can be read, it sees the config that it asks for."""
    pipeline = StagesEntry(tuple(replace(stage, entry=anchor_script(stage.entry, root, workdir)) for stage in stages))
    fitted = []
    for stage in pipeline.stages:
        signature = read_signature(root, workdir, stage.entry) if isinstance(stage.entry, FunctionEntry) else None
        fitted.append(fit_stage(stage, signature, config, pipeline.ancestors(stage.name)) if signature else stage)
    return StagesEntry(tuple(fitted))


def read_signature(root: Path, workdir: str, entry: FunctionEntry) -> Signature | None:
    """Return the parameters of a function from its source in the work tree; None where that is not found or read."""
    place, _, name = entry.target.rpartition(":")
    paths = [place] if place.endswith(".py") else [f"{workdir}/{place.replace('.', '/')}{end}" for end in _MODULE_ENDS]
    found = next((root / path for path in paths if (root / path).is_file()), None)
    return None if found is None else find_signature(found.read_bytes(), name)


def _read_config_file(root: Path, name: str) -> dict[str, JsonValue]:
    path = root / name
    if not path.is_file():
        raise DefinitionError(f"the configuration file {name} does not exist", hint=f"write {name}", faults=[name])
    document = parse_yaml(path.read_bytes(), name)
    if not isinstance(document, Mapping):
        raise DefinitionError(f"{name} is no mapping of keys to values", hint=f"edit {name}", faults=[name])
    return dict(document)
