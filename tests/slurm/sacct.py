"""Stand-in for `sacct`, put first in PATH as `sacct`: it answers from `scontrol -o show job`.

The real one needs slurmdbd and a database server: half a minute of installing and a second daemon tree for every CI
run, for four columns. What is asked of it is little: NeMo Run's `sacct --parsable2 -j ID` and our own
`sacct -nPX -j ID,ID -o JobID,State,ExitCode`. The difference: the controller forgets a job `MinJobAge` after its end
(300 s in our configuration), a real accounting does not.
"""

import argparse
import re
import subprocess
import sys

DEFAULT_COLUMNS = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
KEYS = {
    "jobid": "JobId",
    "jobidraw": "JobId",
    "jobname": "JobName",
    "partition": "Partition",
    "account": "Account",
    "alloccpus": "NumCPUs",
    "state": "JobState",
    "exitcode": "ExitCode",
    "elapsed": "RunTime",
    "start": "StartTime",
    "end": "EndTime",
    "submit": "SubmitTime",
    "nodelist": "NodeList",
    "restarts": "Restarts",
    "reason": "Reason",
}
"""Columns of sacct (lower case) and the keys of scontrol that say the same."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="sacct", add_help=False)
    parser.add_argument("-j", "--jobs", default="")
    parser.add_argument("-o", "--format", default=DEFAULT_COLUMNS)
    parser.add_argument("-S", "--starttime")
    for flags in (("-n", "--noheader"), ("-P", "--parsable2"), ("-X", "--allocations"), ("-D", "--duplicates")):
        parser.add_argument(*flags, action="store_true")
    asked = parser.parse_args()
    columns = [column.split("%")[0] for column in asked.format.split(",")]
    unknown = [column for column in columns if column.lower() not in KEYS]
    if unknown or not asked.parsable2:
        sys.stderr.write(f"sacct: error: Invalid field requested: {unknown}, or no --parsable2\n")
        return 1
    if not asked.noheader:
        sys.stdout.write("|".join(columns) + "\n")
    wanted = asked.jobs.split(",") if asked.jobs else None
    for job in read_jobs():
        if wanted is None or job["JobId"] in wanted:
            sys.stdout.write("|".join(render(job, column) for column in columns) + "\n")
    return 0


def read_jobs() -> list:
    said = subprocess.run(["scontrol", "-o", "show", "job"], stdout=subprocess.PIPE, check=True).stdout.decode()
    jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines() if line.startswith("JobId=")]
    return sorted(jobs, key=lambda job: int(job["JobId"]))


def render(job: dict, column: str) -> str:
    value = job.get(KEYS[column.lower()], "")
    if column.lower() == "state" and value == "CANCELLED":
        return f"CANCELLED by {re.sub('[^0-9]', '', job.get('UserId', '0'))}"  # as sacct says it
    return value


if __name__ == "__main__":
    sys.exit(main())
