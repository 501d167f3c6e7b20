"""Errors keep what they know wherever they go."""

from __future__ import annotations

import copy
import pickle

import pytest

from nemo_gitexp.errors import CanonicalFormError, GitexpError, MetricValueError, PipelineError


@pytest.mark.parametrize(
    "error",
    [
        CanonicalFormError("a is NaN", hint="use null", key="a"),
        PipelineError("no DAG", missing=["load"]),
        MetricValueError("loss is no number", key="loss"),
    ],
)
@pytest.mark.parametrize("carried", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_is_the_same_in_another_process(error: GitexpError, carried: object) -> None:
    error.__notes__ = ["seen by worker 3"]
    again = carried(error)  # type: ignore[operator]  # one of the three above
    assert type(again) is type(error)
    assert (str(again), again.message, again.hint) == (str(error), error.message, error.hint)
    assert dict(again.facts) == dict(error.facts)
    assert again.__notes__ == ["seen by worker 3"]


def test_a_fact_is_a_field_of_its_error() -> None:
    error = CanonicalFormError("a.b is NaN", key="a.b")
    assert error.key == "a.b"  # type: ignore[attr-defined]  # which facts there are the kind of error decides
    with pytest.raises(AttributeError, match="nearest"):
        _ = error.nearest  # type: ignore[attr-defined]
