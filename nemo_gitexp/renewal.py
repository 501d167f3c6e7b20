"""Experiments that are recorded once more, as they were: what has a result, if only *cancelled*, gets no second one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypedDict

from nemo_gitexp.catalog import Site
from nemo_gitexp.git.objects import list_tree, read_blobs
from nemo_gitexp.git.repository import CommitSha, Identities, Repository
from nemo_gitexp.moments import iso_exact
from nemo_gitexp.recording import is_signing, new_nonce
from nemo_gitexp.store import Draft, Experiment, record_directory, write_experiments

_CARRIED_BYTES = 1 << 30
"""More than any record holds."""


class _Files(TypedDict):
    config: bytes
    environment: bytes
    carried: Mapping[str, bytes]


def renew_experiments(
    site: Site, experiments: Sequence[Experiment], now: datetime, who: Identities
) -> list[Experiment]:
    """Record experiments once more, as they were: same code commit, configuration and environment, another name.

    Args and errors: as `record_plan`.
    """
    if not experiments:
        return []
    repository = site.repository
    author, committer = who.wait()
    made: dict[str, Experiment] = {}
    for code in dict.fromkeys(item.record.code.commit for item in experiments):
        chosen = [item for item in experiments if item.record.code.commit == code]
        drafts = [
            Draft(
                record=replace(item.record, nonce=new_nonce(), created=iso_exact(now)),
                head=CommitSha(item.record.code.base),
                **_recorded_files(repository, item),
                author=author,
                committer=committer,
                sign=is_signing(site),
            )
            for item in chosen
        ]
        renewed = write_experiments(repository, drafts, CommitSha(code))
        made |= {old.sha: new for old, new in zip(chosen, renewed, strict=True)}
    return [made[item.sha] for item in experiments]


def _recorded_files(repository: Repository, experiment: Experiment) -> _Files:
    """Return what a record commit holds beside `experiment.json`."""
    directory = record_directory(experiment.record.study)
    names = [entry.path for entry in list_tree(repository, experiment.sha, f"{directory}/", recursive=False)]
    blobs = read_blobs(repository, [f"{experiment.sha}:{name}" for name in names], limit_bytes=_CARRIED_BYTES)
    files = {name.rpartition("/")[2]: blob or b"" for name, blob in zip(names, blobs, strict=True)}
    config, environment = files.pop("config.json"), files.pop("environment.json")
    files.pop("experiment.json")
    return {"config": config, "environment": environment, "carried": files}
