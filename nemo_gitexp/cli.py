"""The command line: arguments to one verb, its value to a report, its outcome to an exit code. Nothing else."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from nemo_gitexp.console import Console, TerminalWatcher, write
from nemo_gitexp.documents import SCHEMA
from nemo_gitexp.errors import CostLimitError, GitexpError, UsageError
from nemo_gitexp.report.error import error_document, render_error

if TYPE_CHECKING:
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.catalog import Site
    from nemo_gitexp.documents import ExperimentDoc, VerdictDoc
    from nemo_gitexp.execution import Watcher
    from nemo_gitexp.git.repository import Repository
    from nemo_gitexp.handover import Background
    from nemo_gitexp.importing import ImportAnswer
    from nemo_gitexp.jsontext import JsonValue
    from nemo_gitexp.launch import Launcher
    from nemo_gitexp.listing import Entry
    from nemo_gitexp.shipping import Shipment
    from nemo_gitexp.tips import Tip
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.launch import StarterFactory
    from nemo_gitexp.verbs.run import RunAnswer
    from nemo_gitexp.verbs.sweep import SweepAnswer

EXIT_NO, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_BUG, EXIT_INTERRUPTED, EXIT_CANNOT_BISECT = 1, 2, 3, 70, 130, 125
GLOBAL_FLAGS = {"--json", "-q", "--quiet", "-v", "--verbose", "--no-color"}
_SWEEP_ID = re.compile(r"[0-9a-f]{4,12}")
FAILED_STATUSES = ("failed", "cancelled", "lost")


@dataclass(slots=True)
class Call:
    """One call of the command line: where it looks, how it answers, the command after `--`, the exit code.

    `failure_code` is what every failure exits with, where a caller (git bisect) takes the usual codes otherwise.
    """

    console: Console = field(default_factory=Console)
    directory: Path = Path()
    command: tuple[str, ...] | None = None
    exit_code: int = 0
    failure_code: int | None = None
    _repository: Repository | None = None
    _site: Site | None = None
    _warned: set[str] = field(default_factory=set)

    def repository(self) -> Repository:
        """Open the repository."""
        from nemo_gitexp.git.repository import LOCAL_VARIABLES, open_repository

        if self._repository is None:
            for name in LOCAL_VARIABLES:
                os.environ.pop(name, None)
            self._repository = open_repository(self.directory)
        return self._repository

    def place(self, path: Path) -> Path:
        """Return a path that was typed, as seen from the directory of the call."""
        return Path(os.path.normpath(self.directory / path))

    def site(self) -> Site:
        """Open the repository and its settings."""
        from nemo_gitexp.catalog import open_site

        if self._site is None:
            self._site = replace(open_site(self.repository(), os.environ), warn=self.warn)
        return self._site

    def warn(self, text: str) -> None:
        """Say what is wrong, once: a verb looks at runs several times."""
        if text not in self._warned:
            self._warned.add(text)
            self.console.say(f"warning: {text}")

    def launcher(self, executor: str | None = None) -> AbstractContextManager[Launcher]:
        """Start the process that launches: the one of the executor, or of local runs where none is named."""
        if executor is not None and executor != "local":
            from nemo_gitexp.destination import require_destination, start_launcher

            return start_launcher(self.site(), require_destination(self.site(), executor, os.environ))
        from nemo_gitexp.launch import Supervisor

        return Supervisor(self.repository().state_dir)

    def nursery(self, executor: str | None = None) -> AbstractContextManager[Launcher]:
        """Start the process that launches many runs: the one of the executor, or of local runs where none is named."""
        if executor is not None and executor != "local":
            return self.launcher(executor)
        from nemo_gitexp.launch import Nursery

        return Nursery(self.repository().state_dir)

    def background(self) -> AbstractContextManager[Background]:
        """Start the process that takes a detached run."""
        from nemo_gitexp.handover import Background

        return Background(self.repository().root, self.repository().state_dir)


def complete_experiments(incomplete: str) -> list[str]:
    """Return the names, shas and words that could complete an EXP; silence where nothing can be read."""
    try:
        from nemo_gitexp.git.repository import open_repository
        from nemo_gitexp.tips import list_tips

        tips = list_tips(open_repository(Path.cwd()))
    except (GitexpError, OSError):
        return []
    words = ["latest", *(f"latest:{study}" for study in sorted({tip.study for tip in tips}))]
    return [word for word in [*words, *(tip.name for tip in tips)] if word.startswith(incomplete)]


def complete_studies(incomplete: str) -> list[str]:
    """Return the studies that have a definition."""
    try:
        from nemo_gitexp.asked import list_studies
        from nemo_gitexp.git.repository import open_repository

        return [study for study in list_studies(open_repository(Path.cwd()).root) if study.startswith(incomplete)]
    except (GitexpError, OSError):
        return []


def complete_executors(incomplete: str) -> list[str]:
    """Return the executor profiles."""
    try:
        from nemo_gitexp.catalog import open_site
        from nemo_gitexp.git.repository import open_repository

        profiles = open_site(open_repository(Path.cwd()), os.environ).settings.executors
    except (GitexpError, OSError):
        return []
    return [name for name in profiles if name.startswith(incomplete)]


Exp = Annotated[
    str,
    typer.Argument(
        metavar="EXP", autocompletion=complete_experiments, help="sha, ref, branch, name, latest or latest:STUDY"
    ),
]
Executor = Annotated[
    str | None, typer.Option("--executor", metavar="NAME", autocompletion=complete_executors, help="executor profile")
]
Detach = Annotated[bool, typer.Option("--detach", help="hand the prompt back once the job is on its way")]
Chain = Annotated[
    int, typer.Option("--chain", metavar="N", min=1, help="N jobs; each goes on where the one before was cut off")
]
Keep = Annotated[bool, typer.Option("--keep", help="keep the workspace")]
NoReuse = Annotated[bool, typer.Option("--no-reuse", help="run every stage of a pipeline, whatever is known already")]

app = typer.Typer(
    name="nemo-gitexp",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every experiment is a git commit that can be found, explained, compared, reviewed and run again, with proof.",
    epilog="Global options may stand anywhere before `--`. Answers go to stdout, talk to stderr. "
    "Exit: 0 yes, 1 no, 2 usage, 3 could not answer, 70 bug, 130 interrupted. Example: nemo-gitexp run digits lr=0.05",
)
_CALL = Call()
_CLICK_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""Click's ClickException: newer typers keep a click of their own, older ones import it."""


