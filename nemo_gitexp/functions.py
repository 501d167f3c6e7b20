"""A live function as an entry point: by its module's name, by its file, or carried by value in the record itself.

By name wherever a job can find the function by it: then the record shows which code ran. Nothing is called here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path

from nemo_gitexp.carried import carry_function
from nemo_gitexp.entry import FunctionEntry
from nemo_gitexp.errors import UsageError
from nemo_gitexp.fingerprint import fingerprint
from nemo_gitexp.naming import require_name
from nemo_gitexp.reach import EVERYTHING


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


def _by_name(function: Callable[..., object], root: Path) -> FunctionEntry | None:
    """Return the entry of a function that its module has under its own name, None when a job cannot find it so."""
    module_name, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(name, str) or not _is_at(module, name, function):
        return None
    if module.__name__ == "__main__":
        return _of_main(module, name, root)
    search = search_directory(module, root)
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
    if file is None or not _is_ours(file, root) or not is_defined_on_import(file, name.partition(".")[0]):
        return None
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.train
        search = _base_directory(spec.name, file, root)
        return None if search is None else FunctionEntry(f"{spec.name}:{name}", search=search or None)
    if file.suffix != ".py":
        return None
    return FunctionEntry(f"{file.relative_to(root).as_posix()}:{name}")


def is_defined_on_import(file: Path, name: str) -> bool:
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


def search_directory(module: types.ModuleType, root: Path) -> str | None:
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


def _by_value(
    function: Callable[..., object], root: Path, study: str, name: str
) -> tuple[FunctionEntry, dict[str, bytes]]:
    def is_there(module: types.ModuleType) -> bool:
        return _module_file(module) is None or search_directory(module, root) is not None

    carried = carry_function(function, root, is_there)
    search = _live_search(root)
    digest, modules = fingerprint(function, carried.modules)
    entry = FunctionEntry(
        f"experiments/{study}/record/{name}.pkl",
        digest=digest,
        refers=tuple(each for each in modules if each not in carried.modules and _may_be_ours(each, root)),
        sha256=hashlib.sha256(carried.content).hexdigest(),
        bytecode=f"{sys.version_info.major}.{sys.version_info.minor}",
        search=None if search == "." else search,
    )
    source = {} if carried.source is None else {f"{name}.py": carried.source}
    return entry, {f"{name}.pkl": carried.content, **source}


def _may_be_ours(module_name: str, root: Path) -> bool:
    """Return whether a module belongs to the repository, or is not imported yet and might."""
    if module_name == EVERYTHING:
        return True
    module = sys.modules.get(module_name)
    if module is None:
        parent = sys.modules.get(module_name.rpartition(".")[0])
        return not hasattr(parent, module_name.rpartition(".")[2])
    file = _module_file(module)
    return file is not None and _is_ours(file, root)


def _live_search(root: Path) -> str:
    """Return what leads this process's import path, relative to the root; "." for a place outside of it."""
    main = sys.modules["__main__"]
    file, spec = _module_file(main), getattr(main, "__spec__", None)
    if spec is not None and file is not None:
        return _base_directory(spec.name, file, root) or "."
    place = Path(os.path.realpath(Path.cwd())) if file is None else file.parent
    is_ours = place.is_relative_to(root) and (file is None or _is_ours(file, root))
    return place.relative_to(root).as_posix() if is_ours else "."
