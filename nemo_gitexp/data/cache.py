"""Where DVC keeps its objects for a repository, and the local DVC configuration of a workspace. Never imports dvc."""

from __future__ import annotations

import os
import posixpath
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from nemo_gitexp.errors import DataError, StateDirectoryError
from nemo_gitexp.worker.publicurl import public_url

LINK_TYPES: Final = ("reflink", "hardlink", "copy")
"""How a workspace gets its inputs: never by symbolic links, which a job could follow and overwrite."""

_Section: TypeAlias = "dict[str, str | list[str]]"
_Config: TypeAlias = "dict[str, _Section]"

_PATH_KEYS: Final = frozenset({
    "url", "gdrive_user_credentials_file", "gdrive_service_account_json_file_path", "credentialpath", "configpath",
    "keyfile", "cert_path", "key_path",
})  # fmt: skip
_PLACE_KEYS: Final = ("url", "endpointurl", "region", "version_aware")
"""What of a remote's settings says where it is."""

_REMOTE: Final = re.compile(r"""\s*remote\s*"(?P<name>.*)"\s*""")


@dataclass(frozen=True, slots=True)
class CacheLocation:
    """The DVC side of a repository.

    Attributes:
        dvc_root: directory that holds `.dvc`, absolute.
        relative: the same, POSIX, relative to the repository root; empty for the root itself.
        cache_dir: DVC's cache directory; objects lie in `files/md5/` below it.
        link_types: what the user configured as cache.type; DVC's default when unset.
        alternates: further directories of this layout that may hold objects (main worktree's cache, our own store).
        has_remote: whether some DVC remote is configured.
        is_shared: cache.shared is group: directories are made group-writable.
    """

    dvc_root: Path
    relative: str
    cache_dir: Path
    link_types: tuple[str, ...]
    alternates: tuple[Path, ...]
    has_remote: bool
    is_shared: bool = False


def find_cache(
    repo_root: Path, near: str = "", *, main_root: Path | None = None, env: Mapping[str, str] | None = None
) -> CacheLocation | None:
    """Return where DVC keeps its objects, None where there is no DVC.

    Args:
        repo_root: the git work tree.
        near: a pointer file or input, POSIX, relative to it: the nearest `.dvc` directory above it counts
            (`dvc init --subdir`). Without it the root's own, else the only one at most two levels below.
        main_root: the main work tree when `repo_root` is a linked one: its cache is looked into as well.
        env: the environment (DVC_GLOBAL_CONFIG_DIR, XDG_CONFIG_HOME, HOME); this process's own when None.

    Raises:
        DataError: a DVC configuration file that cannot be read.
    """
    relative = _find_dvc_root(repo_root, near)
    if relative is None:
        return None
    root = Path(os.path.abspath(repo_root / relative))  # noqa: PTH100 - resolve() would follow links
    config = _read_levels(root, dict(os.environ) if env is None else env)
    section = config.get("cache", {})
    cache_dir = Path(_text(section, "dir") or root / ".dvc" / "cache")
    alternates = [cache_dir / "gitexp"]
    if main_root is not None and main_root != repo_root:
        main = find_cache(main_root, near, env=env)
        alternates += [] if main is None else [main.cache_dir, *main.alternates]
    return CacheLocation(
        dvc_root=root,
        relative=relative,
        cache_dir=cache_dir,
        link_types=_words(section, "type") or ("reflink", "copy"),
        alternates=tuple(path for path in dict.fromkeys(alternates) if path != cache_dir),
        has_remote=any(_REMOTE.fullmatch(name) for name in config),
        is_shared=_text(section, "shared") == "group",
    )


def configure_workspace(workspace: Path, cache: CacheLocation, link_types: Sequence[str] = LINK_TYPES) -> Path | None:
    """Write `.dvc/config.local` of a workspace, so that DVC there uses the shared cache and the user's remotes.

    The user's remotes and local settings (credentials too) are taken over with their paths made absolute; the file is
    readable by the user alone and git ignores it.

    Args:
        workspace: a directory holding a commit.
        cache: the DVC side of the user's repository.
        link_types: how DVC puts files in place there.

    Returns:
        The file, None when the workspace has no `.dvc` directory.

    Raises:
        StateDirectoryError: it cannot be written.
    """
    folder = workspace / cache.relative / ".dvc"
    if not folder.is_dir():
        return None
    merged = _user_config(cache.dvc_root)
    merged.setdefault("cache", {}).update({"dir": str(cache.cache_dir), "type": list(link_types)})
    # DVC keeps an index per root below /var/tmp; inside the workspace it goes away with it.
    merged.setdefault("core", {})["site_cache_dir"] = str(folder.absolute() / "tmp" / "site")
    if not (workspace / cache.relative / ".git").exists() and not (workspace / ".git").exists():
        merged["core"]["no_scm"] = "true"
    path = folder / "config.local"
    try:
        _write_private(path, _render(merged))
    except OSError as fault:
        raise StateDirectoryError(f"cannot write {path}: {fault.strerror}", path=str(path)) from fault
    return path


