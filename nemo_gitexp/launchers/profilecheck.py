"""A process that imports NeMo Run, says which fields its executors have, and builds one if asked; submits nothing.

One JSON document on stdin: `{"build": null}` or `{"build": {"name", "table", "site", "topology"}}`; references to the
environment are replaced here, so that no secret is ever handed over. One on stdout:
`{"schema": 1, "fields": {kind: …}, "fault": null | {"message", "hint"}}`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping

from nemo_gitexp.errors import GitexpError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.launchers.executors import build_executor, read_fields
from nemo_gitexp.launchers.nemo import without_torch
from nemo_gitexp.profilefields import render_fields
from nemo_gitexp.profiles import bind_profile, parse_profile


def main() -> int:
    """Answer one request."""
    request = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else speaks here does so on stderr
    with tempfile.TemporaryDirectory(prefix="gitexp-") as home:
        os.environ["NEMORUN_HOME"] = home
        with without_torch():
            import nemo_run  # noqa: F401 - read_fields finds it imported
        fault = _fault(request["build"]) if request.get("build") else None
        answer = {"schema": 1, "fields": render_fields(read_fields()), "fault": fault}
    with os.fdopen(answers, "w") as stream:
        json.dump(answer, stream)
    return 0


def _fault(wanted: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
    """Build an executor and return why that failed; None: it did not."""
    table, site, topology = wanted["table"], wanted["site"], wanted["topology"]
    if not (isinstance(table, Mapping) and isinstance(site, Mapping) and isinstance(topology, Mapping)):
        raise TypeError("table, site and topology are tables")
    try:
        profile = parse_profile(str(wanted["name"]), table)
        build_executor(bind_profile(profile, {key: str(value) for key, value in site.items()}, os.environ), topology)
    except GitexpError as fault:
        return {"message": fault.message, "hint": fault.hint}
    return None


if __name__ == "__main__":
    sys.exit(main())
