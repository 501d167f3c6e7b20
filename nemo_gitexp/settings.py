"""What the user set, and where each value came from: pyproject.toml, git config, the site file, the environment.

Reads only `pyproject.toml` and `nemo-gitexp.site.toml`; git's configuration and the environment are handed in.
Later sources win: built in < pyproject.toml < git config < site file < environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from nemo_gitexp.errors import SettingsError, UnknownExecutorError
from nemo_gitexp.jsontext import JsonValue

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile
    from nemo_gitexp.profilesources import MergedProfile

SITE_FILE: Final = "nemo-gitexp.site.toml"
BUILT_IN: Final = "built in"

_PROJECT_FILE: Final = "pyproject.toml"

_GIT_PREFIX: Final = "gitexp."
_ENV_PREFIX: Final = "NEMO_GITEXP_"

Table: TypeAlias = "Mapping[str, JsonValue]"

_LOCAL: Final[Table] = MappingProxyType({"type": "local"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, resolved.

    Attributes:
        run_root: where run directories go; None: below the git directory.
        workspace_root: where workspaces go; None: below the git directory.
        python: the interpreter of jobs that name none (`python`), a name on PATH or a path; None: as the command says.
        threads: OMP_NUM_THREADS and its kin for jobs; None: as the machine decides.
        max_untracked_file_mb: a larger untracked file is refused by the snapshot.
        max_untracked_total_mb: more untracked files than this in all are refused.
        reproduce_cost_limit: device-hours above which `reproduce` asks for `--yes`.
        push_status: whoever looks at running experiments pushes how far they are.
        push_status_minutes: at most so often.
        secrets_allowed: patterns (fnmatch) of paths, and of dotted keys of a configuration, that may hold secrets.
        executors: profiles by name; `local` always exists.
        site: the values of `${site:NAME}`.
        sources: where each setting came from, by its name (`executors.NAME`, `executors.NAME.KEY` and `site.NAME` for
            tables).
    """

    run_root: Path | None = None
    workspace_root: Path | None = None
    python: str | None = None
    threads: int | None = None
    max_untracked_file_mb: float = 10.0
    max_untracked_total_mb: float = 50.0
    reproduce_cost_limit: float = 1.0
    push_status: bool = False
    push_status_minutes: float = 10.0
    secrets_allowed: tuple[str, ...] = ()
    executors: Mapping[str, Table] = field(default_factory=lambda: MappingProxyType({"local": _LOCAL}))
    site: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def source(self, name: str) -> str:
        """Return where a setting came from; "built in" for a default."""
        return self.sources.get(name, BUILT_IN)


def read_settings(root: Path, git_config: Mapping[str, str], env: Mapping[str, str]) -> Settings:
    """Return the settings of a repository.

    Args:
        root: the git work tree.
        git_config: git's configuration, at least its `gitexp.*` keys (lower case as git prints them).
        env: the environment; `NEMO_GITEXP_<NAME>` sets a setting.

    Raises:
        SettingsError: a file that is no TOML, an unknown key, or a value of the wrong kind; `setting` and `source`
            say which and where.
    """
    values: dict[str, _Value] = {}
    for source, table in _tables(root):
        _take_table(values, table, source, root)
    _take_texts(values, _git_texts(git_config), root, spell=lambda name: f"git config {_GIT_PREFIX}{name}")
    for source, table in _site_tables(root):
        _take_table(values, table, source, root)
    _take_texts(values, _env_texts(env), root, spell=lambda name: f"{_ENV_PREFIX}{name.upper()}")
    return _assemble(values)


def require_executor(settings: Settings, name: str) -> Table:
    """Return an executor profile.

    Raises:
        UnknownExecutorError: there is none of this name; names the nearest.
    """
    if name in settings.executors:
        return settings.executors[name]
    near = _nearest(name, settings.executors)
    known = ", ".join(sorted(settings.executors))
    define = f"define [tool.nemo-gitexp.executors.{name}] in pyproject.toml"
    hint = f"--executor {near}" if near else f"--executor local, or {define}"
    said = f"no executor is named {name}; there are: {known}"
    raise UnknownExecutorError(said, hint=hint, executor=name, nearest=near)


def require_profile(settings: Settings, name: str) -> ExecutorProfile:
    """Return an executor profile, its references as they are.

    Raises:
        UnknownExecutorError: there is none of this name; names the nearest.
        SettingsError: it has faults; all are named.
    """
    from nemo_gitexp.profiles import parse_profile  # 6 ms, for those who have profiles

    return parse_profile(name, require_executor(settings, name))


