"""Whether an experiment was made before: the same identity, or nearly the same."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_gitexp.git.repository import Repository
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.recording import Plan
from nemo_gitexp.store import read_experiments_or_faults
from nemo_gitexp.tips import Tip


def find_duplicates(plan: Plan, tips: Sequence[Tip]) -> list[Tip]:
    """Return the experiments of the same identity, newest first; their status is for the caller to judge."""
    same = [tip for tip in tips if plan.record.identity and tip.identity == plan.record.identity]
    return sorted(same, key=lambda tip: tip.created, reverse=True)


def near_duplicate(repository: Repository, plan: Plan, tips: Sequence[Tip]) -> tuple[Tip, tuple[str, ...]] | None:
    """Return the newest completed experiment that differs only in environment or code, and in which of them."""
    record = plan.record
    alike = [
        tip
        for tip in tips
        if tip.status == "completed"
        and (tip.study, tip.config_hash, tip.seed) == (record.study, record.config_hash, str(record.seed))
    ]
    newest = sorted(alike, key=lambda tip: tip.created, reverse=True)[:1]
    for tip, item in zip(newest, read_experiments_or_faults(repository, newest), strict=True):
        if not isinstance(item, Exception):
            parts = _differing_parts(item.record, record)
            if parts and set(parts) <= {"environment", "code"}:
                return tip, parts
    return None


def _differing_parts(a: ExperimentRecord, b: ExperimentRecord) -> tuple[str, ...]:
    pairs = {
        "code": ((a.code.key, a.code.filtered), (b.code.key, b.code.filtered)),
        "environment": (a.environment_key, b.environment_key),
        "inputs": ([(i.path, i.pin) for i in a.inputs], [(i.path, i.pin) for i in b.inputs]),
        "command": (a.entry.to_json(), b.entry.to_json()),
        "working directory": (a.workdir, b.workdir),
        "determinism": (a.determinism, b.determinism),
        "topology": (render_json(a.topology), render_json(b.topology)),
    }
    return tuple(name for name, (x, y) in pairs.items() if x != y)
