"""What a function does, as one hash: its byte code, and the values and other functions that it refers to.

The same in every process and under every hash seed, wherever the function stands in whichever file. Byte code and not
source text: two lambdas on one line share their text, and comments decide nothing. It changes with Python's minor
version, and so does the environment that stands beside it in an identity.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import json
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from nemo_gitexp.errors import CanonicalFormError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.plainform import canonical_text, plain_value
from nemo_gitexp.reach import (
    DYNAMIC_ATTRIBUTES,
    DYNAMIC_MODULES,
    DYNAMIC_NAMES,
    DYNAMIC_OF,
    EVERYTHING,
    names_source,
)

_GLOBAL_OPERATIONS = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"}
)
_PLACES = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
)
_CLASS_BOOKKEEPING = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__annotate__",
        "__annotations_cache__",
    }
)


def fingerprint(function: Callable[..., object], carried_modules: AbstractSet[str]) -> tuple[str, list[str]]:
    """Return `sha256:…` of what a function does, and the names of the modules that it refers to, sorted.

    Args:
        function: any callable.
        carried_modules: names of modules whose functions and classes are carried by value; those of other modules
            count by name alone, for the code key or the environment knows what they are.
    """
    description = _Description(carried_modules)
    described = description.value(function)
    digest = "sha256:" + hashlib.sha256(canonical_text(described).encode()).hexdigest()
    referred = {name.partition(".")[0] for name in description.modules} - {"builtins"}  # which every class refers to
    everything = [EVERYTHING] if description.is_dynamic or referred & DYNAMIC_MODULES else []
    return digest, sorted({*description.modules, *everything})


_CONTAINERS = (dict, list, tuple, set, frozenset, MappingProxyType)


class _Description:
    """One walk over all that a function refers to; what was met before is named by its number."""

    def __init__(self, carried_modules: AbstractSet[str]) -> None:
        self._carried = carried_modules
        self._met: dict[int, tuple[int, object]] = {}
        self.modules: set[str] = set()
        self.is_dynamic = False

    def value(self, value: object) -> JsonValue:
        """Return a description of any value, which decides what it is."""
        if value is None or type(value) in (bool, int, float, str, bytes, complex):
            return [type(value).__name__, repr(value)]
        if id(value) in self._met:
            return ["again", self._met[id(value)][0]]
        self._met[id(value)] = (len(self._met), value)  # held: an id is nobody else's while its object lives
        for kinds, describe in self._forms:
            if isinstance(value, kinds):
                is_more = isinstance(value, _CONTAINERS) and type(value) not in _CONTAINERS
                return self._derived(value, describe(value)) if is_more else describe(value)
        if isinstance(value, (str, int, float, bytes, deque)):
            return self._derived(value, repr(value))
        return self._object(value)

    def _derived(self, value: object, content: JsonValue) -> JsonValue:
        """Return a container of a class of its own: with its class, and what else it is made of."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception as fault:  # noqa: BLE001 - carrying the function will say that it cannot be pickled
            return ["derived", self.value(type(value)), content, type(fault).__name__]
        more = reduced[1:3] if isinstance(reduced, tuple) else ()
        return ["derived", self.value(type(value)), content, [self.value(part) for part in more]]

    @property
    def _forms(self) -> tuple[tuple[type | tuple[type, ...], Callable[[object], JsonValue]], ...]:
        return (
            (types.ModuleType, lambda value: ["module", self._referred(str(getattr(value, "__name__", "")))]),
            (types.FunctionType, self._function),
            (types.MethodType, self._method),
            (types.CodeType, self._code),
            (type, self._class),
            (functools.partial, self._partial),
            ((staticmethod, classmethod), self._wrapped),
            (property, lambda value: ["property", [self.value(getattr(value, x)) for x in ("fget", "fset", "fdel")]]),
            (types.CellType, self._cell),
            (Mapping, self._mapping),
            ((list, tuple), lambda value: [type(value).__name__, [self.value(item) for item in _items(value)]]),
            (AbstractSet, self._set),
        )

    def _function(self, value: object) -> JsonValue:
        function = value
        if not isinstance(function, types.FunctionType):  # for the type checker: the table above has seen to it
            return None
        if not self._is_carried(function, function.__module__, function.__qualname__):
            return ["function", self._referred(function.__module__), function.__qualname__]
        closure = function.__closure__ or ()
        return [
            "function",
            self.value(function.__code__),
            [self.value(item) for item in function.__defaults__ or ()],
            self._named(function.__kwdefaults__ or {}),
            self._annotations(function.__annotations__),
            [self.value(cell) for cell in closure],
            self._named({name: function.__globals__[name] for name in _global_names(function)}),
            self._named(function.__dict__),
        ]

    def _annotations(self, annotations: Mapping[str, object]) -> JsonValue:
        shown = {name: inspect.formatannotation(hint) for name, hint in annotations.items()}
        return {name: text for name, text in sorted(shown.items()) if " at 0x" not in text}

    def _code(self, value: object) -> JsonValue:
        code = value
        if not isinstance(code, types.CodeType):
            return None
        self.modules |= _imported_names(code)
        self.is_dynamic = self.is_dynamic or _is_dynamic(code)
        names: JsonValue = [
            list(part) for part in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        ]
        counts: JsonValue = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        constants: list[JsonValue] = [self.value(item) for item in code.co_consts]
        table = getattr(code, "co_exceptiontable", b"").hex()
        return ["code", code.co_code.hex(), table, names, counts, constants]

    def _method(self, value: object) -> JsonValue:
        return ["method", self.value(getattr(value, "__func__", None)), self.value(getattr(value, "__self__", None))]

    def _wrapped(self, value: object) -> JsonValue:
        return [type(value).__name__, self.value(getattr(value, "__func__", None))]

    def _partial(self, value: object) -> JsonValue:
        call = value
        if not isinstance(call, functools.partial):
            return None
        return ["partial", self.value(call.func), [self.value(item) for item in call.args], self._named(call.keywords)]

    def _cell(self, value: object) -> JsonValue:
        try:
            return ["cell", self.value(getattr(value, "cell_contents"))]  # noqa: B009 - an empty cell raises ValueError
        except ValueError:
            return ["cell"]

    def _class(self, value: object) -> JsonValue:
        kind = value
        if not isinstance(kind, type):
            return None
        if not self._is_carried(kind, kind.__module__, kind.__qualname__):
            return ["class", self._referred(kind.__module__), kind.__qualname__]
        own = {
            name: item
            for name, item in vars(kind).items()
            if name not in _CLASS_BOOKKEEPING and not name.startswith("_abc_")
        }
        return ["class", kind.__qualname__, [self.value(base) for base in kind.__bases__], self._named(own)]

    def _mapping(self, value: object) -> JsonValue:
        pairs = value.items() if isinstance(value, Mapping) else ()
        rows: list[JsonValue] = [[self.value(key), self.value(item)] for key, item in pairs]
        return [type(value).__name__, rows]

    def _set(self, value: object) -> JsonValue:
        items: list[JsonValue] = [self.value(item) for item in _items(value)]
        return [type(value).__name__, sorted(items, key=json.dumps)]

    def _named(self, named: Mapping[str, object]) -> JsonValue:
        return {name: self.value(named[name]) for name in sorted(named)}

    def _object(self, value: object) -> JsonValue:
        """Return an object by its plain form, else by its class and attributes, else by its pickle."""
        kind = self.value(type(value))
        try:
            return ["plain", kind, plain_value(value)]
        except CanonicalFormError:
            pass
        is_ordinary = type(value).__reduce_ex__ is object.__reduce_ex__ and type(value).__reduce__ is object.__reduce__
        if is_ordinary and hasattr(value, "__dict__") and not hasattr(type(value), "__slots__"):
            return ["object", kind, self._named(vars(value))]
        return ["pickle", kind, _pickle_hash(value)]

    def _referred(self, module: str) -> str:
        self.modules.add(module)
        return module

    def _is_carried(self, value: object, module: str | None, qualified_name: str) -> bool:
        """Return whether something is carried by value; a wrapper has the name of what it wraps, and is another."""
        if module is None or module in self._carried or "<" in qualified_name:
            return True
        return _found(sys.modules.get(module), qualified_name) is not value


