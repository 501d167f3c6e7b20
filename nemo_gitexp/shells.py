"""How a scheduler's commands are run: on this machine, or on the host of a tunnel."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from nemo_gitexp.errors import SchedulerError
from nemo_gitexp.processes import Completed, run
from nemo_gitexp.scheduler import Shell
from nemo_gitexp.submission import Tunnel

PATIENCE_S = 30.0
"""A command of a scheduler that takes longer does not answer."""

CONNECT_OPTION = "ConnectTimeout=15"


def shell_of(tunnel: Tunnel) -> Shell:
    """Return what runs a scheduler's commands; it raises SchedulerError where they cannot be run."""
    first = f"{tunnel.pre_command} && " if tunnel.pre_command else ""

    def shell(argv: Sequence[str]) -> Completed:
        # ssh hands one text to a shell there.
        whole = [*ssh_command(tunnel, CONNECT_OPTION), first + shlex.join(argv)] if tunnel.host else list(argv)
        try:
            return run(whole, timeout_s=PATIENCE_S)
        except OSError as fault:
            said = f"{whole[0]} cannot be run: {fault.strerror}"
            raise SchedulerError(said, hint="nemo-gitexp doctor") from fault
        except subprocess.TimeoutExpired as fault:
            raise SchedulerError(f"{argv[0]} took longer than {PATIENCE_S:.0f} s") from fault

    return shell


def ssh_command(tunnel: Tunnel, *options: str) -> list[str]:
    """Return the ssh to the host of a tunnel, which never asks a person; a command follows.

    Args:
        tunnel: with a host.
        options: more of ssh's own (`ConnectTimeout=10`).
    """
    return [
        "ssh",
        *(word for option in ("BatchMode=yes", *options) for word in ("-o", option)),
        *(["-p", str(tunnel.port)] if tunnel.port else []),
        *(["-i", tunnel.identity] if tunnel.identity else []),
        *(["-l", tunnel.user] if tunnel.user else []),
        "--",
        tunnel.host,
    ]
