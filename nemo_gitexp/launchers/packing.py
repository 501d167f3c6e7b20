"""What NeMo Run calls a packager: it asks for the code when the job directory is there, and gets state and plan.

Imports NeMo Run, whose experiments write their executors down with all fields: those here are texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nemo_run

from nemo_gitexp.placing import place_in_job_dir
from nemo_gitexp.rundir import RunPaths


@dataclass(kw_only=True)
class RunPackager(nemo_run.Packager):  # type: ignore[misc]  # NeMo Run ships no types
    """Places a prepared run in the job directory, where the container finds it.

    Attributes:
        run_dir: the run directory.
        python: the interpreter in the image; None: `python3` on its PATH.
    """

    run_dir: str
    python: str | None = None

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Place the run; there is no archive for NeMo Run to unpack.

        Raises:
            GitexpError: it cannot be placed.
        """
        del path, name
        place_in_job_dir(RunPaths(Path(self.run_dir)), Path(job_dir), python=self.python)
        return ""
