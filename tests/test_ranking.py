"""Combinations of a sweep in their order: over seeds, by the goal, what has no finite value last."""

from __future__ import annotations

import copy

import pytest
from sample_documents import experiment

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.ranking import best_seed, rank, varying


def made(lr: float, seed: int, **metrics: float | str) -> ExperimentDoc:
    document = copy.deepcopy(experiment())
    document["config"] = {"lr": lr, "layers": [1, 2], "seed": seed}
    document["seed"], document["metrics"] = seed, metrics
    document["name"] = document["experiment"] = f"{lr}/{seed}"
    return document


def test_what_varies_is_named_and_the_seed_once() -> None:
    assert varying([made(0.1, 1), made(0.2, 1)]) == [{"lr": 0.1}, {"lr": 0.2}]
    assert varying([made(0.1, 1), made(0.1, 2)]) == [{"seed": 1}, {"seed": 2}]
    other = made(0.1, 1)
    other["config"] = {**other["config"], "extra": None}
    assert varying([made(0.1, 1), other]) == [{}, {"extra": None}]
    assert varying([made(1, 1), made(1.0, 1)]) == [{"lr": 1}, {"lr": 1.0}]


@pytest.mark.parametrize("goal, order", [("max", [0.2, 0.1, 0.3]), ("min", [0.1, 0.2, 0.3])])
def test_the_mean_over_seeds_decides_and_no_finite_value_is_last(goal: str, order: list[float]) -> None:
    documents = [
        made(0.3, 1, acc="NaN"), made(0.1, 1, acc=0.1), made(0.2, 1, acc=0.4), made(0.1, 2, acc=0.3), made(0.2, 2)
    ]  # fmt: skip
    ranked = rank(documents, "acc", goal)  # type: ignore[arg-type]
    assert [item.values["lr"] for item in ranked] == order
    spread = next(item for item in ranked if item.values["lr"] == 0.1).metrics["acc"]
    assert (spread.n, spread.low, spread.high) == (2, 0.1, 0.3)
    assert spread.mean == pytest.approx(0.2)
    assert spread.std == pytest.approx(0.1414, abs=1e-4)
    lone = next(item for item in ranked if item.values["lr"] == 0.2)
    assert (lone.metrics["acc"].n, lone.metrics["acc"].std, len(lone.documents)) == (1, None, 2)
    assert best_seed(lone, "acc", goal)["name"] == "0.2/1"  # type: ignore[arg-type]


def test_the_only_one_that_completed_still_says_what_it_is() -> None:
    made_all = [made(0.1, 1, acc=1), made(0.2, 1)]
    (ranked,) = rank(made_all[:1], "acc", "max", varying(made_all)[:1])
    assert ranked.values == {"lr": 0.1}


def test_without_a_goal_the_order_stays() -> None:
    ranked = rank([made(0.2, 1, acc=1), made(0.1, 1, acc=2)], "acc", None)
    assert [item.values for item in ranked] == [{"lr": 0.2}, {"lr": 0.1}]
    assert best_seed(ranked[0], "acc", None)["name"] == "0.2/1"
