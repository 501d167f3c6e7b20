"""`diff`: two experiments, or one and the present state."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site, read_current
from nemo_gitexp.comparison import compare_experiments
from nemo_gitexp.definition import MetricGoal
from nemo_gitexp.documents import DiffDoc, ExperimentDoc, FileChangeDoc
from nemo_gitexp.entry import ScriptEntry
from nemo_gitexp.environment import parse_environment
from nemo_gitexp.errors import UnknownExperimentError
from nemo_gitexp.git.changes import list_changes
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.lookup import baseline_tips, find_experiment
from nemo_gitexp.record import ExperimentRecord, parse_document
from nemo_gitexp.result import experiment_document, mapping, sequence
from nemo_gitexp.stages import simple_entries
from nemo_gitexp.store import Experiment, read_environment, record_directory, verify_experiment
from nemo_gitexp.tips import Tip, list_tips

if TYPE_CHECKING:
    from nemo_gitexp.recording import Plan  # comparing two recorded ones need not pay for recording

WITHOUT_RECORDS = ("experiments/*/record/**",)


@dataclass(frozen=True, slots=True)
class DiffAnswer:
    """The difference and both sides; `remarks` say what could not be compared, or stands for what is not known."""

    diff: DiffDoc
    a: ExperimentDoc
    b: ExperimentDoc
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Side:
    document: ExperimentDoc
    record: ExperimentRecord
    environment: Mapping[str, JsonValue]
    tree: str

    @property
    def knows_code(self) -> bool:
        """Whether its code commit is the one that ran."""
        return self.record.imported is None or self.record.imported.knows_code

    @property
    def remarks(self) -> list[str]:
        """What is not known of this side."""
        if self.record.imported is None:
            return []
        name, title = self.record.name, self.record.imported.title
        unknown = [] if self.knows_code else ["code"]
        unknown += ["environment", "topology"]
        seed = [f"the seed of {name} is not known; {self.record.seed} stands for it"]
        known = [f"{name} was imported from {title}: its {', '.join(unknown)} are not known and not compared"]
        return known + (seed if self.record.seed_is_default else [])


def diff(site: Site, a: str | None, b: str | None) -> DiffAnswer:
    """Return what differs between two experiments.

    Args:
        site: where.
        a: the first experiment; the latest when None.
        b: the second; by default the study's baseline on the current branch, else the completed one before `a`.
    """
    tips = list_tips(site.repository)
    first = find_experiment(site.repository, a or "latest", tips)
    second = find_experiment(site.repository, b, tips) if b else _counterpart(site, first, tips)
    return _compare(site, _side(site, first), _side(site, second))


def diff_worktree(site: Site, a: str | None, env: Mapping[str, str], now: datetime) -> DiffAnswer:
    """Return what differs between an experiment and what its study would record now.

    Nothing was run there, so metrics and outputs play no part.
    """
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.recording import plan_experiment

    first = _side(site, find_experiment(site.repository, a or "latest"))
    record, root = first.record, site.repository.root
    asked = Asked(cwd=root, env=env, study=record.study)
    if record.tracked is not None or (record.ad_hoc and record.type != "adhoc"):
        return _compare_present(site, first, _programs_plan(site, first, env, now))
    if record.ad_hoc:
        # There is no definition: the present state runs the same words, in the same way.
        asked = Asked(
            cwd=root / record.workdir,
            env=env,
            command=tuple(str(word) for word in _command_words(record.entry.to_json())),
            seed=record.seed,
            determinism=record.determinism,
            message=record.determinism_reason,
            executor=record.executor,
        )
    return _compare_present(site, first, plan_experiment(site, asked, now))


def _programs_plan(site: Site, side: _Side, env: Mapping[str, str], now: datetime) -> Plan:
    """Return what the same program would record now; its configuration only itself knows, so the recorded one."""
    from nemo_gitexp.asked import Asked, Defined, tracked_definition
    from nemo_gitexp.recording import plan_defined

    record, root = side.record, site.repository.root
    definition = tracked_definition(
        root,
        record.study,
        purpose=record.purpose,
        model=record.model,
        dataset=record.dataset,
    )
    definition = replace(definition, data=tuple(item.spec for item in record.inputs))
    asked = Asked(
        cwd=root,
        env=env,
        seed=record.seed,
        determinism=record.determinism,
        message=record.determinism_reason,
        executor=record.executor,
    )
    defined = Defined(
        record.study,
        definition,
        record.entry,
        side.document["config"],
        ad_hoc=True,
        workdir=record.workdir,
        tracked=record.tracked,
        topology=record.topology,
        carried=dict.fromkeys(_carried_scripts(record), b""),
    )
    return plan_defined(site, asked, defined, now)


def _carried_scripts(record: ExperimentRecord) -> list[str]:
    """Return the names of scripts that the record itself holds: nothing runs, so that what is in them plays no part."""
    own = f"{record_directory(record.study)}/"
    entries = [entry for entry in simple_entries(record.entry) if isinstance(entry, ScriptEntry)]
    paths = [posixpath.normpath(posixpath.join(record.workdir, entry.path)) for entry in entries]
    return [path.removeprefix(own) for path in paths if path.startswith(own)]


def _compare_present(site: Site, first: _Side, plan: Plan) -> DiffAnswer:
    document = experiment_document(
        sha="worktree",
        ref="worktree",
        record=plan.record,
        config=plan.config,
        status="planned",
    )
    environment = parse_document(plan.environment, "environment.json")
    if environment.get("captured") == "job":
        environment = {}
    first = replace(first, document=_without_results(first.document))
    return _compare(site, first, _Side(document, plan.record, environment, plan.snapshot.tree))


def _without_results(document: ExperimentDoc) -> ExperimentDoc:
    stripped = document.copy()
    stripped["metrics"], stripped["metric_stats"], stripped["outputs"] = {}, {}, []
    return stripped


def _command_words(entry: Mapping[str, JsonValue]) -> list[JsonValue]:
    if entry["kind"] == "command":
        return list(sequence(entry["argv"]))
    words: list[JsonValue] = [entry["interpreter"], *sequence(entry["interpreter_flags"])]
    if entry["kind"] == "module":
        words += ["-m", entry["module"]]
    elif entry["kind"] == "code":
        words += ["-c", entry["code"]]
    else:
        words.append(entry["path"])
    return words + list(sequence(entry["args"]))


def _side(site: Site, tip: Tip) -> _Side:
    found = read_current(site, tip)
    verify_experiment(site.repository, found.experiment)
    record = found.experiment.record
    environment = _environment(site, found.experiment)
    return _Side(_with_key(found.document, environment), record, environment, record.code.tree)


def _environment(site: Site, experiment: Experiment) -> Mapping[str, JsonValue]:
    """Return the environment that was recorded, or that the job found where only it knew; empty when nobody knows."""
    environment = read_environment(site.repository, experiment)
    if environment.get("captured") == "launch":
        return environment
    return mapping((experiment.run or {}).get("environment"))


def _with_key(document: ExperimentDoc, environment: Mapping[str, JsonValue]) -> ExperimentDoc:
    """Return the document with the key of the environment that the job found, where only the job knew it."""
    if document["environment_key"] is not None or "packages" not in environment:
        return document
    named = document.copy()
    named["environment_key"] = parse_environment(environment).key
    return named


def _counterpart(site: Site, first: Tip, tips: list[Tip]) -> Tip:
    baselines = [
        tip for tip in baseline_tips(site.repository, tips) if tip.study == first.study and tip.record != first.record
    ]
    if baselines:
        return baselines[0]
    before = [
        tip
        for tip in tips
        if tip.study == first.study
        and tip.status == "completed"
        and tip.record != first.record
        and tip.created <= first.created
    ]
    if not before:
        raise UnknownExperimentError(
            f"there is nothing to compare {first.name} with: no baseline, and no completed experiment before it",
            hint=f"nemo-gitexp diff {first.record[:12]} OTHER",
            name=first.name,
        )
    return max(before, key=lambda tip: tip.created)


def _compare(site: Site, a: _Side, b: _Side) -> DiffAnswer:
    files: list[FileChangeDoc] = []
    if a.tree != b.tree and a.knows_code and b.knows_code:
        files = [
            FileChangeDoc(path=item.path, change=item.change, insertions=item.insertions, deletions=item.deletions)
            for item in list_changes(site.repository, a.tree, b.tree, without=WITHOUT_RECORDS)
        ]
    goals: dict[str, MetricGoal] = {goal.name: goal for side in (a, b) for goal in side.record.metrics.goals}
    documents = [side.document for side in (a, b)]
    if a.record.imported or b.record.imported:
        documents = [_without_topology(document) for document in documents]
    result = compare_experiments(
        *documents,
        code_files=files,
        environment_a=a.environment,
        environment_b=b.environment,
        goals={name: goal.goal for name, goal in goals.items()},
        volatile=frozenset(name for name, goal in goals.items() if goal.volatile),
    )
    return DiffAnswer(result, a.document, b.document, (*a.remarks, *b.remarks))


def _without_topology(document: ExperimentDoc) -> ExperimentDoc:
    stripped = document.copy()
    stripped["topology"] = {}
    return stripped
