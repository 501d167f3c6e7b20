"""A real Slurm of one machine and an sshd, everything below one temporary directory, on ports of its own.

Two nodes (`n1`, `n2`), both this host, with sixteen CPUs each however many there are: jobs of tests mostly wait. No
accounting: `sacct` is our stand-in (sacct.py). What makes it fast, measured with Slurm 22.05: up in 0.3 s, a job runs
0.3 s after `sbatch`; a requeued job may not start before two minutes are over (`start_now` shortens it to nothing); a
time limit is checked every 30 s, and none is shorter than a minute (`end_limit` leaves only the check).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sshd", "ssh-keygen", "rsync")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NODES = ("n1", "n2")
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY"}

SLURM_CONF = """\
ClusterName=gitexp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd-%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
MinJobAge=300
KillWait=10
CompleteWait=0
JobRequeue=1
OverTimeLimit=0
InactiveLimit=0
MessageTimeout=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port} CPUs=16 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs=16 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

SSHD_CONFIG = """\
Port {ssh_port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 200
MaxSessions 200
PidFile none
Subsystem sftp internal-sftp
SetEnv HOME={home} PATH={bin}:{path} SLURM_CONF={directory}/slurm.conf
"""


def find_hindrance() -> str | None:
    """Return why no cluster can be brought up here, None when it can."""
    missing = [name for name in NEEDED if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        return f"Slurm's tests need {', '.join(missing)} (as root: make system-deps)"
    if os.geteuid() != 0:
        return "Slurm's tests need root: daemons and jobs run as root"
    return None


@dataclass(frozen=True, slots=True)
class Ssh:
    """How the machine's own sshd is reached; `home` is a HOME whose `.ssh` knows the host and holds the key."""

    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster.

    Attributes:
        directory: everything of it (slurm.conf, state, spool, logs); removed at the end.
        bin: the stand-in `sacct` and an `ssh` that reads `ssh.home` (OpenSSH itself ignores HOME).
        bare_bin: the same without a `sacct`; the machine's own then says that accounting is disabled.
    """

    directory: Path
    bin: Path
    bare_bin: Path
    ssh: Ssh

    @property
    def conf(self) -> Path:
        """The configuration every client command must be pointed to."""
        return self.directory / "slurm.conf"

    def environment(self, env: Mapping[str, str], *, sacct: bool = True) -> dict[str, str]:
        """Return an environment whose commands speak to this cluster; HOME is `ssh.home`."""
        path = os.pathsep.join((str(self.bin if sacct else self.bare_bin), env.get("PATH", ""), SYSTEM_PATH))
        return {**env, "PATH": path, "SLURM_CONF": str(self.conf), "HOME": str(self.ssh.home)}

    def run(self, *argv: str, check: bool = True, input_text: str | None = None) -> str:
        """Run a client command of Slurm and return what it printed."""
        done = subprocess.run(
            argv, env=self.environment({}), input=input_text, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv}: exit {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit a script's text and return the job's number; its output goes nowhere unless `options` say where."""
        return self.run("sbatch", "--parsable", "--output=/dev/null", *options, input_text=f"#!/bin/bash\n{script}\n")

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return all jobs the controller remembers, by number: scontrol's keys (JobState, ExitCode, Reason, …)."""
        lines = self.run("scontrol", "-o", "show", "job").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return {job["JobId"]: job for job in found}

    def jobs_named(self, part: str) -> list[dict[str, str]]:
        """Return the jobs with a text in their names, oldest first."""
        return sorted(
            (job for job in self.jobs().values() if part in job["JobName"]), key=lambda job: int(job["JobId"])
        )

    def job(self, number: str) -> dict[str, str]:
        """Return one job."""
        return self.jobs()[number]

    def wait_state(self, number: str, *states: str, timeout_s: float = 60) -> dict[str, str]:
        """Wait until a job is in one of the states (none given: has ended) and return it."""
        wanted = set(states) or ENDED
        end = time.monotonic() + timeout_s
        while (job := self.job(number))["JobState"] not in wanted:
            if time.monotonic() > end:
                raise AssertionError(f"job {number} is {job['JobState']} ({job['Reason']}), not {sorted(wanted)}")
            time.sleep(0.05)
        return job

    def cancel(self, *numbers: str) -> None:
        """Cancel jobs as somebody outside would."""
        self.run("scancel", *numbers)

    def requeue(self, number: str) -> None:
        """Requeue a running job, as after a preemption; it starts again in two minutes, or by `start_now`."""
        self.run("scontrol", "requeue", number)
        self.wait_state(number, "PENDING")

    def start_now(self, number: str, timeout_s: float = 60) -> None:
        """Let a requeued job start now and wait until it does.

        Slurm itself waits two minutes (`Reason=BeginTime`), and holds a job whose node still ends its first start.
        A job that is still being ended is left alone: started at once, the old end could be taken for the new one.
        """
        end = time.monotonic() + timeout_s
        while (job := self.job(number))["JobState"] not in ("RUNNING", "COMPLETED", "FAILED"):
            if time.monotonic() > end:
                raise AssertionError(f"job {number} is {job['JobState']} ({job['Reason']}), and does not start")
            if job["JobState"] == "PENDING":
                if "held" in job["Reason"].lower():
                    self.run("scontrol", "release", number, check=False)
                self.run("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
            time.sleep(0.2)

    def end_limit(self, number: str) -> None:
        """Move the end of a running job's time limit to now: Slurm ends it as TIMEOUT at its next check, in ≤30 s."""
        self.wait_state(number, "RUNNING")
        self.run("scontrol", "update", f"JobId={number}", "EndTime=now")

    def drain(self, *nodes: str) -> None:
        """Let no new job start on nodes (all when none is named); running ones go on."""
        self.run("scontrol", "update", f"NodeName={','.join(nodes or NODES)}", "State=DRAIN", "Reason=tests")

    def fail(self, *nodes: str) -> None:
        """Take nodes down: their jobs are requeued, or end as NODE_FAIL when they may not be."""
        self.run("scontrol", "update", f"NodeName={','.join(nodes or NODES)}", "State=DOWN", "Reason=tests")

    def resume(self, *nodes: str) -> None:
        """Take nodes back (all when none is named) and wait until they answer."""
        self.wait_nodes(nodes or NODES, resuming=True)

    def wait_nodes(self, nodes: tuple[str, ...] = NODES, timeout_s: float = 60, *, resuming: bool = False) -> None:
        """Wait until nodes take jobs, asking again and again for it on request.

        Once is not enough: a node whose jobs are still being ended refuses, and one that is up already does too.
        """
        end = time.monotonic() + timeout_s
        while True:
            said = self.run("sinfo", "-h", "-N", "-n", ",".join(nodes), "-o", "%N %T", check=False)
            states = dict(line.split() for line in said.splitlines())
            if states.keys() >= set(nodes) and set(states.values()) <= {"idle", "mixed", "allocated"}:
                return
            if time.monotonic() > end:
                raise AssertionError(f"nodes are {states}\n{read_logs(self.directory)}")
            for node in nodes if resuming else ():
                if states.get(node, "").startswith(("down", "drain")):
                    self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            time.sleep(0.1)


@contextmanager
def bring_up() -> Iterator[Cluster]:
    """Bring a cluster up, give it, and take everything down again.

    The daemons are children of a keeper (keeper.py) that ends them when we end, in whatever way.
    """
    for left in (2, 1, 0):
        cluster = prepare()
        keeper = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "keeper.py"), str(cluster.directory / "plan.json")],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            if not is_up(cluster, keeper):
                if left:  # another process may have taken one of the ports in between
                    continue
                raise AssertionError(f"no cluster came up\n{read_logs(cluster.directory)}")
            yield cluster
            return
        finally:
            keeper.stdin.close()
            keeper.wait(timeout=30)
            shutil.rmtree(cluster.directory, ignore_errors=True)


