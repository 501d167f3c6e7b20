"""Finds the function that a job calls, by module name, in a file or carried beside the record; and its arguments.

Needs nothing but the standard library, and cloudpickle for functions that are carried by value.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .shapes import EntryPlan

SEED = "{seed}"


def find_search_directory(entry: EntryPlan, workspace: str) -> str:
    """Return what leads the import path: what the entry says, a script's own directory, else the working directory."""
    target = entry["target"]
    if "search" in entry:
        return os.path.join(os.path.realpath(workspace), entry["search"])
    if _is_file(target):
        return os.path.dirname(os.path.join(os.path.realpath(workspace), target.rpartition(":")[0]))
    return os.getcwd()


def call_search_directories(entry: EntryPlan, workspace: str) -> list[str]:
    """Return what leads the import path of a described call: the directories that the record names."""
    top = os.path.realpath(workspace)
    return [os.path.normpath(os.path.join(top, name)) for name in entry["search"]]


def load_function(entry: EntryPlan, workspace: str) -> Callable[..., object]:
    """Return the function; importing its module runs that as any import would.

    Raises:
        RuntimeError: a carried function that this interpreter cannot load.
    """
    target = entry["target"]
    place, colon, name = target.rpartition(":")
    if not colon:
        return _load_carried(entry, os.path.join(workspace, target))
    if _is_file(target):
        module = import_file(os.path.join(os.path.realpath(workspace), place))
    else:
        module = __import__(place, fromlist=["_"])
    return find_attribute(module, name)  # type: ignore[return-value]  # calling what is no function says so


def find_attribute(module: object, qualified_name: str) -> object:
    """Return what a module has under a dotted name."""
    found = module
    for part in qualified_name.split("."):
        found = getattr(found, part)
    return found


def call_by_signature(function: Callable[..., object], config: object) -> object:
    """Call with `config=` if there is such a parameter, else the one parameter there is, else one argument a key."""
    import inspect

    parameters = inspect.signature(function).parameters
    if "config" in parameters:
        return function(config=config)
    single = [item for item in parameters.values() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    is_single = len(single) == len(parameters) == 1
    if not isinstance(config, dict) or (is_single and single[0].name not in config):
        return function(config)
    return function(**config)


def require_done(returned: object) -> object:
    """Return what a function returned, if it has run.

    Raises:
        TypeError: it is asynchronous or a generator: nothing of its body has run yet.
    """
    import inspect

    if inspect.isawaitable(returned) or inspect.isasyncgen(returned) or inspect.isgenerator(returned):
        kind = type(returned).__name__
        raise TypeError(f"the function returned a {kind}, of which nothing has run; call it: asyncio.run(…), list(…)")
    return returned


def call_arguments(call: dict[str, str], config: object, seed: int) -> dict[str, object]:
    """Return the arguments by name: each a dotted key of the configuration, or the seed."""
    return {name: seed if key == SEED else _value_at(config, key) for name, key in call.items()}


def _value_at(config: object, key: str) -> object:
    value = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _is_file(target: str) -> bool:
    return target.rpartition(":")[0].endswith(".py")


def import_file(path: str) -> object:
    """Import a script as the module of its stem's name, so that what it defines can be found again by that name."""
    external, bootstrap = sys.modules["_frozen_importlib_external"], sys.modules["_frozen_importlib"]
    name = os.path.basename(path)[: -len(".py")]
    if not os.path.exists(path):
        raise RuntimeError(f"there is no file {path}")
    spec = external.spec_from_file_location(name, path)
    module = bootstrap.module_from_spec(spec)
    sys.modules.setdefault(name, module)  # one that Python itself has loaded stays: everything else rests on it
    spec.loader.exec_module(module)
    return module


def _load_carried(entry: EntryPlan, path: str) -> Callable[..., object]:
    compiled, here = entry.get("bytecode"), "%d.%d" % sys.version_info[:2]
    if compiled not in (None, here):
        raise RuntimeError(
            f"the function is carried by value, compiled for Python {compiled}, and the job runs Python {here}; "
            "a function at the top level of a module runs with any"
        )
    with open(path, "rb") as file:
        content = file.read()
    import hashlib

    if entry.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise RuntimeError(f"{path} is not the function that was recorded")
    import pickle

    try:
        import cloudpickle  # noqa: F401 - what the content is made of
    except ImportError as fault:
        raise RuntimeError(
            f"the function is carried by value, and {sys.executable} has no cloudpickle to load it with; "
            "pip install cloudpickle, or define it at the top level of a module"
        ) from fault
    return pickle.loads(content)  # type: ignore[no-any-return]  # noqa: S301 - recorded code, like any script