def _print_version(value: bool) -> None:  # noqa: FBT001 - the form that typer calls
    if value:
        from nemo_gitexp import __version__

        _CALL.console.answer(f"nemo-gitexp {__version__}", {"schema": SCHEMA, "version": __version__})
        raise typer.Exit


@app.callback()
def _options(
    directory: Annotated[Path, typer.Option("-C", metavar="DIR", help="work as if started in DIR")] = Path(),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="answer with one JSON document")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no talk, answers only")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="tracebacks of errors too")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colours (so does NO_COLOR)")] = False,
    version: Annotated[  # noqa: ARG001 - its callback has answered before
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    _CALL.console = Console(json=as_json, quiet=quiet, verbose=verbose, color=False if no_color else None)
    _CALL.directory = Path(directory).absolute()


@app.command(epilog="Example: nemo-gitexp init --study digits")
def init(
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="write a commented experiments/NAME/experiment.yaml")
    ] = None,
    *,
    hooks: Annotated[bool, typer.Option("--hooks/--no-hooks", help="git hooks; this version has none")] = False,
) -> None:
    """Make a repository ready: attributes, ignored local state, fetch refspecs, DVC where data is declared."""
    from nemo_gitexp.verbs.init import init as verb

    if hooks:
        raise UsageError("this version installs no git hooks", hint="nemo-gitexp init --no-hooks")

    answer = verb(_CALL.repository(), study=study)
    lines = [*answer.done] or ["nothing to do: the repository is ready"]
    if answer.to_commit:
        lines += ["", "to commit:", f"  git add {' '.join(answer.to_commit)}", '  git commit -m "nemo-gitexp init"']
    _CALL.console.answer("\n".join(lines), {"schema": SCHEMA, "done": answer.done, "to_commit": answer.to_commit})


@app.command(epilog="Examples: nemo-gitexp run digits lr=0.05    nemo-gitexp run -- python train.py --lr 0.1")
def run(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY] [key=value…] [-- COMMAND ARGS…]",
            autocompletion=complete_studies,
            help="a study and changes to its configuration, or a command after --",
        ),
    ] = None,
    *,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="seed of Python, numpy, torch")] = None,
    executor: Executor = None,
    determinism: Annotated[
        str | None, typer.Option("--determinism", metavar="off|seeded|bitwise", help="how far to go for equal numbers")
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", metavar="TEXT", help="why this run")] = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", metavar="TEXT", help="recorded instead of the study's purpose")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="EXP", autocompletion=complete_experiments, help="start from its configuration"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="show what would be recorded and run; do nothing")] = False,
    detach: Detach = False,
    again: Annotated[bool, typer.Option("--again", help="run although the same was run before")] = False,
    commit_data: Annotated[bool, typer.Option("--commit-data", help="pin changed inputs with DVC first")] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="refuse when the work tree differs from HEAD")
    ] = False,
    record_only: Annotated[bool, typer.Option("--record-only", help="record, do not run")] = False,
    chain: Chain = 1,
    keep: Keep = False,
    no_reuse: NoReuse = False,
) -> None:
    """Record the present state as an experiment, run exactly it, and record the result."""
    from nemo_gitexp.git.snapshot import begin_look

    look = begin_look(_CALL.repository())  # git looks at the files while Python imports the rest
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.verbs.run import RunOptions
    from nemo_gitexp.verbs.run import run as verb

    study, changes = _study_and_changes(what or [])
    _require_determinism(determinism)
    asked = Asked(
        cwd=_CALL.directory,
        env=os.environ,
        study=study,
        command=_CALL.command,
        overrides=changes,
        base_config=_config_of(base),
        seed=seed,
        executor=executor,
        determinism=determinism,
        message=message,
        purpose=purpose,
        commit_data=commit_data,
        require_clean=require_clean,
    )
    options = RunOptions(
        plan_only=plan,
        record_only=record_only,
        detach=detach,
        again=again,
        keep=keep,
        reuse=not no_reuse,
        chain=chain,
    )
    watcher = TerminalWatcher(_CALL.console)
    telling = _telling(watcher)
    answer = verb(
        _CALL.site(), asked, options, _starter(executor, detach=detach), telling, now=datetime.now(UTC), look=look
    )
    watcher.clear()
    if answer.outcome == "ongoing" and sys.stdin.isatty() and sys.stderr.isatty() and not _CALL.console.json:
        answer = _offer_to_follow(answer, watcher)
    _report_run(answer)
    _tell_remote_at_times()


