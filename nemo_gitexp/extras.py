"""What some kinds of executors need beside NeMo Run, and whether it is installed; nothing is imported."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of the package nemo_run, and the module that it brings."""

    name: str
    module: str

    @property
    def command(self) -> str:
        """What installs it into this interpreter."""
        return f"{shlex.quote(sys.executable)} -m pip install 'nemo_run[{self.name}]'"


EXTRAS: Final[Mapping[str, Extra]] = {
    "skypilot": Extra("skypilot", "sky"),
    "kubeflow": Extra("kubeflow", "kubernetes"),
    "kuberay": Extra("ray", "kubernetes"),
}
"""By kind of executor."""


def missing_extra(kind: str) -> Extra | None:
    """Return the extra that a kind of executor needs and this interpreter has not; None: nothing is missing."""
    extra = EXTRAS.get(kind)
    return None if extra is None or _is_importable(extra.module) else extra


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
