"""The verbs of the command line: each parses, calls one verb, prints its value, leaves an exit code."""
