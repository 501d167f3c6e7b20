"""What submitting to Slurm costs: a sweep that is submitted at once, beside bare `sbatch`, and `status` of all of it.

    python benchmarks/slurm.py [--runs 100]

Brings up the cluster of the tests (root, `make system-deps`), with ssh to this machine for the second row. Absolute
figures belong to one machine on one day.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from repositories import call, environment, make_repository

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / "slurm"), str(Path(__file__).parent.parent / "tests")]
from cluster import Cluster, bring_up, find_hindrance  # noqa: E402 - the tests' own cluster
from slurm_work import render_profile  # noqa: E402

SUBMIT_S, STATUS_S = 0.15, 2.0


def main() -> int:
    """Measure and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    hindrance = find_hindrance()
    if hindrance is not None:
        sys.stderr.write(hindrance + "\n")
        return 3
    with tempfile.TemporaryDirectory(prefix="gitexp-bench-") as name, bring_up() as cluster:
        rows = [row for tunnel in ("local", "ssh") for row in submitting(Path(name) / tunnel, cluster, tunnel, runs)]
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n")
    sys.stdout.write("| what | measured | beside | bound |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(row) + " |\n")
    return 0


def submitting(place: Path, cluster: Cluster, tunnel: str, runs: int) -> list[tuple[str, str, str, str]]:
    """Two rows: a sweep until all are submitted, less what the first of them takes; `status` while all wait."""
    (place / "home").mkdir(parents=True)
    env = cluster.environment(environment(place / "home"))
    work = make_repository(place / "work", env, 20)
    (work / "pyproject.toml").write_text(render_profile(cluster, "far", tunnel))
    call(["git", "add", "-A"], work, env)
    call(["git", "commit", "-qm", "profile"], work, env)
    call(["scontrol", "update", "partition=debug", "state=down"], work, env)  # nothing runs: all is submitting
    try:
        each = submit(work, env, runs)
        bare = timed(["sh", "-c", "for i in $(seq 20); do sbatch -o /dev/null --wrap true; done"], work, env) / 20
        status = timed(["nemo-gitexp", "status", "-q"], work, env)
    finally:
        call(["scancel", "--user=root"], work, env)
        call(["scontrol", "update", "partition=debug", "state=up"], work, env)
    way = "" if tunnel == "local" else ", by ssh"
    what = f"record, restore, submit each of {runs}{way}"
    return [
        (what, f"{each:.2f} s", f"bare `sbatch` {bare:.2f} s", bound(each, SUBMIT_S)),
        (f"`status` of {runs} waiting jobs{way}", f"{status:.2f} s", "", bound(status, STATUS_S)),
    ]


def submit(work: Path, env: Mapping[str, str], runs: int) -> float:
    """Return the seconds from one submission of a sweep to the next; what comes before the first is no part of it."""
    argv = ["nemo-gitexp", "sweep", "toy", f"lr=1..{runs}", "--executor", "far", "-q"]
    process = subprocess.Popen(argv, cwd=work, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began, first = time.perf_counter(), 0
    while (known := waiting(work, env)) < runs:
        if not first and known:
            began, first = time.perf_counter(), known
        time.sleep(0.5)  # squeue takes a core while it runs
    took = time.perf_counter() - began
    process.send_signal(signal.SIGKILL)  # not Ctrl-C, which takes all back
    process.wait()
    return took / (runs - first)


def waiting(work: Path, env: Mapping[str, str]) -> int:
    """Return how many jobs wait."""
    return len(call(["squeue", "-h", "-o", "%i"], work, env).split())


def timed(argv: list[str], work: Path, env: Mapping[str, str]) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    call(argv, work, env)
    return time.perf_counter() - began


def bound(measured_s: float, most_s: float) -> str:
    """Return the bound and whether it was kept."""
    return f"{most_s:g} s: {'kept' if measured_s <= most_s else 'MISSED'}"


if __name__ == "__main__":
    sys.exit(main())
