"""A stand-in for Pyxis: an `srun` that starts its command in a root of our own with the mounts that it is given."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from own_root import entered

parser = argparse.ArgumentParser()
for flag in ("--output", "--container-image", "--container-mounts", "--container-workdir", "--wait", "-w", "--nodes"):
    parser.add_argument(flag)
for flag in ("--kill-on-bad-exit", "--ntasks"):
    parser.add_argument(flag)
parser.add_argument("argv", nargs=argparse.REMAINDER)
asked = parser.parse_args()
if asked.container_image is None:
    sys.stdout.write("127.0.0.1\n")  # the script asks the head node for its address
    sys.exit(0)
mounts = [tuple(mount.split(":")) for mount in asked.container_mounts.split(",")]
names = [name for name in os.environ if name.isupper() and name not in ("PATH", "HOME", "PYTHONPATH")]
env = {**{name: os.environ[name] for name in names}, "PATH": "/usr/bin:/bin", "HOME": "/root"}
whole = entered(os.environ["ROOT_WAY"], mounts, asked.container_workdir, env, asked.argv)
sys.exit(subprocess.run(whole, stdin=subprocess.DEVNULL, check=False).returncode)
