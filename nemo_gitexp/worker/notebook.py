"""Runs a Jupyter notebook in this process: its code cells, from top to bottom, in one fresh `__main__`.

With IPython where the job's interpreter has it, so that magics, `!commands` and `await` mean what they mean in a
notebook; else as plain Python, and a cell that needs more says so.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType, TracebackType
    from typing import Callable, List

    from .shapes import JsonValue

MAGIC = ("%", "!", "?")


class MagicsError(Exception):
    """A cell that only IPython understands, and there is no IPython."""


def run_notebook(path: str, main: ModuleType) -> None:
    """Run the notebook's code cells; the first error ends it and passes through.

    Args:
        path: the notebook, relative to the working directory.
        main: the fresh `__main__` that the cells share.

    Raises:
        ValueError: no notebook that can be read.
        MagicsError: a cell needs IPython.
    """
    cells = code_cells(path)
    sys.argv = [path]
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, "")  # as in a kernel
    sys.excepthook = _show
    run = _ipython_runner(main) or _plain_runner(path, main)
    for number, source in enumerate(cells, 1):
        run(source, number)


def code_cells(path: str) -> List[str]:
    """Return the sources of a notebook's code cells, in their order.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no notebook of format 4.
    """
    import json

    with open(path, "rb") as file:
        document: JsonValue = json.loads(file.read().decode("utf-8"))
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list):
        raise ValueError(f"{path} is no notebook of format 4")  # noqa: TRY004 - damage in a file, no wrong argument
    return [_source(cell) for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]


def _source(cell: dict[str, JsonValue]) -> str:
    source = cell.get("source")
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source or "")


def _ipython_runner(main: ModuleType) -> Callable[[str, int], None] | None:
    """Return what runs a cell in IPython, None where there is none."""
    import importlib

    try:
        shells = importlib.import_module("IPython.core.interactiveshell")
        config = importlib.import_module("traitlets.config").Config()
    except ImportError:
        return None
    config.HistoryManager.enabled = False  # what a job ran is no part of what its user typed
    config.InteractiveShell.colors = "nocolor"
    home = os.path.join(os.environ.get("GITEXP_RUN_DIR", "."), "ipython")
    shell = shells.InteractiveShell.instance(config=config, user_module=main, ipython_dir=home)
    shell.showtraceback = _say_nothing  # whoever runs the job prints it, once

    def run(source: str, number: int) -> None:
        del number
        if not source.strip():
            return
        done = shell.run_cell(source, store_history=True)
        error = done.error_before_exec or done.error_in_exec
        if error is not None:
            raise error.with_traceback(_from_cell(error.__traceback__, os.path.dirname(str(shells.__file__))))

    return run


def _from_cell(frames: TracebackType | None, shell: str) -> TracebackType | None:
    """Return a traceback from the user's own first frame on; all of it where there is none (a cell that is no code)."""
    inner = frames
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith((shell, __file__)):
        inner = inner.tb_next
    return inner or frames


def _show(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """Show an error with the lines of its cells, which the interpreter itself does not find before Python 3.13."""
    import traceback

    traceback.print_exception(kind, error, frames)


def _say_nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs


def _plain_runner(path: str, main: ModuleType) -> Callable[[str, int], None]:
    """Return what runs a cell as plain Python."""

    def run(source: str, number: int) -> None:
        where = f"{path}[{number}]"
        try:
            code = compile(source, where, "exec", dont_inherit=True)
        except SyntaxError as fault:
            if any(line.lstrip().startswith(MAGIC) for line in source.splitlines()):
                raise MagicsError(f"{where} uses IPython's magics, and this interpreter has no IPython") from fault
            raise
        import linecache

        linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
        exec(code, main.__dict__)  # noqa: S102 - running the user's cells is what this is for

    return run
