"""The command line as a whole: which verbs there are, what they share, and what it costs to name them all."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from nemo_gitexp.cli import app

IN_ORDER = [
    "init",
    "run",
    "sweep",
    "launch",
    "reproduce",
    "probe",
    "status",
    "logs",
    "cancel",
    "collect",
    "log",
    "show",
    "outputs",
    "checkout",
    "diff",
    "push",
    "pull",
    "config",
    "doctor",
    "import",
]
ASKED_FOR = "determinism", "message", "purpose", "base", "again", "commit_data", "require_clean", "executor", "keep"


@pytest.fixture(scope="module")
def verbs() -> dict[str, Any]:
    return typer.main.get_command(app).commands


def test_verbs_are_listed_in_the_order_of_the_work(verbs):
    assert list(verbs) == IN_ORDER


def test_every_verb_says_what_it_does_and_shows_an_example(verbs):
    for name, verb in verbs.items():
        assert verb.help, name
        assert f"nemo-gitexp {name}" in verb.epilog, name


def test_what_run_and_sweep_are_asked_is_asked_in_the_same_words(verbs):
    run, sweep = ({item.name: item for item in verbs[name].params} for name in ("run", "sweep"))
    for name in ASKED_FOR:
        told = [(item.opts, item.help, item.metavar, item.default) for item in (run[name], sweep[name])]
        assert told[0] == told[1], name


def test_naming_all_verbs_imports_none_of_them():
    code = "import nemo_gitexp.cli, sys; print(*(name for name in sys.modules if name.startswith('nemo_gitexp.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert rooms == {"cli", "commands", "console", "documents", "errors", "jsontext", "metrics", "report"}
