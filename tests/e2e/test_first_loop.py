"""A toy study reproduces bit for bit, with the installed command."""

from __future__ import annotations

from builder import Work


def test_a_toy_run_reproduces_bitwise(work: Work) -> None:
    ran = work.gitexp("run", "--json", "--", "python", "train.py", "--lr", "0.1").json
    assert ran["status"] == "completed"
    assert ran["metrics"] == {"loss": 0.1 / 3}
    verdict = work.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)
