"""A run in the job directory of NeMo Run, for containers: they see that directory and what they mount, nothing else.

`JOB_DIR/<run>` is the run directory and `JOB_DIR/code` the workspace; the container sees them as `/nemo_run/<run>` and
`/nemo_run/code`, which is where it starts. Several jobs of one run, as of a pipeline, share one such directory under
another name, which each of them has to mount (`Relocation.mounts`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nemo_gitexp.data.cache import render_node_config
from nemo_gitexp.data.restore import RestoredInput, parse_restored_input
from nemo_gitexp.errors import WorkspaceError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.relocation import NEMO_MOUNT, Relocation, arriving_inputs, write_relocated_run, write_relocation
from nemo_gitexp.result import mappings, sequence
from nemo_gitexp.rundir import RunPaths, unwritable
from nemo_gitexp.runs import read_state_file

CODE = "code"
_DVC_CONFIG = ".dvc/config.local"


def line_in_container(paths: RunPaths, *, python: str | None, stage: str | None = None, seen: str = NEMO_MOUNT) -> str:
    """Return the line of shell that starts a worker in the container; the directory need not be there yet.

    Args:
        paths: the run directory.
        python: the interpreter in the image; None: `python3` on its PATH.
        stage: of a run of several.
        seen: what the container calls the directory that the run is placed in.
    """
    return _relocation(paths, Path(), python, seen).worker_line(stage)


def place_in_job_dir(paths: RunPaths, job_dir: Path, *, python: str | None, seen: str = NEMO_MOUNT) -> Relocation:
    """Put a prepared run and its workspace where a container will find them.

    Files are linked where the file system allows it, else copied; links that lead out of the workspace to data become
    what they lead to. What is there already, from an earlier attempt, is replaced.

    Args:
        paths: the run directory, prepared.
        job_dir: of NeMo Run, or another directory that the container mounts; it exists.
        python: the interpreter in the image; None: `python3` on its PATH.
        seen: what the container calls the directory.

    Returns:
        Where the run lies, which `relocated.json` in the run directory says too.

    Raises:
        WorkspaceError: the run directory is damaged.
        StateDirectoryError: the directory cannot be written.
    """
    run_at, code = job_dir / paths.run, job_dir / CODE
    relocation = _relocation(paths, job_dir, python, seen)
    plan = read_state_file(paths.plan)
    workspace = Path(str(plan.get("workspace")))
    inputs = [parse_restored_input(item) for item in mappings(plan.get("inputs"))]
    files = _manifest_files(paths)
    try:
        for stale in (run_at, code):
            if stale.is_dir():
                shutil.rmtree(stale)
        write_relocated_run(paths, relocation, run_at, arriving_inputs(workspace, inputs))
        _place_workspace(workspace, code, files, inputs)
        _place_dvc_config(workspace, code, plan)
        write_relocation(paths, relocation)
    except OSError as fault:
        raise unwritable(RunPaths(job_dir), fault) from fault
    return relocation


def _relocation(paths: RunPaths, job_dir: Path, python: str | None, seen: str) -> Relocation:
    at = f"{job_dir}/{paths.run}", f"{job_dir}/{CODE}"
    return Relocation(f"{seen}/{paths.run}", f"{seen}/{CODE}", *at, python=python)


def _manifest_files(paths: RunPaths) -> list[str]:
    rows = read_state_file(paths.manifest).get("files")
    if not isinstance(rows, list):
        raise WorkspaceError(f"{paths.manifest} is missing or damaged", path=str(paths.manifest))
    return [str(sequence(row)[0]) for row in rows]


def _place_workspace(workspace: Path, target: Path, files: list[str], inputs: list[RestoredInput]) -> None:
    made: set[Path] = set()
    data = [file.path for item in inputs for file in item.files]
    for path, is_followed in (*((path, False) for path in files), *((path, True) for path in data)):
        place = target / path
        if place.parent not in made:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.add(place.parent)
        _place(workspace / path, place, is_followed=is_followed)


def _place(source: Path, target: Path, *, is_followed: bool) -> None:
    """Link or copy a file; what only a link of the workspace leads to is the user's own and is always copied."""
    if is_followed and os.path.realpath(source) != os.path.abspath(source):  # noqa: PTH100 - links below it count
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _place_dvc_config(workspace: Path, code: Path, plan: Mapping[str, JsonValue]) -> None:
    """Let the job's own calls of DVC work, without the paths and credentials of this machine."""
    for allowed in sequence(plan.get("allow_extra")):
        if str(allowed).endswith(_DVC_CONFIG):
            root = str(allowed).removesuffix(_DVC_CONFIG).rstrip("/")
            content = render_node_config(workspace, root, None)
            if content is not None:
                (code / str(allowed)).parent.mkdir(parents=True, exist_ok=True)
                (code / str(allowed)).write_bytes(content)
