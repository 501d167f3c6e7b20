"""What a stage returns, as files: mappings, lists, texts, numbers, numpy arrays, torch tensors and paths.

`value.json` holds everything but arrays and tensors, which lie beside it as `.npy`. The same value gives the same
bytes. numpy and torch are used only where a value of theirs is there already.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
from collections import OrderedDict
from importlib import import_module
from pathlib import Path, PurePath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Mapping

RESULT = "result"
"""Where below its outputs a stage's result lies."""

VALUE_FILE = "value.json"
MOST_DEPTH = 100
TENSOR_VIEWS = {
    "torch.bfloat16": "int16",
    "torch.float8_e4m3fn": "uint8",
    "torch.float8_e4m3fnuz": "uint8",
    "torch.float8_e5m2": "uint8",
    "torch.float8_e5m2fnuz": "uint8",
}
"""Types that numpy has not: stored as the bits of another, under their own name."""


class StageResultError(TypeError):
    """A stage returned something that cannot be handed to another process; the message names where it stands."""


def save_result(value: object, outputs: str) -> None:
    """Write the value into `result` below the directory of the stage's outputs, which must not hold one yet.

    Args:
        value: what a stage returned.
        outputs: the directory; paths below it are stored relative to it.

    Raises:
        StageResultError: a value of a kind that no file stands for.
        OSError: it cannot be written.
    """
    directory = os.path.join(outputs, RESULT)
    os.makedirs(directory)
    document = {"schema": 1, "value": _Saver(directory, outputs).plain(value, "result", 0)}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with open(os.path.join(directory, VALUE_FILE), "w", encoding="utf-8") as file:
        file.write(text)


def load_result(outputs: str) -> object:
    """Return the value that `save_result` wrote.

    Args:
        outputs: where the stage's outputs lie now.

    Raises:
        OSError: it is not there.
        ValueError: it is damaged.
    """
    directory = os.path.join(outputs, RESULT)
    with open(os.path.join(directory, VALUE_FILE), encoding="utf-8") as file:
        document = json.load(file)
    return _Loader(directory, outputs).value(document["value"])


