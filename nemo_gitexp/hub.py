"""The Hugging Face hub: names resolved to commits, and their files brought into the hub's own cache.

The one place that imports `huggingface_hub`, an optional package; importing this module does not. Tokens come from the
environment alone and are written nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from nemo_gitexp.addresses import COMMIT, HubAddress, parse_hub_address
from nemo_gitexp.definition import InputSpec
from nemo_gitexp.errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubUnreachableError,
    MissingPackageError,
    StateDirectoryError,
)
from nemo_gitexp.inputpin import HubOrigin, InputPin

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def resolve_hub(spec: InputSpec, env: Mapping[str, str]) -> InputPin:
    """Return the pin of an `hf://` address: the commit that its revision means now, and how much that is.

    Raises:
        HubNotFoundError: no such repository, revision or file.
        HubAccessError: the repository is private or gated.
        HubUnreachableError: the network is down; a commit instead of a branch needs no network when it is cached.
        MissingPackageError: huggingface_hub is not installed.
    """
    address = parse_hub_address(spec.address)
    hub = _require_package()
    origin = HubOrigin(spec.address, address, spec.allow)
    try:
        origin, sizes = _ask(hub, origin, env)
    except HubUnreachableError:
        # A commit means the same for ever: what a complete cache holds is what the hub would say.
        if not COMMIT.fullmatch(address.revision) or not _is_warm(hub, origin):
            raise
        sizes = [path.stat().st_size for path in _cached(hub, origin).values()]
    return InputPin(
        path=spec.path or address.default_path,
        pin=origin.pin,
        size_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        n_files=len(sizes),
        strength="named",
        origin=origin,
    )


def _ask(hub: ModuleType, origin: HubOrigin, env: Mapping[str, str]) -> tuple[HubOrigin, list[int | None]]:
    """Return the origin with the commit that the hub names now, and the sizes of the files that are wanted."""
    address = origin.address
    with _translated(hub, origin.asked, lambda: _cached_hint(hub, address)):
        found = hub.HfApi(token=_token(env)).repo_info(
            address.repo, repo_type=address.repo_type, revision=address.revision, files_metadata=True
        )
    resolved = replace(origin, address=replace(address, revision=str(found.sha)))
    files = {item.rfilename: item.size for item in found.siblings or ()}
    sizes = [size for name, size in files.items() if _is_wanted(resolved, name)]
    if not sizes:
        raise _no_files(resolved, list(files))
    return resolved, sizes


def _is_warm(hub: ModuleType, origin: HubOrigin) -> bool:
    """Whether the hub's library knows its cache to have all of a commit that is wanted."""
    try:
        _snapshot(hub, origin, {}, local_only=True)
    except (OSError, hub.errors.EntryNotFoundError):
        return False
    return bool(_cached(hub, origin))


def fetch_hub(pin: InputPin, env: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Path]:
    """Return the files of a pinned commit in the hub's cache, by path below the input; downloads what is missing.

    With a warm cache nothing is asked for, and no network needed. A single file's own path is the empty text.

    Raises:
        HubError: the hub does not have it any more, does not give it, or cannot be reached.
        StateDirectoryError: the hub's cache cannot be written.
        MissingPackageError: huggingface_hub is not installed.
    """
    origin = pin.origin
    if not isinstance(origin, HubOrigin):
        raise HubError(f"{pin.path} is no input from the hub", address=pin.pin)
    hub = _require_package()
    found = _cached(hub, origin)
    if not _is_complete(found, pin):
        say(f"fetching {origin.address}")
        with _translated(hub, str(origin.address), lambda: "run it once where the network is: HF_HOME keeps the files"):
            _snapshot(hub, origin, env, local_only=False)
        found = _cached(hub, origin)
    if not _is_complete(found, pin):
        raise HubNotFoundError(
            f"{origin.address} has {len(found)} files of {_size(found)} bytes;"
            f" {pin.n_files} of {pin.size_bytes} bytes were recorded",
            hint=f"look at the cache of the hub: hf cache verify {origin.address.repo}",
            address=str(origin.address),
        )
    return found


def _snapshot(hub: ModuleType, origin: HubOrigin, env: Mapping[str, str], *, local_only: bool) -> Path:
    address = origin.address
    folder = hub.snapshot_download(
        address.repo,
        repo_type=address.repo_type,
        revision=address.revision,
        allow_patterns=_patterns(origin),
        token=_token(env),
        local_files_only=local_only,
    )
    return Path(folder)


def _cached(hub: ModuleType, origin: HubOrigin) -> dict[str, Path]:
    """Return the wanted files of a commit that the hub's cache has, perhaps not all of them."""
    address = origin.address
    name = hub.file_download.repo_folder_name(repo_id=address.repo, repo_type=address.repo_type)
    top = Path(hub.constants.HF_HUB_CACHE, name, "snapshots", address.revision)
    files = {path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_file()}
    wanted = {name: path for name, path in files.items() if _is_wanted(origin, name)}
    if address.path in wanted:
        return {"": wanted[address.path]}
    inner = f"{address.path}/" if address.path else ""
    return {name.removeprefix(inner): path for name, path in wanted.items()}


