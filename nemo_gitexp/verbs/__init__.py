"""One file a verb: plain typed arguments in, a value out; nothing is printed here."""