class _Saver:
    """Turns one value into JSON and files."""

    def __init__(self, directory: str, outputs: str) -> None:
        self._directory = directory
        self._outputs = outputs
        self._files = 0

    def plain(self, value: object, where: str, depth: int) -> object:
        if depth > MOST_DEPTH:
            raise StageResultError(f"{where} is nested deeper than {MOST_DEPTH}, or contains itself")
        if value is None or type(value) in (bool, int):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        # Exactly these: of a subclass the rest of what it is would be lost in silence.
        convert = self._forms().get(type(value))
        if convert is not None:
            return convert(value, where, depth + 1)
        return self._path(value, where) if isinstance(value, PurePath) else self._foreign(value, where)

    def _forms(self) -> dict[type, Callable[[Any, str, int], object]]:
        return {
            str: self._text,
            dict: self._mapping,
            OrderedDict: lambda value, where, depth: {"$ordered": self._pairs(value, where, depth)},
            list: self._items,
            tuple: lambda value, where, depth: {"$tuple": self._items(value, where, depth)},
            set: lambda value, where, depth: {"$set": self._members(value, where, depth)},
            frozenset: lambda value, where, depth: {"$frozenset": self._members(value, where, depth)},
            bytes: lambda value, *_: {"$bytes": base64.b64encode(value).decode()},
        }

    def _text(self, value: str, where: str, _depth: int) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as fault:
            raise StageResultError(f"{where} holds half of a surrogate pair, which is no text") from fault
        return value

    def _mapping(self, value: dict[object, object], where: str, depth: int) -> object:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.plain(item, f"{where}[{key!r}]", depth) for key, item in value.items()}
        return {"$mapping": self._pairs(value, where, depth)}

    def _pairs(self, value: Mapping[object, object], where: str, depth: int) -> list[object]:
        return [
            [self.plain(key, f"a key of {where}", depth), self.plain(item, f"{where}[{key!r}]", depth)]
            for key, item in value.items()
        ]

    def _items(self, value: list[object], where: str, depth: int) -> list[object]:
        return [self.plain(item, f"{where}[{at}]", depth) for at, item in enumerate(value)]

    def _members(self, value: Iterable[object], where: str, depth: int) -> list[object]:
        items = [self.plain(item, f"an item of {where}", depth) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))

    def _path(self, value: PurePath, where: str) -> object:
        inside = os.path.join(os.path.realpath(self._outputs), "")
        absolute = os.path.realpath(str(value))
        if not os.path.join(absolute, "").startswith(inside):
            raise StageResultError(
                f"{where} is a path outside of the stage's outputs: {value}; what lies there is not kept"
            )
        return {"$path": absolute[len(inside) :] or "."}

    def _foreign(self, value: Any, where: str) -> object:
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
            return self._tensor(value, where)
        if numpy is not None and type(value) is getattr(numpy, "ndarray", None):
            return {"$array": self._array(numpy, value, where)}
        if numpy is not None and isinstance(value, getattr(numpy, "generic", ())):
            return {"$scalar": self._array(numpy, numpy.asarray(value), where)}
        kind = f"{type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
        raise StageResultError(
            f"{where} is of type {kind}, which no file stands for; return mappings, lists, numbers, texts, numpy "
            "arrays, torch tensors (a module's state_dict()) or paths of files below the outputs"
        )

    def _array(self, numpy: Any, value: Any, where: str) -> str:
        if value.dtype.hasobject:
            raise StageResultError(f"{where} is an array of Python objects, which no file stands for")
        name = f"{self._files}.npy"
        self._files += 1
        # Not ascontiguousarray, which makes a one-dimensional array of a scalar one.
        numpy.save(os.path.join(self._directory, name), numpy.asarray(value, order="C"), allow_pickle=False)
        return name

    def _tensor(self, value: Any, where: str) -> object:
        torch = sys.modules["torch"]
        if value.layout is not torch.strided or value.is_quantized:
            raise StageResultError(f"{where} is a sparse or quantised tensor; return it dense")
        view = TENSOR_VIEWS.get(str(value.dtype))
        try:
            plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            array = (plain.view(getattr(torch, view)) if view else plain).numpy()
        except (RuntimeError, TypeError) as fault:
            raise StageResultError(f"{where} is a tensor that has no array: {fault}") from fault
        return {"$tensor": self._array(import_module("numpy"), array, where), "dtype": str(value.dtype)}


class _Loader:
    """Turns JSON and files back into the value."""

    def __init__(self, directory: str, outputs: str) -> None:
        self._directory = directory
        self._outputs = outputs

    def value(self, plain: Any) -> object:
        if isinstance(plain, list):
            return [self.value(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        for tag, restore in self._tags().items():
            if tag in plain:
                return restore(plain)
        return {key: self.value(item) for key, item in plain.items()}

    def _tags(self) -> dict[str, Callable[[Any], object]]:
        return {
            "$float": lambda plain: float(plain["$float"]),
            "$mapping": lambda plain: {self.value(key): self.value(item) for key, item in plain["$mapping"]},
            "$ordered": lambda plain: OrderedDict(
                (self.value(key), self.value(item)) for key, item in plain["$ordered"]
            ),
            "$tuple": lambda plain: tuple(self.value(item) for item in plain["$tuple"]),
            "$set": lambda plain: {self.value(item) for item in plain["$set"]},
            "$frozenset": lambda plain: frozenset(self.value(item) for item in plain["$frozenset"]),
            "$bytes": lambda plain: base64.b64decode(plain["$bytes"]),
            "$path": self._path,
            "$array": lambda plain: self._array(plain["$array"]),
            "$scalar": lambda plain: self._array(plain["$scalar"])[()],
            "$tensor": self._tensor,
        }

    def _path(self, plain: dict[str, str]) -> Path:
        return Path(os.path.normpath(os.path.join(self._outputs, plain["$path"])))

    def _array(self, name: str) -> Any:
        return import_module("numpy").load(os.path.join(self._directory, os.path.basename(name)), allow_pickle=False)

    def _tensor(self, plain: dict[str, str]) -> object:
        torch = import_module("torch")
        tensor = torch.from_numpy(self._array(plain["$tensor"]))
        kind = plain["dtype"]
        return tensor.view(getattr(torch, kind.rpartition(".")[2])) if kind in TENSOR_VIEWS else tensor
