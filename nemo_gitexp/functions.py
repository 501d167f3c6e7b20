"""A live function as an entry point: by its module's name, by its file, or carried by value in the record itself.

By name wherever a job can find the function by it: then the record shows which code ran. Nothing is called here.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import io
import os
import pickle
import site
import sys
import sysconfig
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from nemo_gitexp.entry import FunctionEntry
from nemo_gitexp.errors import UnportableFunctionError, UsageError
from nemo_gitexp.fingerprint import fingerprint
from nemo_gitexp.naming import require_name

PICKLE_PROTOCOL = 4
"""The newest that Python 3.7 reads; byte code ties a carried function to one minor version anyway."""


def function_entry(
    function: Callable[..., object], *, root: Path, study: str, name: str
) -> tuple[FunctionEntry, dict[str, bytes]]:
    """Return the entry point for a function, and the files that the record has to carry for it.

    A function at the top level of a module that a job can import goes by name; one of the running script by its file;
    all others (lambdas, closures, notebooks, methods of objects, partials, modules that no job has) by value: their
    byte code and what they refer to as `<name>.pkl`, and for readers their source, where there is one, as `<name>.py`.

    Args:
        function: what is to be called.
        root: the work tree of the repository.
        study: whose record will hold the files.
        name: what to call them.

    Raises:
        UsageError: it cannot be called.
        UnportableFunctionError: it is to go by value and cannot be pickled; `function` and the message say what.
        InvalidNameError: a name that cannot be a file's.
    """
    if not callable(function):
        raise UsageError(f"{function!r} is no function", hint="give a function, or anything that can be called")
    top = Path(os.path.realpath(root))
    named = _by_name(function, top)
    if named is not None:
        return named, {}
    return _by_value(function, top, study, require_name(name, "function"))


def function_name(function: object) -> str:
    """Return what to call a function in a message."""
    if isinstance(function, functools.partial):
        return f"partial of {function_name(function.func)}"
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _by_name(function: Callable[..., object], root: Path) -> FunctionEntry | None:
    """Return the entry of a function that its module has under its own name, None when a job cannot find it so."""
    module_name, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(name, str) or not _is_at(module, name, function):
        return None
    if module.__name__ == "__main__":
        return _of_main(module, name, root)
    search = _search_directory(module, root)
    if search is None:
        return None
    return FunctionEntry(f"{module.__name__}:{name}", search=search or None)


def _is_at(module: types.ModuleType, qualified_name: str, function: object) -> bool:
    found: object = module
    for part in qualified_name.split("."):
        found = getattr(found, part, None)
    is_bound = isinstance(function, types.MethodType) and not isinstance(function.__self__, type)
    return not is_bound and (found is function or (isinstance(found, types.MethodType) and found == function))


def _of_main(main: types.ModuleType, name: str, root: Path) -> FunctionEntry | None:
    file = _module_file(main)
    if file is None or not _is_ours(file, root) or not _is_defined_on_import(file, name.partition(".")[0]):
        return None
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.train
        search = _base_directory(spec.name, file, root)
        return None if search is None else FunctionEntry(f"{spec.name}:{name}", search=search or None)
    if file.suffix != ".py":
        return None
    return FunctionEntry(f"{file.relative_to(root).as_posix()}:{name}")


def _is_defined_on_import(file: Path, name: str) -> bool:
    """Return whether a script defines a name also when it is imported: not only below `if __name__ == …`."""
    try:
        waiting: list[ast.AST] = list(ast.parse(file.read_bytes()).body)
    except SyntaxError:  # edited since it was started
        return False
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "__name__" in {
            part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)
        }:
            waiting += node.orelse
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == name:
                return True
        elif isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
        else:
            waiting += ast.iter_child_nodes(node)
    return False


def _search_directory(module: types.ModuleType, root: Path) -> str | None:
    """Return what must lead the import path for a module to be found, relative to the root; empty: nothing need.

    None for a module that no job can import.
    """
    file = _module_file(module)
    if file is None:
        return "" if module.__name__ in sys.builtin_module_names else None
    if _is_ours(file, root):
        return _base_directory(module.__name__, file, root)
    return "" if _is_installed(module.__name__, file) else None


def _base_directory(module_name: str, file: Path, root: Path) -> str | None:
    """Return the directory below the root in which a module's name begins; empty: the root, or found without."""
    base = _base_of(module_name, file)
    if base is None:
        return None
    if base == root or base in _standing_paths():
        return ""
    return base.relative_to(root).as_posix() if base.is_relative_to(root) else None


def _base_of(module_name: str, file: Path) -> Path | None:
    """Return the directory in which a module's name begins; None when its file is not called after it."""
    parts = module_name.split(".")
    tail = (*parts, "__init__.py") if file.name == "__init__.py" else (*parts[:-1], f"{parts[-1]}.py")
    return Path(*file.parts[: -len(tail)]) if file.parts[-len(tail) :] == tail else None


def _standing_paths() -> set[Path]:
    """Return the import paths that a job has too: site directories, what `.pth` files add to them, PYTHONPATH."""
    typed = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = {Path(os.path.realpath(path)) for path in typed}
    for folder in _site_directories():
        for pointer in folder.glob("*.pth"):
            lines = pointer.read_text(errors="replace").splitlines()
            places = [folder / line for line in lines if line and not line.startswith(("import ", "import\t", "#"))]
            found |= {Path(os.path.realpath(place)) for place in places}
    return found | _site_directories()


