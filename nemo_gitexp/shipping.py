"""The data of experiments on its way to the DVC remote and back: which DVC holds an object, and what is nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemo_gitexp.belongings import Belonging, Kind, belongings_of
from nemo_gitexp.catalog import Site
from nemo_gitexp.collect import output_store
from nemo_gitexp.data.cache import CacheLocation, find_cache
from nemo_gitexp.data.dvcremote import DataRemote, Shelf, open_data_remote, sound_objects
from nemo_gitexp.data.regenerate import take_from_work_tree
from nemo_gitexp.data.store import ObjectStore, object_stores
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import DataRemoteError
from nemo_gitexp.report.terminal import human_size, plural
from nemo_gitexp.store import Experiment

Say = Callable[[str], None]


@dataclass(slots=True)
class Shipment:
    """What travelled, over which DVC remotes, and what could not, by record sha: what it is called, why, and a remedy.

    `gaps` are objects without which the experiment is not whole; `lost` are logs and the like.
    """

    objects: int = 0
    size_bytes: int = 0
    remotes: list[str] = field(default_factory=list)
    gaps: dict[str, list[Gap]] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """One object that is nowhere, or has no way to go."""

    called: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Objects of one DVC project: whose they are, by the part of the remote."""

    cache: CacheLocation | None
    owners: dict[Shelf, dict[str, list[tuple[str, Belonging]]]]


def send_data(site: Site, experiments: Iterable[Experiment], say: Say) -> Shipment:
    """Send what belongs to experiments to their DVC remote, as far as it is not there; what is there stays.

    Side effects: what only the work tree still has is taken into DVC's cache.

    Raises:
        DataRemoteError: the remote cannot be asked or written; what was sent before stays sent.
    """
    with VerifiedFiles(site.repository.state_dir / "verified.db") as verified:
        trip = _Trip(site, say, Shipment(), verified)
        for wanted in _by_project(site, experiments, ALL):
            trip.over(wanted, trip.send, "or push with --no-data")
    return trip.shipment


ALL: tuple[Kind, ...] = ("input", "output", "stream", "log")


def bring_needed(site: Site, experiment: Experiment, say: Say, *kinds: Kind) -> None:
    """Bring what somebody is about to need of an experiment, where our store lacks it and the DVC remote has it.

    Whether it came is seen by whoever needs it: that one knows what to say. DVC's own data come when it is restored.
    """
    try:
        with VerifiedFiles(None) as verified:
            trip = _Trip(site, say, Shipment(), verified)
            for wanted in _by_project(site, [experiment], kinds, absent_only=True):
                wanted.owners.pop("dvc", None)
                if wanted.owners:
                    trip.over(wanted, trip.bring, "")
    except DataRemoteError as fault:
        say(f"warning: {fault.message}")


def bring_data(site: Site, experiments: Iterable[Experiment], say: Say) -> Shipment:
    """Bring what belongs to experiments from their DVC remote, as far as it is not here.

    Raises:
        DataRemoteError: the remote cannot be read; what came before stays.
    """
    with VerifiedFiles(None) as verified:
        trip = _Trip(site, say, Shipment(), verified)
        for wanted in _by_project(site, experiments, ALL, absent_only=True):
            trip.over(wanted, trip.bring, "")
    return trip.shipment


