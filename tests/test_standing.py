"""What is known beside an experiment's commits."""

from __future__ import annotations

from nemo_gitexp.standing import best_verdict


def test_a_prefix_run_never_counts_as_the_whole() -> None:
    assert best_verdict([]) is None
    assert best_verdict(["metrics[0-2]", "bitwise[0-2]"]) == "bitwise[0-2]"
    assert best_verdict(["executed", "bitwise[0-2]"]) == "executed"


def test_a_word_of_a_newer_version_is_passed_over() -> None:
    assert best_verdict(["proven", "restored"]) == "restored"
