"""Functions as bytes: what a function is, pickled by value, without this machine's paths; and its source for readers.

What a job can import goes by reference, and so is not in the bytes; everything else that the function refers to is.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from nemo_gitexp.errors import UnportableFunctionError

PICKLE_PROTOCOL = 4
"""The newest that Python 3.7 reads; byte code ties a carried function to one minor version anyway."""


@dataclass(frozen=True, slots=True)
class CarriedFunction:
    """A pickled function; `modules` are those whose definitions are in it by value, `source` is UTF-8 text."""

    content: bytes
    source: bytes | None
    modules: frozenset[str]


def carry_function(
    function: Callable[..., object], root: Path, is_there: Callable[[types.ModuleType], bool]
) -> CarriedFunction:
    """Return a function by value.

    Args:
        function: anything that can be called.
        root: what paths are made relative to.
        is_there: whether a job can import a module.

    Raises:
        UnportableFunctionError: something that it refers to cannot be pickled, or is a module that no job has.
    """
    carried: dict[str, types.ModuleType] = {}
    stream = io.BytesIO()
    try:
        with _by_value(carried), _RelativeFiles(root) as files:
            _pickler(stream, root, is_there, carried, files).dump(function)
    except Exception as fault:
        # Whatever a value's own way of pickling raises: locks, sockets, open files, generators, …
        raise UnportableFunctionError(
            f"{function_name(function)} cannot be given to a job: {_reason(function, fault)}",
            hint="define it at the top level of a module, and make such things inside it",
            function=function_name(function),
        ) from fault
    return CarriedFunction(stream.getvalue(), _source(function), frozenset({"__main__", *carried}))


def function_name(function: object) -> str:
    """Return what to call a function in a message."""
    if isinstance(function, functools.partial):
        return f"partial of {function_name(function.func)}"
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


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
def _by_value(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Let cloudpickle forget afterwards that it was to carry these modules by value; they are added meanwhile."""
    import cloudpickle

    try:
        yield
    finally:
        for module in modules.values():
            cloudpickle.unregister_pickle_by_value(module)


def _pickler(
    stream: io.BytesIO,
    root: Path,
    is_there: Callable[[types.ModuleType], bool],
    carried: dict[str, types.ModuleType],
    files: _RelativeFiles,
) -> pickle.Pickler:
    """Return a pickler that carries what no job has, and names files relative to the root, others by name alone."""
    import cloudpickle

    reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]
    looked_at = {"__main__", *cloudpickle.list_registry_pickle_by_value()}

    def reduce_relative(code: types.CodeType) -> object:
        return reduce_code(code.replace(co_filename=_relative(code.co_filename, root)))

    class Carrier(cloudpickle.Pickler):  # type: ignore[misc]  # untyped; the table must be there when it is made
        dispatch_table: ClassVar = ChainMap({types.CodeType: reduce_relative}, cloudpickle.Pickler.dispatch_table)

        def reducer_override(self, value: object) -> object:
            module = _module_of(value)
            if module is not None and module.__name__ not in looked_at:
                looked_at.add(module.__name__)
                if not is_there(module):
                    carried[module.__name__] = module
                    cloudpickle.register_pickle_by_value(module)
            if isinstance(value, types.ModuleType) and value.__name__ in carried:
                raise pickle.PicklingError(
                    f"the module {value.__name__} is neither in the repository nor in an installed package"
                )
            is_inner = "<" in str(getattr(value, "__qualname__", ""))
            if isinstance(value, types.FunctionType) and (is_inner or value.__module__ in ("__main__", *carried)):
                files.hide(value.__globals__)
            return super().reducer_override(value)

    made: pickle.Pickler = Carrier(stream, protocol=PICKLE_PROTOCOL)
    return made


def _module_of(value: object) -> types.ModuleType | None:
    if isinstance(value, types.ModuleType):
        return value
    if isinstance(value, (type, types.FunctionType)):
        return sys.modules.get(str(value.__module__))
    return None


class _RelativeFiles:
    """Lets modules have a relative `__file__` for a while, which carried functions take along.

    In the job an absolute one would lead them to the live work tree; relative, it leads to the recorded one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before: dict[int, tuple[dict[str, object], str]] = {}

    def hide(self, names: dict[str, object]) -> None:
        """Make the `__file__` among a module's names relative."""
        file = names.get("__file__")
        if isinstance(file, str) and id(names) not in self._before:
            self._before[id(names)] = (names, file)
            names["__file__"] = _relative(file, self._root)

    def __enter__(self) -> Self:
        """Hide nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give every module its own back."""
        for names, file in self._before.values():
            names["__file__"] = file


def _relative(file: str, root: Path) -> str:
    if file.startswith("<"):
        return file
    path = Path(os.path.realpath(file))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
