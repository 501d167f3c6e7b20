"""Stages of a pipeline that need not run: what their result depends on, and who made it before.

A result is taken only where everything that it can depend on is equal, its ancestors' results included, and all of its
content is here.
"""

from __future__ import annotations

import hashlib
import posixpath
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_gitexp.catalog import Site, list_entries
from nemo_gitexp.collect import output_store
from nemo_gitexp.data.store import ObjectStore
from nemo_gitexp.definition import parse_definition
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import DataError, DefinitionError, RecordError
from nemo_gitexp.git.changes import code_files
from nemo_gitexp.git.objects import list_files, read_blobs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue, render_json
from nemo_gitexp.plainform import canonical_text
from nemo_gitexp.reach import reached_code
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.result import mappings
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.runs import conclude
from nemo_gitexp.stages import Stage, StagesEntry, entry_identity, visible_config
from nemo_gitexp.store import read_experiments
from nemo_gitexp.tips import Tip, list_tips

MAX_SOURCE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """A result that an earlier experiment has: `made_by` really ran it, `reports` are its outputs as recorded there."""

    made_by: str
    reports: tuple[Mapping[str, JsonValue], ...]
    stream: str | None

    @property
    def md5(self) -> str:
        """The directory of all that the stage made."""
        return str(self.reports[0]["md5"])


def stage_keys(
    repository: Repository,
    record: ExperimentRecord,
    config: Mapping[str, JsonValue],
    environment_key: str | None,
) -> dict[str, str | None]:
    """Return for each stage of a pipeline `sha256:…` over all that its result depends on.

    None for commands that bring their own interpreter, and all that depends on them: what those run is not known; and
    for the tasks of a NeMo Run experiment, which run each time.

    Args:
        repository: where the recorded code lies.
        record: of a pipeline.
        config: its configuration.
        environment_key: of the interpreter that runs its functions and scripts; None: unknown.
    """
    entry = record.entry
    if not isinstance(entry, StagesEntry):
        return {}
    source = _Source(repository, record, config)
    keys: dict[str, str | None] = {}
    for stage in entry.stages:
        above = {name: keys[name] for name in entry.ancestors(stage.name)}
        is_known = environment_key is not None and not stage.entry.wrapped and None not in above.values()
        is_known = is_known and stage.shape is None
        keys[stage.name] = source.key(stage, above, environment_key) if is_known else None
    return keys


