"""The data that belongs to an experiment, object by object: what travels with it, and what stays where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from nemo_gitexp.inputpin import InputPin, OutputOrigin
from nemo_gitexp.result import mapping, mappings
from nemo_gitexp.store import Experiment

Kind: TypeAlias = Literal["input", "output", "stream", "log"]


@dataclass(frozen=True, slots=True)
class Belonging:
    """One object of an experiment's data.

    Attributes:
        kind: what it is to the experiment.
        md5: its name; a directory ends in `.dir`.
        called: what people call it: a path, or `log`.
        pin: the pointer of DVC behind it; None: it lies in our own store.
        is_vital: without it the experiment is not whole; a log is none.
        remedy: the command that makes it again, or brings it here.
    """

    kind: Kind
    md5: str
    called: str
    remedy: str
    pin: InputPin | None = None
    is_vital: bool = True


def belongings_of(experiment: Experiment) -> list[Belonging]:
    """Return what travels with an experiment: pinned inputs, kept outputs, long metric streams, the log."""
    contents = [pin for pin in experiment.record.inputs if pin.strength == "content"]
    return [*map(_of_input, contents), *_of_outputs(experiment), *_of_streams(experiment), *_of_log(experiment)]


def _of_input(pin: InputPin) -> Belonging:
    if isinstance(pin.origin, OutputOrigin):
        return Belonging("input", pin.pin, pin.path, f"nemo-gitexp reproduce {pin.origin.experiment[:12]}")
    return Belonging("input", pin.pin, pin.path, f"dvc pull {pin.path}, or dvc add {pin.path} where it is", pin)


def _of_outputs(experiment: Experiment) -> list[Belonging]:
    made = mappings((experiment.result or {}).get("outputs"))
    again = f"nemo-gitexp reproduce {experiment.sha[:12]}"
    return [
        Belonging("output", str(item["md5"]), str(item.get("path")), again)
        for item in made
        if item.get("keep") == "dvc" and isinstance(item.get("md5"), str)
    ]


def _of_streams(experiment: Experiment) -> list[Belonging]:
    result = experiment.result or {}
    whole = mapping(result.get("stream")).get("pin")
    found = (
        [Belonging("stream", whole, "the metric stream", "push it from where it ran")] if isinstance(whole, str) else []
    )
    for task in mappings(result.get("tasks")):
        stream = task.get("stream")
        if isinstance(stream, str):
            found.append(Belonging("stream", stream, f"the metric stream of {task.get('name')}", "", is_vital=False))
    return found


def _of_log(experiment: Experiment) -> list[Belonging]:
    pin = mapping((experiment.run or {}).get("log")).get("pin")
    return [Belonging("log", pin, "the log", "", is_vital=False)] if isinstance(pin, str) else []


def staying_data(experiment: Experiment) -> list[str]:
    """Return what never travels, by its path: data pinned by their listing, outputs kept in place."""
    inputs = [pin.path for pin in experiment.record.inputs if pin.strength == "manifest"]
    outputs = mappings((experiment.result or {}).get("outputs"))
    return inputs + [str(item.get("path")) for item in outputs if item.get("keep") == "in-place"]