@dataclass(frozen=True, slots=True)
class _Trip:
    """One way, there or back, over the DVC remotes of all projects."""

    site: Site
    say: Say
    shipment: Shipment
    verified: VerifiedFiles

    def over(self, wanted: _Wanted, move: Callable[[_Wanted, Shelf, DataRemote], None], otherwise: str) -> None:
        """Move the objects of one project; where it has no remote, each of them is a gap."""
        try:
            with open_data_remote(wanted.cache) as remote:
                if remote.name not in self.shipment.remotes:
                    self.shipment.remotes.append(remote.name)
                for shelf in wanted.owners:
                    move(wanted, shelf, remote)
        except DataRemoteError as fault:
            if fault.__cause__ is not None:  # the remote itself failed: nobody can say what it has
                raise
            remedy = ", ".join(word for word in (fault.hint, otherwise) if word)
            for owners in wanted.owners.values():
                _note_gaps(self.shipment, owners, fault.message, remedy)

    def send(self, wanted: _Wanted, shelf: Shelf, remote: DataRemote) -> None:
        """Send what the remote lacks: from the stores, else from the user's own files."""
        owners = wanted.owners[shelf]
        missing = remote.lacking(owners, shelf)
        missing -= self._from_stores(wanted, shelf, missing, remote)
        pins = [pin for md5 in sorted(missing) if (pin := owners[md5][0][1].pin) is not None]
        if pins and wanted.cache is not None:
            take_from_work_tree(self.site.repository.root, pins, wanted.cache, self.verified, self.say)
            missing -= self._from_stores(wanted, shelf, missing, remote)
        nowhere = f"is neither on this machine nor on the DVC remote {remote.name}"
        _note_gaps(self.shipment, {md5: owners[md5] for md5 in sorted(missing)}, nowhere)

    def _from_stores(self, wanted: _Wanted, shelf: Shelf, md5s: Iterable[str], remote: DataRemote) -> set[str]:
        sent: set[str] = set()
        for store in _stores(self.site, wanted, shelf):
            sound, size_bytes = sound_objects(store, set(md5s) - sent, self.verified)
            if sound:
                self.say(f"sending {human_size(size_bytes)} to the DVC remote {remote.name}")
                self.shipment.objects += remote.send(sound, store, shelf)
                self.shipment.size_bytes += size_bytes
                sent |= sound
        return sent

    def bring(self, wanted: _Wanted, shelf: Shelf, remote: DataRemote) -> None:
        """Bring what the remote has into the store that is written to."""
        owners = wanted.owners[shelf]
        missing = remote.lacking(owners, shelf)
        there = sorted(set(owners) - missing)
        if there:
            self.say(f"fetching {plural(len(there), 'object')} from the DVC remote {remote.name}")
            self.shipment.objects += remote.bring(there, _stores(self.site, wanted, shelf)[0], shelf)
        nowhere = f"is not on the DVC remote {remote.name}"
        _note_gaps(self.shipment, {md5: owners[md5] for md5 in sorted(missing)}, nowhere)


def _note_gaps(
    shipment: Shipment, owners: Mapping[str, Sequence[tuple[str, Belonging]]], why: str, remedy: str = ""
) -> None:
    for wanting in owners.values():
        for sha, item in wanting:
            if item.is_vital:
                shipment.gaps.setdefault(sha, []).append(Gap(item.called, why, remedy or item.remedy))
            else:
                shipment.lost.setdefault(sha, []).append(item.called)


def _by_project(
    site: Site, experiments: Iterable[Experiment], kinds: Sequence[Kind], *, absent_only: bool = False
) -> list[_Wanted]:
    """Return what belongs to experiments by the DVC project whose remote holds it; ours belongs to the root's."""
    repository = site.repository
    caches: dict[str, CacheLocation | None] = {}
    found: dict[Path | None, _Wanted] = {}
    for experiment in experiments:
        for item in [item for item in belongings_of(experiment) if item.kind in kinds]:
            near = (item.pin.source or item.pin.path) if item.pin else ""
            if near not in caches:
                caches[near] = find_cache(repository.root, near, main_root=repository.main_root)
            cache = caches[near]
            wanted = found.setdefault(cache.dvc_root if cache else None, _Wanted(cache, {}))
            shelf: Shelf = "dvc" if item.pin else "gitexp"
            if absent_only and any(store.has(item.md5) for store in _stores(site, wanted, shelf)):
                continue
            owners = wanted.owners.setdefault(shelf, {})
            owners.setdefault(item.md5, []).append((experiment.sha, item))
    return [wanted for wanted in found.values() if wanted.owners]


def _stores(site: Site, wanted: _Wanted, shelf: Shelf) -> list[ObjectStore]:
    """Return where objects may lie on this machine, the one that is written to first."""
    if shelf == "dvc":
        return object_stores(wanted.cache) if wanted.cache else []
    # What was kept before the repository had DVC lies below the git directory.
    return list(dict.fromkeys((output_store(site.repository), ObjectStore(site.repository.state_dir / "store"))))
