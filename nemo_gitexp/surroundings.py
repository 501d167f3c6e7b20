"""What a reproduction runs in, compared with what the recorded run ran in: interpreter, packages, settings, machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site
from nemo_gitexp.documents import DriftDoc
from nemo_gitexp.drift import EnvironmentClass, compare_environments, compare_settings, rank_drift
from nemo_gitexp.environment import capture_environment, parse_environment, recreate_environment
from nemo_gitexp.errors import UsageError
from nemo_gitexp.interpreters import find_recorded_interpreter, probe_interpreter
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.result import RunLeavings, mapping
from nemo_gitexp.stages import command_of, python_of
from nemo_gitexp.store import Experiment, read_environment

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile

ENVIRONMENT_MODES = ("check", "recreate", "ignore")
_WHOLE = "gitexp-complete"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job is given: its interpreter (None: it brings its own); `probe` is asked inside the job.

    `named` and `drift` compare the environment with the recorded one, as far as it is known before the job. `recorded`
    is that one, empty where only the recorded job itself said it.
    """

    interpreter: Path | None
    probe: Path | None
    named: EnvironmentClass
    drift: tuple[DriftDoc, ...] = ()
    recorded: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def is_asked_inside(self) -> bool:
        """Whether only the job itself can say what it runs in."""
        return self.interpreter is None or self.probe is not None


def find_surroundings(
    site: Site,
    experiment: Experiment,
    mode: str,
    env: Mapping[str, str],
    say: Callable[[str], None],
    profile: ExecutorProfile | None = None,
) -> Surroundings:
    """Return what a reproduction is to run in.

    Args:
        site: where.
        experiment: what is reproduced.
        mode: check, recreate (a virtual environment with the recorded packages) or ignore.
        env: the user's environment.
        say: told what takes time.
        profile: of the executor, bound.

    Raises:
        UsageError: a command that brings its own interpreter cannot be given another.
        EnvironmentCaptureError: no such interpreter, or its packages cannot be had.
    """
    entry = experiment.record.entry
    command, python = command_of(entry), python_of(entry)
    if command is not None:
        if mode == "recreate":
            raise UsageError(f"{command.argv[0]} brings its own Python: nothing to recreate", hint="--env check")
        probe = probe_interpreter(entry, env, site.repository.root)
        own = find_recorded_interpreter(site, experiment.record, env, profile)
        return Surroundings(own, probe, "unknown")
    recorded = read_environment(site.repository, experiment)
    is_said_inside = recorded.get("captured") == "job"  # of an image, say
    if is_said_inside:
        recorded = mapping((experiment.run or {}).get("environment"))
    interpreter = find_recorded_interpreter(site, experiment.record, env, profile) if mode != "recreate" else None
    if interpreter is None:
        interpreter = _recreated(site, recorded, say)
    if is_said_inside:
        return Surroundings(interpreter, interpreter, "unknown")
    if mode == "ignore":
        return Surroundings(interpreter, None, "unknown")
    here = capture_environment(
        interpreter,
        root=site.repository.root,
        cache_dir=site.repository.state_dir / "cache",
        env=env,
        flags=python.flags if python else (),
    )
    named, drift = compare_environments(recorded, here.to_json(), _loaded(experiment))
    return Surroundings(interpreter, None, named, drift, recorded)


def compare_surroundings(
    experiment: Experiment, around: Surroundings, left: RunLeavings, mode: str
) -> tuple[EnvironmentClass, tuple[DriftDoc, ...]]:
    """Return the environment class and the ranked drift of a run that has ended, from what was read back in it."""
    recorded, worker = experiment.run or {}, left.worker or {}
    named, drift = around.named, around.drift
    here = mapping(worker.get("job_environment"))
    if (around.is_asked_inside or here) and mode != "ignore":  # it may have run elsewhere
        said = around.recorded or mapping(recorded.get("environment"))
        named, drift = compare_environments(said, here, _loaded(experiment))
    settings = compare_settings(mapping(recorded.get("settings")), left.job)
    hardware = compare_settings(mapping(recorded.get("hardware")), mapping(worker.get("hardware")))
    return named, rank_drift((*drift, *settings, *hardware))


def _loaded(experiment: Experiment) -> tuple[str, ...]:
    return tuple(mapping(mapping((experiment.run or {}).get("settings")).get("loaded_packages")))


def _recreated(site: Site, recorded: Mapping[str, JsonValue], say: Callable[[str], None]) -> Path:
    """Return the interpreter of a virtual environment with the recorded packages, made once per environment key."""
    key = parse_environment(recorded).key.removeprefix("sha256:")[:16]
    place = site.repository.state_dir / "environments" / key
    python = place / "bin" / "python"
    with taking_turns(place.with_suffix(".turns")):  # what is half made here belongs to a killed process
        if (place / _WHOLE).exists():
            return python
        say("recreating the recorded environment (once)")
        shutil.rmtree(place, ignore_errors=True)
        made = recreate_environment(recorded, place)
        for name in made.skipped:
            say(f"warning: no index has {name}; it is not in the recreated environment")
        (place / _WHOLE).touch()
    return made.python