def _site_directories() -> set[Path]:
    known = [*site.getsitepackages(), site.getusersitepackages()]
    known += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return {Path(os.path.realpath(path)) for path in known}


def _is_installed(module_name: str, file: Path) -> bool:
    if any(file.is_relative_to(folder) for folder in _site_directories()):
        return True
    finders = [getattr(module, "MAPPING", {}) for name, module in list(sys.modules.items()) if "__editable__" in name]
    if any(module_name.partition(".")[0] in mapping for mapping in finders):
        return True
    return _base_of(module_name, file) in _standing_paths()


def _is_ours(file: Path, root: Path) -> bool:
    """Return whether a file belongs to the repository: below its root, and in no environment there."""
    return file.is_relative_to(root) and not any(file.is_relative_to(folder) for folder in _site_directories())


def _module_file(module: types.ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    if file.endswith(".pyc"):
        file = importlib.util.source_from_cache(file) if "__pycache__" in file else file[:-1]
    path = Path(os.path.realpath(file))
    return path if path.exists() else None


# -------------------------------------------------------------------------------------------------------- by value


def _by_value(
    function: Callable[..., object], root: Path, study: str, name: str
) -> tuple[FunctionEntry, dict[str, bytes]]:
    module = _home(function)
    main_file = _module_file(sys.modules["__main__"])
    carried = {"__main__"}
    is_ours = module is not None and _search_directory(module, root) is not None
    if module is not None and module.__name__ != "__main__" and not is_ours:
        carried.add(module.__name__)
    content = _pickled(function, root, [sys.modules[each] for each in carried if each != "__main__"])
    home = main_file if main_file is not None and _is_ours(main_file, root) else None
    search = "." if home is None else home.parent.relative_to(root).as_posix()
    entry = FunctionEntry(
        f"experiments/{study}/record/{name}.pkl",
        digest=fingerprint(function, carried),
        sha256=hashlib.sha256(content).hexdigest(),
        bytecode=f"{sys.version_info.major}.{sys.version_info.minor}",
        search=None if search == "." else search,
    )
    source = _source(function)
    return entry, {f"{name}.pkl": content, **({} if source is None else {f"{name}.py": source})}


def _home(function: object) -> types.ModuleType | None:
    """Return the module that a callable comes from."""
    return sys.modules.get(str(getattr(_plain_function(function), "__module__", None)))


def _plain_function(function: object) -> object:
    """Return the function that is in a partial, a method, or an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    is_plain = inspect.isroutine(function) or inspect.isclass(function)
    return function if is_plain else getattr(type(function), "__call__", function)  # noqa: B004 - its function


def _source(function: object) -> bytes | None:
    try:
        text = inspect.getsource(_plain_function(function))  # type: ignore[arg-type]  # what has none raises
    except (OSError, TypeError):
        return None
    return inspect.cleandoc(f"\n{text}").encode() + b"\n"


def _pickled(function: Callable[..., object], root: Path, modules: list[types.ModuleType]) -> bytes:
    stream = io.BytesIO()
    try:
        with _registered(modules), _relative_file(function, root):
            _pickler(stream, root).dump(function)
    except Exception as fault:
        # Whatever a value's own way of pickling raises: locks, sockets, open files, generators, …
        raise UnportableFunctionError(
            f"{function_name(function)} cannot be given to a job: {_reason(function, fault)}",
            hint="define it at the top level of a module, and make such things inside it",
            function=function_name(function),
        ) from fault
    return stream.getvalue()


def _reason(function: object, fault: Exception) -> str:
    """Return what cannot be pickled, by the name that the function has for it."""
    import cloudpickle

    said = str(fault) or type(fault).__name__
    if not isinstance(function, types.FunctionType):
        return said
    seen = inspect.getclosurevars(function)
    for name, value in {**seen.globals, **seen.nonlocals}.items():
        try:
            cloudpickle.dumps(value)
        except Exception:  # noqa: BLE001 - as above
            return f"it refers to {name}, a {type(value).__name__} ({said})"
    return said


@contextmanager
def _registered(modules: list[types.ModuleType]) -> Iterator[None]:
    """Let cloudpickle carry what these modules define by value, for a while."""
    import cloudpickle

    mine = [module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in mine:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in mine:
            cloudpickle.unregister_pickle_by_value(module)


def _pickler(stream: io.BytesIO, root: Path) -> pickle.Pickler:
    """Return a pickler whose byte code names its files relative to the root, others by their name alone."""
    import cloudpickle

    reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]

    def reduce_relative(code: types.CodeType) -> object:
        return reduce_code(code.replace(co_filename=_relative(code.co_filename, root)))

    class Relative(cloudpickle.Pickler):  # type: ignore[misc]  # untyped; the table must be there when it is made
        dispatch_table: ClassVar = ChainMap({types.CodeType: reduce_relative}, cloudpickle.Pickler.dispatch_table)

    made: pickle.Pickler = Relative(stream, protocol=PICKLE_PROTOCOL)
    return made


@contextmanager
def _relative_file(function: object, root: Path) -> Iterator[None]:
    """Let the module of a function have a relative `__file__` for a while, which a carried function takes along.

    In the job an absolute one would lead it to the live work tree; relative, it leads to the recorded one.
    """
    names = getattr(_plain_function(function), "__globals__", {})
    file = names.get("__file__")
    if not isinstance(file, str):
        yield
        return
    names["__file__"] = _relative(file, root)
    try:
        yield
    finally:
        names["__file__"] = file


def _relative(file: str, root: Path) -> str:
    if file.startswith("<"):
        return file
    path = Path(os.path.realpath(file))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