def _is_complete(found: Mapping[str, Path], pin: InputPin) -> bool:
    return len(found) == pin.n_files and (pin.size_bytes is None or _size(found) == pin.size_bytes)


def _size(found: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for path in found.values())


def _patterns(origin: HubOrigin) -> list[str] | None:
    """Return what the hub's own download is to be asked for: never less than what is wanted."""
    inner = origin.address.path
    if inner:
        return [_literal(inner), f"{_literal(inner)}/*"]
    return list(origin.allow) or None


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _is_wanted(origin: HubOrigin, name: str) -> bool:
    """Whether a file lies in the address's path and matches the patterns; `*` crosses slashes, `dir/` is all below."""
    inner = origin.address.path
    if inner and name != inner and not name.startswith(f"{inner}/"):
        return False
    patterns = [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in origin.allow]
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _no_files(origin: HubOrigin, names: list[str]) -> HubNotFoundError:
    what = f"files like {', '.join(origin.allow)}" if origin.allow else f"{origin.address.path or 'files at all'}"
    return HubNotFoundError(
        f"{origin.asked} has no {what} at {origin.address.revision[:12]}",
        hint=f"it has: {', '.join(sorted(names)[:8]) or 'nothing'}",
        address=origin.asked,
    )


def _token(env: Mapping[str, str]) -> str | bool:
    """Return the token of the environment; False: none, not even one that somebody stored on this machine."""
    return next((token for name in TOKENS if (token := env.get(name, "").strip())), False)


def _require_package() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as fault:
        raise MissingPackageError(
            "hf:// inputs need the package huggingface_hub",
            hint="pip install 'nemo-gitexp[hub]'",
            package="huggingface_hub",
        ) from fault
    hub: ModuleType = huggingface_hub
    if not sys.stderr.isatty() and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        hub.utils.disable_progress_bars()  # a bar is for eyes
    return hub


def _cached_hint(hub: ModuleType, address: HubAddress) -> str:
    """Return what to type without a network: the commit that the cache knows the revision as."""
    name = hub.file_download.repo_folder_name(repo_id=address.repo, repo_type=address.repo_type)
    ref = Path(hub.constants.HF_HUB_CACHE, name, "refs", address.revision)
    try:
        commit = ref.read_text(encoding="utf-8").strip()
    except OSError:
        return "try again where the network is"
    return f"the cache of this machine knows that revision as {replace(address, revision=commit)}: write that"


@contextlib.contextmanager
def _translated(hub: ModuleType, address: str, offline_hint: Callable[[], str]) -> Iterator[None]:
    """Turn what the hub's library raises into our errors."""
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError as fault:
        raise _no_access(address) from fault
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as fault:
        said = f"the hub has no such repository, or hides it: {address}"
        hint = f"export HF_TOKEN=…, if it is private; is it a dataset? {_as_dataset(address)}"
        raise HubNotFoundError(said, hint=hint, address=address) from fault
    except errors.RevisionNotFoundError as fault:
        said = f"the repository has no such revision: {address}"
        hint = f"write a branch, tag or commit: {address.partition('@')[0]}@main"
        raise HubNotFoundError(said, hint=hint, address=address) from fault
    except errors.HfHubHTTPError as fault:
        raise _answered(address, getattr(fault.response, "status_code", 0), offline_hint()) from fault
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as fault:
        said = f"the hub cannot be reached, and its cache here lacks {address}"
        raise HubUnreachableError(said, hint=offline_hint(), address=address) from fault
    except (OSError, errors.HTTPError) as fault:
        line = " ".join(str(fault).split())[:200]
        if getattr(fault, "errno", None) in _UNWRITABLE:
            said = f"the cache of the hub cannot be written: {line}"
            raise StateDirectoryError(said, path=hub.constants.HF_HUB_CACHE) from fault
        said = f"the hub cannot be reached for {address}: {line}"
        raise HubUnreachableError(said, hint=offline_hint(), address=address) from fault


def _answered(address: str, status: int, offline_hint: str) -> HubError:
    if status in (401, 403):
        return _no_access(address)
    said = f"the hub answered {status} to {address}"
    if status == 404:
        return HubNotFoundError(said, hint="look at its page: files may have been removed", address=address)
    return HubUnreachableError(said, hint=offline_hint, address=address)


def _no_access(address: str) -> HubAccessError:
    return HubAccessError(
        f"the hub does not give {address} to everybody: it is private, or its terms must be accepted",
        hint="export HF_TOKEN=… (a token that may read it); a gated repository asks once on its page",
        address=address,
    )


def _as_dataset(address: str) -> str:
    return shlex.quote(address.replace("hf://", "hf://datasets/", 1)) if "datasets/" not in address else address