class _Source:
    """The recorded code, read as far as it is needed."""

    def __init__(self, repository: Repository, record: ExperimentRecord, config: Mapping[str, JsonValue]) -> None:
        self._repository = repository
        self._record = record
        self._config = config
        listing = list_files(repository, record.code.tree)
        files = [record.config_file] if record.config_file else []
        self._tree = code_files(listing, paths=(), config_files=files)
        # Sources count wherever they are imported from; of the rest what the definition calls the study's code.
        self._within = code_files(listing, paths=_code_paths(repository, record), config_files=files).keys()
        self._contents: dict[str, bytes] = {}

    def key(self, stage: Stage, above: Mapping[str, str | None], environment_key: str | None) -> str | None:
        record = self._record
        filtered, metrics = record.code.filtered, record.metrics
        seen = visible_config(stage, self._config)
        code = reached_code(
            stage.entry,
            record.workdir,
            self._tree,
            self._read,
            within=self._within,
            mentioned=canonical_text(seen),
            left_out=[record.config_file] if record.config_file else [],
        )
        if code is None:
            return None
        parts: dict[str, JsonValue] = {
            "code": code,
            "entry": entry_identity(stage.entry),
            "workdir": record.workdir,
            "config": seen,
            "outputs": list(stage.outputs),
            "metrics": [metrics.file, sorted(goal.name for goal in metrics.goals if goal.volatile)],
            "inputs": sorted([item.path, item.pin] for item in record.inputs),
            "seed": record.seed,
            "determinism": record.determinism,
            "topology": record.topology,
            "environment": environment_key,
            "filtered": filtered.md5 if filtered else None,
            "ancestors": dict(above),
        }
        return f"sha256:{hashlib.sha256(render_json(parts)).hexdigest()}"

    def _read(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        missing = [path for path in paths if path not in self._contents]
        found = read_blobs(
            self._repository, [self._tree[path].rpartition(" ")[2] for path in missing], limit_bytes=MAX_SOURCE_BYTES
        )
        self._contents.update((path, content or b"") for path, content in zip(missing, found, strict=True))
        return {path: self._contents[path] for path in paths}


def _code_paths(repository: Repository, record: ExperimentRecord) -> tuple[str, ...]:
    """Return what counts as the study's code by its definition in the recorded tree; all of it without one."""
    name = f"experiments/{record.study}/experiment.yaml"
    (text,) = read_blobs(repository, [f"{record.code.tree}:{name}"], limit_bytes=MAX_DOCUMENT_BYTES)
    try:
        return parse_definition(text, name).code if text else ()
    except DefinitionError:
        return ()


def find_made(site: Site, record: ExperimentRecord, keys: Mapping[str, str | None]) -> dict[str, Made]:
    """Return the stages whose results earlier experiments of the study have, the newest one's each.

    A stage is among them only with all of its ancestors, and only where its own result was made from theirs.
    """
    entry = record.entry
    if not isinstance(entry, StagesEntry) or not any(keys.values()):
        return {}
    store = output_store(site.repository)
    earlier = _earlier(site, record.study)
    found: dict[str, Made] = {}
    sums: dict[str, str] = {}
    for stage in entry.stages:
        ancestors = entry.ancestors(stage.name)
        if keys[stage.name] is None or not all(name in found for name in ancestors):
            continue
        for tip, document in earlier:
            outputs = {item["path"]: item["sha256"] for item in document["outputs"]}
            task = _task_with(document, stage.name, str(keys[stage.name]))
            if task is None or any(outputs.get(name) != sums[name] for name in ancestors):
                continue
            made = _made(site.repository, tip, task, store)
            if made is not None:
                found[stage.name], sums[stage.name] = made, outputs[stage.name]
                break
    return found


def _earlier(site: Site, study: str) -> list[tuple[Tip, ExperimentDoc]]:
    tips = [tip for tip in list_tips(site.repository) if tip.study == study and tip.result is not None]
    entries = list_entries(site, tips, {})
    listed = [
        (tip, entry.document)
        for tip, entry in zip(tips, entries, strict=True)
        if not isinstance(entry, RecordError) and not entry.standing.withdrawn
    ]
    return sorted(listed, key=lambda item: item[0].created, reverse=True)


def _task_with(document: ExperimentDoc, name: str, key: str) -> Mapping[str, JsonValue] | None:
    for task in document["tasks"]:
        if (task.get("name"), task.get("key"), task.get("status")) == (name, key, "completed"):
            return task
    return None


def _made(repository: Repository, tip: Tip, task: Mapping[str, JsonValue], store: ObjectStore) -> Made | None:
    """Return what a task made, None where some of it is on no store here."""
    (experiment,) = read_experiments(repository, [tip])
    name = str(task["name"])
    outputs = mappings((experiment.result or {}).get("outputs"))
    reports = tuple(item for item in outputs if posixpath.join(str(item["path"]), "").startswith(f"{name}/"))
    stream = task.get("stream")
    pins = [*(str(report["md5"]) for report in reports), *([stream] if isinstance(stream, str) else [])]
    if not reports or reports[0]["path"] != name or not all(map(store.has, pins)):
        return None
    made_by = task.get("reused_from")
    return Made(
        made_by if isinstance(made_by, str) else tip.record, reports, stream if isinstance(stream, str) else None
    )


def place_made(site: Site, paths: RunPaths, entry: StagesEntry, made: Mapping[str, Made]) -> dict[str, Made]:
    """Put results into a prepared run as if their stages had just run there; return those that could be had.

    The content is copied only for stages that will run. What cannot be read leaves its stage, and all that depends on
    it, to be run.
    """
    store = output_store(site.repository)
    taken = dict(made)
    placed: set[str] = set()
    while missing := [stage.name for stage in entry.stages if stage.name in _wanted(entry, taken) - placed]:
        name = missing[0]
        try:
            store.checkout(taken[name].md5, paths.outputs / name)
            placed.add(name)
        except DataError:
            taken = {kept: value for kept, value in taken.items() if kept != name and name not in entry.ancestors(kept)}
            for gone in placed - taken.keys():
                shutil.rmtree(paths.outputs / gone)
            placed &= taken.keys()
    for name, value in taken.items():
        _write_result(paths.stage(name), name, value, store)
    conclude(paths)
    return taken


def _wanted(entry: StagesEntry, taken: Mapping[str, Made]) -> set[str]:
    """Return the stages whose results somebody who runs needs."""
    running = [stage.name for stage in entry.stages if stage.name not in taken]
    return {name for stage in running for name in entry.ancestors(stage) if name in taken}


def _write_result(own: RunPaths, name: str, made: Made, store: ObjectStore) -> None:
    reports: list[JsonValue] = [
        {**report, "path": posixpath.relpath(str(report["path"]), name), "files": [], "is_taken": True}
        for report in made.reports
    ]
    result: JsonValue = {
        "schema": 1,
        "status": "completed",
        "exit_code": 0,
        "signal": None,
        "error": None,
        "reused_from": made.made_by,
        "outputs": reports,
        "missing_outputs": [],
    }
    if made.stream is not None:
        write_beside(own.metrics, store.read(made.stream))
    write_beside(own.result, render_json(result))


def reuse_stages(
    site: Site, record: ExperimentRecord, paths: RunPaths, keys: Mapping[str, str | None]
) -> dict[str, str]:
    """Fill a prepared run with the results that are there already; return by stage the experiment that made each.

    Side effects: files in the run directory; where nothing is left to run, the run's result.
    """
    entry = record.entry
    if not isinstance(entry, StagesEntry):
        return {}
    made = place_made(site, paths, entry, find_made(site, record, keys))
    return {name: value.made_by for name, value in made.items()}
