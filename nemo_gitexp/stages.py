"""The stages of a pipeline as a value: what each runs, what it waits for, and whether together they make a DAG. Pure.

A stage sees the results of all its ancestors and no others; what it returns or writes passes through files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from nemo_gitexp.entry import (
    CallEntry,
    CommandEntry,
    Entry,
    EntryJson,
    FunctionEntry,
    Python,
    parse_command,
    parse_entry,
    split_command_line,
)
from nemo_gitexp.errors import DefinitionError, InvalidNameError, RecordError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import find_nearest, parse_key
from nemo_gitexp.naming import require_name
from nemo_gitexp.signatures import WORDS, Signature
from nemo_gitexp.topology import TaskShape, parse_shape

FUNCTION = re.compile(r"(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*|[^:\s][^:]*\.py):[^\W\d]\w*(?:\.[^\W\d]\w*)*")
"""`package.module:name`, or `path/to/file.py:name` relative to the repository root."""

_KEYS = ("function", "command", "dependencies", "config", "outputs")
_RESERVED = "result"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; `config` are the dotted keys it may see (None: all), `outputs` files it must make, POSIX, relative.

    `shape` is set for a task of a NeMo Run experiment; such a task is always run, whatever was made before.
    """

    name: str
    entry: Entry
    dependencies: tuple[str, ...] = ()
    config: tuple[str, ...] | None = None
    outputs: tuple[str, ...] = ()
    shape: TaskShape | None = None

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        shape: EntryJson = {"shape": self.shape.to_json()} if self.shape else {}
        return {
            **shape,
            "name": self.name,
            "entry": self.entry.to_json(),
            "dependencies": list(self.dependencies),
            "config": None if self.config is None else list(self.config),
            "outputs": list(self.outputs),
        }


@dataclass(frozen=True, slots=True)
class StagesEntry:
    """A pipeline as an entry point: its stages, each after all that it depends on."""

    stages: tuple[Stage, ...]
    kind: ClassVar[str] = "stages"

    @property
    def wrapped(self) -> bool:
        """Whether a stage is a command that brings its own interpreter."""
        return any(stage.entry.wrapped for stage in self.stages)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the stages whose results a stage gets, in order."""
        needed: set[str] = set()
        for stage in reversed(self.stages):
            if stage.name == name or stage.name in needed:
                needed.update(stage.dependencies)
        return tuple(stage.name for stage in self.stages if stage.name in needed)

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {"kind": self.kind, "stages": [stage.to_json() for stage in self.stages]}


AnyEntry: TypeAlias = Entry | StagesEntry


def require_stage_name(name: str) -> str:
    """Return the name unchanged when it can be a directory's, and means nothing else to a stage's function.

    Raises:
        InvalidNameError: it cannot; with a `suggestion`.
    """
    require_name(name, "stage")
    if name in WORDS:
        raise InvalidNameError(
            f"{name} is no name for a stage: to a function the word means something else",
            hint=f"for instance {name}_stage",
            suggestion=f"{name}_stage",
        )
    return name


def entry_identity(entry: AnyEntry) -> EntryJson:
    """Return what of an entry point decides results: all but a carried file's hash and what a call was made by.

    Pickles of one function differ from process to process, its digest does not; and two recipes may make one call.
    """
    if isinstance(entry, StagesEntry):
        parts: list[JsonValue] = [{**stage.to_json(), "entry": entry_identity(stage.entry)} for stage in entry.stages]
        return {"kind": entry.kind, "stages": parts}
    return {key: value for key, value in entry.to_json().items() if key not in ("sha256", "recipe")}


def simple_entries(entry: AnyEntry) -> tuple[Entry, ...]:
    """Return the entry points of a pipeline's stages, or the one there is."""
    return tuple(stage.entry for stage in entry.stages) if isinstance(entry, StagesEntry) else (entry,)


def python_of(entry: AnyEntry) -> Python | None:
    """Return how Python is called, in a pipeline the same for all of its stages; None where only commands run."""
    return next((each.python for each in simple_entries(entry) if not isinstance(each, CommandEntry)), None)


def command_of(entry: AnyEntry) -> CommandEntry | None:
    """Return the command that brings its own interpreter, in a pipeline the first one; None where there is none."""
    return next((each for each in simple_entries(entry) if isinstance(each, CommandEntry)), None)


