"""A run as a machine or container sees it that knows other paths: what its files say there, and how to read it here.

The run directory on this side keeps its own paths. What a node is given is a copy in which every text names the node's;
`relocated.json` remembers both, so that a log that comes back says `{workspace}` and `{run}` as a local one does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from nemo_gitexp.data.restore import RestoredInput
from nemo_gitexp.data.verified import hash_file
from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.remote import THIS_MACHINE, RemoteHost
from nemo_gitexp.rundir import RunPaths, write_beside

NEMO_MOUNT: Final = "/nemo_run"
"""Where containers of NeMo Run see their job directory."""

DEFAULT_PYTHON: Final = "python3"

_STATE_FILE_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Relocation:
    """Where a run lies for its node.

    Attributes:
        run_dir: the run directory as the worker sees it.
        workspace: the workspace as the worker sees it.
        run_at: where the run directory lies on the machine that this side reaches; in a container, before mounting.
        workspace_at: the same for the workspace.
        host: which machine that is, and how it is reached.
        incoming_at: where the files arrive before both appear by rename; None where that is not needed.
        python: the interpreter there; None: what runs the worker, `python3` on its PATH.
        home: the home directory there, None where nobody asked.
    """

    run_dir: str
    workspace: str
    run_at: str
    workspace_at: str
    host: RemoteHost = THIS_MACHINE
    incoming_at: str | None = None
    python: str | None = None
    home: str | None = None

    @property
    def mounts(self) -> tuple[str, ...]:
        """What a container must mount beside its job directory, as `there:inside`."""
        pairs = ((self.run_at, self.run_dir), (self.workspace_at, self.workspace))
        return tuple(
            f"{there}:{inside}" for there, inside in pairs if there != inside and not _is_below(inside, NEMO_MOUNT)
        )

    def worker_argv(self, stage: str | None = None) -> list[str]:
        """Return what starts a worker there; of one stage where the run has stages."""
        part = self.run_dir if stage is None else f"{self.run_dir}/stages/{stage}"
        return [self.python or DEFAULT_PYTHON, f"{self.run_dir}/node/start.py", f"{part}/plan.json"]

    def worker_line(self, stage: str | None = None) -> str:
        """Return the same as one line of shell."""
        return f"exec {shlex.join(self.worker_argv(stage))}\n"

    def places(self) -> dict[str, str]:
        """Return the node's directories with the words that stand for them in records."""
        words = {self.workspace: "{workspace}", self.run_dir: "{run}"}
        words |= {self.workspace_at: "{workspace}", self.run_at: "{run}"}
        if self.python and self.python.startswith("/") and not self.python.startswith("/usr/"):
            words.setdefault(str(PurePosixPath(self.python).parent.parent), "{python}")
        if self.home:
            words.setdefault(self.home, "~")
        return {place: word for place, word in words.items() if len(PurePosixPath(place).parts) > 1}


def write_relocation(paths: RunPaths, relocation: Relocation) -> None:
    """Remember in the run directory where its copy lies.

    Raises:
        OSError: it cannot be written.
    """
    texts = {name: value for name, value in _plain_fields(relocation).items() if name != "host"}
    document = render_json({"schema": 1, "host": _plain_fields(relocation.host), **texts})
    write_beside(paths.relocated, document, private=True)


def find_relocation(paths: RunPaths) -> Relocation | None:
    """Return where the copy of a run lies; None for a run whose node sees this side's own paths."""
    try:
        document = parse_json(paths.relocated.read_bytes(), paths.relocated.name)
    except OSError:
        return None
    way = document.get("host") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(way, Mapping):
        return None
    texts = {field.name: document.get(field.name) for field in fields(Relocation) if field.name != "host"}
    keys = {field.name: way.get(field.name) for field in fields(RemoteHost)}
    files = {name: Path(str(keys[name])) for name in ("identity", "config") if keys[name]}
    return Relocation(host=RemoteHost(**cast("dict[str, Any]", {**keys, **files})), **cast("dict[str, Any]", texts))


def _plain_fields(value: Relocation | RemoteHost) -> dict[str, JsonValue]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: str(item) if isinstance(item, Path) else item for name, item in found.items()}


def require_plain_paths(named: Mapping[str, str]) -> None:
    """Check paths that NeMo Run will write into scripts without a container around them.

    It replaces `/nemo_run` there wherever it stands, and the job then finds nothing (measured with 0.11.1).

    Args:
        named: the paths, by what they are called in settings.

    Raises:
        SettingsError: one of them holds it.
    """
    for name, path in named.items():
        if NEMO_MOUNT in path:
            raise SettingsError(
                f"{name} holds {NEMO_MOUNT}, which NeMo Run replaces in its scripts: {path}",
                hint=f"set {name} to a directory without {NEMO_MOUNT} in its path, or use a container image",
                setting=name,
            )


