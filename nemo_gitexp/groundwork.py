"""What experiments that are planned together stand on: one snapshot, and what was looked at once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.catalog import Site
from nemo_gitexp.definition import StudyDefinition
from nemo_gitexp.environment import Environment, capture_environment
from nemo_gitexp.filtered import look_at_filtered
from nemo_gitexp.git.changes import code_key
from nemo_gitexp.git.objects import list_files
from nemo_gitexp.git.snapshot import Snapshot
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.interpreters import is_known_there_only, probe_interpreter, resolve_interpreter, with_home
from nemo_gitexp.profileparts import ExecutorProfile, Place
from nemo_gitexp.record import CodeState
from nemo_gitexp.recordedtopology import ChosenShape, choose_shape
from nemo_gitexp.settings import require_executor
from nemo_gitexp.stages import AnyEntry, command_of, python_of
from nemo_gitexp.worker.publicurl import public_url

Item = TypeVar("Item")


class Groundwork:
    """What experiments that are planned together have in common; whatever two of them need alike is looked at once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._environments: list[tuple[object, tuple[Path | None, Path | None, Environment | None]]] = []
        self._shapes: list[tuple[object, ChosenShape]] = []
        self._pins: list[tuple[object, list[InputPin]]] = []
        self._codes: list[tuple[object, CodeState]] = []
        self._snapshot: Snapshot | None = None
        self.listing = b""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot, once it is taken."""
        if self._snapshot is None:
            raise RuntimeError("no snapshot was taken yet")
        return self._snapshot

    def take(self, snapshot: Snapshot) -> None:
        """Take the snapshot and list its files."""
        self._snapshot, self.listing = snapshot, list_files(self._site.repository, snapshot.tree)

    def environment(self, asked: Asked, defined: Defined) -> tuple[Path | None, Path | None, Environment | None]:
        """Return the job's interpreter, the one to ask inside the job, and the environment if it can be known now."""
        entry, executor = defined.entry, executor_of(asked, defined.definition)
        command = command_of(entry)
        key = (executor, python_of(entry), command.argv[:1] if command else None, entry.wrapped)
        return _once(
            self._environments, key, lambda: _environment(self._site, entry, asked, self._seen(asked, defined))
        )

    def _seen(self, asked: Asked, defined: Defined) -> ExecutorProfile | None:
        """Return the executor's profile, bound as far as its interpreter goes; None: the job runs as any local one."""
        name = executor_of(asked, defined.definition)
        if asked.brings_executor or defined.topology is not None:
            return None
        table = require_executor(self._site.settings, name)
        if table == {"type": "local"}:
            return None
        from nemo_gitexp.profiles import bind_profile, parse_profile  # 6 ms, for those who have profiles

        profile = self.shape(asked, defined).profile or parse_profile(name, table)
        place = Place(profile.place.python, shared=profile.place.shared)  # what else it refers to may be missing here
        plain = ExecutorProfile(name, profile.kind, profile.shape, place=place)
        return with_home(bind_profile(plain, self._site.settings.site, asked.env))

    def shape(self, asked: Asked, defined: Defined) -> ChosenShape:
        """Return the shape that is recorded for the executor; one that the program brings needs no profile."""
        if asked.brings_executor:
            return ChosenShape(None)
        name = executor_of(asked, defined.definition)
        key = (name, defined.topology is None, defined.shape is None)
        return _once(self._shapes, key, lambda: choose_shape(self._site, name, defined, asked.env))

    def pins(self, definition: StudyDefinition, env: Mapping[str, str]) -> list[InputPin]:
        """Return the pins of the declared data."""
        tree = self.snapshot.tree
        return _once(self._pins, definition.data, lambda: _pin(self._site, definition, tree, self.listing, env))

    def code(self, definition: StudyDefinition) -> CodeState:
        """Return the state of the code that counts for a definition."""
        key = (definition.code, definition.config_file)
        return _once(self._codes, key, lambda: _code(self._site, definition, self.snapshot, self.listing))


def _once(known: list[tuple[object, Item]], key: object, make: Callable[[], Item]) -> Item:
    """Return what was made for an equal key, or make it; keys need not be hashable."""
    for other, item in known:
        if other == key:
            return item
    made = make()
    known.append((key, made))
    return made


def executor_of(asked: Asked, definition: StudyDefinition) -> str:
    """Return the name of the executor profile: as asked, else as the definition says."""
    return asked.executor or definition.executor or "local"


def _code(site: Site, definition: StudyDefinition, snapshot: Snapshot, listing: bytes) -> CodeState:
    repository = site.repository
    config_files = [definition.config_file] if definition.config_file else []
    return CodeState(
        commit=snapshot.head,
        tree=snapshot.tree,
        key=code_key(listing, paths=definition.code, config_files=config_files),
        base=snapshot.head,
        dirty=snapshot.dirty,
        untracked=snapshot.untracked,
        remote=remote_url(site.git_config),
        submodules=snapshot.submodules,
        filtered=look_at_filtered(repository, repository.root, listing, snapshot.submodules),
    )


def _pin(site: Site, definition: StudyDefinition, tree: str, listing: bytes, env: Mapping[str, str]) -> list[InputPin]:
    if not definition.data:
        return []
    from nemo_gitexp.inputs import pin_inputs  # 20 ms that a study without data need not pay

    return pin_inputs(site, definition.data, tree, listing, env)


def _environment(
    site: Site, entry: AnyEntry, asked: Asked, profile: ExecutorProfile | None
) -> tuple[Path | None, Path | None, Environment | None]:
    """Return the job's interpreter, the one to ask inside the job, and the environment if it can be known now."""
    root, python = site.repository.root, python_of(entry)
    interpreter = resolve_interpreter(site, entry, asked.env, profile)
    probe = probe_interpreter(entry, asked.env, root)
    if interpreter is None or entry.wrapped or (profile is not None and is_known_there_only(profile)):
        return interpreter, probe, None
    environment = capture_environment(
        interpreter,
        root=root,
        cache_dir=site.repository.state_dir / "cache",
        env=asked.env,
        flags=python.flags if python else (),
    )
    return interpreter, None, environment


def remote_url(git_config: Mapping[str, str]) -> str | None:
    """Return the URL of origin without credentials and query; a local path is nobody's business."""
    url = git_config.get("remote.origin.url")
    return None if url is None or url.startswith(("/", ".", "~", "file:")) else public_url(url)
