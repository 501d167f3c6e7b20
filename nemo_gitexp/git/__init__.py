"""Git, spelled in one place: reading, writing, snapshots and worktrees, by the git program.

Holds no knowledge of experiments: trees, commits, refs and files only.
"""
