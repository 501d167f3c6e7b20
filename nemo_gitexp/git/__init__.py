"""Git, spelled in one place: reading, writing, snapshots and worktrees over GitPython's runner.

Holds no knowledge of experiments: trees, commits, refs and files only.
"""
