"""`submitted.json`: who has a run that no process of this machine runs. Written once it was accepted, read by all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_gitexp.jsontext import JsonValue, render_json


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The way to a scheduler's commands: this machine, or a host reached by ssh.

    `host` is empty for this machine; `port` and `identity` (path of a key) None: as ssh is configured. `pre_command` is
    shell text that must run there before any command (`module load slurm`).
    """

    host: str = ""
    user: str = ""
    port: int | None = None
    identity: str | None = None
    pre_command: str | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return what the run directory holds."""
        return {
            "host": self.host,
            "user": self.user,
            "port": self.port,
            "identity": self.identity,
            "pre_command": self.pre_command,
        }


@dataclass(frozen=True, slots=True)
class Backend:
    """What NeMo Run needs to find jobs again that only it can be asked about.

    `scheduler` is its own word for it (`docker_persistent`), `home` its directory that lists them, `host` the machine
    (`host_digest`) whose NeMo Run submitted, `variables` what in its environment says where the jobs are (DOCKER_HOST).
    """

    scheduler: str
    home: str
    host: str
    variables: Mapping[str, str]

    def to_json(self) -> dict[str, JsonValue]:
        """Return what the run directory holds."""
        return {"scheduler": self.scheduler, "home": self.home, "host": self.host, "variables": dict(self.variables)}


@dataclass(frozen=True, slots=True)
class Submission:
    """Which jobs of which scheduler are a run.

    Attributes:
        executor: name of the profile.
        kind: its type, as `slurm`.
        tunnel: the way to it.
        jobs: the scheduler's ids by part of the run (`""` the run itself, else a stage), in the order of a chain.
        backend: how NeMo Run finds them again; None for Slurm, which is asked itself.
    """

    executor: str
    kind: str
    tunnel: Tunnel
    jobs: Mapping[str, tuple[str, ...]]
    backend: Backend | None = None

    @property
    def job_ids(self) -> tuple[str, ...]:
        """All ids."""
        return tuple(job for jobs in self.jobs.values() for job in jobs)


def render_submission(submission: Submission) -> bytes:
    """Return the bytes of submitted.json."""
    jobs: dict[str, JsonValue] = {part: list(ids) for part, ids in submission.jobs.items()}
    return render_json(
        {
            "schema": 1,
            "executor": submission.executor,
            "kind": submission.kind,
            "tunnel": submission.tunnel.to_json(),
            "jobs": jobs,
            **({} if submission.backend is None else {"backend": submission.backend.to_json()}),
        }
    )


def parse_submission(document: Mapping[str, JsonValue]) -> Submission | None:
    """Return what `render_submission` wrote; None for anything else, as for a run that no scheduler has."""
    tunnel, jobs = document.get("tunnel"), document.get("jobs")
    if not isinstance(tunnel, Mapping) or not isinstance(jobs, Mapping):
        return None
    port, identity, before = (tunnel.get(key) for key in ("port", "identity", "pre_command"))
    return Submission(
        executor=str(document.get("executor")),
        kind=str(document.get("kind")),
        tunnel=Tunnel(
            host=str(tunnel.get("host") or ""),
            user=str(tunnel.get("user") or ""),
            port=port if isinstance(port, int) else None,
            identity=identity if isinstance(identity, str) else None,
            pre_command=before if isinstance(before, str) else None,
        ),
        jobs={
            part: tuple(str(job) for job in ids) if isinstance(ids, (list, tuple)) else () for part, ids in jobs.items()
        },
        backend=_parse_backend(document.get("backend")),
    )


def _parse_backend(found: JsonValue) -> Backend | None:
    if not isinstance(found, Mapping):
        return None
    texts, variables = {key: str(found.get(key) or "") for key in ("scheduler", "home", "host")}, found.get("variables")
    known = variables.items() if isinstance(variables, Mapping) else ()
    return Backend(**texts, variables={name: str(value) for name, value in known})
