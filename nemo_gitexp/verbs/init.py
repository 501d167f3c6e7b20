"""`init`: makes a repository ready, and says what it did; commits nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.asked import list_studies, read_study
from nemo_gitexp.data.session import initialise_dvc
from nemo_gitexp.definition import render_definition_template
from nemo_gitexp.errors import StateDirectoryError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.naming import require_name
from nemo_gitexp.rundir import write_beside

ATTRIBUTES = ("experiments/*/record/** -text -filter -ident",)
"""The machine's files are compared by their bytes: no line-end conversion, no filter."""

IGNORED = ("nemo-gitexp.site.toml",)
"""What belongs to one machine."""


@dataclass(frozen=True, slots=True)
class InitAnswer:
    """What was done, and the paths that are worth committing."""

    done: tuple[str, ...]
    to_commit: tuple[str, ...]


def init(repository: Repository, *, study: str | None) -> InitAnswer:
    """Make a repository ready: attributes, ignored site file, fetch refspecs, a definition, DVC where data asks.

    Idempotent; existing lines and files stay.

    Raises:
        InvalidNameError: the study's name.
        StateDirectoryError: the work tree cannot be written.
    """
    if study is not None:
        require_name(study, "study")
    done: list[str] = []
    changed: list[str] = []
    try:
        for name, lines in ((".gitattributes", ATTRIBUTES), (".gitignore", IGNORED)):
            added = _add_lines(repository.root / name, lines)
            if added:
                done.append(f"{name}: {', '.join(added)}")
                changed.append(name)
        if study is not None:
            _write_definition(repository.root, study, done, changed)
        (repository.root / "experiments").mkdir(exist_ok=True)
    except OSError as fault:
        raise StateDirectoryError(
            f"cannot write in {repository.root}: {fault.strerror}", path=str(repository.root)
        ) from fault
    _prepare_dvc(repository, done, changed)
    done += _add_refspecs(repository)
    return InitAnswer(tuple(done), tuple(changed))


def _add_lines(path: Path, lines: tuple[str, ...]) -> list[str]:
    before = path.read_bytes() if path.exists() else b""
    known = [line.strip() for line in before.splitlines()]
    missing = [line for line in lines if line.encode() not in known]
    if missing:
        gap = b"" if not before or before.endswith(b"\n") else b"\n"
        write_beside(path, before + gap + "".join(f"{line}\n" for line in missing).encode())
    return missing


def _write_definition(root: Path, study: str, done: list[str], changed: list[str]) -> None:
    path = root / "experiments" / study / "experiment.yaml"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_beside(path, render_definition_template(study))
    name = path.relative_to(root).as_posix()
    done.append(f"{name}: a commented definition to fill in")
    changed.append(name)


def _prepare_dvc(repository: Repository, done: list[str], changed: list[str]) -> None:
    """Set DVC up when a study declares data and nobody has yet."""
    root = repository.root
    tracked = (spec for study in list_studies(root) for spec in read_study(root, study).data if not spec.address)
    if (root / ".dvc").exists() or not any(spec.pin == "content" for spec in tracked):
        return
    initialise_dvc(root)
    done.append(".dvc: DVC is set up, because a study declares data")
    changed += [".dvc/config", ".dvc/.gitignore", ".dvcignore"]


def _add_refspecs(repository: Repository) -> list[str]:
    """Make `git fetch` bring experiments and facts, beside the local ones and never onto them."""
    done = []
    for remote in (repository.find_text("remote") or "").split():
        for source, place in (("gitexp", "gitexp"), ("gitexp-facts", "facts")):
            spec = f"+refs/{source}/*:refs/gitexp-remotes/{remote}/{place}/*"
            known = (repository.find_text("config", "--get-all", f"remote.{remote}.fetch") or "").splitlines()
            if spec not in known:
                repository.run("config", "--add", f"remote.{remote}.fetch", spec)
                done.append(f"git fetch {remote} brings {source} refs")
    return done
