"""A study's definition, `experiment.yaml`: text to value, every fault named at once. No files are read here.

People write it; the machine only ever offers a template. What `{placeholders}` mean stands in `entry`.
"""

from __future__ import annotations

import posixpath
import re
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, TypeVar

from nemo_gitexp.addresses import EXPERIMENT, HUB, address_fault, is_address
from nemo_gitexp.entry import split_command_line
from nemo_gitexp.errors import CanonicalFormError, DefinitionError, DocumentError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import find_nearest
from nemo_gitexp.stages import FUNCTION, Stage, parse_stages
from nemo_gitexp.versioning import plain_config

Determinism: TypeAlias = Literal["off", "seeded", "bitwise"]
Keep: TypeAlias = Literal["dvc", "in-place", "digest"]
PinKind: TypeAlias = Literal["content", "manifest", "named"]
Goal: TypeAlias = Literal["max", "min"]

DEFAULT_SEED = 42
MAX_SEED = 2**63 - 1
_Value = TypeVar("_Value", bound=str)
_Spec = TypeVar("_Spec", "InputSpec", "OutputSpec")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One entry of `data:`.

    Attributes:
        path: where it lies, relative to the root; empty for an address, which then says it itself (`inputs/…`).
        pin: how it is pinned; named: by an immutable revision somewhere else.
        address: `exp://…` or `hf://…` where it is no data of this repository.
        allow: patterns of the files that are wanted of a repository of the hub; empty: all.
    """

    path: str
    pin: PinKind = "content"
    address: str = ""
    allow: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people call it."""
        return self.path or self.address


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One entry of `outputs:`; `path` relative to `{outputs}`; absolute or `${site:NAME}/…` only when kept in place."""

    path: str
    keep: Keep = "dvc"

    @property
    def label(self) -> str:
        """What people call it."""
        return self.path


@dataclass(frozen=True, slots=True)
class MetricGoal:
    """What is good about a metric; `tolerance` is absolute, None means exact; volatile ones are never compared."""

    name: str
    goal: Goal | None = None
    tolerance: float | None = None
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class MetricsSpec:
    """`metrics:`; `file` relative to the working directory, then to `{outputs}`."""

    file: str | None = None
    goals: tuple[MetricGoal, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyDefinition:
    """One `experiment.yaml`. Of `command`, `function`, `recipe` and `stages` exactly one is not None.

    `command` is split into arguments, placeholders untouched; `function` is `package.module:name` or `file.py:name`,
    `recipe` `file.py:name`; `stages` are in order, each after its dependencies. Paths are POSIX, normalised, relative
    to the repository root; `config` is inline, or `config_file` names it. `code` empty means the whole tree.
    """

    purpose: str
    expected: str = ""
    model: str = "none"
    dataset: str = "none"
    type: str = "training"
    command: tuple[str, ...] | None = None
    function: str | None = None
    recipe: str | None = None
    stages: tuple[Stage, ...] | None = None
    workdir: str = "."
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    config_file: str | None = None
    seed: int | None = None
    determinism: Determinism = "seeded"
    determinism_reason: str | None = None
    code: tuple[str, ...] = ()
    data: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    metrics: MetricsSpec = MetricsSpec()
    executor: str | None = None

    @property
    def seed_is_default(self) -> bool:
        """Whether nobody chose a seed, so that `DEFAULT_SEED` is meant and recorded as the default."""
        return self.seed is None


def parse_definition(text: bytes, source: str) -> StudyDefinition:
    """Return the definition in one `experiment.yaml`.

    Args:
        text: UTF-8 YAML 1.2.
        source: where it lies, for the message.

    Raises:
        DefinitionError: with every fault in `faults`, in the order of the fields.
    """
    from nemo_gitexp.yaml12 import parse_yaml  # 10 ms that reading a record need not pay

    try:
        document = parse_yaml(text, source)
    except DocumentError as fault:
        raise DefinitionError(fault.message, hint=fault.hint, **{"faults": [fault.message], **fault.facts}) from fault
    if not isinstance(document, Mapping):
        message = f"{source} is no mapping of keys to values"
        raise DefinitionError(message, hint="nemo-gitexp init --study NAME shows one", source=source, faults=[message])
    reader = _Reader(document)
    definition = reader.definition()
    if reader.faults:
        many = f" ({len(reader.faults)} faults)" if len(reader.faults) > 1 else ""
        raise DefinitionError(
            f"{source}{many}: {'; '.join(reader.faults)}",
            hint=f"edit {source}",
            source=source,
            faults=reader.faults,
        )
    return definition


_KEYS: Final = tuple(key for key in StudyDefinition.__dataclass_fields__ if key != "config_file")
_RUNS: Final = ("command", "function", "recipe", "stages")
_OTHER_WORDS: Final = {"inputs": "data", "cmd": "command", "params": "config", "parameters": "config", "args": "config"}
_RECIPE = re.compile(r"(?P<file>[^:]+\.py):[^\W\d]\w*")
_SITE_PATH = re.compile(r"\$\{site:[A-Za-z0-9_.-]+\}(/.*)?")


class _Reader:
    """Reads one mapping field by field; a fault is noted and reading goes on with the default."""

    def __init__(self, document: Mapping[str, JsonValue]) -> None:
        self.document = document
        self.faults: list[str] = []

    def definition(self) -> StudyDefinition:
        self._refuse_unknown(self.document, _KEYS, "")
        purpose = self._text("purpose", "")
        if not purpose and isinstance(self.document.get("purpose", ""), (str, types.NoneType)):
            self._fault("purpose is missing: one sentence, why does this experiment exist?")
        determinism = self._determinism()
        reason = self._optional_text("determinism_reason")
        if determinism == "off" and not reason:
            self._fault("determinism: off needs a determinism_reason")
        self._require_one_run()
        if self.document.get("stages") is not None and self.document.get("outputs"):
            self._fault("outputs: of a pipeline stand below the stages that make them")
        config, config_file = self._config()
        return StudyDefinition(
            purpose=purpose,
            expected=self._text("expected", ""),
            model=self._text("model", "none"),
            dataset=self._text("dataset", "none"),
            type=self._text("type", "training"),
            command=self._command(),
            function=self._matching("function", FUNCTION, "package.module:name or file.py:name"),
            recipe=self._matching("recipe", _RECIPE, "file.py:name"),
            stages=self._stages(),
            workdir=self._path(self.document.get("workdir") or ".", "workdir", root_ok=True),
            config=config,
            config_file=config_file,
            seed=self._seed(),
            determinism=determinism,
            determinism_reason=reason,
            code=tuple(self._path(item, "code", root_ok=True) for item in self._list("code")),
            data=self._unique("data", (self._input(item) for item in self._list("data"))),
            outputs=self._unique("outputs", (self._output(item) for item in self._list("outputs"))),
            metrics=self._metrics(),
            executor=self._optional_text("executor"),
        )

    def _fault(self, fault: str) -> None:
        self.faults.append(fault)

    def _refuse_unknown(self, mapping: Mapping[str, JsonValue], known: Iterable[str], above: str) -> None:
        names = tuple(known)
        for key in mapping:
            if key not in names:
                other = _OTHER_WORDS.get(key) if not above else None
                nearest = other or find_nearest(key, names)
                likely = f"; did you mean {nearest}?" if nearest else f"; known are {', '.join(names)}"
                self._fault(f"unknown key {above}{key}{likely}")

    def _require_one_run(self) -> None:
        given = [key for key in _RUNS if self.document.get(key) is not None]
        if not given:
            self._fault("nothing to run: one of command, function, recipe or stages is needed")
        elif len(given) > 1:
            self._fault(f"{' and '.join(given)} exclude each other")

    def _text(self, key: str, default: str) -> str:
        value = self.document.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self._fault(f"{key} must be text, not {_kind(value)}; quote it")
            return default
        return value.strip() or default

    def _optional_text(self, key: str) -> str | None:
        return self._text(key, "") or None

    def _determinism(self) -> Determinism:
        kinds: tuple[Determinism, ...] = ("off", "seeded", "bitwise")
        return self._chosen(self.document.get("determinism"), kinds, "seeded", "determinism")

    def _chosen(self, value: JsonValue, allowed: tuple[_Value, ...], default: _Value, where: str) -> _Value:
        if value is None:
            return default
        for choice in allowed:
            if value == choice:
                return choice
        self._fault(f"{where} must be one of {', '.join(allowed)}, not {_shown(value)}")
        return default

    def _matching(self, key: str, pattern: re.Pattern[str], shape: str) -> str | None:
        value = self._optional_text(key)
        if value is not None and not pattern.fullmatch(value):
            self._fault(f"{key} must be {shape}, not {_shown(value)}")
        return value

    def _command(self) -> tuple[str, ...] | None:
        value = self.document.get("command")
        if value is None:
            return None
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return tuple(str(item) for item in value)
        if not isinstance(value, str):
            self._fault(f"command must be text or a list of texts, not {_kind(value)}")
            return None
        try:
            return tuple(split_command_line(value))
        except DefinitionError as fault:
            self._fault(f"command: {fault.message}" + (f"; {fault.hint}" if fault.hint else ""))
            return None

    def _stages(self) -> tuple[Stage, ...] | None:
        value = self.document.get("stages")
        if value is None:
            return None
        stages, faults = parse_stages(value)
        self.faults += faults
        return stages

    def _config(self) -> tuple[Mapping[str, JsonValue], str | None]:
        value = self.document.get("config")
        if isinstance(value, str):
            return {}, self._path(value, "config")
        if value is None:
            return {}, None
        if not isinstance(value, Mapping):
            self._fault(f"config must be a mapping or the path of a file, not {_kind(value)}")
            return {}, None
        try:
            plain_config(value)
        except CanonicalFormError as fault:
            self._fault(f"config: {fault.message}")
        return value, None

    def _seed(self) -> int | None:
        value = self.document.get("seed")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
            self._fault(f"seed must be a whole number from 0 to 2^63 - 1, not {_shown(value)}")
            return None
        return value

    def _list(self, key: str) -> list[JsonValue]:
        value = self.document.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._fault(f"{key} must be a list" + (f": [{value}]" if isinstance(value, str) else ""))
            return []
        return value

    def _path(self, value: JsonValue, where: str, *, root_ok: bool = False) -> str:
        if not isinstance(value, str):
            self._fault(f"{where}: a path must be text, not {_kind(value)}")
            return "."
        fault = _path_fault(value, root_ok=root_ok)
        if fault:
            self._fault(f"{where}: {_shown(value)} {fault}")
        return posixpath.normpath(value)

    def _entry(self, item: JsonValue, key: str, option: str) -> tuple[str | None, JsonValue]:
        """Return path and option of a list item that is a path or `{path, <option>}`."""
        if isinstance(item, str):
            return item, None
        if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
            self._fault(f"{key}: an entry must be a path or {{path: …, {option}: …}}, not {_shown(item)}")
            return None, None
        self._refuse_unknown(item, ("path", option), f"{key}.")
        return str(item["path"]), item.get(option)

    def _input(self, item: JsonValue) -> InputSpec | None:
        if isinstance(item, Mapping) and "from" in item:
            return self._input_from(item)
        path, pin = self._entry(item, "data", "pin")
        if path is None:
            return None
        if is_address(path):
            if isinstance(item, Mapping):
                self._fault(f"data: {_shown(path)} is an address; write {{from: {path}, path: …}}")
            return self._addressed(path, "", ())
        kinds: tuple[PinKind, ...] = ("content", "manifest")
        return InputSpec(self._path(path, "data"), self._chosen(pin, kinds, "content", f"data: pin of {path}"))

    def _input_from(self, item: Mapping[str, JsonValue]) -> InputSpec | None:
        """Return an input that lies elsewhere: `{from: exp://…, path: where it lies in the workspace}`."""
        self._refuse_unknown(item, ("from", "path", "allow"), "data.")
        address = item["from"]
        if not isinstance(address, str) or not is_address(address):
            self._fault(f"data.from must be an address, exp://… or hf://…, not {_shown(address)}")
            return None
        path = item.get("path")
        return self._addressed(address, "" if path is None else self._path(path, "data.path"), self._allow(item))

    def _allow(self, item: Mapping[str, JsonValue]) -> tuple[str, ...]:
        patterns = item.get("allow")
        if patterns is None:
            return ()
        if not isinstance(patterns, list) or not all(isinstance(one, str) and one.strip() for one in patterns):
            self._fault(f'data.allow must be a list of patterns, ["*.json"], not {_shown(patterns)}')
            return ()
        if not str(item["from"]).startswith(HUB):
            self._fault(f"data.allow chooses files of {HUB}…, not of {_shown(item['from'])}")
        return tuple(sorted({str(one) for one in patterns}))

    def _addressed(self, address: str, path: str, allow: tuple[str, ...]) -> InputSpec:
        if fault := address_fault(address):
            self._fault(f"data: {_shown(address)} {fault}")
        return InputSpec(path, "content" if address.startswith(EXPERIMENT) else "named", address, allow)

    def _output(self, item: JsonValue) -> OutputSpec | None:
        path, wanted = self._entry(item, "outputs", "keep")
        if path is None:
            return None
        kinds: tuple[Keep, ...] = ("dvc", "in-place", "digest")
        keep = self._chosen(wanted, kinds, "dvc", f"outputs: keep of {path}")
        if path.startswith("/") or _SITE_PATH.fullmatch(path):
            if keep != "in-place":
                self._fault(f"outputs: {_shown(path)} lies outside {{outputs}}; that needs keep: in-place")
            return OutputSpec(path.rstrip("/") or "/", keep)
        return OutputSpec(self._path(path.removeprefix("{outputs}/"), "outputs"), keep)

    def _unique(self, key: str, specs: Iterable[_Spec | None]) -> tuple[_Spec, ...]:
        found = tuple(spec for spec in specs if spec is not None)
        paths = [spec.label for spec in found]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            self._fault(f"{key}: {path} stands there twice")
        for path in sorted({path for path in paths if any(path.startswith(f"{other}/") for other in paths)}):
            self._fault(f"{key}: {path} lies inside another entry")
        return found

    def _metrics(self) -> MetricsSpec:
        value = self.document.get("metrics")
        if value is None:
            return MetricsSpec()
        if isinstance(value, str):
            return MetricsSpec(self._path(value, "metrics"))
        if not isinstance(value, Mapping):
            self._fault(f"metrics must be a mapping, not {_kind(value)}")
            return MetricsSpec()
        file = value.get("file")
        goals = tuple(self._goal(name, goal) for name, goal in value.items() if name != "file")
        return MetricsSpec(None if file is None else self._path(file, "metrics.file"), goals)

    def _goal(self, name: str, value: JsonValue) -> MetricGoal:
        where = f"metrics.{name}"
        if value is None or isinstance(value, str):
            return MetricGoal(name, self._direction(value, where))
        if not isinstance(value, Mapping):
            self._fault(f"{where} must be {{goal: max}} or {{goal: min}}, not {_shown(value)}")
            return MetricGoal(name)
        self._refuse_unknown(value, ("goal", "tolerance", "volatile"), f"{where}.")
        volatile = value.get("volatile", False)
        if not isinstance(volatile, bool):
            self._fault(f"{where}.volatile must be true or false, not {_shown(volatile)}")
        goal = self._direction(value.get("goal"), f"{where}.goal")
        return MetricGoal(name, goal, self._tolerance(value.get("tolerance"), where), volatile is True)

    def _direction(self, value: JsonValue, where: str) -> Goal | None:
        directions: tuple[Goal, ...] = ("max", "min")
        return None if value is None else self._chosen(value, directions, "max", where)

    def _tolerance(self, value: JsonValue, where: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < sys.float_info.max:
            self._fault(f"{where}.tolerance must be a number, 0 or more, not {_shown(value)}")
            return None
        return float(value)


def _path_fault(path: str, *, root_ok: bool) -> str | None:
    normal = posixpath.normpath(path)
    faults = {
        "is empty": not path.strip(),
        "holds a control character": any(ord(letter) < 32 or ord(letter) == 127 for letter in path),
        "is absolute; write it relative to the repository root": path.startswith("/"),
        "begins with ~, which nothing expands": path.startswith("~"),
        "leaves the repository": normal == ".." or normal.startswith("../"),
        "lies in .git": normal == ".git" or normal.startswith(".git/"),
        "names no file in it": normal == "." and not root_ok,
    }
    return next((fault for fault, applies in faults.items() if applies), None)


def _kind(value: JsonValue) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"the {type(value).__name__} {value}".replace("the bool", "the boolean")


def _shown(value: JsonValue) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


# ------------------------------------------------------------------------------------------------------- template

_TEMPLATE = """\
# What this study is and how it runs. YAML 1.2: `1e-3` is a number, `on` is text.
# Run it:          nemo-gitexp run @STUDY@
# Change a value:  nemo-gitexp run @STUDY@ lr=0.05