@app.command(epilog="Example: nemo-gitexp sweep digits lr=0.05,0.1 seed=1..3 --jobs 2")
def sweep(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY] [key=a,b,c…]",
            autocompletion=complete_studies,
            help="a study (or FILE.py:RECIPE) and what varies: key=a,b,c  seed=1..5  lr=0.1..0.5:0.1  n=range(1,10,2); "
            "with --resume also the id of a sweep",
        ),
    ] = None,
    *,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="at most so many at a time; locally 1")
    ] = None,
    zipped: Annotated[bool, typer.Option("--zip", help="first with first, second with second, …")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the latest sweep of the study, or the one that is named")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="one seed for all")] = None,
    executor: Executor = None,
    determinism: Annotated[
        str | None, typer.Option("--determinism", metavar="off|seeded|bitwise", help="how far to go for equal numbers")
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", metavar="TEXT", help="why this sweep")] = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", metavar="TEXT", help="recorded instead of the study's purpose")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="EXP", autocompletion=complete_experiments, help="start from its configuration"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="show the combinations; do nothing")] = False,
    again: Annotated[bool, typer.Option("--again", help="run also what was run before")] = False,
    commit_data: Annotated[bool, typer.Option("--commit-data", help="pin changed inputs with DVC first")] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="refuse when the work tree differs from HEAD")
    ] = False,
    keep: Keep = False,
    no_reuse: NoReuse = False,
) -> None:
    """Run every combination as an experiment of its own, but for finished ones; ends in a comparison, best first."""
    from nemo_gitexp.git.snapshot import begin_look

    look = begin_look(_CALL.repository())
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.console import SweepBoard
    from nemo_gitexp.verbs.sweep import SweepOptions
    from nemo_gitexp.verbs.sweep import sweep as verb

    study, sweep_id, changes = _study_and_sweep(what or [], resume=resume)
    _require_determinism(determinism)
    asked = Asked(
        cwd=_CALL.directory,
        env=os.environ,
        study=study,
        command=_CALL.command,
        overrides=changes,
        base_config=_config_of(base),
        seed=seed,
        executor=executor,
        determinism=determinism,
        message=message,
        purpose=purpose,
        commit_data=commit_data,
        require_clean=require_clean,
    )
    options = SweepOptions(jobs, zipped, plan, resume, sweep_id, again, keep, reuse=not no_reuse)
    board = SweepBoard(_CALL.console)
    try:
        answer = verb(
            _CALL.site(),
            asked,
            options,
            functools.partial(_CALL.nursery, executor),
            board,
            now=datetime.now(UTC),
            look=look,
        )
    finally:
        board.clear()
    _report_sweep(answer)


def _study_and_sweep(words: Sequence[str], *, resume: bool) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return the study, the id of a sweep to go on with, and what varies."""
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    changes = tuple(word for word in words if word not in names)
    most = 2 if resume else 1
    if len(names) > most:
        raise UsageError(f"{names[most]} is no key=value", hint=f"nemo-gitexp sweep {names[0]} {names[most]}=A,B")
    if resume and len(names) == 1 and _SWEEP_ID.fullmatch(names[0]):
        from nemo_gitexp.asked import list_studies

        if names[0] not in list_studies(_CALL.repository().root):
            return None, names[0], changes
    return (*names, None, None)[0], (*names, None, None)[1], changes


def _require_determinism(word: str | None) -> None:
    if word not in (None, "off", "seeded", "bitwise"):
        raise UsageError(f"--determinism {word} is none of off, seeded, bitwise", hint="--determinism seeded")


def _study_and_changes(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the study and what is changed in it; beside a command no study is named."""
    if _CALL.command is not None:
        return None, tuple(words)
    if not words:
        raise UsageError(
            "what is to be run?", hint="nemo-gitexp run STUDY [key=value…], or nemo-gitexp run -- COMMAND ARGS"
        )
    return words[0], tuple(words[1:])


@app.command(epilog="Example: nemo-gitexp launch latest")
def launch(
    exp: Exp, *, detach: Detach = False, chain: Chain = 1, keep: Keep = False, no_reuse: NoReuse = False
) -> None:
    """Run an experiment that was recorded only, or that was lost."""
    from nemo_gitexp.verbs.launch import launch as verb
    from nemo_gitexp.verbs.run import RunOptions

    watcher = TerminalWatcher(_CALL.console)
    options = RunOptions(detach=detach, keep=keep, reuse=not no_reuse, chain=chain)
    answer = verb(_CALL.site(), exp, options, _starter(detach=detach), _telling(watcher), os.environ)
    watcher.clear()
    _report_run(answer)
    _tell_remote_at_times()


@app.command(epilog="Example: nemo-gitexp reproduce 1a2b3c4 --require bitwise")
def reproduce(
    exp: Exp,
    *,
    require: Annotated[
        str, typer.Option("--require", metavar="restored|executed|metrics|bitwise", help="the level that counts as yes")
    ] = "metrics",
    executor: Executor = None,
    env_mode: Annotated[
        str,
        typer.Option(
            "--env",
            metavar="check|recreate|ignore",
            help="compare the environment, make the recorded one anew, or neither",
        ),
    ] = "check",
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="stop when the metric stream has N steps")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="show what would be run and what it cost; do nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="run although it is expensive")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep workspace and run directory")] = False,
    times: Annotated[int, typer.Option("--times", metavar="N", help="run N times; the worst verdict counts")] = 1,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="exit codes for git bisect run: 125 when it cannot be tried")
    ] = False,
) -> None:
    """Run a recorded experiment again, in its exact state, and say how far it came out the same."""
    from nemo_gitexp.verbs.reproduce import ReproduceOptions
    from nemo_gitexp.verbs.reproduce import reproduce as verb

    options = ReproduceOptions(
        require=require,
        executor=executor,
        env_mode=env_mode,
        steps=steps,
        plan_only=plan,
        confirmed=yes,
        keep=keep,
        times=times,
    )
    if bisect:
        _CALL.failure_code = EXIT_CANNOT_BISECT
    watcher = TerminalWatcher(_CALL.console)
    launcher = functools.partial(_CALL.launcher, executor)
    try:
        answer = verb(_CALL.site(), exp, options, launcher, watcher, os.environ)
    except CostLimitError as fault:
        if not _agrees(f"{fault.message}; go on?"):
            raise
        answer = verb(_CALL.site(), exp, replace(options, confirmed=True), launcher, watcher, os.environ)
    watcher.clear()
    if answer.interrupted:
        _CALL.exit_code = EXIT_INTERRUPTED
        return
    if answer.verdict is None:
        _report_reproduction_plan(answer.document, answer.cost_device_hours)
        return
    _report_verdict(answer.verdict, answer.runs, answer.kept)


