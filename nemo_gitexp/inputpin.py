"""One pinned input as a value: what its content must be, how strongly that is known, and where it came from.

Pure. Who makes pins: `data.pins` (DVC), `data.manifest`, `upstream` (outputs of experiments), `hub`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from nemo_gitexp.addresses import COMMIT, HubAddress, address_fault
from nemo_gitexp.definition import InputSpec
from nemo_gitexp.fields import HASH, MD5, SHA, FieldReader
from nemo_gitexp.jsontext import JsonValue

STRENGTHS: Final = ("content", "manifest", "named")
_REPO_TYPES: Final = ("model", "dataset", "space")


@dataclass(frozen=True, slots=True)
class OutputOrigin:
    """An output of another experiment.

    Attributes:
        asked: the address as it was written; it may name another experiment by now (`latest`).
        experiment: record commit, full hex.
        result: result commit whose output it is.
        study: of that experiment.
        name: of that experiment.
        output: path of the output, or of a file in an output that is a directory.
    """

    asked: str
    experiment: str
    result: str
    study: str
    name: str
    output: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json."""
        return {
            "kind": "exp",
            "asked": self.asked,
            "experiment": self.experiment,
            "result": self.result,
            "study": self.study,
            "name": self.name,
            "output": self.output,
        }


@dataclass(frozen=True, slots=True)
class HubOrigin:
    """A repository of the hub; the address's revision is the commit that it was resolved to.

    Attributes:
        asked: the address as it was written.
        address: the same with a full commit sha as its revision.
        allow: patterns of the files that are wanted; empty: all.
    """

    asked: str
    address: HubAddress
    allow: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json."""
        return {
            "kind": "hf",
            "asked": self.asked,
            "repo": self.address.repo,
            "repo_type": self.address.repo_type,
            "revision": self.address.revision,
            "path": self.address.path,
            "allow": list(self.allow),
        }

    @property
    def pin(self) -> str:
        """What is the same only for the same files: the resolved address, and the patterns."""
        return str(self.address) + (f"?allow={','.join(self.allow)}" if self.allow else "")


Origin: TypeAlias = OutputOrigin | HubOrigin


@dataclass(frozen=True, slots=True)
class InputPin:
    """One input and the content it must have.

    Attributes:
        path: where it lies, POSIX, normalised, relative to the repository root.
        pin: content: md5, 32 lower-case hex, directories end in `.dir`; manifest: `sha256:<64 hex>` of the listing;
            named: the address with an immutable revision.
        size_bytes: of the whole input; None where nobody says.
        n_files: 1 for a file; None where nobody says.
        strength: content | manifest | named.
        source: the file of the repository that pins it; empty where none does.
        stage: the stage of `dvc.lock` that makes it; None for `.dvc` files.
        executable: the pointer asks for the executable bit.
        origin: where it came from when it is no data of this repository.
    """

    path: str
    pin: str
    size_bytes: int | None
    n_files: int | None
    strength: str = "content"
    source: str = ""
    stage: str | None = None
    executable: bool = False
    origin: Origin | None = None

    @property
    def is_dir(self) -> bool:
        """Whether the content is a directory, listed in one `.dir` object."""
        return self.pin.endswith(".dir")

    @property
    def spec(self) -> InputSpec:
        """The entry of a definition that asks for it."""
        if self.origin is None:
            return InputSpec(self.path, "manifest" if self.strength == "manifest" else "content")
        allow = self.origin.allow if isinstance(self.origin, HubOrigin) else ()
        return InputSpec(self.path, "named" if self.strength == "named" else "content", self.origin.asked, allow)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of experiment.json; `parse_input_pin` reads it back."""
        document: dict[str, JsonValue] = {
            "path": self.path,
            "pin": self.pin,
            "strength": self.strength,
            "size_bytes": self.size_bytes,
            "n_files": self.n_files,
            "source": self.source,
            "stage": self.stage,
            "executable": self.executable,
        }
        return document | ({"origin": self.origin.to_json()} if self.origin else {})


def parse_input_pin(fields: FieldReader) -> InputPin:
    """Return the pin that `InputPin.to_json` rendered; what is wrong with it is noted in the reader."""
    strength = fields.choice("strength", STRENGTHS)
    path = fields.text("path")
    if not is_inside(path):
        fields.fault(f"the path of an input leaves the repository: {path!r}")
    origin = _parse_origin(fields.section_or_none("origin"))
    pin = fields.text("pin")
    shape = {"content": MD5, "manifest": HASH}.get(strength)
    named = origin.pin if isinstance(origin, HubOrigin) else None
    if not (shape.fullmatch(pin) if shape else pin == named):
        fields.fault(f"the pin of {path} is none of strength {strength}: {pin!r}")
    return InputPin(
        path=path,
        pin=pin,
        size_bytes=fields.number_or_none("size_bytes"),
        n_files=fields.number_or_none("n_files"),
        strength=strength,
        source=fields.text("source"),
        stage=fields.text_or_none("stage"),
        executable=fields.flag("executable"),
        origin=origin,
    )


def is_inside(path: str) -> bool:
    """Return whether a path is one of the repository's, in the one way to write it."""
    outside = path in ("", ".", "..") or path.startswith(("/", "../", ".git/")) or "\0" in path
    return not outside and posixpath.normpath(path) == path


def input_files(pins: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs by the last part of their path, which is what commands call them; ambiguous ones are left out.

    Args:
        pins: where each input lies, by its path in the repository.
    """
    named = [(posixpath.basename(path), place) for path, place in pins.items()]
    names = [name for name, _ in named]
    return {name: place for name, place in named if names.count(name) == 1}


def _parse_origin(fields: FieldReader | None) -> Origin | None:
    if fields is None:
        return None
    if fields.choice("kind", ("exp", "hf")) == "exp":
        return OutputOrigin(
            asked=fields.text("asked"),
            experiment=fields.matching("experiment", SHA),
            result=fields.matching("result", SHA),
            study=fields.text("study"),
            name=fields.text("name"),
            output=fields.text("output"),
        )
    address = HubAddress(
        repo=fields.text("repo"),
        repo_type=fields.choice("repo_type", _REPO_TYPES),
        revision=fields.matching("revision", COMMIT),
        path=fields.text("path"),
    )
    if fault := address_fault(str(address)):
        fields.fault(f"an input {fault}")
    return HubOrigin(fields.text("asked"), address, fields.texts("allow"))
