"""`doctor`: whether this machine, and a site, can do the job, and what is to be installed; submits nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_gitexp.catalog import Site
from nemo_gitexp.finding import Finding
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.machinecheck import check_machine
from nemo_gitexp.settings import require_executor
from nemo_gitexp.sitecheck import check_executor, check_keys


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found: about this machine, and by the name of an executor about that."""

    machine: tuple[Finding, ...]
    executors: Mapping[str, tuple[Finding, ...]]

    @property
    def is_fine(self) -> bool:
        """Whether nothing is missing; warnings are no lack."""
        everything = [*self.machine, *(item for items in self.executors.values() for item in items)]
        return all(finding.state != "missing" for finding in everything)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the answer as a document."""
        return {
            "schema": 1,
            "ok": self.is_fine,
            "machine": [finding.to_json() for finding in self.machine],
            "executors": {name: [item.to_json() for item in items] for name, items in self.executors.items()},
        }


def doctor(site: Site, executor: str | None, env: Mapping[str, str]) -> Diagnosis:
    """Look at this machine and at one executor wholly, or at the keys of all of them.

    Raises:
        UnknownExecutorError: there is no such executor.
    """
    if executor is not None:
        require_executor(site.settings, executor)
    machine = tuple(check_machine(site, env))
    if executor is not None:
        return Diagnosis(machine, {executor: tuple(check_executor(site, executor, env))})
    return Diagnosis(machine, {name: tuple(check_keys(site, name, env)) for name in site.settings.executors})
