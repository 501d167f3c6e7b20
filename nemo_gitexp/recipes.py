"""Resolves what an experiment calls in the code that it records: a workspace of the snapshot, a process of its own.

Never in the launching process, whose modules may be older than the files, or changed by hand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_gitexp import errors, processes, resolver
from nemo_gitexp.asked import Defined, Unresolved
from nemo_gitexp.catalog import Site
from nemo_gitexp.described import describe_call, referenced
from nemo_gitexp.entry import CallEntry
from nemo_gitexp.errors import (
    GitexpError,
    MissingModuleError,
    RecipeError,
    UnportableFunctionError,
)
from nemo_gitexp.functions import is_defined_on_import, search_directory
from nemo_gitexp.git.objects import NewCommit, commit_tree
from nemo_gitexp.git.repository import Identity
from nemo_gitexp.git.snapshot import Snapshot
from nemo_gitexp.git.worktree import add_worktree, remove_worktree
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.owners import owner_token
from nemo_gitexp.plainform import main_module_name
from nemo_gitexp.seeds import agreed_seed
from nemo_gitexp.stages import AnyEntry, StagesEntry, python_of, simple_entries
from nemo_gitexp.worker.rebuild import TARGET

PATIENCE_S = 600.0
"""A recipe that has not returned by then never will; importing NeMo and a large model library takes a minute."""

_NOBODY = Identity("nemo-gitexp", "nemo-gitexp@localhost", "0 +0000")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where recipes are resolved: under which interpreter, and with which environment."""

    interpreter: Path
    env: Mapping[str, str]
    patience_s: float = PATIENCE_S


def resolve_calls(
    site: Site, defined: Defined, snapshot: Snapshot, around: Surroundings, seed: int | None = None
) -> Defined:
    """Return what was defined with the configuration of every call filled in, made from the snapshot's code.

    Args:
        site: where.
        defined: what.
        snapshot: the code.
        around: who resolves.
        seed: what was asked for beside the configuration; a single call whose `seed` nobody gave gets it, one that
            was given names it itself.

    Side effects: a workspace below the site's root, and a process that imports the code; both are gone afterwards.

    Raises:
        RecipeError: a recipe that does not give a call.
        MissingModuleError: code that the snapshot or the interpreter has not.
        ConflictingConfigError: the configuration names another seed.
        GitexpError: what cannot be recorded or built again; an override that does not fit.
    """
    return resolve_many(site, [(defined, seed)], snapshot, around)[0]


def resolve_many(
    site: Site, wanted: Sequence[tuple[Defined, int | None]], snapshot: Snapshot, around: Surroundings
) -> list[Defined]:
    """Return several definitions resolved, in one workspace and one process.

    Args:
        site: where.
        wanted: what, each with the seed that was asked for beside the configuration.
        snapshot: the code.
        around: who resolves.

    Side effects and errors: as `resolve_calls`.
    """
    open_calls = [(defined, seed) for defined, seed in wanted if defined.unresolved]
    if not open_calls:
        return [defined for defined, _ in wanted]
    orders = [order for defined, seed in open_calls for order in _orders(defined, seed)]
    entries = [entry for defined, _ in open_calls for entry in simple_entries(defined.entry)]
    search = list(dict.fromkeys(place for entry in entries if isinstance(entry, CallEntry) for place in entry.search))
    with _code_workspace(site, snapshot) as workspace:
        try:
            wish = {"calls": orders, "search": search, "apart": len(open_calls) > 1}
            found = _ask(site, open_calls[0][0], workspace, around, wish)
        except MissingModuleError as fault:
            raise _explained(fault, site.repository.root, search, around.interpreter) from fault
    answers = iter(found)
    return [
        _filled_in(defined, [next(answers) for _ in defined.unresolved], seed) if defined.unresolved else defined
        for defined, seed in wanted
    ]


def _orders(defined: Defined, seed: int | None) -> list[dict[str, object]]:
    """Return what is to be resolved for a definition, in the words of the process that does it."""
    wanted = defined.definition.seed if seed is None else seed
    return [
        {
            "recipe": item.recipe,
            "config": item.config,
            "overrides": list(item.overrides),
            "seed": wanted if item.task is None else None,
        }
        for item in defined.unresolved
    ]


def describe_live(call: object, root: Path) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """Return what a live `run.Partial` was given, and the directories from which a job can import what it names.

    Args:
        call: as a program made it.
        root: the work tree.

    Raises:
        UnportableFunctionError: it names something that no job can import.
        CanonicalFormError, UnbuildableConfigError: a value that cannot be recorded.
    """
    places: list[str] = []
    is_entry = hasattr(getattr(call, "__fn_or_cls__", None), "cli_entrypoint")
    for item in referenced(call):
        place = _search_for(item, root, is_entry=is_entry)
        if place is not None and place not in places:
            places.append(place)
    running = {main_module_name(): sys.modules["__main__"]}
    return describe_call(call, with_defaults=False, modules=running), tuple(places)


def _search_for(item: object, root: Path, *, is_entry: bool) -> str | None:
    """Return the directory that must lead the import path for a class or function; None: it is found anyway."""
    name = getattr(item, "__module__", None)
    shown = getattr(item, "__qualname__", repr(item))
    module = sys.modules.get(str(name))
    if module is None:
        return None
    if name == "__main__":
        return _search_for_main(item, module, root, is_entry=is_entry)
    place = search_directory(module, root)
    if place is None:
        raise UnportableFunctionError(
            f"{shown} is of the module {name}, which is neither part of {root} nor installed",
            hint="install it, or move it into the repository",
            function=shown,
        )
    return place or None


