"""Values become text, Markdown, HTML and CSV here; nothing is computed, read or printed."""