def visible_config(stage: Stage, config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the part of the configuration that a stage may see; a described call is what stands under its name.

    Raises:
        DefinitionError: it asks for a key that is not there.
    """
    if isinstance(stage.entry, CallEntry):
        own = config.get(stage.name)
        return dict(own) if isinstance(own, Mapping) else {}
    if stage.config is None:
        return dict(config)
    seen: dict[str, JsonValue] = {}
    for key in stage.config:
        _copy_key(config, parse_key(key), seen, f"stage {stage.name} asks for config key {key}")
    return seen


def _copy_key(source: Mapping[str, JsonValue], path: Sequence[str], into: dict[str, JsonValue], what: str) -> None:
    name, rest = path[0], path[1:]
    if name not in source:
        near = find_nearest(name, source)
        raise DefinitionError(f"{what}, which is not there", hint=f"did you mean {near}?" if near else "")
    value = source[name]
    if not rest:
        into[name] = value
        return
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{what}, but {name} is no mapping")
    inner = into.setdefault(name, {})
    if isinstance(inner, dict):
        _copy_key(value, rest, inner, what)


def fit_stage(stage: Stage, signature: Signature, config: Mapping[str, JsonValue], ancestors: Collection[str]) -> Stage:
    """Return the stage of a function with the configuration narrowed to what its parameters ask for.

    Raises:
        DefinitionError: a parameter without a default that stands for nothing.
    """
    seen = visible_config(stage, config)
    known = {*WORDS, *ancestors, *seen}
    unknown = [name for name in signature.required if name not in known]
    if unknown and unknown != [signature.names[0]]:  # a single one, the first, gets the results of all ancestors
        raise DefinitionError(
            f"stage {stage.name}: its function asks for {', '.join(unknown)}, which is nothing here",
            hint=f"parameters are {', '.join(WORDS)}, stages before it, and keys of its config",
            stage=stage.name,
            unknown=unknown,
        )
    if stage.config is not None or signature.takes_all or "config" in signature.names:
        return stage
    asked = [name for name in signature.names if name in seen and name not in WORDS and name not in ancestors]
    return replace(stage, config=tuple(asked))


def parse_any_entry(document: JsonValue) -> AnyEntry:
    """Return the entry that `to_json` wrote, be it a pipeline.

    Raises:
        RecordError: a kind that is unknown (a newer record), or a field missing or of the wrong type.
    """
    if not isinstance(document, Mapping) or document.get("kind") != "stages":
        return parse_entry(document)
    items = document.get("stages")
    if not isinstance(items, list) or not items:
        raise RecordError("the recorded pipeline has no stages")
    return StagesEntry(tuple(_recorded_stage(item) for item in items))


def _recorded_stage(item: JsonValue) -> Stage:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise RecordError("a recorded stage has no name")
    try:
        name = require_name(str(item["name"]), "stage")
    except InvalidNameError as fault:
        raise RecordError(fault.message) from fault
    config, shape = item.get("config"), item.get("shape")
    return Stage(
        name=name,
        entry=parse_entry(item.get("entry")),
        dependencies=_texts(item, "dependencies"),
        config=None if config is None else _texts(item, "config"),
        outputs=_texts(item, "outputs"),
        shape=parse_shape(shape) if isinstance(shape, Mapping) else None,
    )


def _texts(item: Mapping[str, JsonValue], key: str) -> tuple[str, ...]:
    value = item.get(key)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RecordError(f"a recorded stage has no list of texts {key!r}", key=key)
    return tuple(str(text) for text in value)


# ----------------------------------------------------------------------------------------------------------- graphs


def find_graph_faults(wanted: Sequence[tuple[str, Sequence[str]]], what: str = "stage") -> list[str]:
    """Return what keeps stages from being a DAG: duplicates, unknown dependencies, cycles; none when they are one.

    Args:
        wanted: name and dependencies of each stage, in any order.
        what: what they are called.
    """
    names = [name for name, _ in wanted]
    faults = [f"{what} {name} stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for name, dependencies in wanted:
        for needed in dependencies:
            if needed not in names:
                near = find_nearest(needed, names)
                likely = f"; did you mean {near}?" if near else ""
                faults.append(f"{what} {name} depends on {needed}, which is no {what}{likely}")
    return faults or _cycle_faults(dict(wanted), what)


def _cycle_faults(waiting: dict[str, Sequence[str]], what: str) -> list[str]:
    ordered = set(_order(waiting))
    stuck = [name for name in waiting if name not in ordered]
    if not stuck:
        return []
    path = [stuck[0]]
    while path.count(path[-1]) < 2:
        path.append(next(needed for needed in waiting[path[-1]] if needed in stuck))
    cycle = path[path.index(path[-1]) :]
    return [f"{what}s wait for each other: {' → '.join(cycle)}"]


def _order(waiting: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names, each after its dependencies, otherwise as written; those in cycles are left out."""
    done: list[str] = []
    while ready := [name for name, needs in waiting.items() if name not in done and set(needs) <= set(done)]:
        done.append(ready[0])
    return done


def order_stages(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Return the stages of a DAG so that each stands after its dependencies, otherwise as written."""
    by_name = {stage.name: stage for stage in stages}
    return tuple(by_name[name] for name in _order({stage.name: stage.dependencies for stage in by_name.values()}))


# ------------------------------------------------------------------------------------------------------- definition


def parse_stages(document: JsonValue) -> tuple[tuple[Stage, ...], list[str]]:
    """Return the stages that `stages:` of a definition describes, in order, and every fault.

    Args:
        document: a mapping of name to `{function | command, dependencies, config, outputs}`, or a list of such
            mappings with a `name`.
    """
    faults: list[str] = []
    if not isinstance(document, (Mapping, list)) or not document:
        return (), ["stages must name at least one stage"]
    stages = [_Parser(name, item, faults).stage() for name, item in _named(document, faults)]
    faults += find_graph_faults([(stage.name, stage.dependencies) for stage in stages])
    faults += find_interpreter_faults(stages)
    return (() if faults else order_stages(stages)), faults


def _named(document: Mapping[str, JsonValue] | list[JsonValue], faults: list[str]) -> list[tuple[str, JsonValue]]:
    if isinstance(document, Mapping):
        return list(document.items())
    named: list[tuple[str, JsonValue]] = []
    for position, item in enumerate(document):
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            named.append((str(item["name"]), {key: value for key, value in item.items() if key != "name"}))
        else:
            faults.append(f"stages: entry {position} has no name")
    return named


def find_interpreter_faults(stages: Sequence[Stage], what: str = "stages") -> list[str]:
    """Return what keeps stages from being run by one interpreter; a command that brings its own does not matter."""
    names = {stage.entry.python.interpreter for stage in stages if not isinstance(stage.entry, CommandEntry)}
    if len(names - {"python3"} | ({"python"} if "python3" in names else set())) < 2:  # both are the first on PATH
        return []
    return [f"{what}: one interpreter runs them all, not {' and '.join(sorted(names))}; wrap one as: bash -c '…'"]


class _Parser:
    """Reads one stage of a definition; a fault is noted and reading goes on with the default."""

    def __init__(self, name: str, document: JsonValue, faults: list[str]) -> None:
        self._name = name
        self._faults = faults
        self._document: Mapping[str, JsonValue] = document if isinstance(document, Mapping) else {}
        if not isinstance(document, Mapping):
            self._fault("must be a mapping with function or command")
        try:
            require_stage_name(name)
        except InvalidNameError as fault:
            self._fault(f"{fault.message}; {fault.hint}")
        for key in self._document:
            if key not in _KEYS:
                near = find_nearest(key, _KEYS)
                self._fault(f"unknown key {key}" + (f"; did you mean {near}?" if near else ""))

    def _fault(self, what: str) -> None:
        self._faults.append(f"stages.{self._name}: {what}")

    def stage(self) -> Stage:
        return Stage(
            name=self._name,
            entry=self._entry(),
            dependencies=tuple(dict.fromkeys(self._list("dependencies") or ())),
            config=self._config(),
            outputs=self._outputs(),
        )

    def _entry(self) -> Entry:
        function, command = self._document.get("function"), self._document.get("command")
        if (function is None) == (command is None):
            self._fault("one of function and command is needed" if function is None else "both function and command")
        elif isinstance(function, str):
            if FUNCTION.fullmatch(function):
                return FunctionEntry(function)
            self._fault(f"function must be package.module:name or file.py:name, not {function}")
        elif function is not None:
            self._fault("function must be text")
        else:
            return self._command(command)
        return CommandEntry(("false",))

    def _command(self, command: JsonValue) -> Entry:
        try:
            if isinstance(command, str):
                return parse_command(split_command_line(command))
            if isinstance(command, list) and all(isinstance(word, str) for word in command):
                return parse_command([str(word) for word in command])
        except DefinitionError as fault:
            self._fault(f"{fault.message}; {fault.hint}".rstrip("; "))
            return CommandEntry(("false",))
        self._fault("command must be text or a list of texts")
        return CommandEntry(("false",))

    def _list(self, key: str) -> tuple[str, ...] | None:
        value = self._document.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._fault(f"{key} must be a list of texts" + (f": [{value}]" if isinstance(value, str) else ""))
            return ()
        return tuple(str(item) for item in value)

    def _config(self) -> tuple[str, ...] | None:
        keys = self._list("config")
        for key in keys or ():
            try:
                parse_key(key)
            except ValueError as fault:
                self._fault(f"config: {key} is no dotted key: {fault}")
        return keys

    def _outputs(self) -> tuple[str, ...]:
        paths = tuple(path.removeprefix("{outputs}/") for path in self._list("outputs") or ())
        for path in paths:
            parts = path.split("/")
            if not path or path.startswith(("/", "~")) or ".." in parts or parts[0] in (_RESERVED, "."):
                self._fault(f"outputs: {path or 'an empty path'} is no path below {{outputs}} of its own")
        return paths
