"""Runs a Python entry point in this process as `python script.py`, `-m module` or `-c code` would run it.

Follows CPython's `pymain_run_python`: a fresh `__main__`, `sys.argv`, `sys.path[0]`, directories and zip files with a
`__main__.py`, the isolated and safe-path flags. Function entry points are called with the configuration.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Callable

    from .shapes import EntryPlan, JsonValue

PYC_HEADER_BYTES = 16


def run_entry(entry: EntryPlan, config: dict[str, JsonValue], workspace: str = ".", seed: int = 0) -> object:
    """Run the entry point; whatever it raises passes through.

    Args:
        entry: a script, module, code, function or notebook entry.
        config: what a function is called with, or the description of a call.
        workspace: the root of the restored state, which a function's file is relative to.
        seed: for a function that asks for it.

    Returns:
        What the function or the call returned, None for all other kinds.
    """
    kind = entry["kind"]
    if kind == "function":
        return _run_function(entry, config, workspace, seed)
    if kind == "call":
        return _run_call(entry, config, workspace)
    if kind == "module":
        _run_module(entry["module"], entry["args"])
    elif kind == "code":
        _run_code(entry["code"], entry["args"])
    elif kind == "notebook":
        from .notebook import run_notebook

        run_notebook(entry["path"], _fresh_main())
    else:
        _run_script(entry["path"], entry["args"])
    return None


def _run_script(path: str, args: list[str]) -> None:
    sys.argv = [path, *args]
    where = path if sys.version_info < (3, 9) else os.path.join(os.getcwd(), path)
    if _is_archive(where):
        sys.path.insert(0, where)
        _fresh_main()
        _run_as_main("__main__", False)  # keeps sys.argv[0], as for `python directory`
        return
    if not _is_safe_path():
        sys.path.insert(0, os.path.dirname(os.path.realpath(where)))
    code = _script_code(where)
    main = _fresh_main(file=where)
    exec(code, main.__dict__)  # noqa: S102 - running the user's script is what this is for


def _run_module(name: str, args: list[str]) -> None:
    sys.argv = ["-m", *args]
    if not _is_safe_path():
        sys.path.insert(0, os.getcwd())
    _fresh_main()
    _run_as_main(name, True)  # sets sys.argv[0] to the module's file


def _run_code(text: str, args: list[str]) -> None:
    sys.argv = ["-c", *args]
    if not _is_safe_path():
        sys.path.insert(0, "")
    main = _fresh_main()
    exec(compile(text, "<string>", "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - as `python -c`


def ready_function(entry: EntryPlan, workspace: str) -> Callable[..., object]:
    """Return the function of a function entry, imported as any module would be; `__main__` is a fresh one."""
    from .function import find_search_directory, load_function

    sys.argv = [entry["target"]]
    if not _is_safe_path():
        sys.path.insert(0, find_search_directory(entry, workspace))
    _fresh_main()
    return load_function(entry, workspace)


def _run_function(entry: EntryPlan, config: dict[str, JsonValue], workspace: str, seed: int) -> object:
    from .function import call_arguments, call_by_signature, require_done

    function = ready_function(entry, workspace)
    given: object = config
    if entry.get("build"):
        from .rebuild import rebuild

        given = rebuild(config)
    if entry.get("call"):
        return require_done(function(**call_arguments(entry["call"], given, seed)))
    return require_done(call_by_signature(function, given))


def _run_call(entry: EntryPlan, config: dict[str, JsonValue], workspace: str) -> object:
    """Make the call that the configuration describes; the modules of its functions are imported as any would be."""
    from .function import call_search_directories, require_done
    from .rebuild import rebuild

    sys.argv = [entry["target"]]
    if not _is_safe_path():
        sys.path[:0] = call_search_directories(entry, workspace)
    _fresh_main()
    return require_done(rebuild(config)())


def _run_as_main(name: str, alter_argv: bool) -> None:  # noqa: FBT001 - runpy's own parameter
    import runpy  # after sys.path[0] is there, as in CPython

    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]  # noqa: SLF001 - what `python -m` calls


def _fresh_main(file: str | None = None) -> ModuleType:
    """Put a new `__main__` in place that looks as CPython's own does before it runs anything."""
    main = type(sys)("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    if file is None:
        main.__loader__ = sys.modules["_frozen_importlib"].BuiltinImporter
    else:
        external = sys.modules["_frozen_importlib_external"]
        kind = "SourcelessFileLoader" if file.endswith(".pyc") else "SourceFileLoader"
        main.__loader__ = getattr(external, kind)("__main__", file)
        main.__file__ = file
        if sys.version_info < (3, 15):
            main.__dict__["__cached__"] = None
    sys.modules["__main__"] = main
    return main


def _script_code(where: str) -> CodeType:
    try:
        with open(where, "rb") as file:
            content = file.read()
    except OSError as fault:
        said = f"[Errno {fault.errno}] {fault.strerror}"
        sys.stderr.write(f"{sys.executable}: can't open file {where!r}: {said}\n")
        sys.exit(2)
    if where.endswith(".pyc"):
        import marshal

        code: CodeType = marshal.loads(content[PYC_HEADER_BYTES:])  # noqa: S302 - the user's own compiled script
        return code
    return compile(content, where, "exec", dont_inherit=True)


def _is_archive(where: str) -> bool:
    """Return whether some path hook can import from it: a directory or a zip file."""
    for hook in sys.path_hooks:
        try:
            hook(where)
        except ImportError:
            continue
        return True
    return False


def _is_safe_path() -> bool:
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))
