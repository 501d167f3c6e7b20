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
from typing import Final, TypeAlias

from nemo_gitexp.errors import SettingsError, UnknownExecutorError
from nemo_gitexp.jsontext import JsonValue

SITE_FILE: Final = "nemo-gitexp.site.toml"
BUILT_IN: Final = "built in"

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
        secrets_allowed: patterns (fnmatch) of paths, and of dotted keys of a configuration, that may hold secrets.
        executors: profiles by name; `local` always exists.
        site: the values of `${site:NAME}`.
        sources: where each setting came from, by its name (`executors.NAME`, `site.NAME` for tables).
    """

    run_root: Path | None = None
    workspace_root: Path | None = None
    python: str | None = None
    threads: int | None = None
    max_untracked_file_mb: float = 10.0
    max_untracked_total_mb: float = 50.0
    reproduce_cost_limit: float = 1.0
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


@dataclass(frozen=True, slots=True)
class _Value:
    value: JsonValue | Path
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
    "secrets_allowed": _TEXTS,
}
_TABLE_NAMES: Final = ("executors", "site")
_NAMES: Final = (*_KINDS, *_TABLE_NAMES)


def _tables(root: Path) -> Iterable[tuple[str, Table]]:
    document = _read_toml(root / "pyproject.toml", naming=b"nemo-gitexp")
    tool = document.get("tool")
    own = tool.get("nemo-gitexp") if isinstance(tool, Mapping) else None
    if own is None:
        return ()
    if not isinstance(own, Mapping):
        raise SettingsError("[tool.nemo-gitexp] is no table", setting="tool.nemo-gitexp", source="pyproject.toml")
    return (("pyproject.toml", own),)


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
        _require_known(name, source)
        kind = _KINDS.get(name)
        if kind is None:
            raise SettingsError(f"{source}: {name} is a table; set it in a file", setting=name, source=source)
        _take(values, name, _from_text(text, kind), source, root)


def _site_named(values: Mapping[str, _Value], key: str) -> str | None:
    """Return the entry of a site name whatever its case: git config keeps none, the environment likes capitals."""
    return next((name for name in values if name.lower() == f"site.{key}".lower()), None)


def _from_text(text: str, kind: _Kind) -> JsonValue:
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
        known = values.get(f"executors.{name}")
        earlier = known.value if known is not None and isinstance(known.value, Mapping) else {}
        merged = {**earlier, **_require_table(f"executors.{name}", profile, source)}
        kind = merged.setdefault("type", "local" if name == "local" else None)
        if not isinstance(kind, str):
            said = f"{source}: executors.{name} needs a type (local, slurm, …)"
            raise SettingsError(said, setting=f"executors.{name}.type", source=source)
        where = source if known is None else f"{known.source}, {source}"
        values[f"executors.{name}"] = _Value(merged, where)


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
    for name, item in values.items():
        head, dot, key = name.partition(".")
        if not dot:
            plain[name] = item.value
        elif head == "executors" and isinstance(item.value, Mapping):
            executors[key] = MappingProxyType(dict(item.value))
        else:
            site[key] = str(item.value)
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
        secrets_allowed=_texts(plain.get("secrets_allowed")),
        executors=MappingProxyType(executors),
        site=MappingProxyType(site),
        sources=MappingProxyType({name: item.source for name, item in values.items()}),
    )


def _texts(value: JsonValue | Path) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()


def _number(plain: Mapping[str, JsonValue | Path], name: str, default: float) -> float:
    value = plain.get(name, default)
    return float(value) if isinstance(value, (int, float)) else default
