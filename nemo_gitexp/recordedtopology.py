"""The topology that an experiment records: of a profile, a task of NeMo Run, or a program that runs already."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nemo_gitexp import processes
from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.catalog import Site
from nemo_gitexp.environment import available_cores
from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import JsonValue, parse_json
from nemo_gitexp.settings import require_executor
from nemo_gitexp.topology import shaped, topology

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile

DOCKER_TIMEOUT_S: Final = 10.0
_PINNED: Final = re.compile(r".+@sha256:[0-9a-f]{64}")
_TAG: Final = re.compile(r":[^/:@]+$")


@dataclass(frozen=True, slots=True)
class ChosenShape:
    """The profile whose shape is recorded (None: a plain local run), its image pinned as far as that can be known.

    `notes` say what could not be.
    """

    profile: ExecutorProfile | None
    notes: tuple[str, ...] = ()


def choose_shape(site: Site, name: str, defined: Defined, env: Mapping[str, str]) -> ChosenShape:
    """Return the shape of what is to be recorded for an executor.

    Args:
        site: where.
        name: of the executor profile.
        defined: what runs; what has a shape or a topology of its own does not take the profile's.
        env: in which docker is looked for.

    Side effects: the first time for a version of NeMo Run, a process asks it for its fields; docker may be asked.

    Raises:
        UnknownExecutorError: there is no such profile.
        SettingsError: it has faults; all are named.
        LaunchError: NeMo Run cannot be asked for its fields.
    """
    table = require_executor(site.settings, name)
    if defined.topology is not None or defined.shape is not None or table == {"type": "local"}:
        return ChosenShape(None)
    from nemo_gitexp.nemofields import require_known  # with the next, 10 ms that plain local runs need not pay
    from nemo_gitexp.profiles import parse_profile

    profile = parse_profile(name, table)
    require_known(profile, site.repository.state_dir)
    if profile.shape.image is None:
        return ChosenShape(profile)
    image, note = pinned_image(profile, env)
    return ChosenShape(replace(profile, shape=replace(profile.shape, image=image)), (note,) if note else ())


def recorded_topology(
    site: Site, asked: Asked, defined: Defined, chosen: ChosenShape, determinism: str, seed: int
) -> Mapping[str, JsonValue]:
    """Return the topology of the record; nothing in it is of the site."""
    if defined.topology is not None:
        return defined.topology
    profile = chosen.profile
    env = asked.env if profile is None else {**asked.env, **profile.shape.environment}
    found = topology(determinism, env, site.settings.threads or available_cores(), seed)
    if defined.shape is not None:
        return shaped(found, defined.shape)
    if profile is None:
        return found
    from nemo_gitexp.profiles import profile_topology

    return profile_topology(profile, found)


def pinned_image(profile: ExecutorProfile, env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the image with its digest, or as given and a note that says why there is none.

    A digest is given, or docker's own for an image that this machine has; it is never guessed.
    """
    image = profile.shape.image
    if image is None or _PINNED.fullmatch(image):
        return image, None
    why = "what it names may change"
    if profile.kind == "docker":
        digest, why = _docker_digest(image, env)
        if digest:
            return digest, None
    return image, f"warning: image {image} is recorded without a digest ({why}); name@sha256:… would pin it"


def _docker_digest(image: str, env: Mapping[str, str]) -> tuple[str | None, str]:
    """Return `name@sha256:…` of an image that docker has here; else None, and why."""
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker is None:
        return None, "there is no docker here to ask"
    argv = [docker, "image", "inspect", "--format", "{{json .RepoDigests}}", "--", image]
    try:
        done = processes.run(argv, env=dict(env), timeout_s=DOCKER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return None, f"docker did not answer: {type(fault).__name__}"
    if done.returncode != 0:
        return None, f"docker says: {(done.said.splitlines() or ['nothing'])[0]}"
    try:
        known = parse_json(done.stdout, "docker's answer")
    except DocumentError:
        known = None
    name = _TAG.sub("", image)
    digests = [item for item in known if isinstance(item, str)] if isinstance(known, list) else []
    own = [item for item in digests if item.partition("@")[0] == name and _PINNED.fullmatch(item)]
    return (own[0], "") if len(own) == 1 else (None, "docker knows no digest of a registry for it")
