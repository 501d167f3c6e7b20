"""What is said about data that cannot be restored: which, what has become of them, and the command that helps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from nemo_gitexp.data.manifest import Change
from nemo_gitexp.errors import DataDriftError, MissingDataError
from nemo_gitexp.inputpin import InputPin, OutputOrigin

NAMED_AT_MOST: Final = 20
_CHANGES_NAMED: Final = 5
_DRIFT_AT_MOST: Final = 100


def missing_output(origin: OutputOrigin, *, corrupt: Sequence[str] = ()) -> MissingDataError:
    """Return the error that an output of an experiment is not on this machine, with the command that makes it again."""
    aside = f"; corrupt copies: {', '.join(corrupt)}" if corrupt else ""
    return MissingDataError(
        f"the content of the output {origin.output} of {origin.study}/{origin.name} is not on this machine{aside}",
        hint=f"nemo-gitexp reproduce {origin.experiment[:12]} makes it again and keeps it",
        missing=[origin.output],
        experiment=origin.experiment,
        corrupt=list(corrupt),
    )


def drifted(pin: InputPin, changes: Sequence[Change]) -> DataDriftError:
    """Return the error that data pinned by a manifest are others now, naming what changed as far as that is known."""
    named = "; ".join(f"{change.name}: {change.words}" for change in changes[:_CHANGES_NAMED])
    more = f" and {len(changes) - _CHANGES_NAMED} more" if len(changes) > _CHANGES_NAMED else ""
    what = f": {named}{more}" if changes else " (names, sizes, times)"
    return DataDriftError(
        f"{pin.path} has another listing than recorded{what}",
        hint=f"bring {shlex.quote(pin.path)} back as it was, its modification times too (cp -p, rsync -t)",
        path=pin.path,
        paths=[pin.path],
        drift=[
            {"kind": "data", "name": f"{pin.path}/{change.name}", "recorded": change.recorded, "here": change.here}
            for change in changes[:_DRIFT_AT_MOST]
        ]
        or [{"kind": "data", "name": pin.path, "recorded": pin.pin, "here": None}],
    )


def commands_for(missing: Sequence[InputPin]) -> str:
    """Return the commands that bring missing inputs here, or make them again."""
    outputs = [pin.origin.experiment for pin in missing if isinstance(pin.origin, OutputOrigin)]
    again = [f"nemo-gitexp reproduce {sha[:12]}" for sha in dict.fromkeys(outputs)]
    missing = [pin for pin in missing if pin.origin is None]
    if not missing:
        return "; ".join(again)
    return "; ".join((_dvc_commands(missing), *again))


def _dvc_commands(missing: Sequence[InputPin]) -> str:
    pull = f"dvc pull {shlex.join(pin.path for pin in missing[:NAMED_AT_MOST])}"
    stages = sorted({pin.stage for pin in missing if pin.stage is not None})
    return f"{pull}; or: dvc repro {shlex.join(stages)}" if stages else pull