@app.command(
    epilog="Examples: nemo-gitexp probe latest --vary threads,hashseed    nemo-gitexp probe digits lr=0.1 --steps 20"
)
def probe(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXP | [STUDY] [key=value…] [-- COMMAND ARGS…]",
            autocompletion=complete_experiments,
            help="an experiment, or what run would be given",
        ),
    ] = None,
    *,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="how many steps of the metric stream")] = 10,
    varied: Annotated[
        str, typer.Option("--vary", metavar="threads,workers,hashseed", help="once more with each of these changed")
    ] = "",
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="seed of Python, numpy, torch")] = None,
    executor: Executor = None,
    determinism: Annotated[
        str | None, typer.Option("--determinism", metavar="off|seeded|bitwise", help="how far to go for equal numbers")
    ] = None,
) -> None:
    """Run the first steps twice and compare, before the whole computation is paid for. Records nothing."""
    from nemo_gitexp.report.probe import render_probe
    from nemo_gitexp.verbs.probe import ProbeOptions
    from nemo_gitexp.verbs.probe import probe as verb

    options = ProbeOptions(steps, tuple(dict.fromkeys(word for word in varied.split(",") if word)), executor)
    subject = _probed(what or [], seed=seed, executor=executor, determinism=determinism)
    watcher = TerminalWatcher(_CALL.console)
    answer = verb(_CALL.site(), subject, options, _CALL.launcher, watcher, env=os.environ, now=datetime.now(UTC))
    watcher.clear()
    document = answer.document
    if document is None:
        _CALL.exit_code = EXIT_INTERRUPTED
        return
    _CALL.console.answer(render_probe(document, style=_CALL.console.style), document)
    _CALL.exit_code = 0 if document["equal"] and not document["depends_on"] else EXIT_NO


def _probed(words: Sequence[str], *, seed: int | None, executor: str | None, determinism: str | None) -> str | Asked:
    """Return what is to be probed: an experiment's name, or what `run` would be asked for."""
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.verbs.probe import names_run

    _require_determinism(determinism)
    if _CALL.command is None and words and not names_run(_CALL.repository().root, words[0]):
        if len(words) > 1 or seed is not None or determinism is not None:
            hint = f"nemo-gitexp run STUDY --from {words[0]} key=value, or probe a STUDY with changes"
            raise UsageError(f"an experiment is probed as it is recorded: {words[0]}", hint=hint)
        return words[0]
    if _CALL.command is None and not words:
        raise UsageError("what is to be probed?", hint="nemo-gitexp probe EXP, or probe STUDY, or probe -- COMMAND")
    study, changes = _study_and_changes(words)
    return Asked(
        cwd=_CALL.directory,
        env=os.environ,
        study=study,
        command=_CALL.command,
        overrides=changes,
        seed=seed,
        executor=executor,
        determinism=determinism,
        message="probe",
    )


@app.command(epilog="Example: nemo-gitexp status")
def status(
    exps: Annotated[list[str] | None, typer.Argument(metavar="[EXP…]", autocompletion=complete_experiments)] = None,
    *,
    push: Annotated[
        bool, typer.Option("--push", help="tell a remote, too: status --push [REMOTE] [EXP…], which shows it to others")
    ] = False,
) -> None:
    """Say how runs stand: those named, or all that are not finished."""
    from nemo_gitexp.report.experiment import render_status
    from nemo_gitexp.verbs.follow import status as verb

    site, words = _CALL.site(), list(exps or [])
    if push:
        words = _tell_remote(words)
    documents = verb(site, words)
    if not push:
        _tell_remote_at_times()
    _answer_many(
        documents, render_status(documents, style=_CALL.console.style) if documents else "nothing is running\n"
    )


def _tell_remote(words: Sequence[str]) -> list[str]:
    """Push how far experiments are; return the words that name experiments."""
    from nemo_gitexp.verbs.announce import announce, split_remote

    remote, exps = split_remote(_CALL.site(), words)
    answer = announce(_CALL.site(), remote, exps, _CALL.console.say)
    _CALL.console.say(f"{remote} has nothing to be told" if answer is None else f"told {remote}")
    return list(exps)


def _telling(watcher: TerminalWatcher) -> Watcher:
    """Return a watcher that, with the setting, tells a remote at times how far the run is."""
    settings = _CALL.site().settings
    if not settings.push_status:
        return watcher
    from nemo_gitexp.verbs.announce import Announcer

    return Announcer(watcher, _CALL.repository().root, max(settings.push_status_minutes, 0.1) * 60)


def _tell_remote_at_times() -> None:
    """With the setting: push how far experiments are, where that was not said lately; an answer needs no remote."""
    site = _CALL.site()
    if not site.settings.push_status:
        return
    from nemo_gitexp.verbs.announce import announce, split_remote

    try:
        remote, _ = split_remote(site, [])
        announce(site, remote, [], _CALL.console.say, older_than_s=site.settings.push_status_minutes * 60)
    except GitexpError as fault:
        _CALL.console.say(f"warning: no remote was told how far they are: {fault.message}")


@app.command(epilog="Example: nemo-gitexp logs latest -f")
def logs(
    exp: Exp, *, follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the run has ended")] = False
) -> None:
    """Print the log of a run."""
    from nemo_gitexp.verbs.follow import follow_logs, read_logs

    log = read_logs(_CALL.site(), exp, _CALL.console.say)
    if _CALL.console.json:
        text = b"".join(log.pieces).decode("utf-8", "replace")
        _CALL.console.answer("", {"schema": SCHEMA, "experiment": log.tip.record, "log": text})
    elif follow:
        document = follow_logs(_CALL.site(), log, _LogPrinter())
        _CALL.exit_code = EXIT_NO if document["status"] in FAILED_STATUSES else 0
    else:
        for piece in log.pieces:
            _CALL.console.print(piece)


@app.command(epilog="Example: nemo-gitexp cancel latest")
def cancel(exp: Exp) -> None:
    """Stop a run; it is recorded as cancelled."""
    from nemo_gitexp.report.experiment import render_run_summary
    from nemo_gitexp.verbs.follow import cancel as verb

    document = verb(_CALL.site(), exp, TerminalWatcher(_CALL.console))
    _CALL.console.answer(render_run_summary(document, style=_CALL.console.style), document)


