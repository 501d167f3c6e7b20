"""What an experiment is, as a value: the content of experiment.json and how it is read back.

Pure: bytes and mappings in, values out. Results are in `result`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from nemo_gitexp.definition import MetricGoal, MetricsSpec, OutputSpec
from nemo_gitexp.errors import RecordError
from nemo_gitexp.fields import HASH, MD5, SHA, FieldReader
from nemo_gitexp.inputpin import InputPin, OutputOrigin, parse_input_pin
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.stages import AnyEntry, entry_identity, parse_any_entry

SCHEMA = 1
DETERMINISM = ("off", "seeded", "bitwise")
TOOLS = {"mlflow": "MLflow", "wandb": "W&B", "dvc": "DVC"}
"""Other tools whose runs can be imported, with their names as people write them."""

RESULT_FILES = ("result.json", "run.json", "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class FilteredFiles:
    """Files that go through git filters: drivers, how many, an md5 over what they hold (None: not all were there)."""

    drivers: tuple[str, ...]
    n_files: int
    md5: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json."""
        return {"drivers": list(self.drivers), "n_files": self.n_files, "md5": self.md5}


@dataclass(frozen=True, slots=True)
class CodeState:
    """The code: full shas, `key` as `sha256:…`; `base` is the user's HEAD, `remote` without credentials."""

    commit: str
    tree: str
    key: str
    base: str
    dirty: bool
    untracked: tuple[str, ...]
    remote: str | None
    submodules: tuple[tuple[str, str], ...]
    filtered: FilteredFiles | None


@dataclass(frozen=True, slots=True)
class Tracked:
    """Which part of a program the experiment is: the name that it gave there, and the how manieth start of the same.

    `ordinal` counts, from 1, the starts of the same name with the same configuration and seed in that process.
    """

    name: str
    ordinal: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json."""
        return {"name": self.name, "ordinal": self.ordinal}


@dataclass(frozen=True, slots=True)
class Imported:
    """Where a run of another tool comes from.

    Args:
        tool: mlflow, wandb or dvc.
        group: what it belongs to there (an MLflow experiment, a W&B project), empty where there is no such thing.
        run: its id there.
        name: what people call it there.
        source: the store that it was read from, without credentials and without paths of a machine.
        status: how it stands there, in the tool's word.
        url: where it can be looked at, without credentials.
        knows_code: whether the code commit of the record is the one that it ran; else it is where it was imported.
    """

    tool: str
    group: str
    run: str
    name: str
    source: str
    status: str
    url: str | None
    knows_code: bool

    @property
    def title(self) -> str:
        """The tool's name as people write it."""
        return TOOLS[self.tool]

    @property
    def key(self) -> str:
        """One line that tells this run from all others, wherever it is read from.

        MLflow's ids and commits are unique by themselves, ids of W&B within a project.
        """
        parts = (self.tool, self.group, self.run) if self.tool == "wandb" else (self.tool, self.run)
        return " ".join("/".join(parts).split())

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json."""
        return {
            "tool": self.tool,
            "group": self.group,
            "run": self.run,
            "name": self.name,
            "source": self.source,
            "status": self.status,
            "url": self.url,
            "knows_code": self.knows_code,
        }


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One experiment: everything that decides what runs, and what people said about it.

    `config_hash`, `environment_key`, `identity` are `sha256:…`; `identity` and `environment_key` are None
    when the environment is known only in the job. `created` is ISO 8601 UTC. `entry` keeps placeholders; `ad_hoc`
    tells that it was typed as a command, not written in a definition. `tracked` is None where the whole job is the
    experiment; else a program recorded it while it ran, and its arguments stand as they were. `imported` is set for a
    run of another tool.
    """

    study: str
    name: str
    nonce: str
    created: str
    purpose: str
    expected: str
    model: str
    dataset: str
    type: str
    sweep: str | None
    code: CodeState
    config_hash: str
    config_file: str | None
    seed: int
    seed_is_default: bool
    determinism: str
    determinism_reason: str | None
    topology: Mapping[str, JsonValue]
    inputs: tuple[InputPin, ...]
    environment_key: str | None
    entry: AnyEntry
    ad_hoc: bool
    workdir: str
    outputs: tuple[OutputSpec, ...]
    metrics: MetricsSpec
    executor: str
    identity: str | None
    tracked: Tracked | None = None
    imported: Imported | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """The experiments whose outputs are inputs of this one, by record commit, in order."""
        origins = [item.origin for item in self.inputs]
        return tuple(dict.fromkeys(origin.experiment for origin in origins if isinstance(origin, OutputOrigin)))