@dataclass(frozen=True, slots=True)
class _Value:
    value: JsonValue | Path | MergedProfile
    source: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one setting is read: from a TOML value, and what to call it when that fails."""

    accepts: Callable[[JsonValue], bool]
    called: str


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_text(value: JsonValue) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


_PATH: Final = _Kind(_is_text, "a path")
_TEXT: Final = _Kind(_is_text, "a text")
_NUMBER: Final = _Kind(_is_number, "a number that is not negative")
_COUNT: Final = _Kind(
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0, "a whole number above 0"
)
_FLAG: Final = _Kind(lambda value: isinstance(value, bool), "true or false")
_TEXTS: Final = _Kind(
    lambda value: isinstance(value, (list, tuple)) and all(_is_text(item) for item in value), "a list of texts"
)
_KINDS: Final[Mapping[str, _Kind]] = {
    "run_root": _PATH,
    "workspace_root": _PATH,
    "python": _TEXT,
    "threads": _COUNT,
    "max_untracked_file_mb": _NUMBER,
    "max_untracked_total_mb": _NUMBER,
    "reproduce_cost_limit": _NUMBER,
    "push_status": _FLAG,
    "push_status_minutes": _NUMBER,
    "secrets_allowed": _TEXTS,
}
_TABLE_NAMES: Final = ("executors", "site")
_NAMES: Final = (*_KINDS, *_TABLE_NAMES)


def _tables(root: Path) -> Iterable[tuple[str, Table]]:
    document = _read_toml(root / _PROJECT_FILE, naming=b"nemo-gitexp")
    tool = document.get("tool")
    own = tool.get("nemo-gitexp") if isinstance(tool, Mapping) else None
    if own is None:
        return ()
    if not isinstance(own, Mapping):
        raise SettingsError("[tool.nemo-gitexp] is no table", setting="tool.nemo-gitexp", source=_PROJECT_FILE)
    return ((_PROJECT_FILE, own),)


def _site_tables(root: Path) -> Iterable[tuple[str, Table]]:
    document = _read_toml(root / SITE_FILE)
    return ((SITE_FILE, document),) if document else ()


def _read_toml(path: Path, *, naming: bytes = b"") -> Table:
    """Return a TOML file; empty where there is none, or where it does not hold `naming` (then it is not parsed)."""
    try:
        text = path.read_bytes()
        if naming not in text:
            return {}
        import tomllib  # 8 ms, for those who set something

        return tomllib.loads(text.decode())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as fault:
        raise SettingsError(f"cannot read {path}: {fault.strerror}", setting="", source=path.name) from fault
    except ValueError as fault:  # not UTF-8, or no TOML
        raise SettingsError(f"{path.name} is no valid TOML: {fault}", setting="", source=path.name) from fault


def _git_texts(git_config: Mapping[str, str]) -> dict[str, str]:
    """Return the texts under `gitexp.`; git has no underscores in names, so dashes stand for them and case is lost."""
    own = {name: text for name, text in git_config.items() if name.lower().startswith(_GIT_PREFIX)}
    return {_from_git(name[len(_GIT_PREFIX) :]): text for name, text in own.items()}


def _from_git(name: str) -> str:
    head, dot, key = name.partition(".")
    if dot:
        return f"{head.lower()}.{key}"
    flat = {known.replace("_", ""): known for known in _NAMES}
    plain = name.lower().replace("-", "").replace("_", "")
    return flat.get(plain, name.lower())


def _env_texts(env: Mapping[str, str]) -> dict[str, str]:
    own = {name[len(_ENV_PREFIX) :]: text for name, text in env.items() if name.startswith(_ENV_PREFIX) and text}
    # NEMO_GITEXP_SITE_SCRATCH is the site value SCRATCH; what resembles no setting is another variable of ours.
    sites = {f"site.{name[len('SITE_') :]}": text for name, text in own.items() if name.startswith("SITE_")}
    rest = {name.lower(): text for name, text in own.items() if not name.startswith("SITE_")}
    return {name: text for name, text in rest.items() if _nearest(name, _KINDS) is not None} | sites


def _take_texts(
    values: dict[str, _Value], texts: Mapping[str, str], root: Path, *, spell: Callable[[str], str]
) -> None:
    for name, text in texts.items():
        source = spell(name)
        head, dot, key = name.partition(".")
        if dot and head == "site":
            spelled = _site_named(values, key) or name
            values[spelled] = _Value(text, source)
            continue
        if dot and head == "executors":
            _take_executor_text(values, key, text, source)
            continue
        _require_known(name, source)
        kind = _KINDS.get(name)
        if kind is None:
            raise SettingsError(f"{source}: {name} is a table; set it in a file", setting=name, source=source)
        _take(values, name, _from_text(text, kind), source, root)


def _site_named(values: Mapping[str, _Value], key: str) -> str | None:
    """Return the entry of a site name whatever its case: git config keeps none, the environment likes capitals."""
    return next((name for name in values if name.lower() == f"site.{key}".lower()), None)


def _from_text(text: str, kind: _Kind) -> JsonValue:
    if kind is _FLAG:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind not in (_NUMBER, _COUNT):
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _take_table(values: dict[str, _Value], table: Table, source: str, root: Path) -> None:
    for key, value in table.items():
        name = key.replace("-", "_")
        if name == "executors":
            _take_executors(values, value, source)
        elif name == "site":
            _take_site(values, value, source)
        else:
            _require_known(name, source)
            _take(values, name, value, source, root)


def _take(values: dict[str, _Value], name: str, value: JsonValue, source: str, root: Path) -> None:
    kind = _KINDS[name]
    if not kind.accepts(value):
        raise SettingsError(f"{source}: {name} must be {kind.called}, not {value!r}", setting=name, source=source)
    if kind is _PATH and isinstance(value, str):
        values[name] = _Value(root / Path(value).expanduser(), source)
    else:
        values[name] = _Value(value, source)


def _take_executors(values: dict[str, _Value], value: JsonValue, source: str) -> None:
    for name, profile in _require_table("executors", value, source).items():
        _take_executor(values, name, _require_table(f"executors.{name}", profile, source), source)


def _take_executor_text(values: dict[str, _Value], key: str, text: str, source: str) -> None:
    """Take one key of a profile from git's configuration, which has texts alone: NAME.KEY, NAME.tunnel.KEY."""
    name, _, rest = key.partition(".")
    outer, _, inner = rest.rpartition(".")
    if not rest or outer not in ("", "tunnel"):
        said = f"{source}: no key of a profile that git's configuration can hold"
        hint = f"[executors.{name or 'NAME'}] in {SITE_FILE}"
        raise SettingsError(said, hint=hint, setting=f"executors.{key}", source=source)
    plain = inner.replace("-", "_")
    value: JsonValue = int(text) if plain == "port" and text.isdigit() else text
    if plain == "shared" and text.lower() in ("true", "false"):
        value = text.lower() == "true"
    _take_executor(values, name, {"tunnel": {plain: value}} if outer else {plain: value}, source)