@app.command(epilog="Example: nemo-gitexp collect")
def collect() -> None:
    """Make the result commits of all runs that have ended."""
    from nemo_gitexp.report.experiment import render_status
    from nemo_gitexp.verbs.follow import collect as verb

    documents = verb(_CALL.site())
    _answer_many(
        documents, render_status(documents, style=_CALL.console.style) if documents else "nothing to collect\n"
    )


@app.command(
    epilog="Example: nemo-gitexp log --where 'metrics.accuracy > 0.95 and config.lr < 0.1' --sort -metrics.accuracy"
)
def log(
    *,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", autocompletion=complete_studies)] = None,
    status_word: Annotated[
        str | None, typer.Option("--status", metavar="WORD", help="completed, failed, running, …")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="EXPR", help="comparisons, and, or, not over dotted keys")
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", metavar="KEY", help="ascending; -KEY descends")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="dotted keys")] = None,
    count: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="how many (20)")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="all, archived and withdrawn ones too")] = False,
    lineage: Annotated[bool, typer.Option("--lineage", help="what was made from what, as a tree")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="comma-separated, full values")] = False,
) -> None:
    """List experiments, newest first."""
    from nemo_gitexp.verbs.log import LogOptions
    from nemo_gitexp.verbs.log import log as verb

    chosen = tuple(name for column in (columns or "").split(",") if (name := column.strip()))
    answer = verb(
        _CALL.site(),
        LogOptions(
            study=study,
            status=status_word,
            where=where,
            sort=sort,
            columns=chosen,
            count=count,
            show_all=show_all,
            lineage=lineage,
        ),
    )
    for remark in answer.remarks:
        _CALL.console.say(f"warning: {remark}")
    if lineage:
        from nemo_gitexp.report.lineage import render_lineage

        _answer_many(list(answer.related), render_lineage(answer.related, style=_CALL.console.style))
        return
    if _CALL.console.json:
        _answer_entries(answer.entries)
        return
    from nemo_gitexp.report.log import render_log, render_log_csv
    from nemo_gitexp.report.terminal import safe_text

    documents = [entry.document for entry in answer.entries]
    if csv:
        table = render_log_csv(documents, chosen)
        _CALL.console.print(safe_text(table, multiline=True) if sys.stdout.isatty() else table)
    elif not documents and answer.n_all:
        _CALL.console.print("none can be read\n" if answer.remarks else "no experiment matches\n")
    else:
        _CALL.console.print(render_log(documents, chosen, style=_CALL.console.style))
        if answer.n_more:
            _CALL.console.say(f"{answer.n_more} more: nemo-gitexp log --all, or -n N")


@app.command(epilog="Example: nemo-gitexp show latest")
def show(exp: Exp) -> None:
    """Print everything about one experiment, and the commands to reproduce, compare and review it."""
    from nemo_gitexp.report.experiment import render_experiment
    from nemo_gitexp.verbs.show import show as verb

    answer = verb(_CALL.site(), exp)
    console = _CALL.console
    text = "" if console.json else render_experiment(
        answer.document,
        style=console.style,
        rows=answer.rows,
        remarks=answer.remarks,
        is_repeatable=answer.is_repeatable,
        imported=answer.imported,
    )  # fmt: skip
    console.answer(text, answer.document)


@app.command(epilog="Example: nemo-gitexp outputs latest --get /tmp/model model.pt")
def outputs(
    exp: Exp,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH…]", help="only these outputs")] = None,
    *,
    get: Annotated[Path | None, typer.Option("--get", metavar="DIR", help="write them there")] = None,
) -> None:
    """List what an experiment made, or fetch it."""
    from nemo_gitexp.report.experiment import render_outputs
    from nemo_gitexp.report.terminal import safe_text
    from nemo_gitexp.verbs.show import outputs as verb

    answer = verb(_CALL.site(), exp, paths or [], None if get is None else _CALL.place(get), _CALL.console.say)
    written = [str(path) for path in answer.written]
    made = answer.document["outputs"]
    text = "".join(f"{safe_text(path)}\n" for path in written) if get is not None else render_outputs(made)
    document = {"schema": SCHEMA, "experiment": answer.document["experiment"], "outputs": made, "written": written}
    _CALL.console.answer(text or "it made nothing", document)


@app.command(epilog="Example: nemo-gitexp checkout latest ../as-it-was")
def checkout(exp: Exp, directory: Annotated[Path, typer.Argument(metavar="DIR", help="a new directory")]) -> None:
    """Make a directory with the exact state of an experiment, data included."""
    from nemo_gitexp.verbs.checkout import checkout as verb

    answer = verb(_CALL.site(), exp, _CALL.place(directory), _CALL.console.say)
    sha = answer.document["experiment"]
    text = f"{answer.directory}  is at {sha[:12]}; remove it with: git worktree remove {answer.directory}"
    _CALL.console.answer(text, {"schema": SCHEMA, "experiment": sha, "directory": str(answer.directory)})


@app.command(epilog="Example: nemo-gitexp diff latest --format md")
def diff(
    a: Annotated[
        str | None, typer.Argument(metavar="[A]", autocompletion=complete_experiments, help="default: the latest")
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]",
            autocompletion=complete_experiments,
            help="default: the baseline on this branch, else the completed one before",
        ),
    ] = None,
    *,
    worktree: Annotated[bool, typer.Option("--worktree", help="compare with the present state")] = False,
    layout: Annotated[str, typer.Option("--format", metavar="text|md|json|html")] = "text",
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="write there")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="what is equal too")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit 1 when they differ")] = False,
) -> None:
    """Compare two experiments: configuration, seed, code, data, environment, metrics, outputs."""
    from nemo_gitexp.comparison import differs
    from nemo_gitexp.verbs.diff import diff as verb
    from nemo_gitexp.verbs.diff import diff_worktree

    if layout not in ("text", "md", "json", "html"):
        raise UsageError(f"--format {layout} is none of text, md, json, html", hint="--format md")
    if worktree and b is not None:
        raise UsageError("--worktree is the second side already", hint="nemo-gitexp diff A --worktree")
    now = datetime.now(UTC)
    answer = diff_worktree(_CALL.site(), a, os.environ, now) if worktree else verb(_CALL.site(), a, b)
    for remark in answer.remarks:
        _CALL.console.say(f"note: {remark}")
    text = _render_diff(answer, layout, show_all=show_all)
    if output is not None:
        _write_report(_CALL.directory / output, text)
    elif _CALL.console.json:
        _CALL.console.answer("", answer.diff)
    else:
        _CALL.console.print(text)
    _CALL.exit_code = EXIT_NO if exit_code and differs(answer.diff) else 0