def relocated_text(text: str, moved: Mapping[str, str]) -> str:
    """Return a text in which the directories stand under their new names, also inside (`--out=/run/outputs`).

    Run directories and workspaces hold a nonce in their names, so that nothing else can be meant.

    Args:
        text: of a plan, a configuration.
        moved: new name by old name.
    """
    if not any(place in text for place in moved):
        return text
    longest_first = sorted(moved, key=len, reverse=True)
    pattern = "|".join(re.escape(place) for place in longest_first)
    return re.sub(rf"({pattern})(?![\w-]|\.\w)", lambda found: moved[found[1]], text)


def relocated_value(value: JsonValue, moved: Mapping[str, str]) -> JsonValue:
    """Return a document with `relocated_text` applied to all of its texts; keys stay."""
    if isinstance(value, str):
        return relocated_text(value, moved)
    if isinstance(value, Mapping):
        return {key: relocated_value(item, moved) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [relocated_value(item, moved) for item in value]
    return value


def relocated_plan(
    plan: Mapping[str, JsonValue], relocation: Relocation, inputs: Sequence[JsonValue]
) -> dict[str, JsonValue]:
    """Return a worker's plan as it must stand on the node.

    The user's own work tree keeps its name: where the node sees it, nothing may be imported from there; where it does
    not, there is nothing to keep out. The node's interpreter is another one than was asked here, so it is asked there.

    Args:
        plan: of a run or of one of its stages.
        relocation: where it goes.
        inputs: the plan's inputs as they arrive there.
    """
    moved = {str(plan["workspace"]): relocation.workspace, run_of(plan): relocation.run_dir}
    found = dict(cast("Mapping[str, JsonValue]", relocated_value({**plan, "inputs": []}, moved)))
    found["inputs"] = list(inputs)
    found["interpreter"] = None if plan.get("interpreter") is None else relocation.python
    found["probe_interpreter"] = relocation.python or DEFAULT_PYTHON
    if relocation.home is not None:
        found["home"] = relocation.home
    return found


def run_of(plan: Mapping[str, JsonValue]) -> str:
    """Return the directory of the whole run that a plan belongs to, be it of a stage."""
    stage = plan.get("stage")
    return str(stage["run"]) if isinstance(stage, Mapping) else str(plan["run_dir"])


def arriving_inputs(workspace: Path, inputs: Iterable[RestoredInput]) -> list[JsonValue]:
    """Return the inputs of a plan as they stand where their content has arrived: files of another inode.

    What nobody hashed here, because its state told enough, is hashed now: on the node there is nothing else to go by.

    Args:
        workspace: where they lie here.
        inputs: as restored.

    Raises:
        OSError: one of them cannot be read.
    """
    found: list[JsonValue] = []
    for item in inputs:
        files = tuple(replace(file, inode=0, md5=file.md5 or hash_file(workspace / file.path)) for file in item.files)
        found.append(replace(item, files=files, kinds=("copy",)).to_json())
    return found


def write_relocated_run(paths: RunPaths, relocation: Relocation, target: Path, inputs: Sequence[JsonValue]) -> None:
    """Write the copy of a prepared run directory that a node is given.

    What a worker reads is there under its own names; files that only this side needs are not. Outputs of stages that
    need not run are linked where the file system allows it.

    Args:
        paths: the prepared run directory.
        relocation: where the copy will be seen.
        target: must not exist.
        inputs: the inputs of the plan as they arrive there.

    Raises:
        OSError: it cannot be written.
    """
    target.mkdir(parents=True)
    plan = cast("Mapping[str, JsonValue]", _read_json(paths.plan))
    moved = {str(plan["workspace"]): relocation.workspace, str(paths.root): relocation.run_dir}
    texts = {
        file for part in dict.fromkeys((paths, *paths.parts())) for file in (part.config, part.results, part.inputs)
    }
    plans = {part.plan for part in dict.fromkeys((paths, *paths.parts()))}
    for source, relative in _carried_files(paths):
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        if source in plans:
            document = cast("Mapping[str, JsonValue]", _read_json(source))
            place.write_bytes(render_json(relocated_plan(document, relocation, inputs)))
        elif source in texts:
            place.write_bytes(render_json(relocated_value(_read_json(source), moved)))
        else:
            _link_or_copy(source, place)
    (target / "outputs").mkdir(exist_ok=True)


def _carried_files(paths: RunPaths) -> Iterator[tuple[Path, Path]]:
    """Yield what a node needs of a run directory, and where below it that lies."""
    for top in paths.prepared:
        if top.is_file():
            yield top, top.relative_to(paths.root)
        for base, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                source = Path(base, name)
                yield source, source.relative_to(paths.root)


def _link_or_copy(source: Path, target: Path) -> None:
    """Share what nobody changes any more; a job may replace its files, but writes into none of these."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _read_json(path: Path) -> JsonValue:
    return parse_json(path.read_bytes(), path.name, limit_bytes=_STATE_FILE_BYTES)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")
