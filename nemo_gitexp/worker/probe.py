"""Asks the interpreter behind a wrapped command (bash, uv run, torchrun) for its packages and import paths."""

from __future__ import annotations

import json
import os
import subprocess

from .redirect import RedirectRule, redirect_editables, redirect_paths, redirected_pythonpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import JsonValue, Plan

TIMEOUT_S = 60.0


class Probed:
    """What the interpreter said: its environment document, and the PYTHONPATH that keeps the live tree out."""

    __slots__ = ("document", "pythonpath")

    def __init__(self, document: dict[str, JsonValue] | None, pythonpath: str) -> None:
        self.document = document
        self.pythonpath = pythonpath


def probe_environment(plan: Plan, env: Mapping[str, str]) -> Probed:
    """Run the probe in the job's own environment; an interpreter that cannot answer has no document."""
    unchanged = env.get("PYTHONPATH", "")
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "environment.py")
    try:
        done = subprocess.run(
            [str(plan["probe_interpreter"]), program, "--job", "--paths"],
            cwd=plan["cwd"],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=True,
        )
        document: dict[str, JsonValue] = json.loads(done.stdout.decode())
    except (OSError, subprocess.SubprocessError, ValueError):
        return Probed(None, unchanged)
    paths, editables, prefixes = (document.pop(name, None) for name in ("import_paths", "editables", "prefixes"))
    trusted = [*plan["trusted_roots"], plan["run_dir"], *map(str, prefixes or [])]  # type: ignore[arg-type]
    rule = RedirectRule(plan["user_root"], plan["workspace"], trusted)
    before = list(map(str, paths or []))  # type: ignore[arg-type]
    first = [path for path in redirect_paths(before, rule) if path not in before]
    first += redirect_editables(editables or {}, rule)  # type: ignore[arg-type]
    return Probed(document, redirected_pythonpath(unchanged, first, rule))
