"""Configurations of recipes and configured calls, made from the code of a workspace: in a process of its own.

What is imported here runs user code. The order names the workspace, what is wanted and where the answer goes.
Where the user's live tree would be imported, the workspace is.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_gitexp.calloverrides import override_call, require_complete
from nemo_gitexp.described import describe_call, restore_call
from nemo_gitexp.errors import GitexpError, InsideJobError, MissingModuleError, RecipeError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import find_nearest
from nemo_gitexp.overrides import parse_override
from nemo_gitexp.worker.function import find_attribute, import_file
from nemo_gitexp.worker.rebuild import TARGET
from nemo_gitexp.worker.redirect import RedirectRule, editable_targets, redirect_editables, redirect_paths

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def answer_order(order_path: str) -> None:
    """Write the answer to an order: `{"calls": [configuration]}`, or `{"error": {class, message, hint, facts}}`.

    Args:
        order_path: a JSON file with `workspace, user_root, trusted_roots, search, answer` (a path) and `calls`, each
            with `recipe` (`file.py:name`, or null), `config` (what a call was given, or null), `overrides` (as typed)
            and `seed` (what a parameter of that name gets that was not given, or null). `apart`: none of the calls may
            see what another one left behind.
    """
    order = json.loads(Path(order_path).read_bytes())
    names = ", ".join(dict.fromkeys(str(call["recipe"]) for call in order["calls"] if call["recipe"]))
    answer = _answer(names, lambda: _resolve_all(order))
    Path(order["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _answer(names: str, resolve: Callable[[], list[dict[str, JsonValue]]]) -> dict[str, Any]:
    try:
        return {"calls": resolve()}
    except _ToldError as fault:
        return {"error": fault.told}
    except GitexpError as fault:
        return {"error": _described(fault)}
    except Exception as fault:  # noqa: BLE001 - what users' classes raise while they are looked at
        return {"error": _described(_raised(names, f"{names or 'the call'} cannot be resolved", fault))}


class _ToldError(Exception):
    """What a process of ours has to say about a fault, in the words of an answer."""

    def __init__(self, told: Mapping[str, object]) -> None:
        super().__init__(str(told.get("message")))
        self.told = told


def _described(fault: GitexpError) -> dict[str, object]:
    facts = {key: value if _is_plain(value) else str(value) for key, value in fault.facts.items()}
    return {"class": type(fault).__name__, "message": fault.message, "hint": fault.hint, "facts": facts}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, list, dict))


def _resolve_all(order: Mapping[str, Any]) -> list[dict[str, JsonValue]]:
    rule = RedirectRule(order["user_root"], order["workspace"], order["trusted_roots"])
    editables = redirect_editables(editable_targets(), rule)
    sys.path[:] = redirect_paths(sys.path, rule) + editables
    workspace = Path(os.path.realpath(order["workspace"]))
    sys.path[:0] = [os.path.normpath(workspace / name) for name in order["search"]]
    _require_nemo_run()
    _forbid_launching()
    if order.get("apart"):
        for recipe in dict.fromkeys(call["recipe"] for call in order["calls"] if call["recipe"]):
            _find_recipe(recipe, workspace)  # imported once, for all
        return [config for call in order["calls"] for config in _resolve_apart([call], workspace, rule)]
    return _resolve_here(order["calls"], workspace, rule)


def _resolve_here(
    calls: Sequence[Mapping[str, Any]], workspace: Path, rule: RedirectRule
) -> list[dict[str, JsonValue]]:
    resolved = [_resolve(call, workspace) for call in calls]
    _require_recorded(rule, resolved)
    return resolved


def _resolve_apart(
    calls: Sequence[Mapping[str, Any]], workspace: Path, rule: RedirectRule
) -> list[dict[str, JsonValue]]:
    """Resolve in a forked process: what recipes change in their modules, the next one must not find."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(source)
            names = ", ".join(str(call["recipe"]) for call in calls if call["recipe"])
            told = _answer(names, lambda: _resolve_here(calls, workspace, rule))
            with os.fdopen(sink, "w", encoding="utf-8") as file:
                json.dump(told, file)
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(pid, 0)
    if not text:
        raise RecipeError(f"{calls[0]['recipe'] or 'the call'} ended the process", hint="a recipe only describes a run")
    answer = json.loads(text)
    if "error" in answer:
        raise _ToldError(answer["error"])
    return [dict(config) for config in answer["calls"]]


