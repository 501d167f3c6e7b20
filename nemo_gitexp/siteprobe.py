"""One look at a site: a script of plain shell, run here or through ssh, that only looks and says what it sees."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.profiles import TunnelProfile
from nemo_gitexp.shells import ssh_command
from nemo_gitexp.submission import Tunnel

TIMEOUT_S: Final = 60.0
"""For everything on a site together; each slow command there has 15 s."""

CONNECT_S: Final = 10

SLURM_COMMANDS: Final = ("sbatch", "sacct", "squeue", "scancel", "srun", "scontrol")

# One line a fact: a word, a blank, the rest. Nothing is submitted and nothing is written.
_SCRIPT: Final = r"""
few() { if command -v timeout >/dev/null 2>&1; then timeout 15 "$@"; else "$@"; fi; }
for name in sbatch sacct squeue scancel srun scontrol rsync dvc torchrun; do
  where=$(command -v "$name" 2>/dev/null) && printf 'command.%s %s\n' "$name" "$where"
done
if [ -n "$gx_slurm" ]; then
  said=$(few scontrol ping 2>&1); printf 'ping %s\n' "$(printf %s "$said" | tr '\n' ' ')"
  said=$(few sacct -nPX -j 1 -o JobID,State,ExitCode 2>&1) && printf 'accounting yes\n' ||
    printf 'accounting.no %s\n' "$(printf %s "$said" | tail -n 1)"
  few srun --help 2>/dev/null | grep -q -- --container-image && printf 'pyxis yes\n'
fi
said=$("$gx_python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1) &&
  printf 'python %s\n' "$said" || printf 'python.no %s\n' "$(printf %s "$said" | tail -n 1)"
writable() {
  place=$2
  while [ ! -e "$place" ] && [ "$place" != / ] && [ "$place" != . ]; do place=$(dirname "$place"); done
  if [ -d "$place" ] && [ -w "$place" ] && [ -x "$place" ]; then printf '%s yes\n' "$1"
  else printf '%s.no %s\n' "$1" "$place"; fi
}
[ -z "$gx_root" ] || writable root "$gx_root"
[ -z "$gx_job_dir" ] || writable job_dir "$gx_job_dir"
[ -z "$gx_cache" ] || { [ -d "$gx_cache" ] && [ -r "$gx_cache" ] && printf 'cache yes\n'; }
[ -z "$gx_marker" ] || { [ -e "$gx_marker" ] && printf 'marker yes\n'; }
printf 'end yes\n'
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a site is asked about; empty texts are not.

    `python` is an interpreter, `root`, `job_dir` and `cache` directories there; `marker` a file of this machine that is
    there too if the file system is shared; `slurm` whether Slurm is to answer.
    """

    python: str
    root: str = ""
    job_dir: str = ""
    cache: str = ""
    marker: str = ""
    slurm: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What a site said: facts by their word; empty with the `fault` where it could not be asked."""

    facts: Mapping[str, str]
    fault: str = ""


def look_at_site(tunnel: TunnelProfile | None, asked: Asked, env: Mapping[str, str]) -> Seen:
    """Look at a site, here or through ssh.

    Args:
        tunnel: bound; None or a local one: this machine.
        asked: what about.
        env: of the commands.
    """
    words = {
        "gx_python": asked.python,
        "gx_root": asked.root,
        "gx_job_dir": asked.job_dir,
        "gx_cache": asked.cache,
        "gx_marker": asked.marker,
        "gx_slurm": "yes" if asked.slurm else "",
    }
    script = "".join(f"{name}={shlex.quote(value)}\n" for name, value in words.items()) + _SCRIPT
    before = tunnel.pre_command if tunnel is not None and tunnel.pre_command else ":"
    # Read whole before it begins, so that no command in it takes the rest of it for its input.
    script = f"{{\n{before}\n{script}}} </dev/null\n"
    if tunnel is not None and tunnel.kind == "ssh":
        identity = None if tunnel.identity is None else str(identity_path(tunnel.identity))
        way = Tunnel(tunnel.host or "", tunnel.user or "", tunnel.port, identity)
        argv = [*ssh_command(way, f"ConnectTimeout={CONNECT_S}", "StrictHostKeyChecking=yes"), "sh -s"]
    else:
        argv = ["sh", "-s"]
    try:
        done = processes.run(argv, env=dict(env), stdin=script.encode(), timeout_s=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Seen({}, f"no answer within {TIMEOUT_S:.0f} s")
    except OSError as fault:
        return Seen({}, f"{argv[0]}: {fault.strerror}")
    pairs = (line.partition(" ") for line in done.stdout.decode("utf-8", "replace").splitlines())
    facts = {word: rest.strip() for word, _, rest in pairs}
    if facts.pop("end", None):
        return Seen(facts)
    lines = done.said.splitlines() or [f"exit code {done.returncode}"]
    return Seen({}, lines[-1])


def identity_path(identity: str) -> Path:
    """Return where a key lies."""
    return Path(os.path.expanduser(identity))  # noqa: PTH111 - keeps what is no user as it is


def is_known_host(tunnel: TunnelProfile, env: Mapping[str, str]) -> bool | None:
    """Return whether ssh knows the key of a site's host; None: it cannot be asked."""
    host = tunnel.host or ""
    name = host if tunnel.port in (None, 22) else f"[{host}]:{tunnel.port}"
    if shutil.which("ssh-keygen", path=env.get("PATH")) is None:
        return None
    home = env.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    for file in (Path(home, ".ssh", "known_hosts"), Path("/etc/ssh/ssh_known_hosts")):
        try:
            done = processes.run(["ssh-keygen", "-F", name, "-f", str(file)], env=dict(env), timeout_s=CONNECT_S)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0 and done.stdout.strip():
            return True
    return False
