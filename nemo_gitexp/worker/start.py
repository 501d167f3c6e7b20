"""The door of the worker, run by path: `python start.py RUN/plan.json`; with `--job` it becomes the job itself.

Makes the package beside it importable as `_gitexp_worker` and leaves no trace of its directory in `sys.path`, so that
modules of the user's with the same names stay the user's.
"""

from __future__ import annotations

import sys


def _main() -> None:
    directory = __file__.rpartition("/")[0] or "."
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]
    sys.path.insert(0, directory)
    if sys.argv[1] == "--job":
        from _gitexp_worker import job as worker  # type: ignore[import-not-found]  # our own name on a node
    else:
        import gc

        gc.disable()  # a short process with few cycles: imports are measurably faster
        from _gitexp_worker import node as worker
    sys.path.remove(directory)
    sys.path_importer_cache.pop(directory, None)
    worker.main(sys.argv[-1])


_main()
