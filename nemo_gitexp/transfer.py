"""Runs on machines that share no file system with this one: state and data go there, what a job leaves comes back.

`ROOT/runs/<run>` is the run directory there and `ROOT/workspaces/<run>` the workspace; both appear by rename, when all
of it has arrived. Nothing there needs git, so commits that nobody has pushed run as any other.
"""

from __future__ import annotations

import json
import posixpath
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp.data.cache import render_node_config
from nemo_gitexp.data.restore import RestoredInput
from nemo_gitexp.errors import MissingDataError, RemoteHostError, SettingsError
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.owners import owner_token
from nemo_gitexp.profiles import Place
from nemo_gitexp.relocation import (
    DEFAULT_PYTHON,
    Relocation,
    arriving_inputs,
    find_relocation,
    require_plain_paths,
    write_relocated_run,
    write_relocation,
)
from nemo_gitexp.remote import RemoteHost
from nemo_gitexp.rundir import UNDROPPED, RunPaths, unwritable, write_beside
from nemo_gitexp.runs import read_state_file
from nemo_gitexp.worker import cachelink
from nemo_gitexp.workspace import Workspace

INCOMING: Final = "incoming"
CONTAINER_RUN: Final = "/gitexp/run"
CONTAINER_WORKSPACE: Final = "/gitexp/workspace"
_SLOW_S: Final = 6 * 3600.0
"""`dvc pull` of much data takes long; what never ends is cut off all the same."""

_SURVEY: Final = """\
umask 077
mkdir -p -- "$1/runs" "$1/workspaces" "$1/incoming/$2" && cd -- "$1" || exit
printf '%s\\0%s\\0' "$(pwd -P)" "$HOME"
[ ! -e "runs/$2/plan.json" ] || printf there
"""
_SETTLE: Final = """\
cd -- "$1" || exit
[ -e "workspaces/$2" ] || mv -- "incoming/$2/workspace" "workspaces/$2" || exit
[ -e "runs/$2" ] || mv -- "incoming/$2/run" "runs/$2" || exit
rm -rf -- "incoming/$2"
"""
_DROP: Final = """\
for place; do
    [ -e "$place" ] || continue
    gone="$(dirname -- "$place")/.gone.$(basename -- "$place")"
    mv -- "$place" "$gone" && chmod -R u+w -- "$gone" || exit
    # The scheduler may write the last line of a log meanwhile.
    rm -rf -- "$gone" 2>/dev/null || { sleep 1; rm -rf -- "$gone"; } || exit
done
"""
_LOOK: Final = """\
[ -d "$1" ] || exit 0
cd -- "$1" || exit; shift
echo looked
for run; do
    [ ! -e "$run/result.json" ] || printf '%s\\n' "$run"
done
"""
_PULL: Final = """\
cd -- "$1" || exit
python=$2; shift 2
export DVC_NO_ANALYTICS=1
if "$python" -c 'import dvc' 2>/dev/null; then exec "$python" -m dvc pull -- "$@"; fi
exec dvc pull -- "$@"
"""


