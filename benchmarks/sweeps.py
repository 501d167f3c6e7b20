"""What a sweep costs beside its work: 20 runs, two at a time, beside the bare commands and beside DVC's queue.

    python benchmarks/sweeps.py [--rounds 3] [--work 0.6] [--without-dvc]

`pure` are the commands themselves, two at a time. Absolute figures belong to one machine on one day.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from repositories import call, environment, make_repository
from stopwatch import Case, time_cases

RUNS, JOBS = 20, 2
BUSY = """
import sys, time
end = time.process_time() + float(sys.argv[1] if len(sys.argv) > 1 else 0)
while time.process_time() < end:
    pass
"""


def main() -> int:
    """Measure everything and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=float, default=0.6, help="CPU seconds of one run in the second row")
    parser.add_argument("--without-dvc", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gitexp-bench-") as name:
        place = Path(name)
        (place / "home").mkdir()
        env = environment(place / "home")
        rows = [
            sweeping(place / f"w{number}", env, work, arguments.rounds, with_dvc=not arguments.without_dvc)
            for number, work in enumerate((0.0, arguments.work))
        ]
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n")
    sys.stdout.write("| what | measured | beside | bound |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(row) + " |\n")
    return 0


def sweeping(
    place: Path, env: Mapping[str, str], work_s: float, rounds: int, *, with_dvc: bool
) -> tuple[str, str, str, str]:
    """One row: `sweep --jobs 2` beside the bare commands and `dvc exp run --run-all -j 2`; DVC has one round."""
    ours, rival = make(place / "ours", env, work_s), make(place / "dvc", env, work_s, dvc=True)
    bare = f"seq {RUNS} | xargs -P {JOBS} -I@ {shutil.which('python', path=env['PATH'])} train.py {work_s}"
    found = time_cases(
        [
            Case("pure", ["sh", "-c", bare], ours),
            Case("sweep", ["nemo-gitexp", "sweep", "toy", f"lr=1..{RUNS}", f"--jobs={JOBS}", "--again", "-q"], ours),
        ],
        env,
        rounds,
    )
    pure, mine = found["pure"].median_s, found["sweep"].median_s
    beside = f"pure {pure:.1f} s"
    if with_dvc:
        queue = f"dvc exp run -q -f --queue -S 'lr=range(1,{RUNS + 1})' && dvc exp run -q --run-all -j {JOBS}"
        theirs = time_cases([Case("dvc", ["sh", "-c", queue], rival)], env, 1)["dvc"].median_s
        beside += f"; DVC's queue {theirs:.1f} s: {theirs / mine:.1f}x"
    limit = 2 * pure + 5
    what = f"`sweep` of {RUNS}, {JOBS} at a time, {work_s:g} s each"
    return what, f"{mine:.1f} s", beside, f"{'kept' if mine <= limit else 'MISSED'}: {limit:.1f} s"


def make(root: Path, env: Mapping[str, str], work_s: float, *, dvc: bool = False) -> Path:
    """Make a clean repository whose script keeps a core busy for so long."""
    work = make_repository(root, env, 20, dvc=dvc)
    with (work / "train.py").open("a") as file:
        file.write(BUSY)
    for path in (work / "experiments/toy/experiment.yaml", work / "dvc.yaml"):
        if path.exists():
            path.write_text(path.read_text().replace("python train.py", f"python train.py {work_s}"))
    call(["git", "add", "-A"], work, env)
    call(["git", "commit", "-qm", "busy"], work, env)
    return work


if __name__ == "__main__":
    sys.exit(main())
