"""Names that can stand in a git ref, and the two name forms of the guide. No refs are read or written here.

A slug loses information only with a trace: whatever had to be replaced or cut leaves eight hex digits of the
original's SHA-256 behind, so that different inputs never silently share a name.
"""

from __future__ import annotations

import hashlib
import operator
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import SupportsIndex

from nemo_gitexp.errors import InvalidNameError

MAX_SLUG = 64
MAX_NAME = 100
"""Leaves room for `_v<hash>` and `-2` below the 120 characters of a ref component."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{8}_[0-9]{6}", re.ASCII)
_SHORT_PART = 24  # 15 for the time, 3 underscores, 3 parts, 9 for a hash: 99


def slug(text: str, *, limit: int = MAX_SLUG) -> str:
    """Return a name made of `[a-z0-9][a-z0-9._-]*`, at most `limit` long, valid in any git ref.

    A text that is such a name already is returned unchanged; any other one gets `-<8 hex>` at its end.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", plain)
    name = re.sub(r"\.{2,}", ".", name).lstrip("._-").rstrip(".")
    while name.endswith(".lock"):
        name = name.removesuffix(".lock").rstrip(".") + "-lock"
    if name and name == text and len(name) <= limit:
        return name
    kept = name[: limit - 9].rstrip("._-") or "x"
    return f"{kept}-{_short_hash(text)}"


def require_name(text: str, what: str, *, limit: int = MAX_SLUG) -> str:
    """Return the name unchanged when it can stand in a git ref.

    Args:
        text: what the user typed: ASCII letters, digits, `.`, `_` and `-`.
        what: what it names, for the message ("study").
        limit: longest name accepted.

    Raises:
        InvalidNameError: anything else, with the slug as `suggestion`; also what is no text.
    """
    given: object = text
    if not isinstance(given, str):
        raise _no_text(given, what)
    fault = _name_fault(text, limit)
    if fault is None:
        return text
    shown = repr(text if len(text) <= MAX_SLUG else text[:MAX_SLUG] + "…")
    suggestion = slug(text, limit=limit)
    raise InvalidNameError(
        f"{shown} is no name for a {what}: {fault}", hint=f"for instance {suggestion}", suggestion=suggestion
    )


class ExperimentNaming:
    """The guide's names of experiments and tasks."""

    @staticmethod
    def create_experiment_name(
        model_type: str, dataset: str, experiment_type: str, timestamp: datetime | str | None = None
    ) -> str:
        """Return `YYYYMMDD_HHMMSS_model_dataset_type`, in UTC, valid as a git ref component.

        A model or dataset with an underscore would make two splittings read alike (`a_b` + `c`, `a` + `b_c`):
        such a name ends in `-<8 hex>` of all three parts.

        Args:
            model_type: any text with something visible in it; slugged.
            dataset: the same.
            experiment_type: the same.
            timestamp: aware times are converted to UTC, naive ones are UTC; text as `YYYYMMDD_HHMMSS` or ISO 8601.
                None is now: the one place of this room that reads the clock, because the guide's signature asks for it.

        Raises:
            InvalidNameError: an empty part, a part that is no text, a time that is none.
        """
        parts = (
            _required_text(model_type, "model_type"),
            _required_text(dataset, "dataset"),
            _required_text(experiment_type, "experiment_type"),
        )
        stamp = _stamp(timestamp)
        name = _joined(stamp, parts, MAX_SLUG)
        return name if len(name) <= MAX_NAME else _joined(stamp, parts, _SHORT_PART)

    @staticmethod
    def create_task_name(task_type: str, model_config: object, index: SupportsIndex | None = None) -> str:
        """Return `<task type>_<model type>`, and `_<index>` with three digits when there is one.

        Args:
            task_type: any text with something visible in it; slugged.
            model_config: a mapping, dataclass, `run.Config` or other object; its `model_type` (else `type`) is used,
                "unknown" when it has none.
            index: 0 or more.

        Raises:
            InvalidNameError: an empty task type, a model type that is no text, a negative index.
        """
        task = slug(_required_text(task_type, "task_type"))
        model = model_type(model_config)
        known = "unknown" if model is None else slug(_required_text(model, "model_type"))
        name = f"{task}_{known}{_index_suffix(index)}"
        if len(name) <= MAX_NAME:
            return name
        return f"{slug(task_type, limit=40)}_{slug(known, limit=40)}{_index_suffix(index)}"


def _name_fault(text: str, limit: int) -> str | None:
    faults = {
        "it is empty": not text,
        f"it is longer than {limit} characters": len(text) > limit,
        "it begins with a hyphen or a dot": text[:1] in {"-", "."},
        "it holds a slash": "/" in text,
        "it holds '..'": ".." in text,
        "it ends in a dot": text.endswith("."),
        "it ends in .lock": text.endswith(".lock"),
        "only ASCII letters, digits, '.', '_' and '-' are allowed": not _NAME.fullmatch(text),
    }
    return next((fault for fault, applies in faults.items() if applies), None)


def _joined(stamp: str, parts: tuple[str, str, str], limit: int) -> str:
    slugs = [slug(part, limit=limit) for part in parts]
    name = "_".join([stamp, *slugs])
    if "_" in slugs[0] or "_" in slugs[1]:
        name += "-" + _short_hash("\0".join(parts))
    return name


def _no_text(value: object, what: str) -> InvalidNameError:
    hint = f'write it as text, for instance "{slug(str(value))}"'
    return InvalidNameError(f"{what} must be text, not {type(value).__name__}", hint=hint, what=what)


def _required_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _no_text(value, what)
    if not value.strip():
        raise InvalidNameError(f"{what} is empty", hint='for instance "none"', what=what)
    return str(value)


def _stamp(timestamp: datetime | str | None) -> str:
    moment = datetime.now(UTC) if timestamp is None else timestamp
    try:
        if isinstance(moment, str):
            is_stamp = _TIMESTAMP.fullmatch(moment)
            moment = datetime.strptime(moment, "%Y%m%d_%H%M%S") if is_stamp else datetime.fromisoformat(moment)  # noqa: DTZ007 - naive is UTC
        if not isinstance(moment, datetime):
            raise InvalidNameError(
                f"timestamp must be a datetime, not {type(moment).__name__}",
                hint="datetime.now(UTC), or leave it out",
                what="timestamp",
            )
        utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as fault:
        raise InvalidNameError(
            f"timestamp {timestamp!r} is no time: {fault}", hint='for instance "20260102_030405"', what="timestamp"
        ) from fault
    return f"{utc.year:04d}{utc:%m%d_%H%M%S}"


def model_type(model_config: object) -> object:
    """Return the `model_type`, else the `type`, of a configuration of any kind; None when it has none."""
    for key in ("model_type", "type"):
        found = model_config.get(key) if isinstance(model_config, Mapping) else getattr(model_config, key, None)
        if isinstance(found, str) or (found is not None and key == "model_type"):  # `type` may be a method
            return found
    return None


def _index_suffix(index: SupportsIndex | None) -> str:
    if index is None:
        return ""
    try:
        number = operator.index(index)
    except TypeError as fault:
        raise InvalidNameError(
            f"index must be a whole number, not {type(index).__name__}", hint="index=0", what="index"
        ) from fault
    if isinstance(index, bool) or number < 0:
        raise InvalidNameError(f"index must be 0 or more, not {index}", hint="index=0", what="index")
    return f"_{number:03d}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