def carry_run(
    paths: RunPaths,
    workspace: Workspace,
    host: RemoteHost,
    place: Place,
    *,
    in_container: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Relocation:
    """Bring a prepared run and its workspace to another machine; to be called before the job is submitted there.

    A second call does nothing; one after an interruption sends what is missing.

    Args:
        paths: the run directory, prepared.
        workspace: its restored state.
        host: where to.
        place: of the bound profile: `root`, `python`, `data`, `cache`.
        in_container: the job sees both under names of their own; `Relocation.mounts` says what it has to mount.
        progress: told in one line what takes time.

    Returns:
        Where the run lies there, which `relocated.json` in the run directory says too.

    Raises:
        SettingsError: the profile names no root, or one that NeMo Run would corrupt.
        MissingDataError: data that is neither in the site's cache nor in a remote that it reaches.
        RemoteHostError: the machine cannot be reached, or its disk is full.
        StateDirectoryError: this side's run directory cannot be written.
    """
    root = _require_root(host, place, in_container=in_container)
    there = _survey(host, root, paths.run)
    relocation = _relocation(paths, host, place, there, in_container=in_container)
    try:
        write_relocation(paths, relocation)  # first: what arrives of it can be found and removed
        if not there.is_settled:
            _send(paths, workspace, host, place, _Sending(relocation, there, progress or _silent))
    except OSError as fault:
        raise unwritable(paths, fault) from fault
    return relocation


def fetch_runs(
    host: RemoteHost, runs: Sequence[tuple[RunPaths, Relocation]], *, ended: Collection[str] = ()
) -> set[str]:
    """Bring what jobs have written so far into their run directories here; outputs once a job has ended.

    Files appear whole, a result last of all that belongs to it. Many runs of one host are one look.

    Args:
        host: where they lie.
        runs: which.
        ended: names of runs that are known to have ended without a result, by the scheduler's word.

    Returns:
        The names of the runs whose result is here now.

    Raises:
        RemoteHostError: the machine cannot be reached.
    """
    finished: set[str] = set()
    sides = {(posixpath.dirname(where.run_at), paths.root.parent) for paths, where in runs}
    for base, target in sorted(sides):
        names = [
            paths.run for paths, where in runs if (posixpath.dirname(where.run_at), paths.root.parent) == (base, target)
        ]
        said = host.run(["sh", "-c", _LOOK, "sh", base, *names]).stdout.decode("utf-8", "surrogateescape")
        looked, *done = said.splitlines() or [""]
        if not looked:  # somebody cleared the whole directory away: nothing will ever come from there
            continue
        host.fetch(base, target, files=names, filters=_filters(names, whole={*done, *ended}))
        host.fetch(base, target, files=[f"{name}/result.json" for name in sorted(done)])
        finished.update(done)
    return finished


def tell_run(host: RemoteHost, paths: RunPaths, relocation: Relocation) -> None:
    """Bring this side's words to a run there: that it is to be cancelled, must not start any more, is over.

    What is said there already stays.

    Raises:
        RemoteHostError: the machine cannot be reached.
    """
    parts = dict.fromkeys((paths, *paths.parts()))
    words = [paths.cancel, *(word for part in parts for word in (part.abandoned, part.scheduler_word))]
    names = [str(word.relative_to(paths.root)) for word in words if word.exists()]
    host.push(paths.root, relocation.run_at, files=names, is_final=True)


def drop_run(host: RemoteHost, relocation: Relocation) -> None:
    """Remove a run and its workspace there; nothing happens when they are gone already.

    Raises:
        RemoteHostError: the machine cannot be reached, or they cannot be removed.
    """
    places = [relocation.incoming_at, relocation.workspace_at, relocation.run_at]
    host.run(["sh", "-c", _DROP, "sh", *(place for place in places if place)], timeout_s=600)


def bring_home(runs: Iterable[RunPaths], warn: Callable[[str], None], *, ended: Collection[str] = ()) -> bool:
    """Fetch what the runs among these have written that work elsewhere; return whether every machine answered.

    Args:
        runs: run directories, of any kind.
        warn: told which machine does not answer.
        ended: names of runs that have ended without a result.
    """
    by_host: dict[RemoteHost, list[tuple[RunPaths, Relocation]]] = {}
    for paths in runs:
        relocation = find_relocation(paths)
        if relocation is not None:
            by_host.setdefault(relocation.host, []).append((paths, relocation))
    is_complete = True
    for host, members in by_host.items():
        try:
            fetch_runs(host, members, ended=ended)
        except RemoteHostError as fault:
            is_complete = False
            warn(f"{fault.message}; its runs are shown as they were last known")
    return is_complete


def drop_carried(paths: RunPaths, *, is_kept: bool, silent: set[RemoteHost]) -> None:
    """Remove the copy of a run that its node worked in, if there is one.

    What is kept loses the variables of the executor's profile, which may be secret. Of a machine that does not answer
    the copy is remembered beside the run directory, for `drop_undropped`.

    Args:
        paths: the run directory here.
        is_kept: the copy is to stay.
        silent: machines that did not answer just now, which are not asked again; one more is added.
    """
    relocation = find_relocation(paths)
    if relocation is None or read_state_file(paths.dropped).get("is_kept") in (False, is_kept):
        return
    if relocation.host not in silent:
        try:
            _drop(paths, relocation, is_kept=is_kept)
        except RemoteHostError:
            silent.add(relocation.host)
        else:
            with suppress(OSError):
                write_beside(paths.dropped, render_json({"is_kept": is_kept}))
                shutil.rmtree(paths.undropped.root, ignore_errors=True)
            return
    if not is_kept:  # else its directory stays, and says it
        _remember(paths.undropped, relocation)


def _drop(paths: RunPaths, relocation: Relocation, *, is_kept: bool) -> None:
    if is_kept:
        secret = [part.variables.relative_to(paths.root) for part in dict.fromkeys((paths, *paths.parts()))]
        relocation.host.run(["rm", "-f", "--", *(f"{relocation.run_at}/{file}" for file in secret)])
    else:
        drop_run(relocation.host, relocation)


def drop_undropped(run_root: Path, silent: set[RemoteHost]) -> None:
    """Remove copies of runs on machines that did not answer when their runs here went.

    Args:
        run_root: where the run directories were.
        silent: machines that did not answer just now, which are not asked again; more are added.
    """
    for note in [RunPaths(path) for path in sorted(run_root.glob(f"{UNDROPPED}*"))]:
        relocation = find_relocation(note)
        if relocation is None or relocation.host in silent:
            continue
        try:
            drop_run(relocation.host, relocation)
        except RemoteHostError:
            silent.add(relocation.host)
        else:
            shutil.rmtree(note.root, ignore_errors=True)


def _remember(note: RunPaths, relocation: Relocation) -> None:
    with suppress(OSError):
        note.root.mkdir(mode=0o700, exist_ok=True)
        note.root.joinpath(".gitignore").write_bytes(b"*\n")  # as in a run directory
        write_relocation(note, relocation)


@dataclass(frozen=True, slots=True)
class _There:
    """What was found there: the root's real path, the home directory, and whether the run has arrived already."""

    root: str
    home: str
    is_settled: bool


@dataclass(frozen=True, slots=True)
class _Sending:
    relocation: Relocation
    there: _There
    progress: Callable[[str], None]


def _require_root(host: RemoteHost, place: Place, *, in_container: bool) -> str:
    if not place.root:
        raise SettingsError(
            "the executor shares no file system with this machine and names no directory there",
            hint='root = "/a/directory/there" in its table',
            setting="root",
        )
    if not in_container:
        require_plain_paths({"root": place.root})
    if host.name is None:
        return str(Path(place.root).expanduser())
    # ssh starts in the home directory.
    return "." if place.root == "~" else place.root.removeprefix("~/")


def _survey(host: RemoteHost, root: str, run: str) -> _There:
    said = host.run(["sh", "-c", _SURVEY, "sh", root, run]).stdout.decode("utf-8", "surrogateescape")
    fields = said.split("\0")
    if len(fields) != 3:
        raise RemoteHostError(
            f"the login shell of {host.address} talks: {said[:200]!r}",
            hint="let its start-up files print nothing where no terminal is",
            host=host.address,
        )
    return _There(fields[0], fields[1], fields[2] == "there")


def _relocation(paths: RunPaths, host: RemoteHost, place: Place, there: _There, *, in_container: bool) -> Relocation:
    run_at, workspace_at = f"{there.root}/runs/{paths.run}", f"{there.root}/workspaces/{paths.run}"
    if not in_container:
        require_plain_paths({"root": there.root})
    return Relocation(
        run_dir=CONTAINER_RUN if in_container else run_at,
        workspace=CONTAINER_WORKSPACE if in_container else workspace_at,
        run_at=run_at,
        workspace_at=workspace_at,
        host=host,
        incoming_at=f"{there.root}/{INCOMING}/{paths.run}",
        python=place.python,
        home=None if in_container else there.home,
    )


def _send(paths: RunPaths, workspace: Workspace, host: RemoteHost, place: Place, sending: _Sending) -> None:
    incoming = str(sending.relocation.incoming_at)
    left = [item for item in workspace.inputs if _stays_behind(item.pin, place, workspace)]
    carried = [item for item in workspace.inputs if item not in left]
    cache = place.cache or (f"{sending.there.root}/cache" if left else None)
    with _staged(paths) as stage:
        inputs = arriving_inputs(workspace.path, workspace.inputs)
        write_relocated_run(paths, sending.relocation, stage / "run", inputs)
        _write_node_configs(workspace, stage / "workspace", cache)
        host.push(workspace.path, f"{incoming}/workspace", files=[file.path for file in workspace.files])
        files = [file.path for item in carried for file in item.files]
        if files:
            sending.progress(f"copying {len(files)} data files to {host.address}")
        host.push(workspace.path, f"{incoming}/workspace", files=files, follow_links=True)
        host.push(stage, incoming)
    if left and cache:
        bring = _link_from_cache if place.data == "cache" else _pull
        bring(host, f"{incoming}/workspace", left, _Site(place.python or DEFAULT_PYTHON, cache, workspace.dvc_roots))
    host.run(["sh", "-c", _SETTLE, "sh", sending.there.root, paths.run])


def _stays_behind(pin: InputPin, place: Place, workspace: Workspace) -> bool:
    """Return whether the site has the content of an input itself: of what DVC tracks, if the profile says so."""
    return place.data != "copy" and pin.strength == "content" and pin.origin is None and bool(workspace.dvc_roots)


@contextmanager
def _staged(paths: RunPaths) -> Iterator[Path]:
    """Give a directory beside the run directory that goes away, also when this process was killed."""
    stage = paths.root.with_name(f".{owner_token()}.{paths.run}")
    try:
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_node_configs(workspace: Workspace, target: Path, cache: str | None) -> None:
    for relative in workspace.dvc_roots:
        content = render_node_config(workspace.path, relative, cache)
        if content is not None:
            place = target / relative / ".dvc" / "config.local"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch(mode=0o600)
            place.write_bytes(content)


@dataclass(frozen=True, slots=True)
class _Site:
    """What brings data into a workspace there."""

    python: str
    cache: str
    dvc_roots: tuple[str, ...]


def _link_from_cache(host: RemoteHost, workspace: str, inputs: Sequence[RestoredInput], site: _Site) -> None:
    rows = [
        [file.path, file.md5, file.size_bytes, 0o755 if item.pin.executable else 0o444]
        for item in inputs
        for file in item.files
    ]
    request = {"cache": site.cache, "workspace": workspace, "files": rows}
    program = Path(cachelink.__file__).read_text(encoding="utf-8")
    done = host.run([site.python, "-c", program], stdin=json.dumps(request).encode(), timeout_s=_SLOW_S)
    missing = json.loads(done.stdout)["missing"]
    if missing:
        named = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise MissingDataError(
            f"the cache {site.cache} on {host.address} lacks {named}",
            hint='dvc fetch there, or data = "copy" in the executor\'s table',
            missing=missing,
        )


def _pull(host: RemoteHost, workspace: str, inputs: Sequence[RestoredInput], site: _Site) -> None:
    """Let DVC there bring the data from its remotes, with the credentials that it finds there."""
    for root, pins in _by_dvc_root(inputs, site.dvc_roots).items():
        targets = [posixpath.relpath(pin.path, root or ".") for pin in pins]
        try:
            argv = ["sh", "-c", _PULL, "sh", posixpath.join(workspace, root), site.python, *targets]
            host.run(argv, timeout_s=_SLOW_S)
        except RemoteHostError as fault:
            if fault.facts.get("exit_code") is None:
                raise
            raise MissingDataError(
                f"dvc pull on {host.address} did not bring {', '.join(targets[:20])}: {fault.message}",
                hint='dvc push here; or data = "copy" in the executor\'s table',
                missing=[pin.path for pin in pins],
            ) from fault


def _by_dvc_root(inputs: Sequence[RestoredInput], roots: Sequence[str]) -> Mapping[str, list[InputPin]]:
    """Return the pins by the directory with `.dvc` that their pointer belongs to: the nearest above."""
    found: dict[str, list[InputPin]] = {}
    for item in inputs:
        near = item.pin.source or item.pin.path
        above = [root for root in roots if not root or near.startswith(f"{root}/")]
        found.setdefault(max(above, key=len, default=""), []).append(item.pin)
    return found


def _filters(names: Iterable[str], *, whole: Collection[str]) -> list[str]:
    """Return the rules that leave out what is not the node's own word, and of living runs what may still change."""
    given = ("plan.json", "manifest.json", "config.json", "results.json", "inputs.json", "variables.json")
    this_side = (
        "launching.json",
        "relocated.json",
        "submitting.json",
        "submitted.json",
        "scheduler.json",
        "dropped.json",
        "log.gz",
    )
    told = ("cancel.json", "abandoned.json")
    passing = ("node", "slots", "reserve.bin", "job-reserve.bin", "*.order", "*.tmp")
    rules = ["- /*/result.json"]  # fetched last of all
    for file in (*given, *this_side, *told, *passing):
        rules += [f"- /*/{file}", f"- /*/stages/*/{file}"]
    living = [name for name in names if name not in whole]
    return rules + [
        f"- /{name}/{folder}" for name in living for folder in ("outputs", "nemo", "wandb", "stages/*/wandb")
    ]


def _silent(_: str) -> None:
    return None
