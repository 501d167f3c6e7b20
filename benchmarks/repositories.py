"""The repositories that the benchmarks run in: many files, many experiments, ours and DVC's."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TRAIN = """\
import json, os
place = os.environ.get("GITEXP_METRICS")
if place:
    with open(place, "a") as stream:
        stream.write(json.dumps({"step": 0, "loss": 0.5}) + "\\n")
"""
DEFINITION = """\
purpose: a trivial script
command: python train.py
config: {lr: 0.1, layers: 2, name: toy}
metrics: {loss: {goal: min}}
"""
DVC_STAGE = "stages:\n  train:\n    cmd: python train.py\n    deps: [train.py]\n    params: [lr]\n"


def environment(home: Path) -> dict[str, str]:
    """Return an environment of its own, PATH led by our interpreter's directory."""
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HOME": str(home),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
        "DVC_NO_ANALYTICS": "1",
        "LC_ALL": "C.UTF-8",
    }


def call(argv: list[str], cwd: Path, env: Mapping[str, str], stdin: bytes = b"") -> bytes:
    """Run a command and return what it said."""
    done = subprocess.run(argv, cwd=cwd, env=dict(env), input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def make_repository(root: Path, env: Mapping[str, str], files: int, *, dvc: bool = False) -> Path:
    """Make a repository of `files` files, with 20 modified and 200 untracked ones."""
    root.mkdir(parents=True)
    call(["git", "init", "-q", "-b", "main"], root, env)
    for number in range(files):
        path = root / f"src/p{number // 50:04d}/m{number:05d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# module {number}\n" + "x = 1\n" * 40)
    (root / "train.py").write_text(TRAIN)
    (root / "experiments/toy").mkdir(parents=True)
    (root / "experiments/toy/experiment.yaml").write_text(DEFINITION)
    if dvc:
        call(["dvc", "init", "-q"], root, env)
        (root / "params.yaml").write_text("lr: 0.1\n")
        (root / "dvc.yaml").write_text(DVC_STAGE)
    call(["git", "add", "-A"], root, env)
    call(["git", "commit", "-qm", "first"], root, env)
    for number in range(20):
        with (root / f"src/p{number // 50:04d}/m{number:05d}.py").open("a") as file:
            file.write("y = 2\n")
    (root / "new").mkdir()
    for number in range(200):
        (root / f"new/u{number}.txt").write_text(f"{number}\n" * 20)
    return root


def fill_with_experiments(root: Path, env: Mapping[str, str], count: int) -> None:
    """Multiply one completed experiment: the same record and result under other names and learning rates."""
    call(["nemo-gitexp", "run", "toy", "-q"], root, env)
    tip = call(["git", "for-each-ref", "--format=%(objectname)", "refs/gitexp/toy"], root, env).decode().split()[0]
    base = call(["git", "rev-parse", f"{tip}~2"], root, env).decode().strip()
    folder = "experiments/toy/record"
    documents = {
        name: json.loads(call(["git", "show", f"{tip}:{folder}/{name}.json"], root, env))
        for name in ("experiment", "config", "environment", "result", "run")
    }
    body = call(["git", "log", "-1", "--format=%b", f"{tip}~1"], root, env).decode()
    stream: list[bytes] = []
    for number in range(count):
        _append(stream, number, base, folder, documents, body)
    call(["git", "fast-import", "--quiet"], root, env, b"".join(stream))
    _finish(root, env, count, folder, documents, body)
    call(["git", "pack-refs", "--all"], root, env)


def _append(stream: list[bytes], number: int, base: str, folder: str, documents: Mapping[str, dict], body: str) -> None:
    name = f"{documents['experiment']['name']}-n{number}"
    record = {**documents["experiment"], "name": name, "nonce": f"{number:08x}"}
    record["created"] = f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
    files = {"experiment": record, "config": documents["config"], "environment": documents["environment"]}
    message = f"gitexp record: toy/{name}\n\n{_renamed(body, record)}"
    stream.append(_commit(f"refs/gitexp/toy/{name}", base, message, folder, files))


def _finish(
    root: Path, env: Mapping[str, str], count: int, folder: str, documents: Mapping[str, dict], body: str
) -> None:
    """Put a result on each record: it names the record's sha, known only now."""
    listed = call(["git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/gitexp/toy/"], root, env)
    stream = []
    for line in listed.decode().splitlines():
        ref, sha = line.split()
        if "-n" not in ref:
            continue
        record = {**documents["experiment"], "name": ref.rpartition("/")[2]}
        number = int(ref.rpartition("-n")[2])
        record["created"] = f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
        result = {**documents["result"], "record": sha}
        run = {**documents["run"], "record": sha}
        trailers = _renamed(body, record) + f"Gitexp-Record: {sha}\nGitexp-Status: completed\n"
        message = f"gitexp result: toy/{record['name']}: completed\n\n{trailers}"
        stream.append(_commit(ref, sha, message, folder, {"result": result, "run": run}))
    if len(stream) != count:
        raise RuntimeError(f"{len(stream)} experiments instead of {count}")
    call(["git", "fast-import", "--quiet"], root, env, b"".join(stream))


def _renamed(body: str, record: Mapping[str, str]) -> str:
    kept = [
        line for line in body.splitlines() if not line.startswith(("Gitexp-Name", "Gitexp-Created", "Gitexp-Identity"))
    ]
    own = [f"Gitexp-Name: {record['name']}", f"Gitexp-Created: {record['created']}"]
    return "\n".join([*kept, *own]).strip() + "\n"


def _commit(ref: str, parent: str, message: str, folder: str, files: Mapping[str, object]) -> bytes:
    text = message.encode()
    head = f"commit {ref}\ncommitter Ada <ada@example.org> 1767225600 +0000\ndata {len(text)}\n".encode() + text
    parts = [head, f"\nfrom {parent}\n".encode()]
    for name, document in files.items():
        content = (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
        parts.append(f"M 100644 inline {folder}/{name}.json\ndata {len(content)}\n".encode() + content + b"\n")
    return b"".join(parts)


def fill_with_dvc_experiments(root: Path, env: Mapping[str, str], count: int) -> None:
    """Write `count` experiments under refs/exps as `dvc exp save` names them."""
    head = call(["git", "rev-parse", "HEAD"], root, env).decode().strip()
    stream = []
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        message = f"dvc: commit experiment {digest}".encode()
        params = f"lr: 0.{number + 1}\n".encode()
        metrics = json.dumps({"loss": 1 / (number + 1)}).encode()
        stream.append(
            f"commit refs/exps/{head[:2]}/{head[2:]}/exp-{number:04d}\n"
            f"committer Ada <ada@example.org> 1767225600 +0000\ndata {len(message)}\n".encode()
            + message
            + f"\nfrom {head}\nM 100644 inline params.yaml\ndata {len(params)}\n".encode()
            + params
            + f"\nM 100644 inline metrics.json\ndata {len(metrics)}\n".encode()
            + metrics
            + b"\n"
        )
    call(["git", "fast-import", "--quiet"], root, env, b"".join(stream))
    call(["git", "pack-refs", "--all"], root, env)
