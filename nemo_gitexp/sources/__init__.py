"""Runs of other tools, read where they lie: one file a tool. Nothing of what is read is ever changed."""