def is_up(cluster: Cluster, keeper: subprocess.Popen[bytes], timeout_s: float = 30) -> bool:
    """Wait until nodes take jobs and sshd answers; False when a daemon died."""
    end = time.monotonic() + timeout_s
    while keeper.poll() is None:
        said = cluster.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()
        if set(said) == set(NODES) and is_listening(cluster.ssh.port):
            return True
        if time.monotonic() > end:
            raise AssertionError(f"the cluster does not come up\n{read_logs(cluster.directory)}")
        time.sleep(0.05)
    return False


def prepare() -> Cluster:
    """Write everything a cluster needs into a new directory: configuration, keys, stand-ins, the keeper's plan."""
    directory = Path(tempfile.mkdtemp(prefix="gitexp-slurm-", dir="/tmp"))  # short: sockets allow 107 bytes of path
    directory.chmod(0o755)  # munge refuses sockets below directories that not all may pass
    home = directory / "home"
    for name in ("state", "spool-n1", "spool-n2", "log", "bin", "bare-bin", "home/.ssh"):
        (directory / name).mkdir(parents=True)
    Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)  # compiled into Debian's sshd
    controller_port, first_port, second_port, ssh_port = find_free_ports(4)
    names = {
        "directory": directory, "home": home, "bin": directory / "bin", "path": SYSTEM_PATH,
        "host": socket.gethostname().split(".")[0],
        "controller_port": controller_port, "first_port": first_port, "second_port": second_port, "ssh_port": ssh_port,
    }  # fmt: skip
    (directory / "slurm.conf").write_text(SLURM_CONF.format(**names))
    (directory / "sshd_config").write_text(SSHD_CONFIG.format(**names))
    (directory / "cgroup.conf").write_text(cgroup_conf())
    (directory / "munge.key").write_bytes(secrets.token_bytes(128))
    (directory / "munge.key").chmod(0o400)
    write_ssh_home(directory, home, ssh_port)
    write_bins(directory, home)
    write_plan(directory)
    ssh = Ssh("127.0.0.1", ssh_port, "root", home / ".ssh" / "id_ed25519", home / ".ssh" / "known_hosts", home)
    return Cluster(directory, directory / "bin", directory / "bare-bin", ssh)