def render_node_config(workspace: Path, relative: str, cache_dir: str | None) -> bytes | None:
    """Return `.dvc/config.local` for the copy of a workspace on another machine, None where it has no `.dvc`.

    Where the remotes are is told, who may use them is not: that machine has its own credentials, or none.

    Args:
        workspace: on this machine, configured by `configure_workspace`.
        relative: the directory in it that holds `.dvc`, empty for its root.
        cache_dir: DVC's cache directory there; None: inside the workspace.
    """
    folder = workspace / relative / ".dvc"
    if not folder.is_dir():
        return None
    here = _read_config(folder / "config.local")
    config: _Config = {"core": {"no_scm": "true"}}  # what travels has no `.git`
    chosen = _text(here.get("core", {}), "remote")
    if chosen:
        config["core"]["remote"] = chosen
    for name, section in here.items():
        url = _text(section, "url")
        if _REMOTE.fullmatch(name) and url and public_url(url) == url:
            config[name] = {key: section[key] for key in _PLACE_KEYS if key in section}
    if cache_dir is not None:
        config["cache"] = {"dir": cache_dir, "type": list(LINK_TYPES)}
    return _render(config)


def _user_config(dvc_root: Path) -> _Config:
    """Return the user's local configuration and the remotes of the shared one."""
    shared = _read_config(dvc_root / ".dvc" / "config")
    merged: _Config = {name: section for name, section in shared.items() if _REMOTE.fullmatch(name)}
    chosen = _text(shared.get("core", {}), "remote")
    if chosen:
        merged["core"] = {"remote": chosen}
    for name, section in _read_config(dvc_root / ".dvc" / "config.local").items():
        merged.setdefault(name, {}).update(section)
    return merged


def _find_dvc_root(repo_root: Path, near: str) -> str | None:
    above = posixpath.dirname(near)
    while above:
        if (repo_root / above / ".dvc").is_dir():
            return above
        above = posixpath.dirname(above)
    if (repo_root / ".dvc").is_dir():
        return ""
    if near:
        return None
    below = [path for pattern in ("*/.dvc", "*/*/.dvc") for path in repo_root.glob(pattern) if path.is_dir()]
    return below[0].parent.relative_to(repo_root).as_posix() if len(below) == 1 else None


def _read_levels(dvc_root: Path, env: Mapping[str, str]) -> _Config:
    """Return DVC's configuration, later levels over earlier ones: system, global, repository, local."""
    merged: _Config = {}
    own = dvc_root / ".dvc"
    for path in (*_outer_configs(env), own / "config", own / "config.local"):
        for name, section in _read_config(path).items():
            merged.setdefault(name, {}).update(section)
    return merged


def _outer_configs(env: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the system and the global configuration file, as platformdirs places them for DVC."""
    home = Path(env.get("HOME") or Path.home())
    if sys.platform == "darwin":
        system, user = Path("/Library/Application Support"), home / "Library" / "Application Support"
    else:
        system = Path((env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)[0])
        user = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return (
        Path(env.get("DVC_SYSTEM_CONFIG_DIR") or system / "dvc") / "config",
        Path(env.get("DVC_GLOBAL_CONFIG_DIR") or user / "dvc") / "config",
    )


def _read_config(path: Path) -> _Config:
    """Return one configuration file with its paths made absolute; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"cannot read the DVC configuration {path}: {fault}", path=str(path)) from fault
    from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]  # only with DVC

    try:
        parsed = ConfigObj(lines, interpolation=False)
    except ConfigObjError as fault:
        raise DataError(f"{path} is no valid DVC configuration: {fault}", path=str(path)) from fault
    return {str(name): _absolute(str(name), parsed[name], path.parent) for name in parsed.sections}


def _absolute(name: str, section: Mapping[str, str | list[str]], folder: Path) -> _Section:
    keys = _PATH_KEYS if _REMOTE.fullmatch(name) else {"dir"} if name == "cache" else frozenset[str]()
    return {
        key.lower(): _resolve(value, folder) if key.lower() in keys and isinstance(value, str) else value
        for key, value in section.items()
    }


def _resolve(value: str, folder: Path) -> str:
    """Return a path of a configuration file as DVC reads it: relative to the file's directory, URLs left alone."""
    if re.match(r"\w+://", value):
        return value
    return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111 - as DVC spells it


def _render(config: _Config) -> bytes:
    from configobj import ConfigObj  # only with DVC

    document = ConfigObj(config, interpolation=False, encoding="utf-8")
    document.filename = None
    lines: list[bytes] = document.write()
    return b"\n".join(lines) + b"\n"


def _write_private(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".config.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _text(section: _Section, key: str) -> str | None:
    value = section.get(key)
    return value if isinstance(value, str) and value else None


def _words(section: _Section, key: str) -> tuple[str, ...]:
    value = section.get(key, [])
    words = value if isinstance(value, list) else value.split(",")
    return tuple(word.strip() for word in words if word.strip())