def _take_executor(values: dict[str, _Value], name: str, table: Table, source: str) -> None:
    from nemo_gitexp.profilesources import merge_profile  # 6 ms, for those who have profiles

    known = values.get(f"executors.{name}")
    earlier = None if known is None else cast("MergedProfile", known.value)
    merged = merge_profile(name, earlier, table, source, shared=source == _PROJECT_FILE)
    values[f"executors.{name}"] = _Value(merged, merged.source)


def _assemble_executor(name: str, merged: MergedProfile) -> Table:
    """Return a profile with all that is said about it.

    Raises:
        SettingsError: nobody says its type.
    """
    kind = merged.table.get("type", "local" if name == "local" else None)
    if not isinstance(kind, str):
        said = f"{merged.source}: executors.{name} needs a type (local, slurm, …)"
        raise SettingsError(said, setting=f"executors.{name}.type", source=merged.source)
    return MappingProxyType({"type": kind, **merged.table})


def _take_site(values: dict[str, _Value], value: JsonValue, source: str) -> None:
    for name, item in _require_table("site", value, source).items():
        if not isinstance(item, (str, int, float)) or isinstance(item, bool):
            said = f"{source}: site.{name} must be a text or a number, not {item!r}"
            raise SettingsError(said, setting=f"site.{name}", source=source)
        values.pop(_site_named(values, name) or "", None)
        values[f"site.{name}"] = _Value(str(item), source)


def _require_table(name: str, value: JsonValue, source: str) -> Table:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{source}: {name} must be a table, not {value!r}", setting=name, source=source)
    return value


def _require_known(name: str, source: str) -> None:
    if name in _NAMES:
        return
    near = _nearest(name, _NAMES)
    hint = f"did you mean {near}?" if near else f"known settings: {', '.join(_NAMES)}"
    raise SettingsError(f"{source}: no setting is named {name}", hint=hint, setting=name, source=source, nearest=near)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _assemble(values: Mapping[str, _Value]) -> Settings:
    executors: dict[str, Table] = {"local": _LOCAL}
    site: dict[str, str] = {}
    plain: dict[str, JsonValue | Path] = {}
    sources: dict[str, str] = {}
    for name, item in values.items():
        head, dot, key = name.partition(".")
        sources[name] = item.source
        if dot and head == "executors":
            merged = cast("MergedProfile", item.value)
            executors[key] = _assemble_executor(key, merged)
            sources |= {f"{name}.{inner}": source for inner, source in merged.sources.items()}
        elif dot and head == "site":
            site[key] = str(item.value)
        else:
            plain[name] = cast("JsonValue | Path", item.value)
    run_root, workspace_root = plain.get("run_root"), plain.get("workspace_root")
    python, threads = plain.get("python"), plain.get("threads")
    return Settings(
        run_root=run_root if isinstance(run_root, Path) else None,
        workspace_root=workspace_root if isinstance(workspace_root, Path) else None,
        python=python if isinstance(python, str) else None,
        threads=threads if isinstance(threads, int) else None,
        max_untracked_file_mb=_number(plain, "max_untracked_file_mb", 10.0),
        max_untracked_total_mb=_number(plain, "max_untracked_total_mb", 50.0),
        reproduce_cost_limit=_number(plain, "reproduce_cost_limit", 1.0),
        push_status=plain.get("push_status") is True,
        push_status_minutes=_number(plain, "push_status_minutes", 10.0),
        secrets_allowed=_texts(plain.get("secrets_allowed")),
        executors=MappingProxyType(executors),
        site=MappingProxyType(site),
        sources=MappingProxyType(sources),
    )


def _texts(value: JsonValue | Path) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()


def _number(plain: Mapping[str, JsonValue | Path], name: str, default: float) -> float:
    value = plain.get(name, default)
    return float(value) if isinstance(value, (int, float)) else default