def _search_for_main(item: object, main: types.ModuleType, root: Path, *, is_entry: bool) -> str:
    """Return the directory of the running script where an entry point of NeMo Run's CLI is called; else refuse.

    A job imports such a script as a module, so that nothing below `if __name__ == "__main__":` runs.
    """
    shown = getattr(item, "__qualname__", repr(item))
    file = Path(str(getattr(main, "__file__", "")))
    is_there = is_entry and file.suffix == ".py" and is_defined_on_import(file, shown.partition(".")[0])
    if not is_there or not file.resolve().is_relative_to(root.resolve()):
        raise UnportableFunctionError(
            f"{shown} is defined in the script that runs (__main__), and a job does not run that again",
            hint=f"move it into a module beside the script: from my_module import {shown.partition('.')[0]}",
            function=shown,
        )
    return file.resolve().parent.relative_to(root.resolve()).as_posix()


# ----------------------------------------------------------------------------------------------------------- its parts


@contextmanager
def _code_workspace(site: Site, snapshot: Snapshot) -> Iterator[Path]:
    """Check the snapshot out; the directory goes afterwards, also after a kill (it is named after this process)."""
    repository = site.repository
    message = "code of an experiment that is being recorded"
    commit = commit_tree(
        repository, NewCommit(message, _NOBODY, _NOBODY, parent=snapshot.head), snapshot.tree, sign=False
    )
    directory = site.workspace_root / f"{owner_token()}.{uuid.uuid4().hex[:8]}.restored"
    try:
        add_worktree(repository, directory, commit, with_submodules=bool(snapshot.submodules))
        yield directory
    finally:
        remove_worktree(repository, directory)


def _ask(
    site: Site, defined: Defined, workspace: Path, around: Surroundings, wanted: Mapping[str, object]
) -> list[dict[str, JsonValue]]:
    """Return the answer of the process that resolves calls."""
    repository, python = site.repository, python_of(defined.entry)
    place = repository.state_dir / "tmp" / f"{owner_token()}.{uuid.uuid4().hex[:8]}"
    place.mkdir(parents=True)
    order, answer = place / "order.json", place / "answer.json"
    try:
        trusted = [str(repository.common_dir), str(place)]
        order.write_text(
            json.dumps(
                {
                    **wanted,
                    "workspace": str(workspace),
                    "user_root": str(repository.root),
                    "trusted_roots": trusted,
                    "answer": str(answer),
                }
            ),
            encoding="utf-8",
        )
        argv = [str(around.interpreter), *(python.flags if python else ()), resolver.__file__, str(order)]
        # To the recipe this is a job: it may log and read, and must not launch anything.
        env = {**around.env, "GITEXP_RUN_DIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("GITEXP_METRICS", None)
        try:
            done = processes.run(argv, cwd=workspace / defined.workdir, env=env, timeout_s=around.patience_s)
        except subprocess.TimeoutExpired as fault:
            raise RecipeError(
                f"{_named(defined)} has not returned after {around.patience_s:g} s",
                hint="a recipe only describes a run",
            ) from fault
        return _read_answer(answer, done, _named(defined))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _read_answer(path: Path, done: processes.Completed, what: str) -> list[dict[str, JsonValue]]:
    if not path.exists():
        said = done.said.splitlines() or [f"it ended with {done.returncode}"]
        raise RecipeError(f"{what} could not be resolved: {said[-1]}", hint="nemo-gitexp doctor", log_tail=said[-20:])
    answer = json.loads(path.read_bytes())
    fault = answer.get("error")
    if fault is None:
        return [dict(config) for config in answer["calls"]]
    kind = getattr(errors, fault["class"], RecipeError)
    raise kind(fault["message"], hint=fault["hint"], **fault["facts"])


def _named(defined: Defined) -> str:
    return next((item.recipe for item in defined.unresolved if item.recipe), None) or f"the call of {defined.study}"


def _explained(fault: MissingModuleError, root: Path, search: Sequence[str], interpreter: Path) -> GitexpError:
    """Return the error that says why a module is missing: ignored by git, or not installed."""
    name = str(fault.facts.get("module"))
    stem = name.replace(".", "/")
    for place in dict.fromkeys((*search, ".")):
        for path in (root / place / f"{stem}.py", root / place / stem / "__init__.py"):
            if path.exists():
                shown = path.relative_to(root).as_posix()
                return MissingModuleError(
                    f"{name} is only in your work tree: git ignores {shown}, so no job would have it",
                    hint=f"git add -f {shown}",
                    module=name,
                    path=shown,
                )
    return MissingModuleError(
        fault.message, hint=f"{interpreter} -m pip install …, or move it into the repository", module=name
    )


def _filled_in(defined: Defined, found: Sequence[dict[str, JsonValue]], seed: int | None) -> Defined:
    pairs = list(zip(defined.unresolved, found, strict=True))
    config = dict(defined.config)
    definition = defined.definition
    for item, call in pairs:
        if item.task is None:
            config = call
            own = agreed_seed(definition.seed if seed is None else seed, call)
            definition = replace(definition, seed=own if seed is None else definition.seed)
        else:
            config[item.task] = call
    return replace(
        defined, config=config, entry=_with_targets(defined.entry, pairs), definition=definition, unresolved=()
    )


def _with_targets(entry: AnyEntry, pairs: Sequence[tuple[Unresolved, Mapping[str, JsonValue]]]) -> AnyEntry:
    targets = {item.task: str(config[TARGET]) for item, config in pairs}
    if isinstance(entry, StagesEntry):
        stages = tuple(
            replace(stage, entry=replace(stage.entry, target=targets[stage.name]))
            if isinstance(stage.entry, CallEntry)
            else stage
            for stage in entry.stages
        )
        return replace(entry, stages=stages)
    return replace(entry, target=targets[None]) if isinstance(entry, CallEntry) else entry