def identity_of(record: ExperimentRecord) -> str | None:
    """Return `sha256:…` over all that decides a result, None while the environment or what filters made is unknown.

    Two experiments with equal identity are the same experiment; names, purposes and dates play no part.
    """
    if record.environment_key is None or not _is_code_known(record):
        return None
    return _hashed({**_deciding(record), "environment": record.environment_key})


def combination_of(record: ExperimentRecord) -> str | None:
    """Return what stands for an experiment among those of one sweep: its identity, if it has one.

    Else `sha256:…` over all that decides a result but the environment, which only the job knows, with study and
    executor. Two equal ones of different sweeps may have run in different environments. None: not even that is known.
    """
    if record.identity is not None or not _is_code_known(record):
        return record.identity
    return _hashed({**_deciding(record), "study": record.study, "executor": record.executor})


def _is_code_known(record: ExperimentRecord) -> bool:
    return record.code.filtered is None or record.code.filtered.md5 is not None


def _deciding(record: ExperimentRecord) -> dict[str, JsonValue]:
    """Return all that decides a result and can be known before the job."""
    filtered = record.code.filtered
    return {
        "code": record.code.key,
        "config": record.config_hash,
        "seed": record.seed,
        "inputs": sorted([item.path, item.pin] for item in record.inputs),
        "entry": entry_identity(record.entry),
        "workdir": record.workdir,
        "determinism": record.determinism,
        "topology": record.topology,
        **({} if filtered is None else {"filtered": filtered.md5}),
    }


def _hashed(parts: Mapping[str, JsonValue]) -> str:
    return f"sha256:{hashlib.sha256(render_json(parts)).hexdigest()}"


def render_record(record: ExperimentRecord) -> bytes:
    """Return experiment.json."""
    code = record.code
    return render_json(
        {
            "schema": SCHEMA,
            "study": record.study,
            "name": record.name,
            "nonce": record.nonce,
            "created": record.created,
            "purpose": record.purpose,
            "expected": record.expected,
            "model": record.model,
            "dataset": record.dataset,
            "type": record.type,
            "sweep": record.sweep,
            "code": {
                "commit": code.commit,
                "tree": code.tree,
                "key": code.key,
                "base": code.base,
                "dirty": code.dirty,
                "untracked": list(code.untracked),
                "remote": code.remote,
                "submodules": dict(code.submodules),
                "filtered": code.filtered.to_json() if code.filtered else None,
            },
            "config_hash": record.config_hash,
            "config_file": record.config_file,
            "seed": record.seed,
            "seed_is_default": record.seed_is_default,
            "determinism": record.determinism,
            "determinism_reason": record.determinism_reason,
            "topology": record.topology,
            "inputs": [item.to_json() for item in record.inputs],
            "environment_key": record.environment_key,
            "entry": record.entry.to_json(),
            "ad_hoc": record.ad_hoc,
            "workdir": record.workdir,
            "outputs": [{"path": output.path, "keep": output.keep} for output in record.outputs],
            "metrics": {
                "file": record.metrics.file,
                "goals": {goal.name: _goal_json(goal) for goal in record.metrics.goals},
            },
            "executor": record.executor,
            "identity": record.identity,
            "tracked": record.tracked.to_json() if record.tracked else None,
            **({"imported": record.imported.to_json()} if record.imported else {}),
        }
    )


