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


EXTRAS: Final[Mapping[str, tuple[Extra, ...]]] = {
    "skypilot": (Extra("skypilot", "sky"),),
    "kubeflow": (Extra("kubeflow", "kubernetes"),),
    "kuberay": (Extra("ray", "kubernetes"), Extra("ray", "ray")),
}
"""By kind of executor."""


def missing_extra(kind: str) -> Extra | None:
    """Return the extra that a kind of executor needs and this interpreter has not; None: nothing is missing."""
    for extra in EXTRAS.get(kind, ()):
        try:
            found = importlib.util.find_spec(extra.module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            return extra
    return None
