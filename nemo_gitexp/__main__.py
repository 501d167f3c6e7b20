"""The door of `nemo-gitexp` and `python -m nemo_gitexp`."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line without the garbage collector, which a short process never needs.

    Measured: every import below takes about half the time.
    """
    gc.disable()
    _open_closed_streams()
    try:
        from nemo_gitexp.cli import main as command_line

        code = command_line()
    except KeyboardInterrupt:  # while it was imported
        return 130
    gc.freeze()
    return code


def _open_closed_streams() -> None:
    """Put nothing where a standard stream was closed (`>&-`), or the next file opened would become that stream."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # as the streams of any other process
        if descriptor == 0:
            sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
        elif descriptor == 1:
            sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
        else:
            sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
