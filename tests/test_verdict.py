"""Which level a reproduction reached."""

from __future__ import annotations

import pytest
from sample_documents import SHA_A, output

from nemo_gitexp.errors import UsageError
from nemo_gitexp.verdict import (
    LEVELS,
    Circumstances,
    MetricRules,
    RunOutcome,
    first_divergence,
    judge,
    level_reached,
    weakest_input,
    within_tolerance,
)

STREAM = tuple({"step": step, "loss": 1.0 / (step + 1), "acc": 0.5 + step / 100} for step in range(5))
EXACT = MetricRules({})


MODEL = output()


def run(metrics=STREAM, outputs=(MODEL,), **changes) -> RunOutcome:
    fields = {"status": "completed", "exit_code": 0, "metrics": tuple(metrics), "outputs": tuple(outputs), **changes}
    return RunOutcome(**fields)


def verdict(recorded, got, *, required="metrics", rules=EXACT, steps=None, **circumstances):
    return judge(
        recorded,
        got,
        experiment=SHA_A,
        required=required,
        rules=rules,
        circumstances=Circumstances(**circumstances),
        steps=steps,
    )


def changed(step: int, **values: float):
    return tuple({**row, **values} if row["step"] == step else row for row in STREAM)


def test_equal_runs_are_bitwise_equal():
    document = verdict(run(), run(), required="bitwise", environment="same", weakest_input="content")
    assert (document["verdict"], document["met"], document["scope"]) == ("bitwise", True, "whole")
    assert document["first_divergence"] is None
    assert [metric["ok"] for metric in document["metrics"]] == [True, True]


def test_a_state_that_was_only_restored_is_restored():
    document = verdict(run(), None, required="restored")
    assert (document["verdict"], document["met"]) == ("restored", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "failed", "exit_code": 1},
        {"exit_code": None},
        {"missing_outputs": ("model.pt",)},
        {"status": "stopped"},
    ],
)
def test_a_run_that_did_not_finish_well_was_not_executed(changes):
    assert verdict(run(), run(**changes))["verdict"] == "restored"


def test_a_difference_in_the_middle_of_the_stream_leaves_metrics_and_names_the_step():
    document = verdict(run(), run(changed(2, loss=0.3)), required="bitwise")
    assert (document["verdict"], document["met"]) == ("metrics", False)
    assert document["first_divergence"] == {"metric": "loss", "step": 2}


def test_without_a_tolerance_the_last_value_must_be_exact():
    assert verdict(run(), run(changed(4, loss=0.2000001)))["verdict"] == "executed"


def test_within_the_tolerance_the_level_is_metrics():
    document = verdict(run(), run(changed(4, acc=0.542)), rules=MetricRules({"acc": 0.002}))
    assert document["verdict"] == "metrics"
    assert document["metrics"][0] == {"name": "acc", "recorded": 0.54, "got": 0.542, "tolerance": 0.002, "ok": True}


def test_a_tolerance_means_what_is_written_not_its_binary_neighbour():
    assert abs(0.95 - 0.952) > 0.002
    assert within_tolerance(0.95, 0.952, 0.002)
    assert not within_tolerance(0.95, 0.9520001, 0.002)


@pytest.mark.parametrize(
    "a, b, ok", [("NaN", "NaN", True), ("NaN", 1.0, False), ("Infinity", "-Infinity", False), (1, 1.0, True)]
)
def test_non_finite_values_equal_only_themselves(a, b, ok):
    assert within_tolerance(a, b, 1e9 if isinstance(b, str) or a == "NaN" else None) is ok


def test_volatile_metrics_are_never_compared():
    rules = MetricRules({}, frozenset({"acc"}))
    assert verdict(run(), run(changed(4, acc=0.1)), rules=rules)["verdict"] == "bitwise"


def test_without_metrics_the_level_metrics_cannot_be_reached():
    assert verdict(run(()), run((), [output(sha256="22" * 32)]))["verdict"] == "executed"


def test_without_metrics_equal_outputs_are_bitwise():
    document = verdict(run(()), run(()))
    assert (document["verdict"], document["met"]) == ("bitwise", True)


def test_without_outputs_an_equal_stream_is_bitwise():
    assert verdict(run(outputs=()), run(outputs=()))["verdict"] == "bitwise"


