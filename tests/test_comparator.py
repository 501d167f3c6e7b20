"""The guide's ExperimentComparator: shared and differing configuration, metrics with honest intervals."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from builder import Work
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp import ExperimentComparator
from nemo_gitexp.comparison import same_value
from nemo_gitexp.ensemble import Member, compare_configurations, mean_interval, t_quantile
from nemo_gitexp.errors import UnknownExperimentError, UnknownKeyError, UsageError

STUDY = """\
purpose: to be compared
command: python train.py --lr {config.lr}
config: {lr: 0.1, deep: {er: 1}}
metrics: {loss: {goal: min}}
"""


def mapping(name: str, config: dict[str, object], **metrics: object) -> dict[str, object]:
    return {"name": name, "config": config, "metrics": metrics}


def over_seeds(*values: float) -> list[dict[str, object]]:
    return [mapping(f"s{seed}", {"lr": 0.1, "seed": seed}, loss=value) for seed, value in enumerate(values)]


def test_configurations_are_compared_by_dotted_path():
    compared = ExperimentComparator.compare_configurations(
        [
            mapping("a", {"model": {"hidden": 64, "act": "relu"}, "lr": 0.1, "warm": None}),
            mapping("b", {"model": {"hidden": 64, "act": "gelu"}, "lr": 0.1}),
            mapping("c", {"model": {"hidden": 64}, "lr": 0.1, "extra": [1, 2]}),
        ]
    )
    assert compared == {
        "common_configs": {"lr": 0.1, "model.hidden": 64},
        "unique_configs": {"a": {"warm": None}, "c": {"extra": [1, 2]}},
        "config_differences": {"model.act": {"a": "relu", "b": "gelu"}},
    }


def test_missing_is_not_null_and_one_is_not_true():
    values = (1, 1.0, True, "1", None)
    compared = ExperimentComparator().compare_configurations(
        [mapping(str(number), {"x": value}) for number, value in enumerate(values)] + [mapping("none", {})]
    )
    assert compared["common_configs"] == {}
    assert list(compared["config_differences"]["x"].values()) == list(values)


CONFIGS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.none(), max_size=3), min_size=2, max_size=6
)


@given(CONFIGS)
def test_every_value_of_every_experiment_is_in_exactly_one_place(configs):
    members = [Member(str(number), config, {}) for number, config in enumerate(configs)]
    compared = compare_configurations(members)
    for member in members:
        for path, value in member.leaves().items():
            places = [
                compared["common_configs"].get(path, "nowhere"),
                compared["unique_configs"].get(member.name, {}).get(path, "nowhere"),
                compared["config_differences"].get(path, {}).get(member.name, "nowhere"),
            ]
            assert [place for place in places if place != "nowhere"] == [value]
    for path in compared["config_differences"]:
        assert any(path in config for config in configs)


def test_metrics_have_values_names_and_spread():
    (loss,) = ExperimentComparator.compare_metrics(over_seeds(0.5, 0.4, 0.6), ["loss"]).values()
    assert loss["values"] == [0.5, 0.4, 0.6]
    assert loss["experiments"] == ["s0", "s1", "s2"]
    assert (loss["n"], loss["min"], loss["max"]) == (3, 0.4, 0.6)
    assert loss["mean"] == pytest.approx(0.5)
    assert loss["std"] == pytest.approx(0.1)
    low, high = loss["interval"]
    assert (low, high) == pytest.approx((0.5 - 4.303 * 0.1 / math.sqrt(3), 0.5 + 4.303 * 0.1 / math.sqrt(3)))
    assert loss["notes"] == []


def test_there_is_no_interval_where_it_would_lie():
    def notes(*experiments: dict[str, object]) -> tuple[object, list[str]]:
        found = ExperimentComparator.compare_metrics(list(experiments), ["loss"])["loss"]
        return found["interval"], found["notes"]

    other = mapping("other", {"lr": 0.2, "seed": 9}, loss=1)
    without = mapping("without", {"lr": 0.1, "seed": 8})
    unknown = [mapping(name, {"lr": 0.1}, loss=1) for name in "ab"]
    twice = [mapping(name, {"lr": 0.1, "seed": 1}, loss=1) for name in "ab"]
    assert notes(*over_seeds(1, 2), other) == (None, ["the configurations or data differ: no interval"])
    assert notes(*over_seeds(1), without) == (None, ["missing in without", "single seed: no interval"])
    assert notes(*unknown) == (None, ["the seeds are not known: no interval"])
    assert notes(*twice) == (None, ["a seed occurs twice: no interval"])


def arm(name: str, lr: float, values: dict[int, float]) -> list[dict[str, object]]:
    return [mapping(f"{name}{seed}", {"lr": lr, "seed": seed}, acc=value) for seed, value in values.items()]


def paired(one: dict[int, float], two: dict[int, float], goal: str | None = "max") -> dict[str, object]:
    experiments = [*arm("a", 0.1, one), *arm("b", 0.2, two)]
    if goal:
        experiments[0]["goals"] = {"acc": goal}
    (found,) = ExperimentComparator.compare_metrics(experiments, ["acc"])["acc"]["paired"]
    return found


def test_configurations_are_paired_by_their_seeds():
    base = {1: 0.90, 2: 0.80, 3: 0.95, 4: 0.70}
    lift = {seed: value + 0.01 + seed / 10_000 for seed, value in base.items()}
    found = paired(base, lift)
    assert (found["base"], found["other"], found["n"], found["word"]) == ("a1", "b1", 4, "better")
    low, high = found["interval"]
    assert 0.009 < low < found["delta"] < high < 0.012
    assert paired(base, lift, goal="min")["word"] == "worse"
    assert paired(base, lift, goal=None)["word"] == "differs"
    assert paired(base, {1: 0.95, 2: 0.75, 3: 0.96, 4: 0.69})["word"] == "not distinguishable"
    assert paired(base, {4: 0.9, 5: 0.9})["word"] == "single seed: no interval"
    assert paired(base, {5: 0.9, 6: 0.9})["word"] == "no common seed"


def test_equal_values_say_that_the_spread_is_not_known():
    found = ExperimentComparator.compare_metrics(over_seeds(0.5, 0.5, 0.5), ["loss"])["loss"]
    assert found["interval"] == [0.5, 0.5]
    assert found["notes"] == ["equal for all seeds: how far another seed would move it is not known"]


def test_groups_are_summed_up_each_with_its_own_interval():
    experiments = [*arm("a", 0.1, {1: 0.9, 2: 0.8}), *arm("b", 0.2, {1: 0.7})]
    groups = ExperimentComparator.compare_metrics(experiments, ["acc"])["acc"]["groups"]
    assert [(group["experiments"], group["n"]) for group in groups] == [(["a1", "a2"], 2), (["b1"], 1)]
    assert groups[0]["interval"] is not None
    assert (groups[1]["interval"], groups[1]["note"]) == (None, "single seed: no interval")


def test_what_is_not_finite_is_left_out_and_said():
    found = ExperimentComparator.compare_metrics(over_seeds(1.0, math.nan, 2.0, math.inf), ["loss"])["loss"]
    assert found["values"] == [1.0, "NaN", 2.0, "Infinity"]
    assert (found["n"], found["mean"], found["min"], found["max"]) == (2, 1.5, 1.0, 2.0)
    assert found["notes"] == ["not finite in s1, s3: left out of min, max and mean"]
    nothing = ExperimentComparator.compare_metrics(over_seeds(math.nan, math.nan), ["loss"])["loss"]
    assert nothing["notes"][-1] == "no finite value"
    assert (nothing["n"], nothing["mean"], nothing["min"], nothing["interval"]) == (0, None, None, None)


def test_the_best_is_known_when_somebody_said_what_is_better():
    first, second = mapping("a", {}, loss=1, acc=np.float32(0.5)), mapping("b", {}, loss=2, acc=np.int64(1))
    assert ExperimentComparator.compare_metrics([first, second], ["loss"])["loss"]["best"] is None
    first["goals"] = {"loss": "min", "acc": "max"}
    found = ExperimentComparator.compare_metrics(experiments=[first, second], metric_names=["loss", "acc"])
    assert (found["loss"]["best"], found["acc"]["best"]) == ("a", "b")
    second["metrics"] = {"loss": 1.0, "acc": 1}
    assert ExperimentComparator.compare_metrics([first, second], ["loss"])["loss"]["best"] is None


@pytest.mark.parametrize(
    "experiments",
    [
        [],
        [mapping("a", {})],
        [mapping(str(number), {}) for number in range(501)],
        [mapping("a", {}), mapping("a", {})],
        [mapping("a", {}), {"config": {}}],
        [mapping("a", {}), mapping("b", {}, loss="low")],
        [mapping("a", {}), mapping("b", {}, loss=True)],
        [mapping("a", {}), {**mapping("b", {}), "goals": {"loss": "low"}}],
        "latest",
        mapping("a", {}),
        None,
        (mapping(name, {}) for name in "ab"),
    ],
)
def test_what_cannot_be_compared_is_refused(experiments: object):
    for call in (
        lambda: ExperimentComparator.compare_configurations(experiments),
        lambda: ExperimentComparator.compare_metrics(experiments, ["loss"]),
    ):
        with pytest.raises(UsageError) as refusal:
            call()
        assert refusal.value.hint


@pytest.mark.parametrize("names", ["loss", None, [None], [1], 1])
def test_names_of_metrics_that_are_none_are_refused(names: object):
    with pytest.raises(UsageError) as refusal:
        ExperimentComparator.compare_metrics(over_seeds(1, 2), names)
    assert refusal.value.hint


def test_an_unknown_metric_is_named_with_the_nearest():
    with pytest.raises(UnknownKeyError) as refusal:
        ExperimentComparator.compare_metrics(over_seeds(1, 2), ["los"])
    assert refusal.value.facts["nearest"] == "loss"
    with pytest.raises(UsageError):
        ExperimentComparator.compare_metrics(over_seeds(1, 2), "loss")


def test_five_hundred_experiments_are_compared():
    many = [mapping(str(number), {"lr": number, "common": {"x": 1}}, loss=number) for number in range(500)]
    assert ExperimentComparator.compare_configurations(many)["common_configs"] == {"common.x": 1}
    assert ExperimentComparator.compare_metrics(many, ["loss"])["loss"]["mean"] == statistics.fmean(range(500))


def test_the_quantiles_are_those_of_the_tables():
    known = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042, 35: 2.030, 50: 2.009, 100: 1.984, 1000: 1.962}
    for degrees, value in known.items():
        assert t_quantile(degrees) == pytest.approx(value, abs=0.0015)
    falling = [t_quantile(degrees) for degrees in range(1, 400)]
    assert falling == sorted(falling, reverse=True)
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_recorded_experiments_are_compared_by_name(work: Work, monkeypatch: pytest.MonkeyPatch):
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(work.root)
    work.write("experiments/toy/experiment.yaml", STUDY)
    work.commit()
    runs = [work.gitexp("run", "toy", "--json", "--seed", str(seed)).json for seed in (1, 2, 3)]
    other = work.gitexp("run", "toy", "lr=0.5", "--json").json
    same = [run["experiment"] for run in runs]
    loss = ExperimentComparator.compare_metrics(same, ["loss"])["loss"]
    assert loss["experiments"] == [run["name"] for run in runs]
    assert loss["values"] == [run["metrics"]["loss"] for run in runs]
    assert loss["interval"] is not None
    mixed = ExperimentComparator.compare_metrics([other["name"], *same], ["loss"])["loss"]
    assert mixed["interval"] is None
    assert mixed["goal"] == "min"
    compared = ExperimentComparator.compare_configurations([*same, "latest", mapping("plain", {"lr": 0.1})])
    assert compared["config_differences"]["lr"][other["name"]] == 0.5
    assert same_value(compared["config_differences"]["lr"]["plain"], 0.1)
    with pytest.raises(UnknownExperimentError):
        ExperimentComparator.compare_configurations(["latest", "nobody"])
    with pytest.raises(UsageError):
        ExperimentComparator.compare_configurations([other["name"], "latest"])
