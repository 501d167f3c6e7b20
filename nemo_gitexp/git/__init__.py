"""Git, spelled in one place: reading, writing, snapshots and worktrees over GitPython's runner.

Holds no knowledge of experiments: trees, commits, refs and files only.
"""

import os

# Where git is missing, GitPython would refuse to be imported; we say it in our own words.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
