"""What a node does before a job starts: 10,000 files compared with their manifest, from a warm page cache.

Whole processes as on a node (`python -S` on the worker's files alone), interleaved with `sha256sum` of the same files;
the best of five rounds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FILES = 10_000
FILE_BYTES = 8 * 1024
ROUNDS = 5
WANTED_S = 1.0
WORKER = Path(__file__).resolve().parents[1] / "nemo_gitexp" / "worker"
VERIFY = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from _gitexp_worker.refusal import find_refusal, verify_plan
plan = json.load(open(sys.argv[2]))
verification = verify_plan(plan)
assert find_refusal(plan, verification) is None, verification.faults
assert len(verification.states) == int(sys.argv[3])
"""


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as directory:
        root = Path(directory)
        names = _make_workspace(root)
        shutil.copytree(WORKER, root / "node" / "_gitexp_worker")
        verify = [sys.executable, "-S", "-c", VERIFY, str(root / "node"), str(root / "plan.json"), str(FILES)]
        beside = ["xargs", "-0", "-a", str(names), "sha256sum"]
        best: dict[str, float] = {}
        for _ in range(ROUNDS):
            _keep(best, "the worker's verification", verify, root)
            _keep(best, "sha256sum of the same files", beside, root / "workspace")
        for name, cost_s in best.items():
            verdict = f"  (wanted {WANTED_S:g}: {_word(cost_s)})" if name.startswith("the") else ""
            print(f"{name:30} {cost_s:5.2f} s for {FILES:,} files{verdict}")


def _make_workspace(root: Path) -> Path:
    """Write the files, their manifest and a plan; return a list of the names, each ended by a zero byte."""
    rows = []
    for number in range(FILES):
        path = f"package{number // 100:03d}/module{number:05d}.py"
        content = number.to_bytes(4, "big") * (FILE_BYTES // 4)
        place = root / "workspace" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        rows.append([path, "100644", len(content), hashlib.sha256(content).hexdigest()])
    (root / "outputs").mkdir()
    (root / "manifest.json").write_text(json.dumps({"files": rows}))
    workspace = str(root / "workspace")
    plan = {"manifest": str(root / "manifest.json"), "workspace": workspace, "cwd": workspace, "kind": "run"}
    plan |= {"outputs_dir": str(root / "outputs"), "inputs": [], "outputs": [], "allow_extra": []}
    (root / "plan.json").write_text(json.dumps(plan))
    names = root / "names"
    names.write_bytes(b"".join(row[0].encode() + b"\0" for row in rows))
    return names


def _keep(best: dict[str, float], name: str, argv: Sequence[str], cwd: Path) -> None:
    began = time.perf_counter()
    subprocess.run(argv, cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    best[name] = min(time.perf_counter() - began, best.get(name, float("inf")))


def _word(cost_s: float) -> str:
    return "kept" if cost_s <= WANTED_S else "missed"


if __name__ == "__main__":
    main()
