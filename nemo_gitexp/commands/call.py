"""One call of the command line: where it looks, how it answers, what it exits with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.console import Console
from nemo_gitexp.documents import SCHEMA

if TYPE_CHECKING:
    from nemo_gitexp.catalog import Site
    from nemo_gitexp.documents import ExperimentDoc
    from nemo_gitexp.git.repository import Repository
    from nemo_gitexp.handover import Background
    from nemo_gitexp.submitters import Launcher

EXIT_NO, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_BUG, EXIT_INTERRUPTED, EXIT_CANNOT_BISECT = 1, 2, 3, 70, 130, 125
FAILED_STATUSES = ("failed", "cancelled", "lost")


@dataclass(slots=True)
class Call:
    """One call of the command line: where it looks, how it answers, the command after `--`, the exit code.

    `failure_code` is what every failure exits with, where a caller (git bisect) takes the usual codes otherwise.
    """

    console: Console = field(default_factory=Console)
    directory: Path = Path()
    command: tuple[str, ...] | None = None
    exit_code: int = 0
    failure_code: int | None = None
    _repository: Repository | None = None
    _site: Site | None = None
    _warned: set[str] = field(default_factory=set)

    def repository(self) -> Repository:
        """Open the repository."""
        from nemo_gitexp.git.repository import LOCAL_VARIABLES, open_repository

        if self._repository is None:
            for name in LOCAL_VARIABLES:
                os.environ.pop(name, None)
            self._repository = open_repository(self.directory)
        return self._repository

    def place(self, path: Path) -> Path:
        """Return a path that was typed, as seen from the directory of the call."""
        return Path(os.path.normpath(self.directory / path))

    def site(self) -> Site:
        """Open the repository and its settings."""
        from nemo_gitexp.catalog import open_site

        if self._site is None:
            self._site = replace(open_site(self.repository(), os.environ), warn=self.warn)
        return self._site

    def warn(self, text: str) -> None:
        """Say what is wrong, once: a verb looks at runs several times."""
        if text not in self._warned:
            self._warned.add(text)
            self.console.say(f"warning: {text}")

    def launcher(self, executor: str | None = None) -> AbstractContextManager[Launcher]:
        """Start the process that launches: the one of the executor, or of local runs where none is named."""
        if executor is not None and executor != "local":
            from nemo_gitexp.destination import require_destination, start_launcher

            return start_launcher(self.site(), require_destination(self.site(), executor, os.environ))
        from nemo_gitexp.submitters import Supervisor

        return Supervisor(self.repository().state_dir)

    def nursery(self, executor: str | None = None) -> AbstractContextManager[Launcher]:
        """Start the process that launches many runs: the one of the executor, or of local runs where none is named."""
        if executor is not None and executor != "local":
            return self.launcher(executor)
        from nemo_gitexp.submitters import Nursery

        return Nursery(self.repository().state_dir)

    def background(self) -> AbstractContextManager[Background]:
        """Start the process that takes a detached run."""
        from nemo_gitexp.handover import Background

        return Background(self.repository().root, self.repository().state_dir)


CALL = Call()


def answer_many(documents: Sequence[ExperimentDoc], text: str) -> None:
    """Answer with experiments: the text, or the documents."""
    CALL.console.answer(text, {"schema": SCHEMA, "experiments": documents})
