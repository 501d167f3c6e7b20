"""The guide's `ExperimentPipeline`: stages added one by one, recorded and run as one experiment of NeMo Run.

The same DAG as `stages:` in an `experiment.yaml`, in another spelling.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from nemo_gitexp.asked import Asked, Defined, define, read_signature
from nemo_gitexp.attempt import Intent, this_environment, this_python
from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.collect import output_store
from nemo_gitexp.command import anchor_script
from nemo_gitexp.definition import InputSpec, StudyDefinition
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.entry import Entry, FunctionEntry, command_words, parse_command
from nemo_gitexp.errors import DefinitionError, PipelineError, UsageError
from nemo_gitexp.functions import function_entry
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.naming import slug
from nemo_gitexp.owners import owner_token
from nemo_gitexp.result import mappings
from nemo_gitexp.seeds import agreed_seed
from nemo_gitexp.signatures import Signature, live_signature
from nemo_gitexp.stages import (
    FUNCTION,
    Stage,
    StagesEntry,
    find_graph_faults,
    find_interpreter_faults,
    fit_stage,
    order_stages,
    require_stage_name,
)
from nemo_gitexp.store import read_experiments
from nemo_gitexp.thisrepository import find_repository
from nemo_gitexp.versioning import plain_config
from nemo_gitexp.worker.results import load_result

if TYPE_CHECKING:
    from nemo_gitexp.prepared import PreparedExperiment

DATA_PIPELINE = "digits-pipeline"

StageFunction = Callable[..., object] | str | Sequence[str]
"""A function; the name of one (`package.module:name`, `path/to/file.py:name`); or a command as a list of arguments."""


class StageDict(TypedDict):
    """One stage as it was added; the keys of `.stages`."""

    name: str
    function: StageFunction
    dependencies: list[str]
    config: NotRequired[list[str] | None]
    outputs: NotRequired[list[str]]


class ExperimentPipeline:
    """Stages that make a DAG, recorded as one experiment and run by NeMo Run, side by side where the DAG allows.

    Args:
        name: of the pipeline; its slug is the study. Where that has an `experiment.yaml`, purpose, data and metrics
            come from there.
        config: the configuration; a stage sees the keys that its parameters name, all of them as `config`.
        seed: of every stage; None: what the configuration names, else the definition's, else 42.
        data: paths of DVC-tracked inputs.
        purpose: why it exists; None: the definition's, else its name.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Mapping[str, object] | None = None,
        seed: int | None = None,
        data: Sequence[str] = (),
        purpose: str | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Mapping):
            raise UsageError(f"config is no mapping but a {type(config).__name__}", hint='config={"lr": 0.1}')
        text: object = name
        if not (isinstance(text, str) and text.strip()):
            raise UsageError(f"a pipeline needs a name, which {name!r} is not", hint='ExperimentPipeline("digits")')
        self.name = name
        self.stages: list[StageDict] = []
        self._config = dict(config or {})
        self._seed = agreed_seed(seed, self._config)
        self._data = tuple(data)
        self._purpose = purpose
        self._workdir = "."
        self._experiment: PreparedExperiment | None = None

    @classmethod
    def from_study(cls, study: str, *, config: Mapping[str, object] | None = None) -> ExperimentPipeline:
        """Return the pipeline that a study's `stages:` describe, in the repository of the working directory.

        Args:
            study: has `experiments/<study>/experiment.yaml`.
            config: keys that replace those of the definition.

        Raises:
            UnknownStudyError: there is no such study.
            DefinitionError: it has faults, or no stages.
        """
        defined = define(find_repository().root, Asked(cwd=Path.cwd(), env=os.environ, study=study))
        if not isinstance(defined.entry, StagesEntry):
            raise DefinitionError(f"experiments/{study}/experiment.yaml has no stages:", hint="add stages:")
        made = cls(study, config={**defined.config, **(config or {})})
        made._workdir, made._seed = defined.workdir, None  # its seed is the definition's
        for stage in defined.definition.stages or ():
            function = stage.entry.target if isinstance(stage.entry, FunctionEntry) else command_words(stage.entry)
            made.add_stage(stage.name, function, stage.dependencies, config=stage.config, outputs=stage.outputs)
        return made

    def add_stage(
        self,
        stage_name: str,
        stage_function: StageFunction,
        dependencies: Sequence[str] | None = None,
        *,
        config: Sequence[str] | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        """Add a stage; what it depends on may be added later.

        Args:
            stage_name: of ASCII letters, digits, `.`, `_` and `-`.
            stage_function: called with the results of all its ancestors by name, `lambda results: …`, or with what its
                parameters name: results, config, seed, outputs (a directory), a stage before it, a key of the
                configuration. Also the name of a function, or a command as a list.
            dependencies: names of stages.
            config: dotted keys of the configuration that it may see; None: what its parameters name.
            outputs: files that it must make, relative to its outputs.

        Raises:
            InvalidNameError: a name that no directory can have.
            UsageError: no function, no name of one, and no command.
        """
        require_stage_name(stage_name)
        is_named = isinstance(stage_function, str) and FUNCTION.fullmatch(stage_function)
        is_command = (
            isinstance(stage_function, (list, tuple))
            and stage_function
            and all(isinstance(word, str) for word in stage_function)
        )
        if not (is_named or is_command or callable(stage_function)):
            raise UsageError(
                f"stage {stage_name} has nothing to run: {stage_function!r}",
                hint='a function, "module:name", "file.py:name", or a command as a list',
                stage=stage_name,
            )
        needed = [dependencies] if isinstance(dependencies, str) else list(dependencies or [])
        if isinstance(dependencies, str) or not all(isinstance(name, str) for name in needed):
            shown = ", ".join(f'"{name}"' for name in needed)
            raise UsageError("dependencies are a list of names", hint=f"dependencies=[{shown}]", stage=stage_name)
        self.stages.append(
            {
                "name": stage_name,
                "function": stage_function,
                "dependencies": needed,
                "config": None if config is None else list(config),
                "outputs": list(outputs),
            }
        )

    def create_pipeline_experiment(self) -> PreparedExperiment:
        """Return the experiment of NeMo Run: `run()` records the pipeline and runs what is not known already.

        A failing stage stops its descendants only; running again resumes. Stages whose code, configuration, data and
        ancestors are unchanged are not run again: `document["tasks"]` says whose result was taken.

        Raises:
            PipelineError: no stages, an unknown dependency, a name twice, or a circle; also a RuntimeError.
            DefinitionError: a function asks for something that nobody gives.
            UnportableFunctionError: a function that no job can be given.
            CanonicalFormError: a configuration that cannot be recorded.
            NotARepositoryError: neither the working directory nor the script lies in a repository.
        """
        self._require_dag()
        site = open_site(find_repository(), os.environ)
        now = datetime.now(UTC)
        defined = self._defined(site)
        asked = Asked(cwd=Path.cwd(), env=this_environment(), study=defined.study, seed=self._seed)
        from nemo_gitexp.prepared import PreparedExperiment

        self._experiment = PreparedExperiment(self.name, [Intent(defined.study, asked, defined, now)], site=site)
        return self._experiment

    @property
    def results(self) -> dict[str, object]:
        """What the stages returned, by name, as far as they have completed; empty before the experiment has run.

        Raises:
            DataError: a result's content is on no store here.
        """
        document = self._experiment.document if self._experiment else None
        if document is None or self._experiment is None:
            return {}
        return _Results(self._experiment.site, document).by_stage()

    def _require_dag(self) -> None:
        if not self.stages:
            raise PipelineError(f"pipeline {self.name} has no stages", hint='pipeline.add_stage("load", load)')
        faults = find_graph_faults([(stage["name"], stage.get("dependencies") or []) for stage in self.stages])
        if faults:
            names = {stage["name"] for stage in self.stages}
            missing = sorted({needed for stage in self.stages for needed in stage.get("dependencies") or []} - names)
            raise PipelineError(
                f"pipeline {self.name}: {'; '.join(faults)}",
                hint=f"stages: {', '.join(sorted(names))}",
                missing=missing,
            )

    def _defined(self, site: Site) -> Defined:
        """Return the pipeline as a definition; its functions by name where a job finds them, else by value."""
        study, root = slug(self.name), site.repository.root
        config = plain_config(self._config)
        drafts = [self._draft(item, root, study) for item in self.stages]
        entry = StagesEntry(order_stages([draft.stage for draft in drafts]))
        faults = find_interpreter_faults(entry.stages)
        if faults:
            raise PipelineError(f"pipeline {self.name}: {'; '.join(faults)}", hint="one environment for all stages")
        signatures = {draft.stage.name: draft.signature for draft in drafts}
        fitted = [
            fit_stage(stage, signature, config, entry.ancestors(stage.name))
            if (signature := signatures[stage.name])
            else stage
            for stage in entry.stages
        ]
        entry = StagesEntry(tuple(fitted))
        carried = {name: content for draft in drafts for name, content in draft.carried.items()}
        definition = replace(self._definition(root, study), stages=entry.stages)
        return Defined(study, definition, entry, config, ad_hoc=False, workdir=self._workdir, carried=carried)

    def _definition(self, root: Path, study: str) -> StudyDefinition:
        if (root / "experiments" / study / "experiment.yaml").is_file():
            written = define(root, Asked(cwd=root, env=os.environ, study=study)).definition
        else:
            written = StudyDefinition(purpose=f"pipeline {self.name}", type="pipeline")
        return replace(
            written,
            purpose=self._purpose or written.purpose,
            data=written.data + tuple(InputSpec(path) for path in self._data),
        )

    def _draft(self, item: StageDict, root: Path, study: str) -> _Draft:
        name, keys = item["name"], item.get("config")
        entry, carried, signature = _entry(item["function"], root, self._workdir, study, name)
        stage = Stage(
            name,
            entry,
            tuple(dict.fromkeys(item.get("dependencies") or ())),
            None if keys is None else tuple(keys),
            tuple(item.get("outputs") or ()),
        )
        return _Draft(stage, carried, signature)


def create_data_pipeline() -> ExperimentPipeline:
    """Return the study `experiments/digits-pipeline` as a pipeline: load, preprocess, features, train on real digits.

    Raises:
        UnknownStudyError: the working directory is in a repository that does not have it.
        NotARepositoryError: it is in none.
    """
    return ExperimentPipeline.from_study(DATA_PIPELINE)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A stage whose view of the configuration is not decided yet; `carried` are files for the record."""

    stage: Stage
    carried: Mapping[str, bytes]
    signature: Signature | None


def _entry(
    function: StageFunction, root: Path, workdir: str, study: str, name: str
) -> tuple[Entry, Mapping[str, bytes], Signature | None]:
    if isinstance(function, str):
        named = FunctionEntry(function, python=this_python())
        return named, {}, read_signature(root, workdir, named)
    if isinstance(function, (list, tuple)):
        return anchor_script(parse_command([str(word) for word in function]), root, workdir), {}, None
    entry, carried = function_entry(function, root=root, study=study, name=name)  # type: ignore[arg-type]  # callable
    return replace(entry, python=this_python()), carried, live_signature(function)


class _Results:
    """Reads what the stages of one experiment returned, from the run's directory or from the store."""

    def __init__(self, site: Site, document: ExperimentDoc) -> None:
        self._site = site
        self._document = document

    def by_stage(self) -> dict[str, object]:
        tip = find_experiment(self._site.repository, self._document["experiment"])
        (experiment,) = read_experiments(self._site.repository, [tip])
        run = str((experiment.run or {}).get("run", ""))
        completed = [str(task["name"]) for task in self._document["tasks"] if task.get("status") == "completed"]
        md5s = {str(item["path"]): str(item["md5"]) for item in mappings((experiment.result or {}).get("outputs"))}
        return {name: self._result(run, name, md5s.get(name)) for name in completed}

    def _result(self, run: str, name: str, md5: str | None) -> object:
        store = output_store(self._site.repository)
        if md5 is None or not store.has(md5):  # what is not kept may still lie where the stage put it
            return load_result(str(self._site.run_root / run / "outputs" / name))
        kept = self._site.repository.state_dir / "results" / md5
        if not kept.exists():
            beside = kept.with_name(f"{owner_token()}.{uuid.uuid4().hex[:8]}")
            store.checkout(md5, beside)
            try:
                beside.rename(kept)
            except OSError:  # another process was faster
                shutil.rmtree(beside, ignore_errors=True)
        return load_result(str(kept))