def test_with_nothing_to_compare_a_run_was_only_executed():
    assert verdict(run((), ()), run((), ()))["verdict"] == "executed"


def test_other_output_bytes_leave_metrics_unless_the_tensors_are_equal():
    assert verdict(run(), run(outputs=[output(sha256="22" * 32)]))["verdict"] == "metrics"
    same_tensors = [output(digest="sha256:t")], [output(sha256="22" * 32, digest="sha256:t")]
    assert verdict(run(outputs=same_tensors[0]), run(outputs=same_tensors[1]))["verdict"] == "bitwise"


def test_an_output_or_metric_that_only_one_run_has_is_a_difference():
    extra = verdict(run(), run(outputs=[output(), output("extra.bin")]))
    assert extra["verdict"] == "metrics"
    assert extra["outputs"][0] == {"path": "extra.bin", "recorded": None, "got": "sha256:" + "11" * 32, "equal": False}
    assert verdict(run(), run(changed(4, new=1.0)))["verdict"] == "executed"


def test_a_stream_that_starts_later_has_loaded_something_and_gives_no_metric_verdict():
    document = verdict(run(), run(STREAM[2:]))
    assert document["verdict"] == "executed"
    assert document["first_divergence"] == {"metric": "acc", "step": 0}


def test_a_prefix_run_compares_its_steps_only():
    document = verdict(run(), run(STREAM[:2], (), status="stopped", exit_code=None), steps=2, required="bitwise")
    assert (document["verdict"], document["met"], document["scope"]) == ("bitwise", True, "0-2")
    assert document["outputs"] == []
    assert document["metrics"][1]["recorded"] == 0.5


def test_a_prefix_longer_than_the_run_claims_no_more_than_the_run():
    document = verdict(run(), run(), steps=99, required="bitwise")
    assert (document["verdict"], document["scope"]) == ("bitwise", "whole")
    assert document["outputs"]
    assert verdict(run(), run(STREAM[:3], (), status="stopped", exit_code=None), steps=3)["scope"] == "0-3"


def test_a_prefix_run_may_be_stopped_in_the_middle_of_its_last_step():
    got = (STREAM[0], {"step": 1, "loss": 0.5})
    assert verdict(run(), run(got, (), status="stopped", exit_code=None), steps=2)["verdict"] == "bitwise"
    assert verdict(run(), run(got, (), status="completed"), steps=2)["verdict"] == "executed"


def test_a_prefix_run_that_skipped_a_step_diverges_there():
    document = verdict(run(), run((STREAM[0], STREAM[2]), (), status="stopped", exit_code=None), steps=2)
    assert (document["verdict"], document["first_divergence"]) == ("executed", {"metric": "acc", "step": 1})


def test_a_prefix_without_steps_has_nothing_to_compare():
    stepless = ({"step": None, "acc": 0.5},)
    assert verdict(run(stepless), run(stepless), steps=2)["verdict"] == "executed"


def test_rows_without_a_step_diverge_without_a_step():
    assert first_divergence([{"step": None, "a": 1}], [{"step": None, "a": 2}]) == {"metric": "a", "step": None}


def test_numeric_drift_is_environment_drift():
    drift = ({"kind": "numerics", "name": "torch.num_threads", "recorded": "1", "here": "2"},)
    assert verdict(run(), run(), environment="same", drift=drift)["environment"] == "drifted"
    assert verdict(run(), run(), environment="unknown", drift=drift)["environment"] == "unknown"


def test_levels_are_ordered_and_only_they_are_levels():
    for low, name in enumerate(LEVELS):
        assert [level_reached(name, other) for other in LEVELS] == [high <= low for high in range(len(LEVELS))]
    with pytest.raises(UsageError):
        level_reached("bitwise", "exact")


@pytest.mark.parametrize(
    "strengths, weakest",
    [([], "none"), (["content"], "content"), (["content", "manifest"], "manifest"), (["content", "new"], "named")],
)
def test_a_verdict_repeats_the_weakest_input(strengths, weakest):
    inputs = [{"path": "p", "pin": "x", "strength": strength, "size_bytes": None} for strength in strengths]
    assert weakest_input(iter(inputs)) == weakest