def cgroup_conf() -> str:
    """Return a cgroup.conf that keeps slurmd from looking for cgroups; the word for it changed in 23.11."""
    said = subprocess.run(["/usr/bin/env", f"PATH={SYSTEM_PATH}", "slurmd", "-V"], capture_output=True, check=True)
    version = re.search(r"(\d+)\.(\d+)", said.stdout.decode())
    is_new = version is not None and (int(version[1]), int(version[2])) >= (23, 11)
    return "CgroupPlugin=disabled\n" if is_new else "CgroupAutomount=no\n"


def write_ssh_home(directory: Path, home: Path, port: int) -> None:
    """Make the keys of host and user, and the user's files that ssh and NeMo Run read."""
    for file in (directory / "host_key", home / ".ssh" / "id_ed25519"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(file)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    public = (directory / "host_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (home / ".ssh" / "authorized_keys").write_bytes((home / ".ssh" / "id_ed25519.pub").read_bytes())
    (home / ".ssh").chmod(0o700)


def write_bins(directory: Path, home: Path) -> None:
    """Write the commands that go first in PATH."""
    ssh = f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile="{home}/.ssh/known_hosts" -F none "$@"\n'
    for name in ("bin", "bare-bin"):
        (directory / name / "ssh").write_text(ssh)
        (directory / name / "ssh").chmod(0o755)
    stand_in = (HERE / "sacct.py").read_text()
    (directory / "bin" / "sacct").write_text(f"#!{sys.executable} -IS\n{stand_in}")
    (directory / "bin" / "sacct").chmod(0o755)


def write_plan(directory: Path) -> None:
    """Write which daemons the keeper starts."""
    munged = [
        "munged", "--foreground", "--force", "--origin=127.0.0.1",
        f"--key-file={directory}/munge.key", f"--socket={directory}/munge.sock", f"--pid-file={directory}/munged.pid",
        f"--log-file={directory}/log/munged.log", f"--seed-file={directory}/munge.seed",
    ]  # fmt: skip
    daemons = [("munged", munged, None), ("slurmctld", ["slurmctld", "-D", "-i"], f"{directory}/munge.sock")]
    daemons += [(f"slurmd-{node}", ["slurmd", "-D", "-N", node], None) for node in NODES]
    daemons += [("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", f"{directory}/sshd_config"], None)]
    plan = {
        "directory": str(directory),
        "env": {"PATH": SYSTEM_PATH, "SLURM_CONF": f"{directory}/slurm.conf", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        "daemons": [{"name": name, "argv": argv, "waits_for": file} for name, argv, file in daemons],
    }
    (directory / "plan.json").write_text(json.dumps(plan))


def find_free_ports(number: int) -> list[int]:
    """Return ports nobody listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def read_logs(directory: Path) -> str:
    """Return the ends of all logs, for a message."""
    files = sorted((directory / "log").glob("*")) if directory.exists() else []
    return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)
