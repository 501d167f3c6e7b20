"""What can explain a miss, ranked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sample_documents import SHA_B, environment, experiment

from nemo_gitexp.comparison import compare_experiments
from nemo_gitexp.drift import DRIFT_KINDS, compare_environments, compare_settings, drift_of, rank_drift


def test_equal_environments_are_the_same():
    assert compare_environments(environment(), environment()) == ("same", ())


def test_an_environment_that_says_nothing_is_unknown():
    assert compare_environments({}, environment()) == ("unknown", ())
    assert compare_environments(environment(), {"schema": 1, "packages": {}}) == ("unknown", ())


def test_drift_is_ranked_by_what_it_can_do_to_numbers():
    here = environment("3.12.1", torch="2.12.1", rich="15.0.0", pandas="2")
    name, drift = compare_environments(environment(pandas="1"), here, loaded=["Pandas"])
    assert name == "drifted"
    assert [(item["kind"], item["name"]) for item in drift] == [
        ("numerics", "torch"),
        ("numerics", "python"),
        ("loaded", "pandas"),
        ("package", "rich"),
    ]
    assert drift[0] == {"kind": "numerics", "name": "torch", "recorded": "2.13.0", "here": "2.12.1"}


def test_a_python_patch_release_is_drift_of_the_lower_rank():
    name, drift = compare_environments(environment("3.11.7"), environment("3.11.9"))
    assert (name, drift[0]["kind"]) == ("drifted", "package")


def test_a_package_missing_here_reads_none():
    _, drift = compare_environments(environment(nvidia_cublas="12"), environment())
    assert drift == ({"kind": "numerics", "name": "nvidia_cublas", "recorded": "12", "here": None},)


def test_settings_are_compared_where_both_know_them():
    recorded = {"torch": {"num_threads": 1, "version": "2.13.0"}, "hardware": {"kernel": "6.1", "gpus": []}}
    here = {"torch": {"num_threads": 2, "version": "2.13.0", "new": 1}, "hardware": {"kernel": "6.2", "gpus": ["H200"]}}
    assert [(item["kind"], item["name"]) for item in compare_settings(recorded, here)] == [
        ("numerics", "hardware.gpus"),
        ("numerics", "torch.num_threads"),
        ("cosmetic", "hardware.kernel"),
    ]
    assert compare_settings({}, here) == ()


def test_a_difference_of_experiments_is_drift_code_first():
    other = experiment(experiment=SHA_B, seed=7, config={"hidden": 64, "lr": 0.1, "clip": 1.0}, inputs=[], topology={})
    difference = compare_experiments(
        experiment(),
        other,
        code_files=[{"path": "train.py", "change": "M", "insertions": 1, "deletions": 1}],
        environment_a={},
        environment_b={},
        goals={},
    )
    drift = drift_of(difference)
    assert [item["kind"] for item in drift] == ["code", *["config"] * 3, "data", "seed", *["topology"] * 2]
    assert {"kind": "config", "name": "clip", "recorded": None, "here": "1.0"} in drift


@given(st.permutations([{"kind": kind, "name": kind, "recorded": None, "here": None} for kind in DRIFT_KINDS]))
def test_the_rank_does_not_depend_on_the_order_found(drift):
    assert [item["kind"] for item in rank_drift(drift)] == list(DRIFT_KINDS)
