"""The shapes of the JSON answers that `--json` promises: types only, no behaviour.

Every document begins with `"schema": 1`. Text, JSON, Markdown and HTML are renderings of these same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from nemo_gitexp.jsontext import JsonValue

SCHEMA = 1


class CodeDoc(TypedDict):
    """The recorded code: full hex shas, `key` as `sha256:…`; `base` is the user's HEAD."""

    commit: str
    tree: str
    key: str
    base: str
    dirty: bool
    untracked: list[str]


class InputDoc(TypedDict):
    """One input; `pin` is an md5 (directories end in `.dir`), `strength` content|manifest|named.

    `origin` is there where it is no data of this repository: `{kind: exp|hf, asked, …}` as experiment.json has it.
    """

    path: str
    pin: str
    strength: str
    size_bytes: int | None
    origin: NotRequired[Mapping[str, JsonValue]]


class ParentDoc(TypedDict):
    """An output of another experiment that an experiment was given, and where it lay there."""

    experiment: str
    study: str
    name: str
    output: str
    path: str


class ChildDoc(TypedDict):
    """An experiment that was given an output of this one."""

    experiment: str
    study: str
    name: str


class MetricStats(TypedDict):
    """A metric over its stream; non-finite values are the strings of `jsontext`."""

    last: float | str
    min: float | str
    max: float | str
    n: int


class ErrorDoc(TypedDict):
    """Why a run failed; `log_tail` are its last log lines."""

    type: str
    message: str
    exit_code: int | None
    signal: int | None
    log_tail: list[str]


class OutputDoc(TypedDict):
    """One output; `sha256` hex of its bytes, `digest` of its tensors (None where it holds none)."""

    path: str
    sha256: str
    digest: str | None
    size_bytes: int
    keep: str


class LinkDoc(TypedDict):
    """A run of the job's in `wandb`, `mlflow` or `tensorboard`: its address, or where its files lay; never a secret."""

    tracker: str
    run: str | None
    name: str | None
    project: str | None
    url: str | None
    path: str | None


class ProgressDoc(TypedDict):
    """How far an unfinished experiment was at a moment, `age_s` before it was asked for.

    `elsewhere`: another machine said so; whether it still goes on is not known here.
    """

    at: str
    age_s: float
    step: int | None
    metrics: dict[str, float | str]
    elsewhere: bool


class ReproductionsDoc(TypedDict):
    """The best verdict so far and how many reproductions were made."""

    best: str | None
    count: int


class ExperimentDoc(TypedDict):
    """One experiment as `run --json` and `show --json` answer it; times ISO 8601 UTC, durations in seconds.

    `progress` is there while it is unfinished and somebody knows;
    `links`, `parents` and `children` are there where it has any; `log --lineage` always has the latter two, `run` and
    `log` never have children.
    """

    schema: int
    experiment: str
    ref: str
    branch: str | None
    study: str
    name: str
    purpose: str
    expected: str
    sweep: str | None
    identity: str | None
    config_hash: str
    config: Mapping[str, JsonValue]
    seed: int
    determinism: str
    topology: Mapping[str, JsonValue]
    code: CodeDoc
    inputs: list[InputDoc]
    environment_key: str | None
    status: str
    result: str | None
    metrics: dict[str, float | str]
    metric_stats: dict[str, MetricStats]
    started: str | None
    ended: str | None
    duration_s: float | None
    error: ErrorDoc | None
    outputs: list[OutputDoc]
    tasks: list[Mapping[str, JsonValue]]
    executor: str | None
    jobs: list[str]
    reproductions: ReproductionsDoc
    archived: bool
    withdrawn: bool
    duplicate_of: str | None
    progress: NotRequired[ProgressDoc]
    links: NotRequired[list[LinkDoc]]
    parents: NotRequired[list[ParentDoc]]
    children: NotRequired[list[ChildDoc]]


class DriftDoc(TypedDict):
    """One difference between what was recorded and what was here, ranked by `kind`."""

    kind: str
    name: str
    recorded: str | None
    here: str | None


class VerdictMetricDoc(TypedDict):
    """A metric of a reproduction beside the recorded one; `tolerance` is absolute, None means exact."""

    name: str
    recorded: float | str | None
    got: float | str | None
    tolerance: float | None
    ok: bool


class VerdictOutputDoc(TypedDict):
    """An output of a reproduction beside the recorded one, by tensor digest or sha256."""

    path: str
    recorded: str | None
    got: str | None
    equal: bool


class DivergenceDoc(TypedDict):
    """Where the metric streams first differ."""

    metric: str
    step: int | None


class VerdictDoc(TypedDict):
    """The answer of `reproduce --json`."""

    schema: int
    experiment: str
    verdict: str
    scope: str
    required: str
    met: bool
    environment: str
    weakest_input: str
    drift: list[DriftDoc]
    metrics: list[VerdictMetricDoc]
    outputs: list[VerdictOutputDoc]
    first_divergence: DivergenceDoc | None
    reproduction: str | None


class ProbeMetricDoc(TypedDict):
    """One metric over the first steps of two runs: the step where they first differ, how far apart they are at most.

    `largest_difference` is None where they are equal, and where one value is missing or not finite.
    """

    name: str
    equal: bool
    first_divergence: int | None
    largest_difference: float | None
    largest_at: int | None


class ProbeVariationDoc(TypedDict):
    """The first run compared with one more: `vary` is nothing, threads, workers or hashseed; `why` it was not tried."""

    vary: str
    before: str | None
    after: str | None
    tried: bool
    why: str | None
    equal: bool | None
    steps: int
    first_divergence: DivergenceDoc | None
    metrics: list[ProbeMetricDoc]


class ProbeDoc(TypedDict):
    """The answer of `probe --json`; `experiment` is None where nothing is recorded. `steps`: those of both runs."""

    schema: int
    experiment: str | None
    study: str
    asked_steps: int
    steps: int
    equal: bool
    first_divergence: DivergenceDoc | None
    metrics: list[ProbeMetricDoc]
    variations: list[ProbeVariationDoc]
    depends_on: list[str]
    independent_of: list[str]


class PairDoc(TypedDict):
    """One value on both sides; None where a side has none."""

    a: JsonValue
    b: JsonValue


class ConfigDiffDoc(TypedDict):
    """Configuration by dotted path."""

    common: dict[str, JsonValue]
    changed: dict[str, PairDoc]
    only_a: dict[str, JsonValue]
    only_b: dict[str, JsonValue]


class FileChangeDoc(TypedDict):
    """One changed file; `change` is git's letter (A, D, M, R, T); counts None for binary files."""

    path: str
    change: str
    insertions: int | None
    deletions: int | None


class CodeDiffDoc(TypedDict):
    """The code of both sides (code commit shas) and what differs."""

    a: str
    b: str
    files: list[FileChangeDoc]
    insertions: int
    deletions: int


class MetricDiffDoc(TypedDict):
    """A metric on both sides; `delta` is b - a; `better` is a, b or None when unknown or equal."""

    a: float | str | None
    b: float | str | None
    delta: float | None
    better: str | None


class DiffDoc(TypedDict):
    """The answer of `diff --json`; lists hold only what differs."""

    schema: int
    a: str
    b: str
    config: ConfigDiffDoc
    seed: PairDoc
    code: CodeDiffDoc
    inputs: list[Mapping[str, JsonValue]]
    environment: Mapping[str, JsonValue]
    topology: Mapping[str, PairDoc]
    metrics: dict[str, MetricDiffDoc]
    outputs: list[Mapping[str, JsonValue]]
