"""One file per engine that starts workers."""