def _require_nemo_run() -> None:
    try:
        import nemo_run  # noqa: F401 - described calls are of its types
    except ImportError as fault:
        raise RecipeError(
            f"{sys.executable}, which would run the job, cannot import NeMo Run: {fault}",
            hint=f"{sys.executable} -m pip install nemo_run",
        ) from fault


def _forbid_launching() -> None:
    """Let no script launch while it is imported, nor a recipe while it is called: NeMo Run would do it at once."""
    from nemo_run.run import api, experiment

    def refuse(*_args: object, **_options: object) -> None:
        raise RecipeError("it launches a run through NeMo Run", hint=_GUARD)

    experiment.Experiment._run_dag = refuse  # noqa: SLF001 - what submits, and nothing else
    api.direct_run_fn = experiment.direct_run_fn = refuse


def _resolve(call: Mapping[str, Any], workspace: Path) -> dict[str, JsonValue]:
    """Return the configuration of one call, defaults filled in, overrides applied."""
    overrides: Sequence[str] = call["overrides"]
    seeding = _seeding(call.get("seed"), overrides)
    if call["config"] is None:
        recipe = str(call["recipe"])
        found = _find_recipe(recipe, workspace)
        own = seeding if not _is_description(found) and _takes_seed(found) else []
        made, overrides = _call_recipe(found, recipe, [*overrides, *own])
    else:
        recipe = str(call["config"].get(TARGET))
        made = restore_call(call["config"])
    partial = _as_partial(made, recipe)
    if "seed" not in partial.__arguments__ and _takes_seed(partial.__fn_or_cls__) and not _seeds(overrides):
        overrides = [*overrides, *seeding]
    described = describe_call(partial)
    described = override_call(described, overrides) if overrides else described
    require_complete(described)
    return described


def _seeding(seed: int | None, overrides: Sequence[str]) -> list[str]:
    """Return what gives a seed that is asked for beside the configuration; nothing where one was typed."""
    return [] if seed is None or _seeds(overrides) else [f"seed={seed}"]


def _seeds(overrides: Sequence[str]) -> bool:
    return any(parse_override(token).path == ("seed",) for token in overrides)


def _takes_seed(called: Any) -> bool:
    try:
        parameter = inspect.signature(called).parameters.get("seed")
    except (TypeError, ValueError):  # no function, or one written in C
        return False
    return parameter is not None and parameter.kind in _NAMED


# ----------------------------------------------------------------------------------------------------------- recipes


def _find_recipe(recipe: str, workspace: Path) -> object:
    """Return what `file.py:name` names, its file imported as the module of its name."""
    file, _, name = recipe.rpartition(":")
    with _blaming(recipe, f"{file} cannot be imported"):
        module = _import_module(workspace / file, workspace)
    try:
        return find_attribute(module, name)
    except AttributeError as fault:
        near = find_nearest(name, [each for each in vars(module) if not each.startswith("_")])
        hint = f"did you mean {near}?" if near else f"def {name}() -> run.Partial: …"
        raise RecipeError(f"{file} has no {name}", hint=hint, recipe=recipe, nearest=near) from fault


@functools.cache
def _import_module(path: Path, workspace: Path) -> object:
    """Import a file as the module of its name: of a package where its directory is one, so that `from . import` works.

    As everywhere, that is a package whose directory has an `__init__.py`.
    """
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists() and folder != workspace:
        parts.insert(0, folder.name)
        folder = folder.parent
    return import_file(str(path)) if len(parts) == 1 else importlib.import_module(".".join(parts))


@contextmanager
def _blaming(recipe: str, what: str) -> Iterator[None]:
    """Raise what a user's code raises as the error of its recipe."""
    try:
        yield
    except ModuleNotFoundError as fault:
        file = recipe.rpartition(":")[0]
        raise MissingModuleError(
            f"{file} imports {fault.name}, which neither the recorded state nor {sys.executable} has",
            hint="git add it, or install it",
            module=fault.name,
            recipe=recipe,
        ) from fault
    except InsideJobError as fault:
        raise RecipeError(f"{what}: it launches a run", hint=_GUARD, recipe=recipe) from fault
    except RecipeError as fault:
        raise RecipeError(f"{what}: {fault.message}", hint=fault.hint, recipe=recipe) from fault
    except GitexpError:
        raise
    except BaseException as fault:
        raise _raised(recipe, what, fault) from fault


