"""What runs on a bare node: checks the workspace, starts the job, watches it, writes the result.

Standard library only, Python 3.8 and later, nothing of `nemo_gitexp`: these files are copied into a run directory as
`_gitexp_worker` and run by path under the job's own interpreter. Single rooms (`machine`, …) serve the rest too.
"""
