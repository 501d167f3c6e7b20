"""Puts one experiment's result on another's record with plain git: what a false claim about a run looks like."""

from __future__ import annotations

import os
import subprocess

from builder import Work

RESULT_FILES = ("result.json", "run.json", "metrics.jsonl")


def graft_result(work: Work, source: dict, target: dict) -> None:
    """Give the experiment `target` the result of `source`, both as `--json` shows them."""
    directory = f"experiments/{target['study']}/record"
    files = {}
    for name in RESULT_FILES:
        content = work.git("show", f"{source['result']}:experiments/{source['study']}/record/{name}") + "\n"
        files[f"{directory}/{name}"] = content.replace(source["experiment"], target["experiment"])
    message = work.git("log", "-1", "--format=%B", source["result"]).replace(source["experiment"], target["experiment"])
    sha = commit_files(work, target["experiment"], files, message)
    work.git("update-ref", target["ref"], sha)


def commit_files(work: Work, parent: str, files: dict[str, str], message: str) -> str:
    """Return a commit on `parent` with some files changed; index, HEAD and work tree stay."""
    index = {**work.env, "GIT_INDEX_FILE": str(work.root / ".git" / "graft-index")}
    _git(work, index, "read-tree", parent)
    for path, content in files.items():
        blob = _git(work, index, "hash-object", "-w", "--stdin", said=content)
        _git(work, index, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = _git(work, index, "write-tree")
    os.unlink(index["GIT_INDEX_FILE"])  # noqa: PTH108 - the same text that git was given
    return _git(work, work.env, "commit-tree", tree, "-p", parent, said=message)


def _git(work: Work, env: dict[str, str], *args: str, said: str = "") -> str:
    done = subprocess.run(["git", *args], cwd=work.root, env=env, input=said.encode(), capture_output=True, check=True)
    return done.stdout.decode().strip()
