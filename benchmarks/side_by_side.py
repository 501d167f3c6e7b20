"""What the hot paths cost, beside what people would use instead: medians of whole processes, interleaved in one run.

    python benchmarks/side_by_side.py [--rounds 7] [--files 50000]

Absolute figures belong to one machine on one day; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from repositories import call, environment, fill_with_dvc_experiments, fill_with_experiments, make_repository
from stopwatch import Case, Timed, time_cases

Row = tuple[str, str, str, str]


def main() -> int:
    """Measure everything and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=50_000, help="files of the large repository")
    parser.add_argument("--experiments", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gitexp-bench-") as name:
        place = Path(name)
        env = environment(place / "home")
        (place / "home").mkdir()
        rows: list[Row] = []
        rows += start_up(place, env, arguments.rounds)
        rows += recording(place, env, arguments.rounds, arguments.files)
        rows += running(place, env, arguments.rounds)
        rows += listing(place, env, arguments.rounds, arguments.experiments)
        rows += waiting_memory(place, env)
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n")
    sys.stdout.write("| what | measured | beside | bound |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(row) + " |\n")
    return 0


def start_up(place: Path, env: Mapping[str, str], rounds: int) -> list[Row]:
    """`--help` beside the libraries that it cannot do without."""
    found = time_cases(
        [
            Case("help", ["nemo-gitexp", "--help"], place),
            Case("floor", [sys.executable, "-c", "import typer, rich"], place),
        ],
        env,
        rounds,
    )
    extra = found["help"].median_s - found["floor"].median_s
    return [
        (
            "`--help`",
            seconds(found["help"]),
            f"`import typer, rich` {seconds(found['floor'])}",
            bound(extra, 0.1, "above it"),
        )
    ]


def recording(place: Path, env: Mapping[str, str], rounds: int, files: int) -> list[Row]:
    """`run --record-only`, in 2,000 and in many files, beside `dvc exp save` and `git status`."""
    small = make_repository(place / "small", env, 2_000)
    rival = make_repository(place / "rival", env, 2_000, dvc=True)
    large = make_repository(place / "large", env, files)
    record = ["nemo-gitexp", "run", "toy", "--record-only", "--again", "-q"]
    found = time_cases(
        [
            Case("small", record, small),
            Case("dvc", ["dvc", "exp", "save", "-f", "-q"], rival),
            Case("large", record, large),
            Case("status", ["git", "status"], large),
        ],
        env,
        rounds,
    )
    small_s, dvc_s = found["small"].median_s, found["dvc"].median_s
    extra = found["large"].median_s - found["status"].median_s
    return [
        (
            "record, 2,000 files",
            seconds(found["small"]),
            f"`dvc exp save` {seconds(found['dvc'])}: {dvc_s / small_s:.1f}x",
            f"{bound(small_s, 0.25, 's')}; {at_least(dvc_s / small_s, 10)}",
        ),
        (
            f"record, {files:,} files",
            seconds(found["large"]),
            f"`git status` {seconds(found['status'])}",
            bound(extra, 0.25, "above it"),
        ),
    ]


def running(place: Path, env: Mapping[str, str], rounds: int) -> list[Row]:
    """`run` of a trivial script, waiting and detached, beside `dvc exp run`; the script itself is taken off both."""
    ours = make_repository(place / "run", env, 2_000)
    rival = make_repository(place / "run-dvc", env, 2_000, dvc=True)

    def settle() -> None:
        while call(["nemo-gitexp", "status"], ours, env).strip() != b"nothing is running":
            time.sleep(0.1)

    found = time_cases(
        [
            Case("script", [sys.executable, "train.py"], ours),
            Case("run", ["nemo-gitexp", "run", "toy", "--again", "-q"], ours, settle),
            Case("dvc", ["dvc", "exp", "run", "-f", "-q"], rival),
            Case("temp", ["dvc", "exp", "run", "--temp", "-f", "-q"], rival),
            Case("detach", ["nemo-gitexp", "run", "toy", "--again", "-q", "--detach"], ours, settle),
        ],
        env,
        rounds,
    )
    settle()
    script = found["script"].median_s
    mine, theirs, temp = (found[name].median_s - script for name in ("run", "dvc", "temp"))
    return [
        (
            "`run` minus the script",
            f"{mine:.2f} s",
            f"`dvc exp run` {theirs:.2f} s ({mine / theirs:.2f}x), `--temp` {temp:.2f} s",
            bound(mine / theirs, 1.0, "x"),
        ),
        ("`run --detach`", seconds(found["detach"]), "", bound(found["detach"].median_s, 0.3, "s")),
    ]


def listing(place: Path, env: Mapping[str, str], rounds: int, count: int) -> list[Row]:
    """`log`, `show`, `diff` among many experiments, beside `dvc exp show`."""
    ours = make_repository(place / "many", env, 100)
    call(["git", "add", "-A"], ours, env)
    call(["git", "commit", "-qm", "clean"], ours, env)
    fill_with_experiments(ours, env, count)
    rival = make_repository(place / "many-dvc", env, 100, dvc=True)
    fill_with_dvc_experiments(rival, env, count)
    cache = rival / ".dvc/tmp/exps/cache"
    names = call(["git", "for-each-ref", "--format=%(objectname)", "refs/gitexp/toy"], ours, env).decode().split()
    cases = [
        Case("json", ["nemo-gitexp", "log", "--all", "--json"], ours),
        Case("table", ["nemo-gitexp", "log"], ours),
        Case("show", ["nemo-gitexp", "show", names[0]], ours),
        Case("diff", ["nemo-gitexp", "diff", names[0], names[-1]], ours),
        Case("warm", ["dvc", "exp", "show", "--json"], rival),
    ]
    cold = time_cases(
        [Case("cold", ["dvc", "exp", "show", "--json"], rival, lambda: shutil.rmtree(cache, ignore_errors=True))],
        env,
        1,
    )
    own_cold = time_cases(
        [Case("cold", cases[0].argv, ours, lambda: (ours / ".git/gitexp/listing.db").unlink(missing_ok=True))], env, 2
    )
    found = time_cases(cases, env, rounds)
    json_s = found["json"].median_s
    warm, first = found["warm"], cold["cold"]
    beside = (
        f"`dvc exp show --json` warm {seconds(warm)} ({warm.median_s / json_s:.0f}x), "
        f"cold {seconds(first)} ({first.median_s / json_s:.0f}x)"
    )
    return [
        (
            f"`log --json` of {count:,}",
            f"{seconds(found['json'])} (first time {own_cold['cold'].median_s:.2f} s)",
            beside,
            "; ".join(
                (
                    bound(json_s, 0.2, "s"),
                    at_least(warm.median_s / json_s, 5),
                    at_least(first.median_s / json_s, 100),
                )
            ),
        ),
        ("`log`, 20 of them", seconds(found["table"]), "", bound(found["table"].median_s, 0.2, "s")),
        ("`show`", seconds(found["show"]), "", bound(found["show"].median_s, 0.2, "s")),
        ("`diff`", seconds(found["diff"]), "", bound(found["diff"].median_s, 0.2, "s")),
        (
            "peak memory of `log`, `show`, `diff`",
            ", ".join(f"{found[name].peak_mb:.0f}" for name in ("json", "show", "diff")) + " MB",
            "",
            bound(max(found[name].peak_mb for name in ("json", "table", "show", "diff")), 60, "MB"),
        ),
    ]


def waiting_memory(place: Path, env: Mapping[str, str]) -> list[Row]:
    """The command and its supervisor together, while a job runs."""
    work = make_repository(place / "wait", env, 10)
    (work / "slow.py").write_text("import time\ntime.sleep(6)\n")
    command = subprocess.Popen(
        ["nemo-gitexp", "run", "-q", "--", "python", "slow.py"], cwd=work, env=dict(env), stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while command.poll() is None:
        peak = max(peak, sum(_resident_mb(pid) for pid in _command_and_supervisor(command.pid)))
        time.sleep(0.05)
    return [("memory of `run` while waiting, both processes", f"{peak:.0f} MB", "", bound(peak, 250, "MB"))]


def _command_and_supervisor(pid: int) -> Sequence[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        pid,
        *(int(child) for child in children if b"launchers.nemo" in Path(f"/proc/{child}/cmdline").read_bytes()),
    ]


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def seconds(timed: Timed) -> str:
    """Return a median as text."""
    return f"{timed.median_s:.2f} s"


def bound(value: float, limit: float, unit: str) -> str:
    """Return the bound and whether this run kept it."""
    return f"{'kept' if value <= limit else 'MISSED'}: {value:.2f} of {limit:g} {unit}"


def at_least(ratio: float, wanted: float) -> str:
    """Return how many times faster was wanted and whether this run reached it."""
    return f"{'kept' if ratio >= wanted else 'MISSED'}: {ratio:.1f}x of {wanted:g}x"


if __name__ == "__main__":
    sys.exit(main())
