"""A root directory of our own: the system's /usr to read, what is mounted, nothing else. By bubblewrap, or by chroot.

Also a program: `python own_root.py WAY` takes `{"mounts", "workdir", "env", "argv"}` on stdin and becomes that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

WAYS = ("bwrap", "chroot")
CHROOT = """\
set -e
root=$1; workdir=$2; count=$3; shift 3
mount -t tmpfs tmpfs "$root"
mkdir -p "$root/usr" "$root/proc" "$root/dev" "$root/tmp"
mount --bind /usr "$root/usr"; mount -o remount,ro,bind "$root/usr"
for name in bin lib lib64 sbin; do [ ! -e "/usr/$name" ] || ln -s "usr/$name" "$root/$name"; done
mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"
while [ "$count" -gt 0 ]; do
    mkdir -p "$root$2"; mount --bind "$1" "$root$2"; count=$((count - 1)); shift 2
done
exec chroot "$root" /usr/bin/env -i -C "$workdir" "$@"
"""


def find_hindrance(way: str) -> str | None:
    """Return why there is no such root here, None when there is."""
    if shutil.which(way, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        return f"no {way} here (as root: make system-deps)"
    if not Path("/usr/bin/python3").exists():
        return "no python3 in /usr"
    done = subprocess.run(entered(way, [], "/", {}, ["/usr/bin/true"]), capture_output=True, check=False)
    return None if done.returncode == 0 else f"{way} is not allowed here: {done.stderr.decode().strip()[-200:]}"


def entered(
    way: str, mounts: Sequence[tuple[str, str]], workdir: str, env: Mapping[str, str], argv: Sequence[str]
) -> list[str]:
    """Return the argument list that runs another one in a root with these mounts (from, to)."""
    if way == "bwrap":
        system = [word for name in ("bin", "lib", "lib64", "sbin") for word in ("--symlink", f"usr/{name}", f"/{name}")]
        places = [word for source, target in mounts for word in ("--bind", source, target)]
        variables = [word for name, value in env.items() for word in ("--setenv", name, value)]
        root = ["--ro-bind", "/usr", "/usr", *system, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        return ["bwrap", *root, *places, "--chdir", workdir, "--clearenv", *variables, *argv]
    root = tempfile.mkdtemp(prefix="gitexp-root-")
    places = [word for mount in mounts for word in mount]
    variables = [f"{name}={value}" for name, value in env.items()]
    script = ["unshare", "-m", "sh", "-c", CHROOT, "sh", root, workdir, str(len(mounts)), *places, *variables, *argv]
    return ["sh", "-c", '"$@"; code=$?; rmdir "$0"; exit $code', root, *script]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    whole = entered(sys.argv[1], asked["mounts"], asked["workdir"], asked["env"], asked["argv"])
    sys.exit(subprocess.run(whole, stdin=subprocess.DEVNULL, check=False).returncode)