def _call_recipe(found: Any, recipe: str, overrides: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """Return what a recipe makes, and the overrides that were no parameters of its own."""
    import nemo_run

    if _is_description(found):
        return found, overrides
    if hasattr(found, "cli_entrypoint"):  # what runs, not what describes a run
        return nemo_run.Partial(found), overrides
    if not callable(found):
        raise RecipeError(f"{recipe} is no function but a {type(found).__name__}", hint=_HINT, recipe=recipe)
    returned = getattr(found, "__annotations__", {}).get("return", inspect.Parameter.empty)
    if returned in (int, float, str, bool, dict, list, None, "int", "float", "str", "bool", "dict", "list", "None"):
        raise _no_recipe(recipe, getattr(returned, "__name__", str(returned)))
    arguments, rest = _own_arguments(found, recipe, overrides)
    with _blaming(recipe, f"{recipe} raised"):
        return found(**arguments), rest


def _own_arguments(
    found: Callable[..., object], recipe: str, overrides: Sequence[str]
) -> tuple[dict[str, JsonValue], list[str]]:
    """Return the overrides that are parameters of the recipe itself, by name, and the others."""
    parameters = inspect.signature(found).parameters
    parsed = {token: parse_override(token) for token in overrides}
    own = {
        token: item
        for token, item in parsed.items()
        if item.action == "set" and len(item.path) == 1 and item.path[0] in parameters
    }
    arguments = {item.path[0]: item.value for item in own.values()}
    needed = [item.name for item in parameters.values() if item.default is item.empty and item.kind in _NAMED]
    missing = [name for name in needed if name not in arguments]
    if missing:
        hint = " ".join(f"{name}=VALUE" for name in missing)
        raise RecipeError(f"{recipe} wants {', '.join(missing)}", hint=hint, recipe=recipe, missing=missing)
    return arguments, [token for token in overrides if token not in own]


_GUARD = "it is imported and called to be recorded: what launches stands below if __name__ == '__main__':"
_HINT = "return run.Partial(function, …); a function that trains goes by function: in experiment.yaml"


def _no_recipe(recipe: str, kind: str) -> RecipeError:
    return RecipeError(f"{recipe} returns {kind}, which is no run.Partial", hint=_HINT, recipe=recipe)


def _raised(recipe: str, what: str, fault: BaseException) -> RecipeError:
    said = "".join(traceback.format_exception_only(fault)).strip().splitlines() or [type(fault).__name__]
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if "nemo_gitexp" not in frame.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(fault, SyntaxError):
        where = f" ({Path(fault.filename or '').name}, line {fault.lineno})"
    is_exit = isinstance(fault, (SystemExit, KeyboardInterrupt))
    hint = _GUARD if is_exit else "it is imported and called in the recorded state, without arguments but those typed"
    return RecipeError(f"{what}: {said[-1]}{where}", hint=hint, recipe=recipe)


# --------------------------------------------------------------------------------------------------- configured calls


def _is_description(made: object) -> bool:
    import fiddle

    return isinstance(made, fiddle.Buildable)


def _as_partial(made: Any, recipe: str) -> Any:
    """Return what a recipe made as a `run.Partial`: a `run.Config` at the top is a call, too."""
    import nemo_run

    if getattr(made, "is_lazy", False):
        with _blaming(recipe, f"{recipe} cannot be resolved"):
            made = made.resolve()
    if not _is_description(made):
        raise _no_recipe(recipe, f"a {type(made).__name__}")
    if type(made) is nemo_run.Partial:
        return made
    arguments: Mapping[str | int, object] = made.__arguments__
    named = {key: value for key, value in arguments.items() if isinstance(key, str)}
    positional = [value for key, value in arguments.items() if not isinstance(key, str)]
    return nemo_run.Partial(made.__fn_or_cls__, *positional, bind_args=False, **named)


def _require_recorded(rule: RedirectRule, resolved: Sequence[Mapping[str, JsonValue]]) -> None:
    """Refuse what was imported from the user's live tree: no job would have it."""
    text = json.dumps(resolved)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and f'"{name}:' in text and rule.is_live(file):
            raise RecipeError(
                f"{name} was imported from {file}, which is not the recorded state",
                hint="is its directory on PYTHONPATH, or ignored by git?",
                module=name,
            )