purpose: Find out whether @STUDY@ learns at all             # one sentence: why does this experiment exist?
expected: ""                                               # what would surprise you?
model: none                                                # stands in the experiment's name
dataset: none                                              # stands in the experiment's name
type: training

# No shell is started. {config} is the path of the resolved configuration (JSON), {outputs} a fresh directory,
# {seed} the seed, {config.lr} one value; a literal brace is doubled.
command: python experiments/@STUDY@/train.py --config {config} --out {outputs}
# function: package.module:train                           # instead of a command: called with the configuration
# workdir: .                                               # relative to the repository root

config:                                                    # or the path of a file: configs/base.yaml
  lr: 0.1
  epochs: 10

seed: 42
determinism: seeded                                        # bitwise | seeded | off (off needs determinism_reason)

# code: [experiments/@STUDY@, src]                         # what counts as this study's code; default: everything
# data: [data/train.npz]                                   # tracked by DVC; or {path: data/raw, pin: manifest},
#                                                          # exp://EXPERIMENT/OUTPUT, hf://ORG/NAME@REVISION
# outputs: [model.pt]                                      # in {outputs}; or {path: ckpt, keep: in-place}

# A metric is one JSON line per step appended to the file $GITEXP_METRICS, for instance {"step": 1, "loss": 0.3}
metrics:
  # file: metrics.json                                     # if the job writes its metrics into a file of its own
  loss: {goal: min}
  # accuracy: {goal: max, tolerance: 0.002}                # how far a reproduction may be off
  # samples_per_second: {volatile: true}                   # shown, never compared

# executor: local
"""


def render_definition_template(study: str) -> bytes:
    """Return a commented `experiment.yaml` for a new study, one that `parse_definition` accepts."""
    return _TEMPLATE.replace("@STUDY@", study).encode()
