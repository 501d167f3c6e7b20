"""An sshd of our own on 127.0.0.1: own keys, own port, another home, gone with the tests however they end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.remote import RemoteHost

KEEPER = Path(__file__).resolve().parents[1] / "slurm" / "keeper.py"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = ("sshd", "ssh", "ssh-keygen", "rsync")
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
MaxSessions 100
PidFile none
SetEnv HOME={home} PATH={path}
"""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A machine reached by ssh; `home` is the HOME of whoever logs in there."""

    host: RemoteHost
    directory: Path
    home: Path


def find_hindrance() -> str | None:
    """Return why there can be no sshd here, None when there can."""
    missing = [name for name in NEEDED if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        return f"no {', '.join(missing)} here (as root: make system-deps)"
    return None if os.geteuid() == 0 else "the tests' sshd runs as root only"


@contextmanager
def start_sshd() -> Iterator[Elsewhere]:
    """Start it, give it, end it."""
    directory = Path(tempfile.mkdtemp(prefix="gitexp-sshd-"))
    home = directory / "home of somebody"  # a space: paths there must survive the shell
    for name in (home, directory / "log"):
        name.mkdir()
    Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)  # compiled into Debian's sshd
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host_key", "key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(directory / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {(directory / 'host_key.pub').read_text()}")
    (directory / "ssh_config").write_text(f"UserKnownHostsFile {directory}/known_hosts\nIdentityAgent none\n")
    names = {"port": port, "directory": directory, "home": f'"{home}"', "path": SYSTEM_PATH}
    (directory / "sshd_config").write_text(CONFIG.format(**names))
    daemon = {"name": "sshd", "argv": ["/usr/sbin/sshd", "-D", "-e", "-f", f"{directory}/sshd_config"]}
    plan = {"directory": str(directory), "env": {"PATH": SYSTEM_PATH}, "daemons": [{**daemon, "waits_for": None}]}
    (directory / "plan.json").write_text(json.dumps(plan))
    argv = [sys.executable, "-I", str(KEEPER), str(directory / "plan.json")]
    keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
    host = RemoteHost("127.0.0.1", "root", port, directory / "key", config=directory / "ssh_config")
    try:
        _wait_for(port)
        yield Elsewhere(host, directory, home)
    finally:
        host.close()
        keeper.stdin.close()
        keeper.wait(timeout=30)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("sshd does not answer")
