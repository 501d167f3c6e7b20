"""What logging a metric costs: `exp.log` and `log_metrics`, beside a plain json.dumps and write of the same line.

Microseconds a call, over 100,000 calls; the best of five rounds, interleaved. Every line is with the kernel when its
call returns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CALLS = 100_000
ROUNDS = 5
WANTED_US = 20.0


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as directory:
        os.chdir(_repository(Path(directory)))  # noqa: TID251 - a program of its own
        os.environ["GITEXP_METRICS"] = str(Path(directory) / "job.jsonl")
        for name, cost_us in _measured(Path(directory)).items():
            verdict = "" if name.startswith("json") else f"  (wanted {WANTED_US:g}: {_word(cost_us)})"
            print(f"{name:32} {cost_us:6.2f} µs a call{verdict}")


def _measured(directory: Path) -> dict[str, float]:
    import nemo_gitexp as gitexp

    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        with (directory / "plain.jsonl").open("ab", buffering=0) as plain:

            def write(step: int, plain: object = plain) -> None:
                line = json.dumps({"step": step, "loss": 0.5 / (step + 1), "accuracy": 0.25}) + "\n"
                plain.write(line.encode())  # type: ignore[attr-defined]

            _keep(best, "json.dumps and write", write)
        _keep(best, "log_metrics in a job", lambda step: gitexp.log_metrics(_row(step), step=step))
        with gitexp.track("benchmark", determinism="off", determinism_reason="nothing is drawn") as exp:
            _keep(best, "exp.log in a tracked block", lambda step, exp=exp: exp.log(_row(step), step=step))
            _keep(best, "log_metrics in a tracked block", lambda step: gitexp.log_metrics(_row(step), step=step))
    return best


def _row(step: int) -> dict[str, float]:
    return {"loss": 0.5 / (step + 1), "accuracy": 0.25}


def _keep(best: dict[str, float], name: str, call: Callable[[int], None]) -> None:
    began = time.perf_counter()
    for step in range(CALLS):
        call(step)
    cost_us = (time.perf_counter() - began) / CALLS * 1e6
    best[name] = min(cost_us, best.get(name, cost_us))


def _word(cost_us: float) -> str:
    return "kept" if cost_us <= WANTED_US else "missed"


def _repository(directory: Path) -> Path:
    root = directory / "repository"
    root.mkdir()
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    os.environ.update({**who, "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"})
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


if __name__ == "__main__":
    sys.exit(main())
