"""The program that resolves recipes in the recorded code: `python resolver.py ORDER.json`, run by path.

Its interpreter is the job's, which need not have nemo_gitexp installed: this file makes the package importable that it
is part of, and nothing else of where that lies. The work is done in `resolving`.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def load_package() -> None:
    """Make this very nemo_gitexp importable; the directory of this file leaves the import path."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - text for the import system
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]  # noqa: PTH100
    init = os.path.join(here, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location("nemo_gitexp", init, submodule_search_locations=[here])
    if spec is None or spec.loader is None:
        raise RuntimeError(f"there is no package in {here}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["nemo_gitexp"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load_package()
    from nemo_gitexp.resolving import answer_order

    answer_order(sys.argv[1])
