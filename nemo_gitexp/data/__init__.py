"""What the product knows of DVC: pins, caches, restoring inputs, our own object store. Nothing else imports dvc.

`pins` reads pointers (pure), `manifest` pins what is too large to hash, `cache` finds caches and configures workspaces,
`store` holds objects in DVC's layout (`listing`: directories, `links`: sharing, not copying), `verified` remembers
hashes, `worktree` compares with the user's files, `restore` fills workspaces (`refused`: what it cannot bring, and what
helps), `regenerate` asks remotes and stages, `changes` tells what a job did to its inputs, `commit` pins changed data,
`session` is DVC itself. Importing these never imports dvc: the functions that cannot do without it pay its 350 ms.
"""
