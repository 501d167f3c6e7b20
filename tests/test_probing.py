"""How a probe compares the first steps of two runs."""

from __future__ import annotations

from nemo_gitexp.probing import compare_prefixes
from nemo_gitexp.verdict import RunOutcome


def run(*rows: dict, status: str = "stopped") -> RunOutcome:
    return RunOutcome(status, None, tuple(rows))


def test_equal_steps_are_equal_and_counted_and_rows_without_a_step_play_no_part():
    rows = ({"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5})
    metrics, n_steps = compare_prefixes(run(*rows, {"step": None, "time": 1.0}), run(*rows), 5, ())
    assert n_steps == 2
    assert metrics == [
        {"name": "loss", "equal": True, "first_divergence": None, "largest_difference": None, "largest_at": None}
    ]


def test_each_metric_has_its_own_first_divergence_and_its_largest_difference():
    one = run({"step": 0, "a": 1.0, "b": 1.0}, {"step": 5, "a": 2.0, "b": 1.0}, {"step": 9, "a": 3.0, "b": 1.0})
    other = run({"step": 0, "a": 1.0, "b": 1.0}, {"step": 5, "a": 2.25, "b": 1.0}, {"step": 9, "a": 3.125, "b": 1.5})
    (a, b), n_steps = compare_prefixes(one, other, 3, ())
    assert n_steps == 3
    assert (a["first_divergence"], a["largest_difference"], a["largest_at"]) == (5, 0.25, 5)
    assert (b["first_divergence"], b["largest_difference"], b["largest_at"]) == (9, 0.5, 9)


def test_only_the_steps_asked_for_count():
    one, other = run({"step": 0, "a": 1.0}, {"step": 1, "a": 1.0}), run({"step": 0, "a": 1.0}, {"step": 1, "a": 2.0})
    assert compare_prefixes(one, other, 1, ())[0][0]["equal"] is True
    assert compare_prefixes(one, other, 2, ())[0][0]["equal"] is False


def test_of_the_last_step_of_a_stopped_run_only_what_both_logged_counts():
    one, other = run({"step": 0, "a": 1.0, "late": 1.0}), run({"step": 0, "a": 1.0})
    (a,), _ = compare_prefixes(one, other, 1, ())
    assert a["equal"] is True
    ended = [RunOutcome("completed", 0, outcome.metrics) for outcome in (one, other)]
    assert [metric["equal"] for metric in compare_prefixes(*ended, 1, ())[0]] == [True, False]


def test_a_run_that_ends_earlier_differs_where_it_ends():
    one = run({"step": 0, "a": 1.0}, {"step": 1, "a": 1.0}, status="completed")
    (a,), n_steps = compare_prefixes(one, run({"step": 0, "a": 1.0}, status="completed"), 5, ())
    assert (a["first_divergence"], a["largest_difference"], n_steps) == (1, None, 1)


def test_values_that_are_no_numbers_differ_without_a_distance_and_volatile_metrics_never():
    one, other = run({"step": 0, "a": "NaN", "speed": 1.0}), run({"step": 0, "a": 1.0, "speed": 2.0})
    (a,), _ = compare_prefixes(one, other, 1, {"speed"})
    assert (a["first_divergence"], a["largest_difference"]) == (0, None)
    assert compare_prefixes(one, one, 1, ())[0][0]["equal"] is True
