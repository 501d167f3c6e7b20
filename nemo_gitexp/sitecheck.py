"""Whether an executor profile can do the job, from its keys to the site's scheduler; nothing is submitted."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.catalog import Site
from nemo_gitexp.errors import GitexpError
from nemo_gitexp.extras import missing_extra
from nemo_gitexp.finding import Finding, found, missing, refused, warning
from nemo_gitexp.interpreters import find_site_interpreter, with_home
from nemo_gitexp.nemofields import ask_build, read_kinds
from nemo_gitexp.profilefields import find_faults, find_missing, kind_fields
from nemo_gitexp.profiles import ExecutorProfile, TunnelProfile, bind_profile, missing_references, profile_topology
from nemo_gitexp.profileshape import submission_fault
from nemo_gitexp.settings import SITE_FILE, require_profile
from nemo_gitexp.siteprobe import SLURM_COMMANDS, Asked, Seen, identity_path, is_known_host, look_at_site

DOCKER_TIMEOUT_S: Final = 10.0
OLDEST_PYTHON: Final = (3, 8)
"""Of the interpreters that run the worker."""


def check_executor(site: Site, name: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield everything that is found about an executor profile and its site.

    Side effects: what `check_keys` has; for a moment a file in the directory for runs, if a site claims to see it.

    Raises:
        UnknownExecutorError: there is none of this name.
    """
    faulty = False
    for finding in check_keys(site, name, env):
        faulty = faulty or finding.state == "missing"
        yield finding
    if faulty:
        return  # what it means is not known yet
    profile = require_profile(site.settings, name)
    bound = with_home(bind_profile(profile, site.settings.site, env))
    yield _built(site, profile)
    if bound.kind not in ("local", "slurm") or (bound.tunnel is not None and bound.tunnel.kind == "ssh"):
        yield from _python_here(site, bound, env)
    if bound.kind == "slurm":
        yield from _slurm(site, bound, env)
    elif bound.kind == "local":
        yield from _local(site, bound, env)
    else:
        yield from _other(bound, env)