Shared = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REMOTE] [EXP…]", autocompletion=complete_experiments, help="a remote, then experiments"),
]


@app.command(epilog="Examples: nemo-gitexp push    nemo-gitexp push origin latest --branch")
def push(
    words: Shared = None,
    *,
    branch: Annotated[bool, typer.Option("--branch", help="their branches for people too")] = False,
    no_data: Annotated[bool, typer.Option("--no-data", help="leave data, outputs and logs here")] = False,
) -> None:
    """Give a remote experiments, what was learned about them, and their data: all of this clone, or those named."""
    from nemo_gitexp.report.share import pushed_lines, render_shared
    from nemo_gitexp.verbs.share import PushOptions, require_all_sent
    from nemo_gitexp.verbs.share import push as verb

    options = PushOptions(data=not no_data, branches=branch)
    answer = verb(_CALL.site(), words or [], options, _CALL.console.say)
    rows, data = [_shared_row(item.tip, item.what) for item in answer.pushed], _shipped(answer.data)
    lines = pushed_lines(
        answer.remote,
        moved=len(rows),
        same=len(answer.same),
        behind=len(answer.behind),
        facts=answer.facts,
        data=data,
        branches=answer.branches,
    )
    text = render_shared(rows, [] if answer.refused and not rows else lines, style=_CALL.console.style)
    if answer.refused and _CALL.console.json:
        require_all_sent(answer)
    document = {
        "schema": SCHEMA,
        "remote": answer.remote,
        "pushed": rows,
        "same": [tip.record for tip in answer.same],
        "behind": [tip.record for tip in answer.behind],
        "facts": answer.facts,
        "branches": answer.branches,
        "data": data,
    }
    _CALL.console.answer(text, document)
    require_all_sent(answer)


@app.command(epilog="Examples: nemo-gitexp pull    nemo-gitexp pull origin latest:digits")
def pull(
    words: Shared = None,
    *,
    all_data: Annotated[bool, typer.Option("--data", help="the data of all its experiments")] = False,
) -> None:
    """Fetch a remote's experiments and facts beside one's own, and the data of those named."""
    from nemo_gitexp.report.share import pulled_lines, render_shared
    from nemo_gitexp.verbs.share import pull as verb

    answer = verb(_CALL.site(), words or [], _CALL.console.say, all_data=all_data)
    rows, data = [_shared_row(item.tip, item.what) for item in answer.came], _shipped([answer.data])
    missing = {sha: [f"{gap.called}: {gap.why}" for gap in gaps] for sha, gaps in answer.data.gaps.items()}
    lines = pulled_lines(answer.remote, came=len(rows), facts=answer.facts, data=data)
    lines += [f"{sha[:12]} is not whole here: {'; '.join(named[:5])}" for sha, named in missing.items()]
    document = {
        "schema": SCHEMA,
        "remote": answer.remote,
        "experiments": rows,
        "facts": answer.facts,
        "data": data,
        "missing": missing,
    }
    _CALL.console.answer(render_shared(rows, lines, style=_CALL.console.style), document)
    _CALL.exit_code = EXIT_NO if missing else 0


def _shared_row(tip: Tip, what: str) -> dict[str, str]:
    status = tip.status or "unfinished"
    return {"experiment": tip.record, "study": tip.study, "name": tip.name, "what": what, "status": status}


def _shipped(shipments: Sequence[Shipment]) -> dict[str, object]:
    """Return what data travelled, over all rounds."""
    return {
        "objects": sum(item.objects for item in shipments),
        "size_bytes": sum(item.size_bytes for item in shipments),
        "remotes": list(dict.fromkeys(name for item in shipments for name in item.remotes)),
    }


app.add_typer(
    imports := typer.Typer(
        rich_markup_mode=None,
        help="Bring in runs that another tool recorded: to be listed, shown and compared, never to be run again.",
        epilog="Example: nemo-gitexp import mlflow mlruns",
    ),
    name="import",
)

Into = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", autocompletion=complete_studies, help="instead of the name it has there"),
]
Only = Annotated[list[str] | None, typer.Option("--run", metavar="ID", help="only this run (id or name; repeat it)")]
Unfinished = Annotated[bool, typer.Option("--unfinished", help="runs that have not ended there, too: as lost")]
PlanOnly = Annotated[bool, typer.Option("--plan", "--dry-run", help="show what would be imported; do nothing")]


@imports.command("mlflow", epilog="Example: nemo-gitexp import mlflow mlruns --experiment digits")
def import_mlflow(
    place: Annotated[
        str, typer.Argument(metavar="PATH_OR_URI", help="mlruns, mlflow.db, or what MLflow's tracking URI is")
    ],
    *,
    study: Into = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option("--experiment", metavar="NAME", help="only this experiment of MLflow (repeat it)"),
    ] = None,
    runs: Only = None,
    unfinished: Unfinished = False,
    plan: PlanOnly = False,
) -> None:
    """Import runs of MLflow: a file store, a SQLite store, or a tracking server where mlflow is installed."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_mlflow as verb

    options = ImportOptions(study, unfinished, plan)
    _import(verb, options, place, _CALL.directory, experiments=experiment or (), runs=runs or ())


@imports.command("wandb", epilog="Example: nemo-gitexp import wandb wandb")
def import_wandb(
    places: Annotated[list[str], typer.Argument(metavar="DIR…", help="the directories that wandb writes")],
    *,
    study: Into = None,
    runs: Only = None,
    unfinished: Unfinished = False,
    plan: PlanOnly = False,
) -> None:
    """Import runs of W&B from the logs that wandb leaves on disk, offline or not."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_wandb as verb

    _import(verb, ImportOptions(study, unfinished, plan), places, _CALL.directory, runs=runs or ())


