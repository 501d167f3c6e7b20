"""A command for NeMo Run's own command line; `run.plugins=gitexp` records what it runs.

    python experiments/nemo-hello/commands.py a=1 b=2 run.executor=local run.plugins=gitexp --yes

NeMo Run reads the parameters' types from the function itself: `from __future__ import annotations` would hide them.
"""

import nemo_run as run
from hello import add

import nemo_gitexp  # noqa: F401 - makes `run.plugins=gitexp` known


@run.cli.factory
@run.autoconvert
def local() -> run.LocalExecutor:
    """Return the executor that `run.executor=local` names."""
    return run.LocalExecutor()


@run.cli.entrypoint
def total(a: int, b: int = 1) -> dict[str, int]:
    """Return the sum of two numbers."""
    return add(a, b)


if __name__ == "__main__":
    run.cli.main(total)
