"""Two people and what lies between them: a bare repository, and a DVC remote in a directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder import Work


def make_hub(work: Work) -> Path:
    """Make a bare repository beside the work tree, as `origin`, with its main branch."""
    hub = work.root.parent / "hub.git"
    work.git("init", "-q", "--bare", "-b", "main", str(hub))
    work.git("remote", "add", "origin", str(hub))
    work.git("push", "-q", "origin", "main")
    return hub


def clone(work: Work, name: str, **env: str) -> Work:
    """Return another clone of the hub, beside the first."""
    other = replace(work, root=work.root.parent / name, env={**work.env, **env})
    work.git("clone", "-q", str(work.root.parent / "hub.git"), str(other.root))
    return other


def hub_refs(work: Work, *prefixes: str) -> dict[str, str]:
    """Return what the hub holds."""
    said = work.git("ls-remote", "--refs", "origin", *(f"{prefix}*" for prefix in prefixes or ("refs/gitexp/",)))
    return {ref: sha for sha, ref in (line.split("\t") for line in said.splitlines())}


def hub_hook(hub: Path, script: str) -> Path:
    """Let the hub run a script before it takes a push."""
    hook = hub / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n" + script)
    hook.chmod(0o755)
    return hook
