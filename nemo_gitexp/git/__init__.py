"""Git, spelled in one place: reading, writing, snapshots and worktrees over GitPython's runner.

Holds no knowledge of experiments: trees, commits, refs and files only.
"""

import os

_REFRESH = "GIT_PYTHON_REFRESH"
_BEFORE = os.environ.get(_REFRESH)

# Where git is missing, GitPython would refuse to be imported; we say it in our own words. No job inherits the word.
os.environ[_REFRESH] = "quiet"
import git  # noqa: E402, F401 - read while the variable is set

if _BEFORE is None:
    del os.environ[_REFRESH]
else:
    os.environ[_REFRESH] = _BEFORE
