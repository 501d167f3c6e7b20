"""What a job runs, as a value: script, module, code, function, call, command, notebook; placeholders in its arguments.

Recognised from the argument list alone: no file is looked at, no interpreter is asked.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from nemo_gitexp.errors import DefinitionError, NotRepeatableError, RecordError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import find_nearest, parse_key, render_key

EntryJson: TypeAlias = dict[str, JsonValue]

_PYTHON = re.compile(r"(python|pypy)([0-9]+(\.[0-9]+)?t?)?(\.exe)?", re.ASCII)
_ANSWERED = frozenset({"-V", "-VV", "--version", "-h", "-?", "--help"})
_SHELLS = frozenset({"bash", "dash", "ksh", "sh", "zsh"})
_MODULE_LAUNCHERS = frozenset({"accelerate", "deepspeed", "torchrun", "uv"})
_PLAIN_OPTIONS = frozenset("bBdEIOPqsSuv")
_OPTIONS_WITH_VALUE = frozenset("cmWX")


@dataclass(frozen=True, slots=True)
class Python:
    """How Python was called: the interpreter as typed, and its own options in order (`-u`, `-X`, `dev`)."""

    interpreter: str = "python"
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScriptEntry:
    """`python train.py --lr 0.1`; `path` as typed, relative to the working directory or absolute.

    `verbatim`, here and below: braces in its words are the program's own, no placeholders.
    """

    path: str
    arguments: tuple[str, ...] = ()
    python: Python = Python()
    verbatim: bool = False
    kind: ClassVar[str] = "script"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """The script's name without `.py`; the directory's for a `__main__.py`."""
        return _script_stem(self.path)

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {**_python_json(self.kind, self.python, self.arguments), "path": self.path, **_verbatim_json(self)}


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """`python -m package.train --lr 0.1`."""

    module: str
    arguments: tuple[str, ...] = ()
    python: Python = Python()
    verbatim: bool = False
    kind: ClassVar[str] = "module"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """The last part of the module's name; the package's for a `__main__`."""
        return _module_stem(self.module)

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {**_python_json(self.kind, self.python, self.arguments), "module": self.module, **_verbatim_json(self)}


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """`python -c CODE args`."""

    code: str
    arguments: tuple[str, ...] = ()
    python: Python = Python()
    verbatim: bool = False
    kind: ClassVar[str] = "code"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """Code has no name of its own."""
        return "code"

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {**_python_json(self.kind, self.python, self.arguments), "code": self.code, **_verbatim_json(self)}


@dataclass(frozen=True, slots=True)
class FunctionEntry:
    """A function that is called with the configuration.

    Args:
        target: `package.module:train`; `path/to/file.py:train`, relative to the root of the repository, imported as a
            module of the file's name; or `experiments/<study>/record/<name>.pkl`, carried by value.
        python: what runs it.
        build: the objects that the configuration describes by `_target_` are made before the call.
        digest: `sha256:…` over what a carried function does; None where the code key knows it.
        sha256: hex, of the carried file.
        refers: modules of the repository that a carried function refers to by name.
        bytecode: the Python that a carried function was compiled for: `3.11`.
        search: the directory, relative to the root, that leads the import path; None: the working directory, or the
            one of the target's file.
        call: parameter to dotted key of the configuration, `{seed}` for the seed; empty: as the signature suggests.
        returns: metric to the names under which the returned value may have it, in order of preference.
    """

    target: str
    python: Python = Python()
    build: bool = False
    digest: str | None = None
    sha256: str | None = None
    refers: tuple[str, ...] = ()
    bytecode: str | None = None
    search: str | None = None
    call: tuple[tuple[str, str], ...] = ()
    returns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    arguments: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False
    kind: ClassVar[str] = "function"
    wrapped: ClassVar[bool] = False

    @property
    def file(self) -> str | None:
        """The file that holds the function, relative to the root; None when it is named by its module."""
        place, colon, _ = self.target.rpartition(":")
        if not colon:
            return self.target
        return place if place.endswith(".py") else None

    @property
    def study_stem(self) -> str:
        """The last part of the module's name, or the file's."""
        if self.file is not None:
            return posixpath.basename(self.file).removesuffix(".py").removesuffix(".pkl")
        return _module_stem(self.target.partition(":")[0])

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold; what is not set is left out, so that old identities stay."""
        shape = _python_json(self.kind, self.python, ())
        del shape["args"]
        known: EntryJson = {
            "build": self.build or None,
            "digest": self.digest,
            "sha256": self.sha256,
            "refers": list(self.refers) or None,
            "bytecode": self.bytecode,
            "search": self.search,
            "call": dict(self.call) or None,
            "returns": {name: list(aliases) for name, aliases in self.returns} or None,
        }
        return {**shape, "target": self.target, **{key: value for key, value in known.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class CallEntry:
    """A call that the configuration describes, target and arguments (`run.Partial`).

    Args:
        target: `module:name`, what the configuration has at `_target_`.
        python: what runs it.
        search: directories, relative to the root, that lead the import path.
        recipe: `file.py:name` that made the configuration; None where a program did. No part of the identity.
    """

    target: str
    python: Python = Python()
    search: tuple[str, ...] = ()
    recipe: str | None = None
    arguments: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False
    kind: ClassVar[str] = "call"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """The name of what made it, else of what is called."""
        return (self.recipe or self.target).rpartition(":")[2].rpartition(".")[2]

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        shape = _python_json(self.kind, self.python, ())
        del shape["args"]
        made: EntryJson = {"recipe": self.recipe} if self.recipe else {}
        return {**shape, "target": self.target, "search": list(self.search), **made}


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Any other command (`bash x.sh`, `torchrun … train.py`): which interpreter runs is known only in the job."""

    argv: tuple[str, ...]
    verbatim: bool = False
    kind: ClassVar[str] = "command"
    wrapped: ClassVar[bool] = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the script or module that the command wraps; all arguments when there is none."""
        inner = _inner_python(self.argv)
        return inner.arguments if inner else self.argv[_program_position(self.argv) + 1 :]

    @property
    def study_stem(self) -> str:
        """The name of the script or module that the command wraps, else of the program."""
        inner = _inner_python(self.argv)
        if inner:
            return inner.study_stem
        position = _program_position(self.argv)
        named = self.argv[position]
        is_module = position == _module_position(self.argv) != 0
        return _module_stem(named) if is_module else _script_stem(named)

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {"kind": self.kind, "argv": list(self.argv), **_verbatim_json(self)}


@dataclass(frozen=True, slots=True)
class NotebookEntry:
    """A Jupyter notebook: its code cells run from top to bottom; `path` is relative to the working directory."""

    path: str
    python: Python = Python()
    arguments: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False
    kind: ClassVar[str] = "notebook"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """The notebook's name without `.ipynb`."""
        return posixpath.basename(self.path).removesuffix(".ipynb")

    def to_json(self) -> EntryJson:
        """Return what the record and the plan hold."""
        return {**_python_json(self.kind, self.python, ()), "path": self.path}


@dataclass(frozen=True, slots=True)
class InteractiveEntry:
    """A session that no command line starts again; `why` says what it was, in words that follow "it ran in"."""

    why: str
    python: Python = Python()
    arguments: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False
    kind: ClassVar[str] = "interactive"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """What was typed has no name of its own."""
        return "interactive"

    def to_json(self) -> EntryJson:
        """Return what the record holds; no plan is ever made of it."""
        return {**_python_json(self.kind, self.python, ()), "why": self.why}


@dataclass(frozen=True, slots=True)
class ImportedEntry:
    """A run that another tool (`tool`: its name as people write it) recorded: what was started there is not known."""

    tool: str
    python: Python = Python()
    arguments: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False
    kind: ClassVar[str] = "imported"
    wrapped: ClassVar[bool] = False

    @property
    def study_stem(self) -> str:
        """It came with a name of its own."""
        return "imported"

    def to_json(self) -> EntryJson:
        """Return what the record holds; no plan is ever made of it."""
        return {"kind": self.kind, "tool": self.tool}


PythonEntry: TypeAlias = ScriptEntry | ModuleEntry | CodeEntry
Entry: TypeAlias = (
    PythonEntry | FunctionEntry | CallEntry | CommandEntry | NotebookEntry | InteractiveEntry | ImportedEntry
)


def is_repeatable(entry: object) -> bool:
    """Return whether a command line can start an entry point again."""
    return not isinstance(entry, (InteractiveEntry, ImportedEntry))


def require_repeatable(entry: object, sha: str) -> None:
    """Check that an experiment can be run again.

    Raises:
        NotRepeatableError: it was typed into an interactive session, ran in a process that another one feeds, or was
            imported.
    """
    if isinstance(entry, ImportedEntry):
        raise NotRepeatableError(
            f"{sha[:12]} cannot be run again: it was imported from {entry.tool}, and with which command, environment "
            "and data it ran is not recorded",
            hint=f"nemo-gitexp run STUDY --from {sha[:12]} starts a new experiment from its configuration",
            experiment=sha,
            why=f"imported from {entry.tool}",
        )
    if isinstance(entry, InteractiveEntry):
        raise NotRepeatableError(
            f"{sha[:12]} cannot be run again: it ran in {entry.why}",
            hint=f"put it into a script or a notebook; nemo-gitexp checkout {sha[:12]} DIR has its code",
            experiment=sha,
            why=entry.why,
        )


def parse_command(argv: Sequence[str]) -> Entry:
    """Return the entry point of a command line.

    Python called in a way that cannot be followed (stdin, no script, `-i`, `-x`, an unknown option) is a plain command.

    Raises:
        DefinitionError: no command at all.
    """
    if not argv or not argv[0]:
        raise DefinitionError("there is no command to run", hint="nemo-gitexp run -- python train.py")
    return _parse_python(tuple(argv)) or CommandEntry(tuple(argv))


def command_words(entry: Entry) -> list[str]:
    """Return the command line that `parse_command` makes this entry of.

    Raises:
        TypeError: an entry that no command line stands for.
    """
    if isinstance(entry, CommandEntry):
        return list(entry.argv)
    if isinstance(entry, ScriptEntry):
        what = [entry.path]
    elif isinstance(entry, ModuleEntry):
        what = ["-m", entry.module]
    elif isinstance(entry, CodeEntry):
        what = ["-c", entry.code]
    else:
        raise TypeError(f"a {entry.kind} has no command line")
    return [entry.python.interpreter, *entry.python.flags, *what, *entry.arguments]


def taken_verbatim(entry: Entry) -> Entry:
    """Return an entry whose words a program gave for another one: where they hold braces, these are no placeholders."""
    if isinstance(entry, CommandEntry):
        return replace(entry, verbatim=any("{" in word for word in entry.argv))
    if isinstance(entry, (ScriptEntry, ModuleEntry, CodeEntry)):
        return replace(entry, verbatim=any("{" in word for word in entry.arguments))
    return entry


def reads_program_from_stdin(argv: Sequence[str]) -> bool:
    """Return whether a command is an interpreter waiting for its program: `python`, `python -`, `bash -s`."""
    program = posixpath.basename(argv[0])
    if _PYTHON.fullmatch(program):
        words = argv[1:]
        is_bare = all(word.startswith("-") for word in words) and not _ANSWERED.intersection(words)
        return is_bare and isinstance(parse_command(argv), CommandEntry)
    return program in _SHELLS and (len(argv) == 1 or "-s" in argv[1:])


def parse_entry(document: JsonValue) -> Entry:  # noqa: C901, PLR0911 - one line a kind
    """Return the entry that `to_json` wrote.

    Raises:
        RecordError: a kind that is unknown (a newer record), or a field missing or of the wrong type.
    """
    if not isinstance(document, Mapping):
        raise RecordError("the recorded entry point is no mapping")
    kind = document.get("kind")
    verbatim = document.get("verbatim") is True
    if kind == "command":
        return CommandEntry(_texts(document, "argv"), verbatim)
    if kind == "imported":
        return ImportedEntry(_text(document, "tool"))
    python = Python(_text(document, "interpreter"), _texts(document, "interpreter_flags"))
    if kind == "script":
        return ScriptEntry(_text(document, "path"), _texts(document, "args"), python, verbatim)
    if kind == "module":
        return ModuleEntry(_text(document, "module"), _texts(document, "args"), python, verbatim)
    if kind == "code":
        return CodeEntry(_text(document, "code"), _texts(document, "args"), python, verbatim)
    if kind == "function":
        return _parse_function(document, python)
    if kind == "call":
        recipe = _text_or_none(document, "recipe")
        return CallEntry(_text(document, "target"), python, _texts(document, "search"), recipe)
    if kind == "notebook":
        return NotebookEntry(_text(document, "path"), python)
    if kind == "interactive":
        return InteractiveEntry(_text(document, "why"), python)
    raise RecordError(f"the recorded entry point is of an unknown kind: {kind!r}", hint="upgrade nemo-gitexp")


def _parse_function(document: Mapping[str, JsonValue], python: Python) -> FunctionEntry:
    call, returns = _mapping(document, "call"), _mapping(document, "returns")
    return FunctionEntry(
        _text(document, "target"),
        python,
        build=document.get("build") is True,
        digest=_text_or_none(document, "digest"),
        sha256=_text_or_none(document, "sha256"),
        refers=_texts(document, "refers") if "refers" in document else (),
        bytecode=_text_or_none(document, "bytecode"),
        search=_text_or_none(document, "search"),
        call=tuple((name, _text(call, name)) for name in sorted(call)),
        returns=tuple((name, _texts(returns, name)) for name in sorted(returns)),
    )


def _parse_python(argv: tuple[str, ...]) -> PythonEntry | None:
    """Return the entry of a Python call, None for anything that is none or cannot be followed."""
    if not _PYTHON.fullmatch(posixpath.basename(argv[0])):
        return None
    flags: list[str] = []
    waiting = list(argv[1:])
    while waiting:
        token = waiting.pop(0)
        if not token.startswith("-"):
            return ScriptEntry(token, tuple(waiting), Python(argv[0], tuple(flags)))
        option = _cut_option(token)
        if option is None:
            return None
        plain, letter, value = option
        flags += [f"-{plain}"] if plain else []
        if not letter:
            continue
        if not value and not waiting:
            return None
        value = value or waiting.pop(0)
        if letter in "mc":
            made = ModuleEntry if letter == "m" else CodeEntry
            return made(value, tuple(waiting), Python(argv[0], tuple(flags)))
        flags += [f"-{letter}", value]
    return None


def _cut_option(token: str) -> tuple[str, str, str] | None:
    """Return the plain letters of `-uXdev`, the letter that takes a value, and the value attached to it."""
    letters = token[1:]
    for position, letter in enumerate(letters):
        if letter in _OPTIONS_WITH_VALUE:
            return letters[:position], letter, letters[position + 1 :]
        if letter not in _PLAIN_OPTIONS:
            return None
    return (letters, "", "") if letters else None


def _inner_python(argv: tuple[str, ...]) -> PythonEntry | None:
    """Return the Python call that a command wraps (`uv run python train.py`), when it can be seen."""
    for position, token in enumerate(argv):
        if position and _PYTHON.fullmatch(posixpath.basename(token)):
            return _parse_python(argv[position:])
    return None


def _program_position(argv: tuple[str, ...]) -> int:
    """Return where the wrapped script or module stands; 0, the command itself, when there is none."""
    scripts = (at for at, token in enumerate(argv) if token.endswith((".py", ".sh")))
    return min((at for at in (next(scripts, 0), _module_position(argv)) if at), default=0)


def _module_position(argv: tuple[str, ...]) -> int:
    """Return where a launcher's `-m MODULE` names its module, 0 without one: elsewhere `-m` means other things."""
    if posixpath.basename(argv[0]) not in _MODULE_LAUNCHERS:
        return 0
    flags = (at for at, token in enumerate(argv[:-1]) if token in ("-m", "--module"))
    return next((at + 1 for at in flags), 0)


def _script_stem(path: str) -> str:
    folder, name = posixpath.split(path.rstrip("/"))
    stem = name.removesuffix(".py").removesuffix(".sh")
    return posixpath.basename(folder) or stem if stem == "__main__" else stem


def _module_stem(module: str) -> str:
    package, _, last = module.rpartition(".")
    return package.rpartition(".")[2] or last if last == "__main__" else last


def _python_json(kind: str, python: Python, arguments: tuple[str, ...]) -> EntryJson:
    flags: list[JsonValue] = list(python.flags)
    args: list[JsonValue] = list(arguments)
    return {"kind": kind, "interpreter": python.interpreter, "interpreter_flags": flags, "args": args}


def _verbatim_json(entry: PythonEntry | CommandEntry) -> EntryJson:
    """Return the field only where it is set, so that old identities stay."""
    return {"verbatim": True} if entry.verbatim else {}


def _text(document: Mapping[str, JsonValue], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise RecordError(f"the recorded entry point has no text {key!r}", key=key)
    return value


def _text_or_none(document: Mapping[str, JsonValue], key: str) -> str | None:
    return _text(document, key) if key in document else None


def _mapping(document: Mapping[str, JsonValue], key: str) -> Mapping[str, JsonValue]:
    value = document.get(key, {})
    if not isinstance(value, Mapping):
        raise RecordError(f"the recorded entry point has no mapping {key!r}", key=key)
    return value


def _texts(document: Mapping[str, JsonValue], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(f"the recorded entry point has no list of texts {key!r}", key=key)
    return tuple(str(item) for item in value)


def split_command_line(text: str) -> list[str]:
    r"""Return the arguments of a command line in POSIX quoting; a backslash at a line's end continues it.

    Raises:
        DefinitionError: a quote that does not end, nothing at all, or what only a shell understands.
    """
    joined = text.replace("\\\n", " ").strip()
    operator = _shell_operator(joined)
    if operator is not None:
        shown = "a second line" if operator == "\n" else f"'{operator}'"
        hint = "put it in a script, or write: bash -c '…'"
        raise DefinitionError(f"{shown} in a command needs a shell, and none is started", hint=hint)
    try:
        tokens = shlex.split(joined)
    except ValueError as fault:
        raise DefinitionError(f"the command line cannot be split: {fault}", hint="close the quote") from fault
    if not tokens:
        raise DefinitionError("the command is empty")
    return tokens


def _shell_operator(text: str) -> str | None:
    quote = ""
    escaped = False
    for letter in text:
        if escaped:
            escaped = False
        elif letter == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "|&;<>`\n":
            return letter
    return None


# --------------------------------------------------------------------------------------------------- placeholders

_NAME = r"[A-Za-z_][\w-]*(?:\.[^{}\s]+)?"
_SITE = r"\$\{site:[^{}]*\}"
_STRICT = re.compile(rf"(?P<site>{_SITE})|(?P<open>\{{\{{)|(?P<close>\}}\}})|\{{(?P<name>{_NAME})\}}|(?P<stray>[{{}}])")

_LENIENT = re.compile(rf"\{{\{{(?P<doubled>{_NAME})\}}\}}|\{{(?P<name>{_NAME})\}}")


def expand_placeholders(
    tokens: Sequence[str], values: Mapping[str, str], config: Mapping[str, JsonValue], *, strict: bool = True
) -> list[str]:
    """Return the arguments with `{config}`, `{outputs}`, `{seed}` and `{config.some.key}` replaced.

    Args:
        tokens: the arguments as written.
        values: what the plain names stand for.
        config: what `{config.…}` looks into; text as it is, other values as JSON (`0.1`, `true`, `null`).
        strict: in a definition a literal brace is doubled, and a single one is a fault. An ad-hoc command was typed
            for another program (`awk '{print}'`, `python -c "print({1: 2})"`): there only known names are
            placeholders, doubling works for them alone, everything else stays as it is, and an argument that is one
            unknown `{name}` is a fault.

    Raises:
        DefinitionError: an unknown placeholder, naming the known ones.
    """
    expand = _expand_strict if strict else _expand_lenient
    return [expand(token, values, config) for token in tokens]


def _expand_strict(token: str, values: Mapping[str, str], config: Mapping[str, JsonValue]) -> str:
    def replaced(match: re.Match[str]) -> str:
        if match["site"]:
            return match["site"]
        if match["open"] or match["close"]:
            return "{" if match["open"] else "}"
        if match["stray"]:
            hint = "double a literal brace: {{ or }}"
            raise DefinitionError(f"a single '{match['stray']}' in {token!r} is no placeholder", hint=hint)
        return _value_of(match["name"], values, config)

    return _STRICT.sub(replaced, token)


def _expand_lenient(token: str, values: Mapping[str, str], config: Mapping[str, JsonValue]) -> str:
    if whole := re.fullmatch(rf"\{{({_NAME})\}}", token):
        return _value_of(whole[1], values, config)
    if re.fullmatch(rf"\{{\{{{_NAME}\}}\}}", token):
        return token[1:-1]

    def replaced(match: re.Match[str]) -> str:
        name = match["doubled"] or match["name"]
        if name not in values and not name.startswith("config."):
            return match[0]
        return match[0][1:-1] if match["doubled"] else _value_of(name, values, config)

    return _LENIENT.sub(replaced, token)


def _value_of(name: str, values: Mapping[str, str], config: Mapping[str, JsonValue]) -> str:
    if name in values:
        return values[name]
    if name.startswith("config."):
        return _config_text(name.removeprefix("config."), config)
    known = ", ".join(f"{{{key}}}" for key in [*sorted(values), "config.some.key"])
    hint = f"known are {known}; a literal brace is doubled: {{{{{name}}}}}"
    raise DefinitionError(f"the placeholder {{{name}}} is unknown", hint=hint, placeholder=name, known=sorted(values))


def _config_text(key: str, config: Mapping[str, JsonValue]) -> str:
    value: JsonValue = config
    try:
        path = parse_key(key)
    except ValueError as fault:
        raise DefinitionError(f"the placeholder {{config.{key}}} has no readable key: {fault}") from fault
    for depth, part in enumerate(path):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            nearest = find_nearest(part, value) if isinstance(value, Mapping) else None
            likely = f"; did you mean {render_key((*path[:depth], nearest))}?" if nearest else ""
            raise DefinitionError(f"the configuration has no key {key} for {{config.{key}}}{likely}", key=key)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