@imports.command("dvc", epilog="Example: nemo-gitexp import dvc")
def import_dvc(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REV…]", help="experiments, branches, tags, commits; default: all experiments"),
    ] = None,
    *,
    study: Into = None,
    plan: PlanOnly = False,
) -> None:
    """Import experiments of DVC in this repository."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_dvc as verb

    _import(verb, ImportOptions(study, plan_only=plan), revisions or [])


def _import(verb: Callable[..., ImportAnswer], options: ImportOptions, *what: object, **only: object) -> None:
    answer = verb(_CALL.site(), *what, options, **only, now=datetime.now(UTC), say=_CALL.console.say)
    _report_import(answer, plan=options.plan_only)


@app.command(epilog="Example: nemo-gitexp config")
def config() -> None:
    """Show every setting, its value, and where it comes from; nothing secret is shown."""
    from nemo_gitexp.report.config import render_config
    from nemo_gitexp.verbs.config import config as verb
    from nemo_gitexp.verbs.config import config_document

    settings = verb(_CALL.site())
    rows = [(item.name, item.value, item.source) for item in settings]
    _CALL.console.answer(render_config(rows, style=_CALL.console.style), config_document(settings))


@app.command(epilog="Examples: nemo-gitexp doctor    nemo-gitexp doctor --executor a100")
def doctor(executor: Executor = None) -> None:
    """Say whether this machine, and an executor's site, can do the job, and what to install; submits nothing."""
    from nemo_gitexp.report.doctor import render_diagnosis
    from nemo_gitexp.verbs.doctor import doctor as verb

    answer = verb(_CALL.site(), executor, os.environ)
    text = render_diagnosis(answer.machine, answer.executors, style=_CALL.console.style)
    _CALL.console.answer(text, answer.to_json())
    _CALL.exit_code = 0 if answer.is_fine else EXIT_NO


class _LogPrinter:
    """Writes a job's log to stdout: for `logs` it is the answer."""

    def log(self, text: bytes) -> None:
        _CALL.console.print(text)

    def progress(self, elapsed_s: float, row: object) -> None:
        """Nothing beside the log."""

    def say(self, line: str) -> None:
        _CALL.console.say(line)


def _config_of(base: str | None) -> Mapping[str, JsonValue] | None:
    if base is None:
        return None
    from nemo_gitexp.catalog import document_of
    from nemo_gitexp.lookup import find_experiment

    site = _CALL.site()
    return document_of(site, find_experiment(site.repository, base))["config"]


def _starter(executor: str | None = None, *, detach: bool) -> StarterFactory:
    is_local = executor is None or executor == "local"
    return _CALL.background if detach and is_local else functools.partial(_CALL.launcher, executor)


def _report_run(answer: RunAnswer) -> None:
    from nemo_gitexp.report.experiment import render_experiment, render_run_summary

    document, style = answer.document, _CALL.console.style
    if _CALL.console.json:
        text = ""
    elif answer.outcome == "planned":
        text = render_experiment(document, style=style)
    elif answer.outcome == "detached":
        text = f"{document['experiment'][:12]}  {document['status']}\nnemo-gitexp logs {document['experiment'][:12]} -f"
    else:
        text = render_run_summary(document, style=style)
    _CALL.console.answer(text, document)
    if answer.interrupted:
        _CALL.exit_code = EXIT_INTERRUPTED
    elif answer.outcome == "ran" and document["status"] != "completed":
        _CALL.exit_code = EXIT_NO


def _report_sweep(answer: SweepAnswer) -> None:
    from nemo_gitexp.report.sweep import render_planned, render_sweep

    style, document = _CALL.console.style, answer.to_json() if _CALL.console.json else {}
    if _CALL.console.json:
        text = ""
    elif answer.planned:
        text = render_planned(answer.documents, answer.values, style)
    else:
        metric, goal = answer.metric
        text = render_sweep(answer.documents, answer.ranking, metric, goal, sweep=answer.sweep, style=style)
    _CALL.console.answer(text, document)
    if answer.interrupted:
        _CALL.exit_code = EXIT_INTERRUPTED
    elif not answer.planned and not answer.is_whole:
        _CALL.exit_code = EXIT_NO


def _offer_to_follow(answer: RunAnswer, watcher: TerminalWatcher) -> RunAnswer:
    from nemo_gitexp.verbs.follow import follow_logs, read_logs
    from nemo_gitexp.verbs.run import RunAnswer

    name = answer.document["name"]
    _CALL.console.say(f"the same experiment is running already: {name}")
    if not typer.confirm("follow it?", default=True, err=True):
        return answer
    log = read_logs(_CALL.site(), answer.document["experiment"], watcher.say)
    return RunAnswer("ran", follow_logs(_CALL.site(), log, watcher))


