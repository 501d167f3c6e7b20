"""Answers orders of the resolver, each in a process of its own that has imported NeMo Run already: a fork of this one.

`python resolver_server.py`: an order's path on each line of stdin, `done` on each line of stdout.
"""

from __future__ import annotations

import os
import sys

import fiddle  # noqa: F401 - what every order imports
import nemo_run  # noqa: F401

from nemo_gitexp.resolving import answer_order

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        said = os.open(f"{line.strip()}.said", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        try:
            answer_order(line.strip())
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
    sys.stdout.write("done\n")
    sys.stdout.flush()
