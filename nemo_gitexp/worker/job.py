"""The job process: redirected imports, seeds, the entry point, and what it leaves behind about itself.

Started by the worker as `python start.py --job RUN/job.order`. It imports next to nothing before the user's code does,
so that a module of the user's that shadows one of the standard library is found exactly when `python script.py` would.
"""

from __future__ import annotations

import atexit
import marshal
import os
import sys

from .entrypoint import ready_function, run_entry
from .plainjson import write_plain
from .readback import JobReport
from .redirect import RedirectRule, editable_targets, redirect_editables, redirect_paths, redirected_pythonpath
from .seeding import Seeding, process_seed
from .submissions import watch_submissions
from .wandbhook import watch_wandb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Iterable, Mapping

    from .shapes import JobOrder, JsonValue, StageOrder

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
IMPORT_FRAMES = "<frozen importlib._bootstrap"


def main(order_path: str) -> None:
    """Become the job that the order describes; returns or raises as the entry point does."""
    with open(order_path, "rb") as file:
        order: JobOrder = marshal.loads(file.read())  # noqa: S302 - written by our own parent process
    rule = RedirectRule(order["user_root"], order["workspace"], [*order["trusted_roots"], order["run_dir"]])
    _redirect_imports(rule)
    _pretend_command_line(order)
    seeding = Seeding(process_seed(order["seed"], os.environ), order["determinism"])
    report = JobReport(order["report"], seeding, rule, os.environ.get("PYTHONHASHSEED"))
    atexit.register(report.write)
    seeding.install()
    watch_submissions(order["run_dir"])
    watch_wandb(order["run_dir"], order["own_wandb_id"])
    process = os.getpid()
    try:
        if order["stage"]:
            returned = _run_stage(order, order["stage"])
        else:
            returned = run_entry(order["entry"], order["config"], order["workspace"], order["seed"])
        if returned is not None and os.getpid() == process:
            _write_returned(order["returned"], returned, order["entry"].get("returns") or {})
    except BaseException as error:
        if os.getpid() == process:  # the error of a forked child is no error of the job
            _report_error(order["error"], error)
        _hide_our_frames()
        raise
    finally:
        report.write()


def _run_stage(order: JobOrder, stage: StageOrder) -> object:
    """Run a stage and keep its result: what its function returned; of anything else the directory of its outputs."""
    from .results import load_result, save_result

    own, workspace = stage["outputs"], order["workspace"]
    if order["entry"]["kind"] != "function":
        from pathlib import Path

        returned = None
        try:
            returned = run_entry(order["entry"], order["config"], workspace, order["seed"])
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise
        save_result(Path(own), own)
        return returned
    from .stagecall import call_stage

    earlier = {name: load_result(place) for name, place in stage["results"].items()}
    returned = None
    try:
        returned = call_stage(ready_function(order["entry"], workspace), order["config"], earlier, order["seed"], own)
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise
    save_result(returned, own)
    return returned


def _redirect_imports(rule: RedirectRule) -> None:
    """Make this process and its children import from the workspace what was installed from the user's tree.

    Live entries of `sys.path` change in place. Packages of editable finders come last, where the finder itself would
    have found them; only in PYTHONPATH, for the children, do they have to come first.
    """
    editables = redirect_editables(editable_targets(), rule)
    before = list(sys.path)
    sys.path[:] = redirect_paths(before, rule)
    first = [path for path in sys.path if path not in before] + editables
    sys.path.extend(path for path in editables if path not in sys.path)
    inherited = redirected_pythonpath(os.environ.get("PYTHONPATH", ""), first, rule)
    if inherited != os.environ.get("PYTHONPATH", ""):
        os.environ["PYTHONPATH"] = inherited


def _pretend_command_line(order: JobOrder) -> None:
    """Give `sys.orig_argv` (3.10) what the user's own command line would have there."""
    entry = order["entry"]
    words = {"script": [entry.get("path", "")], "module": ["-m", entry.get("module", "")]}
    words["code"] = ["-c", entry.get("code", "")]
    if hasattr(sys, "orig_argv"):
        command = words.get(entry["kind"], [])
        sys.orig_argv[:] = [sys.orig_argv[0], *order["interpreter_flags"], *command, *entry.get("args", [])]


def _write_returned(path: str, returned: object, wanted: dict[str, list[str]]) -> None:
    """Keep the numbers of a returned mapping or record for the worker, and what is wanted under a name of its own.

    Args:
        path: where to.
        returned: what the function returned; anything without named values leaves nothing.
        wanted: name to the names under which the returned value may have it, also as attributes.
    """
    numbers: dict[str, JsonValue] = {}
    items = _items_of(returned)
    for key, value in items or ():
        _keep_number(numbers, str(key), value)
    for name, aliases in wanted.items():
        for alias in aliases:
            if name not in numbers:
                _keep_number(numbers, name, numbers[alias] if alias in numbers else getattr(returned, alias, None))
    if items is not None or numbers:
        write_plain(path, numbers)


def _items_of(returned: object) -> Iterable[tuple[object, object]] | None:
    """Return the named values of a mapping, dataclass, named tuple or namespace; None for anything else."""
    if hasattr(returned, "items"):
        return returned.items()  # type: ignore[no-any-return]
    names = getattr(type(returned), "__dataclass_fields__", None) or getattr(type(returned), "_fields", None)
    if names is None and type(returned).__name__ in ("SimpleNamespace", "Namespace"):
        names = list(vars(returned))
    return None if names is None else [(name, getattr(returned, name, None)) for name in names]


def _keep_number(numbers: dict[str, JsonValue], name: str, value: object) -> None:
    number = value.item() if hasattr(value, "item") and getattr(value, "shape", ()) == () else value
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        numbers[name] = number


def _report_error(path: str, error: BaseException) -> None:
    """Write error.json; `sys.exit` with a number is no error, with a text it is one."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return
    try:
        from .exception import describe_exception

        _strip(error, set())
        _write_surely(path, describe_exception(error))
    except Exception:  # noqa: BLE001, S110 - an exception that cannot be rendered must still end the job its own way
        pass


def _write_surely(path: str, document: Mapping[str, JsonValue]) -> None:
    """Write a document, on a full disk into the space that the worker set aside for this."""
    try:
        write_plain(path, document)
    except OSError:
        os.unlink(os.path.join(os.path.dirname(path), "job-reserve.bin"))
        write_plain(path, document)


def _hide_our_frames() -> None:
    """Let the interpreter's own handling of the exception, and a hook of the user's, see no frame of ours."""
    hook = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        del frames
        _strip(error, set())
        hook(kind, error, error.__traceback__)

    sys.excepthook = excepthook


def _strip(error: BaseException, seen: set[int]) -> None:
    """Take our frames out of the tracebacks of the error, its causes, contexts and parts."""
    if id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _without_ours(error.__traceback__)
    parts = getattr(error, "exceptions", ())
    for other in (error.__cause__, error.__context__, *(parts if isinstance(parts, tuple) else ())):
        if isinstance(other, BaseException):
            _strip(other, seen)


def _without_ours(frames: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while frames is not None:
        if not frames.tb_frame.f_code.co_filename.startswith(OURS):
            kept.append(frames)
        else:
            while kept and kept[-1].tb_frame.f_code.co_filename.startswith(IMPORT_FRAMES):
                kept.pop()  # the import system removes its frames itself, but not in front of one of ours
        frames = frames.tb_next
    for this, following in zip(kept, [*kept[1:], None]):
        if this.tb_next is not following:  # each assignment walks the rest of the chain, looking for a loop
            this.tb_next = following
    return kept[0] if kept else None
