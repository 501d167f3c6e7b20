"""What was typed as what is asked for: the study or the command, and what is changed in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nemo_gitexp.commands.call import CALL
from nemo_gitexp.errors import UsageError

if TYPE_CHECKING:
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.jsontext import JsonValue


def study_and_changes(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the study and what is changed in it; beside a command no study is named."""
    if CALL.command is not None:
        return None, tuple(words)
    if not words:
        raise UsageError(
            "what is to be run?", hint="nemo-gitexp run STUDY [key=value…], or nemo-gitexp run -- COMMAND ARGS"
        )
    return words[0], tuple(words[1:])


def ask(
    study: str | None,
    changes: tuple[str, ...],
    *,
    base: str | None = None,
    seed: int | None = None,
    executor: str | None = None,
    determinism: str | None = None,
    message: str | None = None,
    purpose: str | None = None,
    commit_data: bool = False,
    require_clean: bool = False,
) -> Asked:
    """Return what was typed as what is asked for: a study or the command after `--`, and what is changed in it.

    Raises:
        UsageError: an unknown word for the determinism, or `base` names no experiment.
    """
    from nemo_gitexp.asked import Asked

    _require_determinism(determinism)
    return Asked(
        cwd=CALL.directory,
        env=os.environ,
        study=study,
        command=CALL.command,
        overrides=changes,
        base_config=_config_of(base),
        seed=seed,
        executor=executor,
        determinism=determinism,
        message=message,
        purpose=purpose,
        commit_data=commit_data,
        require_clean=require_clean,
    )


def _require_determinism(word: str | None) -> None:
    if word not in (None, "off", "seeded", "bitwise"):
        raise UsageError(f"--determinism {word} is none of off, seeded, bitwise", hint="--determinism seeded")


def _config_of(base: str | None) -> Mapping[str, JsonValue] | None:
    if base is None:
        return None
    from nemo_gitexp.catalog import document_of
    from nemo_gitexp.lookup import find_experiment

    site = CALL.site()
    return document_of(site, find_experiment(site.repository, base))["config"]
