"""The test cluster itself: what the other tests of this directory rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from builder import wait_until

pytestmark = pytest.mark.slurm


def test_jobs_run_at_once_on_both_nodes_and_end_with_their_own_codes(cluster, tmp_path):
    ways = {"COMPLETED": "exit 0", "FAILED": "exit 7", "CANCELLED": "sleep 600"}
    jobs = {state: cluster.submit(script, f"--job-name=ways.{state}") for state, script in ways.items()}
    ranks = cluster.submit(
        "srun bash -c 'echo $SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME'",
        *("-N2", "--ntasks-per-node=2", f"--output={tmp_path}/ranks"),
    )
    cluster.wait_state(jobs["CANCELLED"], "RUNNING")
    cluster.cancel(jobs["CANCELLED"])
    assert {state: cluster.wait_state(job)["JobState"] for state, job in jobs.items()} == {way: way for way in ways}
    assert cluster.job(jobs["FAILED"])["ExitCode"] == "7:0"
    cluster.wait_state(ranks)
    assert sorted((tmp_path / "ranks").read_text().splitlines()) == ["0 0 n1", "1 1 n1", "2 0 n2", "3 1 n2"]

    asked = ",".join(jobs.values())
    ours = cluster.run("sacct", "-nPX", "-j", asked, "-o", "JobID,State,ExitCode").splitlines()
    assert ours == [f"{jobs['COMPLETED']}|COMPLETED|0:0", f"{jobs['FAILED']}|FAILED|7:0",
                    f"{jobs['CANCELLED']}|CANCELLED by 0|0:15"]  # fmt: skip
    header, theirs = cluster.run("sacct", "--parsable2", "-j", jobs["FAILED"]).splitlines()
    row = dict(zip(header.split("|"), theirs.split("|"), strict=True))
    assert (row["JobID"], row["JobName"], row["State"]) == (jobs["FAILED"], "ways.FAILED", "FAILED")


def test_without_the_stand_in_sacct_says_that_nothing_is_accounted(cluster):
    env = cluster.environment({}, sacct=False)
    done = subprocess.run(["sacct", "-nPX", "-j", "1", "-o", "State"], env=env, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"accounting storage is disabled" in done.stderr


def test_a_requeued_job_starts_again_and_a_lost_node_requeues_its_jobs(cluster, tmp_path):
    script = f"echo $$ ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/starts; sleep 600"
    job = cluster.submit(script, "--requeue", "--nodelist=n2")
    wait_lines(tmp_path / "starts", 1)
    cluster.requeue(job)
    cluster.start_now(job)
    wait_lines(tmp_path / "starts", 2)
    cluster.fail("n2")
    shell = (tmp_path / "starts").read_text().split()[2]
    wait_until(lambda: not Path("/proc", shell).exists())  # its end must not be taken for that of the next start
    cluster.resume("n2")
    cluster.start_now(job)
    wait_lines(tmp_path / "starts", 3)
    cluster.cancel(job)
    restarts = [int(line.split()[1]) for line in (tmp_path / "starts").read_text().splitlines()]
    assert restarts == sorted(set(restarts))
    assert restarts[:2] == [0, 1]


def test_a_drained_node_takes_no_job_until_it_is_resumed(cluster):
    cluster.drain("n2")
    job = cluster.submit("exit 0", "--nodelist=n2")
    wait_until(lambda: "ReqNodeNotAvail" in cluster.job(job)["Reason"])
    assert cluster.job(job)["JobState"] == "PENDING"
    cluster.resume("n2")
    assert cluster.wait_state(job)["JobState"] == "COMPLETED"


def test_sshd_lets_the_key_in_and_its_session_speaks_to_the_same_cluster(cluster):
    argv = ["ssh", "-i", str(cluster.ssh.identity), "-p", str(cluster.ssh.port), "-o", "BatchMode=yes",
            f"{cluster.ssh.user}@{cluster.ssh.host}", "sinfo -h -N -o %N; command -v sacct; echo $HOME"]  # fmt: skip
    done = subprocess.run(argv, env=cluster.environment({}), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["n1", "n2", str(cluster.bin / "sacct"), str(cluster.ssh.home)]


def test_nothing_is_left_when_the_tests_are_killed(cluster, tmp_path):
    holder = tmp_path / "holder.py"
    holder.write_text(
        textwrap.dedent(f"""\
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from cluster import bring_up
        with bring_up() as cluster:
            job = cluster.submit("sleep 4321 & setsid sleep 4321 & wait")
            cluster.wait_state(job, "RUNNING")
            print(cluster.directory, flush=True)
            time.sleep(600)
        """)
    )
    process = subprocess.Popen([sys.executable, str(holder)], stdout=subprocess.PIPE)
    directory = process.stdout.readline().decode().strip()
    assert processes_of(directory)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not processes_of(directory) and not Path(directory).exists())


def wait_lines(file: Path, number: int) -> None:
    wait_until(lambda: file.exists() and len(file.read_text().splitlines()) >= number)


def processes_of(directory: str) -> list[str]:
    """Return the command lines of processes that belong to a cluster: SLURM_CONF in their environment, or its path."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
            belongs = f"{directory}/".encode() in command + (entry / "environ").read_bytes()
        except OSError:
            continue
        if belongs:
            found.append(command.replace(b"\0", b" ").decode())
    return found