def check_keys(site: Site, name: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found about a profile without looking further than this machine: keys, values, references, extras.

    Side effects: the first time for a version of NeMo Run, a process asks it for its fields.

    Raises:
        UnknownExecutorError: there is none of this name.
    """
    try:
        profile = require_profile(site.settings, name)
        known = kind_fields(read_kinds(site.repository.state_dir), profile.kind)
    except GitexpError as fault:
        if fault.exit_code != GitexpError.exit_code:
            raise
        mend = f"change executors.{name} in {site.settings.source(f'executors.{name}')}"
        said = refused("profile", fault)
        yield replace(said, mend=mend) if str(said.mend).startswith("nemo-gitexp doctor") else said
        return
    faults = find_faults(profile, known)
    hint = f"[tool.nemo-gitexp.executors.{name}] in pyproject.toml"
    yield from (missing(key, f"{key} {what}", f"{near} = … in {hint}" if near else hint) for key, what, near in faults)
    if not faults:
        yield found("profile", f"{profile.kind}, {site.settings.source(f'executors.{name}')}")
    for key, what, _ in find_missing(profile, known):
        table, _, inner = key.rpartition(".")
        section = f"[executors.{name}.{table}]" if table else f"[executors.{name}]"
        yield missing(key, f"{key} {what}", f"{inner} = … below {section} in {SITE_FILE}")
    for reference in missing_references(profile, site.settings.site, env):
        mend = (
            f"export {reference.name}=…"
            if reference.source == "env"
            else f"git config gitexp.site.{reference.name} VALUE"
        )
        yield missing(reference.key, f"{reference.text} has no value here", mend)
    if refusal := submission_fault(profile):
        yield missing("submission", *refusal)
    if extra := missing_extra(profile.kind):
        yield missing("extra", f"{profile.kind} needs {extra.module}", extra.command)


def _built(site: Site, profile: ExecutorProfile) -> Finding:
    topology, tunnel = profile_topology(profile, {"environment": {}}), profile.tunnel
    if tunnel is not None and tunnel.job_dir is None:
        # As a launch sets it: NeMo Run's files go where the run's are.
        profile = replace(profile, tunnel=replace(tunnel, job_dir=str(site.run_root)))
    try:
        fault = ask_build(profile, site.settings.site, topology)
    except GitexpError as error:
        return refused("nemo_run", error)
    if fault is not None:
        return missing("nemo_run", str(fault["message"]), str(fault["hint"]))
    return found("nemo_run", f"builds its executor for {profile.kind}")


def _local(site: Site, bound: ExecutorProfile, env: Mapping[str, str]) -> Iterator[Finding]:
    python = _python(site, bound)
    yield from _python_findings(look_at_site(None, Asked(python, slurm=False), env), python, bound.name)
    yield from _launcher(bound, shutil.which("torchrun", path=env.get("PATH")), "here")


def _slurm(site: Site, bound: ExecutorProfile, env: Mapping[str, str]) -> Iterator[Finding]:
    tunnel, is_far = bound.tunnel, bound.tunnel is not None and bound.tunnel.kind == "ssh"
    if tunnel is not None and is_far:
        before = list(_way_there(tunnel, env))
        yield from before
        if any(finding.state == "missing" for finding in before):
            return
    with _marker(site) if is_far and bound.place.shared else nullcontext("") as marker:
        seen = look_at_site(tunnel, _questions(site, bound, marker), env)
    where = f"on {tunnel.host}" if tunnel is not None and is_far else "here"
    if seen.fault:
        yield missing("connection", f"{where}: {seen.fault}", _try_it(tunnel))
        return
    yield from _commands(seen, where, needs_rsync=is_far)
    yield from _scheduler(seen, bound)
    yield from _python_findings(seen, _python(site, bound), bound.name)
    yield from _places(site, seen, bound, where, is_far=is_far)
    yield from _launcher(bound, seen.facts.get("command.torchrun"), where)


def _questions(site: Site, bound: ExecutorProfile, marker: str) -> Asked:
    place, tunnel = bound.place, bound.tunnel
    return Asked(
        python=_python(site, bound),
        root=place.root or "",
        job_dir=(tunnel.job_dir or "") if tunnel is not None and tunnel.kind == "ssh" else "",
        cache=place.cache or "",
        marker=marker,
    )


@contextmanager
def _marker(site: Site) -> Iterator[str]:
    """Make something where runs lie, which who shares the file system sees, too; "" where that cannot be written."""
    try:
        site.run_root.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".doctor-", dir=site.run_root)
    except OSError:
        yield ""
        return
    with place as marker:
        yield marker


def _way_there(tunnel: TunnelProfile, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what ssh and rsync need on this machine."""
    for name in ("ssh", "rsync"):
        where = shutil.which(name, path=env.get("PATH"))
        package = {"ssh": "openssh-client"}.get(name, name)
        yield found(name, where) if where else missing(name, f"{name} is not installed here", f"apt install {package}")
    if tunnel.identity is not None:
        yield _key(identity_path(tunnel.identity))
    known = is_known_host(tunnel, env)
    port = "" if tunnel.port in (None, 22) else f"-p {tunnel.port} "
    mend = f"ssh-keyscan {port}{shlex.quote(tunnel.host or '')} >> ~/.ssh/known_hosts  # and compare the fingerprint"
    if known is None:
        yield warning("known_hosts", "ssh-keygen cannot be asked for it", mend)
    elif known:
        yield found("known_hosts", f"has the key of {tunnel.host}")
    else:
        yield missing("known_hosts", f"has no key of {tunnel.host}", mend)


def _key(path: Path) -> Finding:
    quoted = shlex.quote(str(path))
    if not path.is_file():
        return missing("key", f"there is no key {path}", f"ssh-keygen -t ed25519 -f {quoted}")
    if not os.access(path, os.R_OK):
        return missing("key", f"{path} cannot be read", f"ls -l {quoted}")
    if path.stat().st_mode & 0o077:
        return missing("key", f"others can read {path}, so ssh does not take it", f"chmod 600 {quoted}")
    return found("key", str(path))


def _try_it(tunnel: TunnelProfile | None) -> str:
    if tunnel is None or tunnel.kind != "ssh":
        return "sh -c true"
    port = "" if tunnel.port in (None, 22) else f" -p {tunnel.port}"
    identity = "" if tunnel.identity is None else f" -i {shlex.quote(tunnel.identity)}"
    user = f"{tunnel.user}@" if tunnel.user else ""
    return f"ssh{port}{identity} {shlex.quote(f'{user}{tunnel.host}')} true"


def _commands(seen: Seen, where: str, *, needs_rsync: bool) -> Iterator[Finding]:
    for name in (*SLURM_COMMANDS, *(["rsync"] if needs_rsync else [])):
        path = seen.facts.get(f"command.{name}")
        check, package = ("rsync there", "rsync") if name == "rsync" else (name, "slurm-client")
        mend = f"apt install {package} {where}, or a login node that has it"
        yield found(check, path) if path else missing(check, f"{name} is not on PATH {where}", mend)


def _scheduler(seen: Seen, bound: ExecutorProfile) -> Iterator[Finding]:
    if "command.scontrol" in seen.facts:
        said = seen.facts.get("ping", "")
        is_up = " UP" in said.upper()
        yield (
            found("slurmctld", said)
            if is_up
            else missing("slurmctld", f"does not answer: {said or 'silence'}", "scontrol ping; sinfo")
        )
    if "command.sacct" in seen.facts and "accounting" not in seen.facts:
        said = seen.facts.get("accounting.no", "silence")
        yield warning("accounting", f"{said}: a job that ended long ago is known by its result alone", "sacct -j 1")
    if bound.shape.image is not None:
        has_pyxis = "pyxis" in seen.facts
        yield (
            found("pyxis", "srun has --container-image")
            if has_pyxis
            else missing(
                "pyxis",
                "srun has no --container-image, and the profile has an image",
                "ask the site for Pyxis and enroot",
            )
        )


def _places(site: Site, seen: Seen, bound: ExecutorProfile, where: str, *, is_far: bool) -> Iterator[Finding]:
    place = bound.place
    for name in ("root", "job_dir"):
        if name in seen.facts:
            yield found(name, f"can be written {where}")
        elif f"{name}.no" in seen.facts:
            refusing = seen.facts[f"{name}.no"]
            yield missing(name, f"{refusing} cannot be written {where}", f"ls -ld {shlex.quote(refusing)}")
    if place.cache is not None:
        yield (
            found("cache", place.cache)
            if "cache" in seen.facts
            else missing(
                "cache",
                f"{place.cache} cannot be read {where}",
                f"cache = … below [executors.{bound.name}] in {SITE_FILE}",
            )
        )
    if place.data == "pull" and not place.shared:
        path = seen.facts.get("command.dvc")
        yield (
            found("dvc there", path)
            if path
            else missing(
                "dvc there", f"data = pull, and dvc is not on PATH {where}", f"pip install dvc {where}, or data = copy"
            )
        )
    if is_far and place.shared:
        said = f"{site.run_root} is not seen {where}, so the file system is not shared"
        yield (
            found("shared", f"{site.run_root} is seen {where}")
            if "marker" in seen.facts
            else missing("shared", said, f"root = … and shared = false below [executors.{bound.name}] in {SITE_FILE}")
        )


def _python(site: Site, bound: ExecutorProfile) -> str:
    return bound.place.python or site.settings.python or sys.executable


def _python_here(site: Site, bound: ExecutorProfile, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether this machine sees the interpreter that a shared file system has: a record says what is in it."""
    try:
        python = find_site_interpreter(site, bound, env)
    except GitexpError as fault:
        yield refused("python here", fault)
        return
    if python is not None:
        yield found("python here", str(python))


def _python_findings(seen: Seen, python: str, name: str) -> Iterator[Finding]:
    version = seen.facts.get("python")
    mend = f"python = … below [executors.{name}] in {SITE_FILE}"
    if version is None:
        yield missing("python there", f"{python}: {seen.facts.get('python.no') or seen.fault or 'nothing'}", mend)
        return
    digits = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if digits < OLDEST_PYTHON:
        yield missing("python there", f"{python} is {version}, and the worker needs 3.8", mend)
    else:
        yield found("python there", f"{version} ({python})")


def _launcher(bound: ExecutorProfile, torchrun: str | None, where: str) -> Iterator[Finding]:
    if bound.shape.launcher == "torchrun":
        yield (
            found("torchrun", torchrun)
            if torchrun
            else warning("torchrun", f"is not on PATH {where}; on the nodes it must be", "pip install torch")
        )


def _other(bound: ExecutorProfile, env: Mapping[str, str]) -> Iterator[Finding]:
    if bound.kind == "docker":
        yield _docker(env)
    elif bound.kind in ("kubeflow", "kuberay"):
        default = Path(env.get("HOME", ""), ".kube", "config")
        files = [Path(file) for file in env.get("KUBECONFIG", "").split(os.pathsep) if file] or [default]
        is_inside = bool(env.get("KUBERNETES_SERVICE_HOST"))
        known = next((str(file) for file in files if file.is_file()), "inside a cluster" if is_inside else None)
        yield (
            found("kubeconfig", known)
            if known
            else missing("kubeconfig", f"there is no {files[0]}", "kubectl config view; export KUBECONFIG=…")
        )
    else:
        yield warning("site", f"whether {bound.kind} takes jobs of yours only it can say")


def _docker(env: Mapping[str, str]) -> Finding:
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker is None:
        return missing("docker", "docker is not installed here", "apt install docker.io")
    argv = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        done = processes.run(argv, env=dict(env), timeout_s=DOCKER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return missing("docker", f"does not answer: {type(fault).__name__}", "docker version")
    if done.returncode != 0:
        said = (done.said.splitlines() or ["nothing"])[-1]
        return missing("docker", f"its daemon does not answer: {said}", "systemctl start docker; docker version")
    return found("docker", done.stdout.decode("utf-8", "replace").strip())