def parse_record(text: bytes, source: str) -> ExperimentRecord:
    """Return the experiment that an experiment.json describes.

    Raises:
        RecordError: damaged, of a newer schema, or with fields missing or of a wrong type; `faults` lists all.
    """
    fields = FieldReader(parse_document(text, source), source)
    code = fields.section("code")
    metrics = fields.section("metrics")
    record = ExperimentRecord(
        study=fields.text("study"),
        name=fields.text("name"),
        nonce=fields.text("nonce"),
        created=fields.text("created"),
        purpose=fields.text("purpose"),
        expected=fields.text("expected"),
        model=fields.text("model"),
        dataset=fields.text("dataset"),
        type=fields.text("type"),
        sweep=fields.text_or_none("sweep"),
        code=CodeState(
            commit=code.matching("commit", SHA),
            tree=code.matching("tree", SHA),
            key=code.matching("key", HASH),
            base=code.matching("base", SHA),
            dirty=code.flag("dirty"),
            untracked=code.texts("untracked"),
            remote=code.text_or_none("remote"),
            submodules=tuple((path, str(sha)) for path, sha in code.mapping("submodules").items()),
            filtered=_parse_filtered(code.section_or_none("filtered")),
        ),
        config_hash=fields.matching("config_hash", HASH),
        config_file=fields.text_or_none("config_file"),
        seed=fields.number("seed"),
        seed_is_default=fields.flag("seed_is_default"),
        determinism=fields.choice("determinism", DETERMINISM),
        determinism_reason=fields.text_or_none("determinism_reason"),
        topology=fields.mapping("topology"),
        inputs=tuple(parse_input_pin(item) for item in fields.sections("inputs")),
        environment_key=fields.matching_or_none("environment_key", HASH),
        entry=_parse_entry(fields),
        ad_hoc=fields.flag("ad_hoc"),
        workdir=fields.text("workdir"),
        outputs=tuple(_parse_output(item) for item in fields.sections("outputs")),
        metrics=MetricsSpec(metrics.text_or_none("file"), _parse_goals(metrics)),
        executor=fields.text("executor"),
        identity=fields.matching_or_none("identity", HASH),
        tracked=_parse_tracked(fields.section_or_none("tracked")),
        imported=_parse_imported(fields.section_or_none("imported")),
    )
    fields.require_no_faults()
    return record


def parse_document(text: bytes, source: str) -> Mapping[str, JsonValue]:
    """Return one of the machine's JSON documents.

    Raises:
        RecordError: no JSON mapping, or written by a newer version.
    """
    document = parse_json(text, source)
    if not isinstance(document, Mapping):
        raise RecordError(f"{source} is no JSON mapping", source=source)
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise RecordError(
            f"{source} has schema {schema}; this version reads up to {SCHEMA}",
            hint="pip install --upgrade nemo-gitexp",
            source=source,
            schema=schema,
        )
    if schema != SCHEMA:
        raise RecordError(f"{source} has no schema number that is known: {schema!r}", source=source)
    return document


def _parse_filtered(fields: FieldReader | None) -> FilteredFiles | None:
    if fields is None:
        return None
    return FilteredFiles(fields.texts("drivers"), fields.number("n_files"), fields.matching_or_none("md5", MD5))


def _parse_tracked(fields: FieldReader | None) -> Tracked | None:
    return None if fields is None else Tracked(fields.text("name"), fields.number("ordinal"))


def _parse_imported(fields: FieldReader | None) -> Imported | None:
    if fields is None:
        return None
    return Imported(
        tool=fields.choice("tool", tuple(TOOLS)),
        group=fields.text("group"),
        run=fields.text("run"),
        name=fields.text("name"),
        source=fields.text("source"),
        status=fields.text("status"),
        url=fields.text_or_none("url"),
        knows_code=fields.flag("knows_code"),
    )


def _parse_output(fields: FieldReader) -> OutputSpec:
    keep = fields.choice("keep", ("dvc", "in-place", "digest"))
    return OutputSpec(fields.text("path"), cast('Literal["dvc", "in-place", "digest"]', keep))


def _goal_json(goal: MetricGoal) -> JsonValue:
    return {"goal": goal.goal, "tolerance": goal.tolerance, "volatile": goal.volatile}


def _parse_goals(metrics: FieldReader) -> tuple[MetricGoal, ...]:
    goals = []
    for name, item in metrics.mapping("goals").items():
        if not isinstance(item, Mapping):
            metrics.fault(f"the goal of {name} is no mapping")
            continue
        goal, tolerance = item.get("goal"), item.get("tolerance")
        if goal not in ("max", "min", None) or not isinstance(tolerance, (int, float, type(None))):
            metrics.fault(f"the goal of {name} is damaged")
            continue
        number = None if tolerance is None else float(tolerance)
        goals.append(MetricGoal(name, goal, number, bool(item.get("volatile"))))
    return tuple(goals)


def _parse_entry(fields: FieldReader) -> AnyEntry:
    try:
        return parse_any_entry(fields.mapping("entry"))
    except RecordError as fault:
        fields.fault(f"entry: {fault.message}")
        return parse_any_entry({"kind": "command", "argv": ["false"]})