def _agrees(question: str) -> bool:
    """Return whether somebody at a terminal says yes; where nobody can be asked: no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or _CALL.console.json:
        return False
    return typer.confirm(question, default=False, err=True)


def _report_verdict(verdict: VerdictDoc, runs: int, kept: Path | None) -> None:
    from nemo_gitexp.report.verdict import render_verdict

    _CALL.console.answer(render_verdict(verdict, style=_CALL.console.style, runs=runs), verdict)
    if kept is not None:
        _CALL.console.say(f"the run is kept in {kept}")
    _CALL.exit_code = 0 if verdict["met"] else EXIT_NO


def _report_reproduction_plan(document: ExperimentDoc, cost: float | None) -> None:
    from nemo_gitexp.report.experiment import render_experiment
    from nemo_gitexp.report.verdict import cost_words

    limit = _CALL.site().settings.reproduce_cost_limit
    asks = f", more than {limit:g}: that needs --yes" if cost is not None and cost > limit else ""
    spent = "nobody knows how long" if cost is None else f"{cost:.3g} device-hours ({cost_words(document)}){asks}"
    text = (
        ""
        if _CALL.console.json
        else render_experiment(document, style=_CALL.console.style)
        + f"\nwould run it again; the recorded run took {spent}\n"
    )
    _CALL.console.answer(text, {**document, "cost_device_hours": cost})


def _report_import(answer: ImportAnswer, *, plan: bool) -> None:
    from nemo_gitexp.report.imports import render_import

    skipped = [{"run": item.run, "reason": item.reason} for item in answer.skipped]
    style = _CALL.console.style
    text = render_import(answer.experiments, answer.already, skipped, plan=plan, style=style)
    document = {
        "schema": SCHEMA,
        "experiments": answer.experiments,
        "already": answer.already,
        "skipped": skipped,
    }
    _CALL.console.answer(text, document)
    _CALL.exit_code = EXIT_NO if any(item.is_damaged for item in answer.skipped) else 0


def _answer_entries(entries: Sequence[Entry]) -> None:
    """Print listed experiments as JSON: for a program in the words that they are cached in."""
    if sys.stdout.isatty():
        _answer_many([entry.document for entry in entries], "")
    else:
        listed = b", ".join(entry.text for entry in entries)
        _CALL.console.print(b'{"schema": %d, "experiments": [%s]}\n' % (SCHEMA, listed))


def _answer_many(documents: Sequence[ExperimentDoc], text: str) -> None:
    _CALL.console.answer(text, {"schema": SCHEMA, "experiments": documents})


def _render_diff(answer: object, layout: str, *, show_all: bool) -> str:
    import json

    from nemo_gitexp.report.diff import render_diff, render_diff_html, render_diff_markdown
    from nemo_gitexp.verbs.diff import DiffAnswer

    if not isinstance(answer, DiffAnswer):
        raise TypeError("no difference")
    sides = (answer.diff, answer.a, answer.b)
    if layout == "md":
        return render_diff_markdown(*sides, show_all=show_all)
    if layout == "html":
        return render_diff_html(*sides, show_all=show_all)
    if layout == "json":
        return json.dumps(answer.diff, ensure_ascii=False) + "\n"
    return render_diff(*sides, show_all=show_all, style=_CALL.console.style)


def _write_report(path: Path, text: str) -> None:
    from nemo_gitexp.errors import StateDirectoryError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise StateDirectoryError(f"cannot write {path}: {fault.strerror}", path=str(path)) from fault


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the arguments with global options in front, and the command after `--` (None without one).

    Only `run` and `probe` take a command; for other verbs what stands behind `--` are its arguments, as everywhere.
    """
    words, behind = list(arguments), None
    if "--" in words:
        at = words.index("--")
        words, behind = words[:at], tuple(words[at + 1 :])
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word in GLOBAL_FLAGS:
            front.append(word)
        elif word == "-C" and position + 1 < len(words):
            front += [word, words[position + 1]]
            position += 1
        else:
            rest.append(word)
        position += 1
    if behind is not None and rest[:1] not in (["run"], ["probe"]):
        return [*front, *rest, "--", *behind], None
    return front + rest, behind


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one call and return its exit code; the only place that turns exceptions into exits."""
    words, command = split_arguments(sys.argv[1:] if arguments is None else arguments)
    _CALL.command = command
    _CALL.console = Console(json="--json" in words)
    _CALL.exit_code, _CALL.failure_code = 0, None
    if not words and command is None:
        words = ["--help"]
        _CALL.exit_code = EXIT_USAGE
    return _guarded(lambda: _invoke(words))


def _invoke(words: list[str]) -> None:
    program = typer.main.get_command(app)
    try:
        outcome = program.main(words, prog_name="nemo-gitexp", standalone_mode=False)
    except _CLICK_ERROR as fault:
        raise UsageError(_click_message(fault), hint="nemo-gitexp --help") from fault
    if isinstance(outcome, int) and outcome != 0:
        _CALL.exit_code = outcome


def _click_message(fault: BaseException) -> str:
    render: Callable[[], str] | None = getattr(fault, "format_message", None)
    return (render() if render is not None else str(fault)).rstrip(".")


def _guarded(work: Callable[[], None]) -> int:
    try:
        work()
    except GitexpError as error:
        _fail(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except OSError as fault:
        _fail(_as_state_error(fault))
        code = EXIT_NO_ANSWER
    except Exception as bug:  # noqa: BLE001 - the last line of defence: a bug becomes a report, not a stack on the screen
        code = _report_bug(bug)
    else:
        return _CALL.exit_code
    return _CALL.failure_code or code


def _as_state_error(fault: OSError) -> GitexpError:
    from nemo_gitexp.errors import StateDirectoryError

    path = fault.filename if isinstance(fault.filename, str) else ""
    return StateDirectoryError(
        f"{fault.strerror or fault}: {path}".rstrip(": "), hint="df -h; ls -ld the directory", path=path
    )


def _fail(error: GitexpError) -> None:
    if _CALL.console.json:
        _CALL.console.answer("", error_document(error))
    else:
        with contextlib.suppress(OSError):  # then only the exit code can tell
            write(sys.stderr, render_error(error, style=_CALL.console.error_style))
    if _CALL.console.verbose:
        traceback.print_exception(error, file=sys.stderr)


def _report_bug(bug: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="nemo-gitexp-bug-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(f"nemo-gitexp {' '.join(sys.argv[1:])}\npython {sys.version}\n\n")
        traceback.print_exception(bug, file=file)
    error = GitexpError(f"a bug of nemo-gitexp: {type(bug).__name__}: {bug}", hint=f"please report it with {file.name}")
    _fail(error)
    return EXIT_BUG
