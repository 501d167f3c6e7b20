"""Data put in place from a DVC cache, by a program that runs alone under whatever Python a site has."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from run_directory import VERSIONS, WORKER, require_python

PROGRAM = (WORKER / "cachelink.py").read_text()


def put(cache: Path, below: str, content: bytes) -> str:
    md5 = hashlib.md5(content).hexdigest()
    place = cache / below / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    place.chmod(0o444)
    return md5


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_of_every_layout_are_linked_and_what_is_missing_is_named(tmp_path: Path, version: str):
    cache, workspace = tmp_path / "cache", tmp_path / "ws"
    contents = {"files/md5": b"three", "gitexp/files/md5": b"ours", "": b"two"}
    files = [[f"data/{at}.bin", put(cache, below, text), len(text), 0o444] for at, (below, text) in
             enumerate(contents.items())]  # fmt: skip
    tool = put(cache, "files/md5", b"#!/bin/sh\n")
    files.append(["tool.sh", tool, 10, 0o755])
    files += [["data/none", "0" * 32, 4, 0o444], ["data/torn", files[0][1], 4, 0o444]]
    (workspace / "data").mkdir(parents=True)
    (workspace / "data" / "0.bin").write_text("of an earlier attempt")
    done = subprocess.run(
        [require_python(version), "-I", "-c", PROGRAM],
        input=json.dumps({"cache": str(cache), "workspace": str(workspace), "files": files}).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"missing": ["data/none", "data/torn"]}
    made = {path.relative_to(workspace).as_posix(): path.read_bytes() for path in workspace.rglob("*.*")}
    assert made == {"data/0.bin": b"three", "data/1.bin": b"ours", "data/2.bin": b"two", "tool.sh": b"#!/bin/sh\n"}
    assert (workspace / "tool.sh").stat().st_mode & 0o111
    assert not (cache / "files" / "md5" / tool[:2] / tool[2:]).stat().st_mode & 0o111