def _items(value: object) -> Iterator[object]:
    return iter(value)  # type: ignore[call-overload,no-any-return]  # lists, tuples and sets alone come here


def _found(module: object, qualified_name: str) -> object:
    for part in qualified_name.split("."):
        module = getattr(module, part, None)
    return module


def _is_dynamic(code: types.CodeType) -> bool:
    """Return whether byte code may run or import what it does not name, or reads files of the repository as text."""
    loaded: set[str] = set()
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in _GLOBAL_OPERATIONS:
            loaded.add(str(step.argval))
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes.add(str(step.argval))
    named = {*loaded, *attributes}
    begins = [word for module, words in DYNAMIC_OF.items() if module in code.co_names for word in words]
    texts = [item for item in code.co_consts if isinstance(item, str)]
    return (
        bool(loaded & DYNAMIC_NAMES or attributes & DYNAMIC_ATTRIBUTES)
        or any(name.startswith(tuple(begins)) for name in named if begins)
        or any(names_source(text) or text.endswith((".md", ".rst", ".ipynb")) for text in texts)
    )


def _imported_names(code: types.CodeType) -> set[str]:
    """Return the modules that byte code imports when it runs; a name taken from a package may be a module, too."""
    names: set[str] = set()
    package = ""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            package = str(step.argval)
            names.add(package)
        elif step.opname == "IMPORT_FROM":
            names.add(f"{package}.{step.argval}")
    return names


def _global_names(function: types.FunctionType) -> list[str]:
    """Return the module's own names that a function or a function inside it refers to, sorted."""
    names: set[str] = set()
    waiting: list[types.CodeType] = [function.__code__]
    while waiting:
        code = waiting.pop()
        names |= {str(step.argval) for step in dis.get_instructions(code) if step.opname in _GLOBAL_OPERATIONS}
        waiting += [item for item in code.co_consts if isinstance(item, types.CodeType)]
    return sorted((names & function.__globals__.keys()) - _PLACES)


def _pickle_hash(value: object) -> str:
    import cloudpickle

    try:
        return hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
    except Exception as fault:  # noqa: BLE001 - carrying the function will say that it cannot be pickled
        return f"{type(fault).__name__}"
